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
from rllib_dima.envs.check.report import Findings, listing
from rllib_dima.envs.cooperative import (
    ALL,
    KEEP_AGENTS,
    LEAVE_STATE_OUT,
    combine_rewards,
    reward_number,
    team_flags,
)
from rllib_dima.envs.spaces import LARGEST, ContractError, are_in_range

LARGE = 1e4  # beyond this, numbers are worth a hint
MOMENTS_TO_CALL_CONSTANT = 10
STATE = "the state"


class Moment:
    """What one reset or step returned.

    Args:
        when: for messages, as in "in step 3 of episode 1".
        results: "observations", "state" if the environment offers it, and after a step "rewards", "terminated flags"
            and "truncated flags".
        infos: by agent.

    Attributes:
        copies: the results as they were when they were returned.
        arrays: observations and the state, by name.
    """

    def __init__(self, when: str, results: dict[str, Any], infos: Mapping) -> None:
        self.when, self.results, self.infos = when, results, infos
        self.copies = copy.deepcopy(results)
        self.arrays = _arrays(results)

    def flags(self) -> tuple[Mapping, Mapping]:
        """Terminated and truncated; empty after a reset."""
        return self.results.get("terminated flags", {}), self.results.get("truncated flags", {})

    def is_last(self, agents: list) -> bool:
        """Whether no step may follow: the episode has ended, or some agents have left while it goes on."""
        try:
            return any(team_flags(agents, *self.flags()))
        except ContractError:
            return True


