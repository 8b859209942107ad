"""What `reset` and `step` of an environment return, held against what DIMA needs of it."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box

from rllib_dima.core.dima.normalization import RewardNormalizer
from rllib_dima.envs.check.report import EnvReport, Finding, Severity, listing
from rllib_dima.envs.cooperative import ALL, KEEP_AGENTS, LEAVE_STATE_OUT, combine_rewards, reward_number, team_flags
from rllib_dima.envs.spaces import LARGEST, ContractError, are_in_range

LARGE = 1e4  # beyond this, numbers are worth a hint
MOMENTS_TO_CALL_CONSTANT = 10
STATE = "the state"


class Moment:
    """What one reset or step returned: results by name, which `copies` holds as they were then, and infos by agent."""

    def __init__(self, when: str, results: Mapping[str, Any], infos: Mapping) -> None:
        self.when, self.infos = when, infos
        self.results = {"observations": {}, "rewards": None, "terminated flags": {}, "truncated flags": {}, **results}
        self.copies = copy.deepcopy(self.results)

    @property
    def flags(self) -> tuple[Mapping, Mapping]:
        """Terminated and truncated."""
        return self.results["terminated flags"], self.results["truncated flags"]

    def is_last(self, agents: list) -> bool:
        """Whether no step may follow: the episode has ended, or some agents have left while it goes on."""
        try:
            return any(team_flags(agents, *self.flags))
        except ContractError:
            return True


class ResultChecks:
    """Looks at every moment of the episodes that are played.

    `spaces` holds "observations" by agent, None where there is none, and "state", if the environment offers it.
    """

    def __init__(self, report: EnvReport, agents: list, spaces: Mapping[str, Any], team_reward: Any) -> None:
        self._report, self._agents, self._team_reward = report, agents, team_reward
        self._spaces = {name: space for name, space in _arrays(spaces).items() if isinstance(space, Box)}
        self._ranges: dict[str, tuple[np.ndarray, np.ndarray, int]] = {}  # smallest, largest, and of how many
        self._rewards: list[float] = []  # the team's; NaN where there is none
        self._moment: Moment | None = None

    def see(self, moment: Moment) -> None:
        """Checks one moment, in the order in which they come."""
        last, self._moment = self._moment, moment
        self._see_agents(moment)
        for name, value in _arrays(moment.results).items():
            if name in self._spaces:
                self._see_array(name, value, self._spaces[name])
        if moment.results["rewards"] is not None:
            self._see_rewards(moment.results["rewards"])
            self._see_flags(moment)
        if last is not None:
            self._see_aliases(_arrays(last.results), _arrays(last.copies))

    def finish(self) -> None:
        """Checks what only shows after many moments."""
        self._hint_at_rewards()
        for name, (low, high, _) in self._ranges.items():
            large = np.flatnonzero(np.maximum(-low, high) > LARGE)
            if large.size:
                self._hint(_check(name), f"entries {_some(large)} of {name} exceed {LARGE:g}.", _SCALE[_check(name)])
        self._hint_at_constants()

    def _say(self, severity: Severity, check: str, found: str, advice: str, owner: str = "") -> None:
        self._report.add(Finding(severity, check, f"{self._moment.when}, {found}.", advice), owner)

    def _hint(self, check: str, found: str, advice: str) -> None:
        self._report.add(Finding("warning", check, found, advice))

    def _see_agents(self, moment: Moment) -> None:
        """Missing and unknown agents, and infos."""
        rewards, (terminateds, truncateds) = moment.results["rewards"], moment.flags
        kinds: list[tuple[str, Mapping, Severity]] = [
            ("observations", moment.results["observations"], "error"),
            ("rewards", dict.fromkeys(self._agents) if rewards is None else rewards, "error"),
            ("flags", {**terminateds, **truncateds}, "warning"),
            ("infos", moment.infos, "warning"),
        ]
        for check, given, severity in kinds:
            missing = [agent for agent in self._agents if agent not in given]
            unknown = [agent for agent in given if agent not in [*self._agents, ALL, "__common__"]]
            if missing and severity == "error":
                self._say("error", check, f"there are no {check} of agents {missing}", KEEP_AGENTS)
            if unknown:
                found = f"there are {check} of agents {unknown}, which possible_agents does not name"
                self._say(severity, check, found, _NAME_AGENTS)
        wrong = {key: info for key, info in moment.infos.items() if not isinstance(info, Mapping | None)}
        if wrong:
            advice = "Return a dict for every agent, or leave the agent out."
            self._say("error", "infos", f"infos are no dicts: {wrong}", advice)

    def _see_array(self, name: str, value: Any, space: Box) -> None:
        check, array = _check(name), _array(value)
        if array.dtype.kind not in "biuf":
            self._say("error", check, f"{name} is not an array of numbers: {value!r}", _AS_SPACE, name)
        elif array.shape != space.shape:
            advice = "Correct one of the two." + (f" {LEAVE_STATE_OUT}" if check == "state" else "")
            found = f"{name} has shape {array.shape}, but its space says {space.shape}"
            self._say("error", check, found, advice, name)
        elif self._are_usable(check, name, array):
            self._compare_with_space(check, name, array, space)
            values = array.astype(np.float64).reshape(-1)
            low, high, count = self._ranges.get(name, (values, values, 0))
            self._ranges[name] = np.minimum(low, values), np.maximum(high, values), count + 1

    def _are_usable(self, check: str, name: str, values: Any) -> bool:
        """Whether all numbers are such that DIMA can use them."""
        wrong = np.flatnonzero(~are_in_range(values))
        if wrong.size:
            first = f"{np.ravel(values)[wrong[0]]:g}, in entries {_some(wrong)} of {np.size(values)}"
            found = f"{name} is NaN, infinite or beyond {LARGEST:g}: {first}"
            self._say("error", check, found, "Find out why it is computed, or end the episode before it is.", name)
        return not wrong.size

    def _compare_with_space(self, check: str, name: str, array: np.ndarray, space: Box) -> None:
        if not np.can_cast(array.dtype, space.dtype):
            found = f"{name} has dtype {array.dtype}, but its space says {space.dtype}; DIMA makes it float32"
            self._say("warning", check, found, _AS_SPACE, name)
        outside = np.flatnonzero((array < space.low) | (array > space.high))
        if outside.size:
            found = f"{name} is outside the bounds of its space, in entries {_some(outside)} of {array.size}"
            self._say("warning", check, found, "Widen the space, or correct the numbers.", name)

    def _see_rewards(self, rewards: Mapping[Any, Any]) -> None:
        usable, team_reward = {}, math.nan
        for agent, reward in rewards.items():
            with self._report.guard("rewards", self._moment.when, f"that of agent {agent!r}"):
                number = reward_number(agent, reward)
                if self._are_usable("rewards", f"the reward of agent {agent!r}", number):
                    usable[agent] = number
        if usable.keys() == set(self._agents):
            with self._report.guard("rewards", self._moment.when):
                combined = combine_rewards(usable, self._team_reward)
                if self._are_usable("rewards", f"the {self._team_reward} of the agents' rewards", combined):
                    team_reward = combined
        self._rewards.append(team_reward)

    def _see_flags(self, moment: Moment) -> None:
        for name, flags in zip(("terminated", "truncated"), moment.flags, strict=True):
            wrong = {key: flag for key, flag in flags.items() if not isinstance(flag, (bool, np.bool_))}
            if wrong:
                self._say("error", "flags", f"{name} flags are no booleans: {wrong}", "Return bool(...) of them.")
            if ALL not in flags:
                found = f'the {name} flags have no "{ALL}"; DIMA goes by the agents\' own flags'
                self._say("warning", "flags", found, f'Add "{ALL}", which RLlib requires.', f"the {name} flags")
        team, given = (False, False), [flags.get(ALL) for flags in moment.flags]
        with self._report.guard("flags", moment.when):
            team = team_flags(self._agents, *moment.flags)
        if any(team) and given[0] is not None:
            says = None if given[0] and not team[0] else tuple(map(bool, given))
            if says in _ENDS:
                self._say("warning", "flags", *_ENDS[says])

    def _see_aliases(self, arrays: Mapping[str, Any], copies: Mapping[str, Any]) -> None:
        """Whether an array of the moment before has changed since it was returned."""
        for name, kept in copies.items():
            if isinstance(kept, np.ndarray) and arrays[name].tobytes() != kept.tobytes():
                found = f"{name} that was returned before changed afterwards: the environment goes on writing to the "
                found += "array. DIMA copies it, but other code may keep it"
                self._say("warning", _check(name), found, "Return a copy: array.copy().", name)

    def _hint_at_rewards(self) -> None:
        """Whether they vary at all, and whether training would learn them on another scale."""
        rewards, normalizer = np.array(self._rewards, np.float32), RewardNormalizer()
        if rewards.size < MOMENTS_TO_CALL_CONSTANT or np.isnan(rewards).any():
            return
        normalizer.update(torch.as_tensor(rewards))
        offset, scale = normalizer.offset.item(), normalizer.scale.item()
        if np.ptp(rewards) == 0:
            advice = _CONSTANT_REWARD + (_UNSEEN_DIFFERENCES if self._team_reward == "shared" else "")
            self._hint("rewards", f"the reward was {rewards[0]:g} in all of {rewards.size} steps.", advice)
        elif (offset, scale) != (0.0, 1.0):
            found = (
                f"rewards are far from 1: in {rewards.size} steps their mean was {rewards.mean():.2g}, with a standard "
                f"deviation of {rewards.std():.2g}. DIMA learns them less {offset:.2g}, divided by {scale:.2g}."
            )
            self._hint("rewards", found, _SCALE["rewards"])

    def _hint_at_constants(self) -> None:
        """Entries that never change, of what changes; and a state that does not change while observations do."""
        constant = {}
        for name, (low, high, count) in self._ranges.items():
            constant[name] = (low == high) & (count >= MOMENTS_TO_CALL_CONSTANT)
        moving = [name for name in constant if not constant[name].all()]
        if moving and STATE in constant and STATE not in moving:
            found = f"state() returned the same numbers all {self._ranges[STATE][2]} times, while observations changed."
            self._report.add(Finding("error", "state", found, _FROZEN))
        for check in ("observations", "state"):
            names = [name for name in moving if _check(name) == check and constant[name].any()]
            if names:
                which = listing([f"{_some(np.flatnonzero(constant[name]))} of {name}" for name in names])
                self._hint(check, f"these entries never changed: {which}.", _CONSTANT)


def _arrays(results: Mapping[str, Any]) -> dict[str, Any]:
    """Observations and the state, by the names they have in messages."""
    named = {f"the observation of agent {agent!r}": value for agent, value in results["observations"].items()}
    return {**named, STATE: results["state"]} if "state" in results else named


def _check(name: str) -> str:
    return "state" if name == STATE else "observations"


def _array(value: Any) -> np.ndarray:
    try:
        return np.asarray(value)
    except (ValueError, TypeError):  # nested lists of unequal lengths, tensors on a GPU
        return np.array(None)


def _some(entries: np.ndarray) -> str:
    return f"{entries[:8].tolist()}{'...' if entries.size > 8 else ''}"


_NAME_AGENTS = "Set possible_agents in __init__ to all agents there can ever be, or correct the names."
_AS_SPACE = "Return a numpy array of the shape and the dtype of its space."
_BOTH = "Terminated means that no reward follows; truncated, that time ran out and rewards would follow."
_LIMIT = f'At a time limit set truncateds["{ALL}"], and terminateds["{ALL}"] only if the task has ended.'
_ENDS = {  # found, advice, by what the flags under ALL say at an end; None: terminated at a time limit
    (False, False): (f'every agent is done, but "{ALL}" is False; DIMA ends the episode', f'Set "{ALL}" at the end.'),
    (True, True): (f'"{ALL}" is both terminated and truncated; DIMA counts it as terminated', _BOTH),
    None: (f'"{ALL}" is terminated, but every agent is truncated; DIMA counts a time limit', _LIMIT),
}
_FROZEN = "Return everything that the agents' observations and rewards depend on, as it is at the moment."
_CONSTANT = "If they carry nothing, leave them out. If they should change, see why they do not."
_CONSTANT_REWARD = "Nothing can be learnt before it varies: reward what random actions reach, too."
_UNSEEN_DIFFERENCES = (
    " And if it may differ between agents once it varies, which ends a training run, say now how to combine it: "
    'env_config={"team_reward": "mean"} or "sum".'
)
_SCALE = {
    "observations": "Rescale them to about 1: the policy's first layer norm is over all entries of an observation, and "
    "others vanish beside them.",
    "state": "Rescale them to about 1: DIMA normalises every entry of the state, but in float32, which keeps 7 digits.",
    "rewards": "Nothing, if they are meant to be: running statistics of all rewards find this scale in training "
    "(metrics reward_scale and reward_offset). But one term that is far larger than the others hides them.",
}
