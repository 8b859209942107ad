"""What `reset` and `step` of an environment return, held against what DIMA needs of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box

from rllib_dima.core.dima.normalization import RewardNormalizer
from rllib_dima.envs.check.play import Moment
from rllib_dima.envs.check.report import Findings, listing
from rllib_dima.envs.cooperative import ALL, LEAVE_STATE_OUT, combine_rewards, team_flags
from rllib_dima.envs.spaces import LARGEST, ContractError, are_in_range

LARGE = 1e4  # beyond this, numbers are worth a hint
MOMENTS_TO_CALL_CONSTANT = 10
_COMMON = (ALL, "__common__")  # what RLlib allows in infos besides agents


class ResultChecks:
    """Looks at every moment of the episodes that are played.

    Args:
        findings: where to put what is wrong.
        agents: the agents there should be.
        observation_spaces: by agent; None where there is none.
        state_space: None if the environment offers no state.
        team_reward: as for `CooperativeEnv`.
    """

    def __init__(
        self,
        findings: Findings,
        agents: list,
        observation_spaces: Mapping[Any, gymnasium.Space | None],
        state_space: gymnasium.Space | None,
        team_reward: str,
    ) -> None:
        self.findings, self.agents = findings, agents
        self.observation_spaces, self.state_space = observation_spaces, state_space
        self.team_reward = team_reward
        self._ranges: dict[str, _Range] = {}
        self._rewards: list[float] = []  # the team's
        self._rewards_differ = False
        self._handed_out: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def see(self, moment: Moment) -> None:
        """Checks one moment, in the order in which they come."""
        self._see_handed_out(moment)
        self._see_observations(moment)
        if self.state_space is not None:
            self._see_array("state", "the state", moment.state, self.state_space, moment.when)
        if moment.rewards is not None:
            self._see_rewards(moment)
            self._see_flags(moment)
        self._see_infos(moment)

    def finish(self) -> None:
        """Checks what only shows after many moments."""
        moving = [name for name, seen in self._ranges.items() if not seen.is_frozen]
        state = self._ranges.get("the state")
        if state is not None and state.is_frozen and moving:
            self.findings.error(
                "state",
                f"state() returned the same numbers all {state.count} times, while observations changed.",
                "Return everything that the agents' observations and rewards depend on, as it is at the moment.",
            )
        self._hint_at_rewards()
        for name, seen in self._ranges.items():
            self._hint_at_scale(name, seen)
        for check in ("observations", "state"):
            self._hint_at_constants(check, [name for name in moving if self._ranges[name].check == check])

    def _see_observations(self, moment: Moment) -> None:
        self._see_agents("observations", "error", moment.observations, moment.when)
        for agent in self.agents:
            space = self.observation_spaces.get(agent)
            if agent in moment.observations and space is not None:
                name = f"the observation of agent {agent!r}"
                self._see_array("observations", name, moment.observations[agent], space, moment.when)

    def _see_agents(self, check: str, severity: str, given: Mapping, when: str, others: tuple = ()) -> None:
        """Missing and unknown agents."""
        missing = [agent for agent in self.agents if agent not in given]
        unknown = [agent for agent in given if agent not in self.agents and agent not in others]
        if missing and severity == "error":
            self.findings.error(
                check,
                f"{when}, there are no {check} of agents {missing}.",
                "All agents act at every step: return an entry for every agent of possible_agents, at every reset and "
                "step, the last one included. Keep agents that are finished, with their actions without effect.",
                "missing",
            )
        if unknown:
            report = self.findings.error if severity == "error" else self.findings.warning
            report(
                check,
                f"{when}, there are {check} of agents {unknown}, which possible_agents does not name.",
                "Set possible_agents in __init__ to all agents there can ever be, or correct the names.",
                "unknown",
            )

    def _see_array(self, check: str, name: str, value: Any, space: gymnasium.Space, when: str) -> None:
        if not isinstance(space, Box):  # an error of its own
            return
        array = _array(value)
        if array.dtype.kind not in "biuf":
            found = f"{when}, {name} is not an array of numbers: {value!r}."
            self.findings.error(check, found, _AS_SPACE, "kind", name)
        elif array.shape != space.shape:
            found = f"{when}, {name} has shape {array.shape}, but its space says {space.shape}."
            advice = "Correct one of the two." + (f" {LEAVE_STATE_OUT}" if check == "state" else "")
            self.findings.error(check, found, advice, "shape", name)
        else:
            self._see_numbers(check, name, array, space, when)

    def _see_numbers(self, check: str, name: str, array: np.ndarray, space: Box, when: str) -> None:
        unusable = np.flatnonzero(~are_in_range(array))
        if unusable.size:
            found = (
                f"{when}, {name} is NaN, infinite or beyond {LARGEST:g}, in entries {_some(unusable)} of {array.size}."
            )
            advice = "Find out why the environment computes it, or end the episode before it does."
            self.findings.error(check, found, advice, "finite", name)
            return
        if not np.can_cast(array.dtype, space.dtype):
            found = f"{when}, {name} has dtype {array.dtype}, but its space says {space.dtype}; DIMA makes it float32."
            self.findings.warning(check, found, _AS_SPACE, "dtype", name)
        outside = np.flatnonzero((array < space.low) | (array > space.high))
        if outside.size:
            found = f"{when}, {name} is outside the bounds of its space, in entries {_some(outside)} of {array.size}."
            self.findings.warning(check, found, "Widen the space, or correct the numbers.", "bounds", name)
        self._ranges.setdefault(name, _Range(check, array.size)).add(array.astype(np.float64).reshape(-1))

    def _see_rewards(self, moment: Moment) -> None:
        self._see_agents("rewards", "error", moment.rewards, moment.when)
        rewards = {agent: moment.rewards[agent] for agent in self.agents if agent in moment.rewards}
        usable = [self._see_reward(agent, reward, moment.when) for agent, reward in rewards.items()]
        if rewards and all(usable):
            self._see_team_reward({agent: float(reward) for agent, reward in rewards.items()}, moment.when)

    def _see_reward(self, agent: Any, reward: Any, when: str) -> bool:
        """Whether it is a number that DIMA can use."""
        owner = f"that of agent {agent!r}"
        if not _is_number(reward):
            found = f"{when}, the reward of agent {agent!r} is no number, but {reward!r} ({type(reward).__name__})."
            self.findings.error("rewards", found, "Return a float for every agent.", "kind", owner)
        elif not are_in_range(reward):
            found = f"{when}, the reward of agent {agent!r} is {reward}: not finite, or beyond {LARGEST:g}."
            advice = "Find out why the environment computes it, or end the episode before it does."
            self.findings.error("rewards", found, advice, "finite", owner)
        else:
            return True
        return False

    def _see_team_reward(self, rewards: Mapping[Any, float], when: str) -> None:
        try:
            reward = combine_rewards(rewards, self.team_reward)
        except ContractError as error:
            self._rewards_differ = True
            self.findings.refusal("rewards", error, "shared", when)
            return
        if are_in_range(reward):
            self._rewards.append(reward)
        else:
            found = f"{when}, the {self.team_reward} of the agents' rewards is {reward}, beyond {LARGEST:g}."
            self.findings.error("rewards", found, "Make rewards smaller; 1 is a good size.", "team")

    def _see_flags(self, moment: Moment) -> None:
        both = {"terminated": moment.terminateds, "truncated": moment.truncateds}
        for name, flags in both.items():
            self._see_agents("flags", "warning", flags, moment.when, others=(ALL,))
            wrong = {key: flag for key, flag in flags.items() if not isinstance(flag, (bool, np.bool_))}
            if wrong:
                found = f"{moment.when}, {name} flags are no booleans: {wrong}."
                self.findings.error("flags", found, "Return bool(...) of them.", (name, "kind"))
            if ALL not in flags:
                found = f'{moment.when}, the {name} flags have no "{ALL}"; DIMA goes by the agents\' own flags.'
                self.findings.warning("flags", found, f'Add "{ALL}", which RLlib requires.', (name, ALL))
        self._see_end(moment)

    def _see_end(self, moment: Moment) -> None:
        try:
            ended = any(team_flags(self.agents, moment.terminateds, moment.truncateds))
        except ContractError as error:
            self.findings.refusal("flags", error, "leaving", moment.when)
            return
        says_terminated, says_truncated = bool(moment.terminateds.get(ALL)), bool(moment.truncateds.get(ALL))
        if ended and not (says_terminated or says_truncated) and ALL in moment.terminateds:
            found = f'{moment.when}, every agent is done, but "{ALL}" is False; DIMA ends the episode.'
            self.findings.warning("flags", found, f'Set "{ALL}" when all agents are done.', "unset")
        if says_terminated and self._is_time_limit(moment):
            found = f'{moment.when}, "{ALL}" is terminated, but every agent is truncated; DIMA counts a time limit.'
            advice = f'At a time limit set truncateds["{ALL}"], and terminateds["{ALL}"] only if the task has ended.'
            self.findings.warning("flags", found, advice, "limit")
        elif says_terminated and says_truncated:
            found = f'{moment.when}, "{ALL}" is both terminated and truncated; DIMA counts it as terminated.'
            advice = "Terminated means that no reward follows; truncated, that time ran out and rewards would follow."
            self.findings.warning("flags", found, advice, "both")

    def _is_time_limit(self, moment: Moment) -> bool:
        return not team_flags(self.agents, moment.terminateds, moment.truncateds)[0]

    def _see_infos(self, moment: Moment) -> None:
        self._see_agents("infos", "warning", moment.infos, moment.when, others=_COMMON)
        wrong = {key: info for key, info in moment.infos.items() if not isinstance(info, (Mapping, type(None)))}
        if wrong:
            found = f"{moment.when}, infos are no dicts: {wrong}."
            self.findings.error("infos", found, "Return a dict for every agent, or leave the agent out.", "kind")

    def _see_handed_out(self, moment: Moment) -> None:
        """Whether an array of the moment before has changed since it was returned."""
        for name, (array, copied) in self._handed_out.items():
            if array.tobytes() != copied.tobytes():
                self.findings.warning(
                    "state" if name == "the state" else "observations",
                    f"{moment.when}, {name} that was returned before changed afterwards: the environment goes on "
                    "writing to the array. DIMA copies it, but other code may keep it.",
                    "Return a copy: array.copy().",
                    "aliasing",
                    name,
                )
        now = {f"the observation of agent {agent!r}": moment.observations.get(agent) for agent in self.agents}
        now["the state"] = moment.state
        self._handed_out = {name: (a, a.copy()) for name, a in now.items() if isinstance(a, np.ndarray)}

    def _hint_at_rewards(self) -> None:
        """Whether they vary at all, and whether training would learn them on another scale."""
        if self._rewards_differ or len(self._rewards) < MOMENTS_TO_CALL_CONSTANT:
            return
        rewards = np.array(self._rewards, np.float32)
        normalizer = RewardNormalizer()
        normalizer.update(torch.as_tensor(rewards))
        offset, scale = normalizer.offset.item(), normalizer.scale.item()
        if np.ptp(rewards) == 0:
            found = f"the reward was {rewards[0]:g} in all of {rewards.size} steps."
            advice = _CONSTANT_REWARD + (_UNSEEN_DIFFERENCES if self.team_reward == "shared" else "")
            self.findings.warning("rewards", found, advice, "constant")
        elif (offset, scale) != (0.0, 1.0):
            found = (
                f"rewards are far from 1: in {rewards.size} steps their mean was {rewards.mean():.2g}, with a standard "
                f"deviation of {rewards.std():.2g}. DIMA learns them less {offset:.2g}, divided by {scale:.2g}."
            )
            self.findings.warning("rewards", found, _REWARD_SCALE, "scale")

    def _hint_at_scale(self, name: str, seen: _Range) -> None:
        large = np.flatnonzero(np.maximum(-seen.low, seen.high) > LARGE)
        if large.size:
            found = f"entries {_some(large)} of {name} exceed {LARGE:g}."
            self.findings.warning(seen.check, found, _SCALE[seen.check], "scale", name)

    def _hint_at_constants(self, check: str, names: list[str]) -> None:
        constant = {name: np.flatnonzero(self._ranges[name].is_constant) for name in names}
        constant = {name: entries for name, entries in constant.items() if entries.size}
        if constant:
            which = listing([f"{_some(entries)} of {name}" for name, entries in constant.items()])
            found = f"these entries never changed: {which}."
            advice = "If they carry nothing, leave them out. If they should change, see why they do not."
            self.findings.warning(check, found, advice, "constant")


class _Range:
    """Smallest and largest value of every entry so far."""

    def __init__(self, check: str, size: int) -> None:
        self.check, self.count = check, 0
        self.low, self.high = np.full(size, np.inf), np.full(size, -np.inf)

    def add(self, values: np.ndarray) -> None:
        self.count += 1
        np.minimum(self.low, values, out=self.low)
        np.maximum(self.high, values, out=self.high)

    @property
    def is_constant(self) -> np.ndarray:
        """By entry."""
        return (self.low == self.high) & (self.count >= MOMENTS_TO_CALL_CONSTANT)

    @property
    def is_frozen(self) -> bool:
        """Whether no entry ever changed."""
        return bool(self.is_constant.all())


_CONSTANT_REWARD = "Nothing can be learnt before it varies: reward what random actions reach, too."
_UNSEEN_DIFFERENCES = (
    " And if it may differ between agents once it varies, which ends a training run, say now how to combine it: "
    'env_config={"team_reward": "mean"} or "sum".'
)
_REWARD_SCALE = (
    "Nothing, if they are meant to be: running statistics of all rewards find this scale in training (metrics "
    "reward_scale and reward_offset). But one term that is far larger than the others hides them."
)
_SCALE = {
    "observations": "Rescale them to about 1: the policy's first layer norm is over all entries of an observation, and "
    "others vanish beside them.",
    "state": "Rescale them to about 1: DIMA normalises every entry of the state, but in float32, which keeps 7 digits.",
}
_AS_SPACE = "Return a numpy array of the shape and the dtype of its space."


def _is_number(value: Any) -> bool:
    array = _array(value)
    return array.shape == () and array.dtype.kind in "biuf"


def _array(value: Any) -> np.ndarray:
    try:
        return np.asarray(value)
    except ValueError:  # nested lists of unequal lengths
        return np.array(None)


def _some(entries: np.ndarray) -> str:
    return f"{entries[:8].tolist()}{'...' if entries.size > 8 else ''}"