class ResultChecks:
    """Looks at every moment of the episodes that are played.

    Args:
        findings: where to put what is wrong.
        agents: the agents there should be.
        spaces: "observations" by agent, None where there is none; and "state", if the environment offers it.
        team_reward: as for `CooperativeEnv`.
    """

    def __init__(
        self,
        findings: Findings,
        agents: list,
        spaces: Mapping[str, Any],
        team_reward: str,
    ) -> None:
        self.findings, self.agents, self.team_reward = findings, agents, team_reward
        self.spaces = _arrays(spaces)
        self._ranges: dict[str, tuple[np.ndarray, np.ndarray, int]] = {}  # smallest, largest, and of how many
        self._rewards: list[float] = []  # the team's; NaN where there is none
        self._last: Moment | None = None

    def see(self, moment: Moment) -> None:
        """Checks one moment, in the order in which they come."""
        self._see_agents(moment)
        self._see_infos(moment)
        for name, value in moment.arrays.items():
            if isinstance(self.spaces.get(name), Box):  # otherwise an error of its own
                self._see_array(_check(name), name, value, self.spaces[name], moment.when)
        if "rewards" in moment.results:
            self._see_rewards(moment)
            self._see_flags(moment)
            self._see_end(moment)
        self._see_aliases(moment)

    def finish(self) -> None:
        """Checks what only shows after many moments."""
        self._hint_at_rewards()
        for name, (low, high, _) in self._ranges.items():
            large = np.flatnonzero(np.maximum(-low, high) > LARGE)
            if large.size:
                found = f"entries {_some(large)} of {name} exceed {LARGE:g}."
                self.findings.add("warning", _check(name), found, _SCALE[_check(name)], name)
        self._hint_at_constants()

    def _see_agents(self, moment: Moment) -> None:
        """Missing and unknown agents."""
        terminateds, truncateds = moment.flags()
        for severity, check, given in (
            ("error", "observations", moment.results["observations"]),
            ("error", "rewards", moment.results.get("rewards")),
            ("warning", "flags", {**terminateds, **truncateds}),
            ("warning", "infos", moment.infos),
        ):
            missing = [agent for agent in self.agents if given is not None and agent not in given]
            if missing and severity == "error":
                found = f"{moment.when}, there are no {check} of agents {missing}."
                self.findings.add("error", check, found, KEEP_AGENTS)
            unknown = [agent for agent in given or {} if agent not in [*self.agents, ALL, "__common__"]]
            if unknown:
                found = f"{moment.when}, there are {check} of agents {unknown}, which possible_agents does not name."
                advice = "Set possible_agents in __init__ to all agents there can ever be, or correct the names."
                self.findings.add(severity, check, found, advice)

    def _see_infos(self, moment: Moment) -> None:
        wrong = {key: info for key, info in moment.infos.items() if not isinstance(info, Mapping | None)}
        if wrong:
            found = f"{moment.when}, infos are no dicts: {wrong}."
            self.findings.add("error", "infos", found, "Return a dict for every agent, or leave the agent out.")

    def _see_array(self, check: str, name: str, value: Any, space: Box, when: str) -> None:
        array = _array(value)
        if array.dtype.kind not in "biuf":
            found = f"{when}, {name} is not an array of numbers: {value!r}."
            self.findings.add("error", check, found, _AS_SPACE, name)
        elif array.shape != space.shape:
            found = f"{when}, {name} has shape {array.shape}, but its space says {space.shape}."
            advice = "Correct one of the two." + (f" {LEAVE_STATE_OUT}" if check == "state" else "")
            self.findings.add("error", check, found, advice, name)
        elif self._are_usable(check, name, array, when):
            self._compare_with_space(check, name, array, space, when)
            values = array.astype(np.float64).reshape(-1)
            low, high, count = self._ranges.get(name, (values, values, 0))
            self._ranges[name] = np.minimum(low, values), np.maximum(high, values), count + 1

    def _are_usable(self, check: str, name: str, values: Any, when: str) -> bool:
        """Whether all numbers are such that DIMA can use them."""
        wrong = np.flatnonzero(~are_in_range(values))
        if wrong.size:
            worst = np.ravel(values)[wrong[:1]].tolist()
            found = f"{when}, {name} is NaN, infinite or beyond {LARGEST:g}: {worst}, in entries {_some(wrong)}"
            advice = "Find out why the environment computes it, or end the episode before it does."
            self.findings.add("error", check, f"{found} of {np.size(values)}.", advice, name)
        return not wrong.size

    def _compare_with_space(self, check: str, name: str, array: np.ndarray, space: Box, when: str) -> None:
        if not np.can_cast(array.dtype, space.dtype):
            found = f"{when}, {name} has dtype {array.dtype}, but its space says {space.dtype}; DIMA makes it float32."
            self.findings.add("warning", check, found, _AS_SPACE, name)
        outside = np.flatnonzero((array < space.low) | (array > space.high))
        if outside.size:
            found = f"{when}, {name} is outside the bounds of its space, in entries {_some(outside)} of {array.size}."
            self.findings.add("warning", check, found, "Widen the space, or correct the numbers.", name)

    def _see_rewards(self, moment: Moment) -> None:
        usable, team_reward = {}, math.nan
        for agent, reward in moment.results["rewards"].items():
            owner, name = f"that of agent {agent!r}", f"the reward of agent {agent!r}"
            with self.findings.guard("rewards", when=moment.when, owner=owner):
                number = reward_number(agent, reward)
                if self._are_usable("rewards", name, number, moment.when):
                    usable[agent] = number
        if usable.keys() == set(self.agents):
            with self.findings.guard("rewards", when=moment.when):
                reward = combine_rewards(usable, self.team_reward)
                if self._are_usable("rewards", f"the {self.team_reward} of the agents' rewards", reward, moment.when):
                    team_reward = reward
        self._rewards.append(team_reward)

    def _see_flags(self, moment: Moment) -> None:
        for name, flags in zip(("terminated", "truncated"), moment.flags(), strict=True):
            wrong = {key: flag for key, flag in flags.items() if not isinstance(flag, (bool, np.bool_))}
            if wrong:
                found = f"{moment.when}, {name} flags are no booleans: {wrong}."
                self.findings.add("error", "flags", found, "Return bool(...) of them.", f"{name} flags")
            if ALL not in flags:
                found = f'{moment.when}, the {name} flags have no "{ALL}"; DIMA goes by the agents\' own flags.'
                self.findings.add("warning", "flags", found, f'Add "{ALL}", which RLlib requires.', f"{name} flags")

    def _see_end(self, moment: Moment) -> None:
        team = None
        with self.findings.guard("flags", when=moment.when):
            team = team_flags(self.agents, *moment.flags())
        if team is None or not any(team):
            return
        given = tuple(flags.get(ALL) for flags in moment.flags())
        if not any(given) and given[0] is not None:
            found, advice = f'every agent is done, but "{ALL}" is False; DIMA ends the episode', _UNSET
        elif given[0] and not team[0]:
            found, advice = f'"{ALL}" is terminated, but every agent is truncated; DIMA counts a time limit', _LIMIT
        elif all(given):
            found, advice = f'"{ALL}" is both terminated and truncated; DIMA counts it as terminated', _BOTH
        else:
            return
        self.findings.add("warning", "flags", f"{moment.when}, {found}.", advice)

    def _see_aliases(self, moment: Moment) -> None:
        """Whether an array of the moment before has changed since it was returned."""
        last, self._last = self._last, moment
        copies = _arrays(last.copies) if last else {}
        for name, kept in copies.items():
            if isinstance(kept, np.ndarray) and last.arrays[name].tobytes() != kept.tobytes():
                found = f"{moment.when}, {name} that was returned before changed afterwards: the environment goes on "
                found += "writing to the array. DIMA copies it, but other code may keep it."
                self.findings.add("warning", _check(name), found, "Return a copy: array.copy().", name)

    def _hint_at_rewards(self) -> None:
        """Whether they vary at all, and whether training would learn them on another scale."""
        rewards, normalizer = np.array(self._rewards, np.float32), RewardNormalizer()
        if rewards.size < MOMENTS_TO_CALL_CONSTANT or np.isnan(rewards).any():
            return
        normalizer.update(torch.as_tensor(rewards))
        offset, scale = normalizer.offset.item(), normalizer.scale.item()
        if np.ptp(rewards) == 0:
            found = f"the reward was {rewards[0]:g} in all of {rewards.size} steps."
            advice = _CONSTANT_REWARD + (_UNSEEN_DIFFERENCES if self.team_reward == "shared" else "")
            self.findings.add("warning", "rewards", found, advice)
        elif (offset, scale) != (0.0, 1.0):
            found = (
                f"rewards are far from 1: in {rewards.size} steps their mean was {rewards.mean():.2g}, with a standard "
                f"deviation of {rewards.std():.2g}. DIMA learns them less {offset:.2g}, divided by {scale:.2g}."
            )
            self.findings.add("warning", "rewards", found, _SCALE["rewards"])

    def _hint_at_constants(self) -> None:
        """Entries that never change; not where nothing changes, unless it is the state while observations do."""
        constant = {
            name: (low == high) & (count >= MOMENTS_TO_CALL_CONSTANT)
            for name, (low, high, count) in self._ranges.items()
        }
        moving = [name for name in constant if not constant[name].all()]
        if moving and STATE in constant and STATE not in moving:
            found = f"state() returned the same numbers all {self._ranges[STATE][2]} times, while observations changed."
            self.findings.add("error", "state", found, _FROZEN)
        for check in ("observations", "state"):
            names = [name for name in moving if _check(name) == check and constant[name].any()]
            if names:
                which = listing([f"{_some(np.flatnonzero(constant[name]))} of {name}" for name in names])
                self.findings.add("warning", check, f"these entries never changed: {which}.", _CONSTANT)


_AS_SPACE = "Return a numpy array of the shape and the dtype of its space."
_UNSET = f'Set "{ALL}" when all agents are done.'
_LIMIT = f'At a time limit set truncateds["{ALL}"], and terminateds["{ALL}"] only if the task has ended.'
_BOTH = "Terminated means that no reward follows; truncated, that time ran out and rewards would follow."
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
