"""What `reset` and `step` of an environment return, held against what DIMA needs of it."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box

from rllib_dima.core.dima.normalization import RewardNormalizer
from rllib_dima.envs.check.report import EnvReport, Severity, listing
from rllib_dima.envs.check.rewards import judge_rewards
from rllib_dima.envs.cooperative import LEAVE_STATE_OUT
from rllib_dima.envs.observations import ObservationReader, read_array
from rllib_dima.envs.outcomes import (
    KEEP_AGENTS,
    NonFiniteError,
    combine_rewards,
    counted_rewards,
    listed,
    require_usable,
    reward_number,
    staying,
    team_flags,
)
from rllib_dima.envs.spaces import ContractError
from rllib_dima.envs.team import ALL, require_agents

LARGE = 1e4  # beyond this, numbers are worth a hint
MANY = 10  # moments, before what never changes is called constant
STATE = "the state"


@dataclass
class Moment:
    """What one reset or step returned.

    Attributes:
        arrays: observations and the state, by the names they have in findings.
        copies: those, rewards and flags, as they were when they were returned.
        acted: the agents that acted before.
        masks: by agent, which choices are available; empty if all are.
    """

    when: str
    infos: Mapping
    state: Mapping[str, Any]  # under STATE, if there is one
    observations: Mapping
    rewards: Mapping | None = None  # None after a reset
    terminateds: Mapping = field(default_factory=dict)
    truncateds: Mapping = field(default_factory=dict)
    acted: tuple = ()
    masks: Mapping = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.arrays = {**by_agent(self.observations), **self.state}
        flags = {"the terminated flags": self.terminateds, "the truncated flags": self.truncateds}
        self.copies = copy.deepcopy({**self.arrays, "the rewards": self.rewards, **flags})

    @property
    def ends(self) -> tuple[bool, bool]:
        """Whether the team is terminated, and truncated."""
        return team_flags({*self.acted, *self.observations}, self.terminateds, self.truncateds, agents_leave=True)

    @property
    def is_last(self) -> bool:
        """Whether the episode has ended."""
        return any(self.ends)

    @property
    def alive(self) -> set:
        """The agents that act next."""
        return staying(self.observations, self.terminateds, self.truncateds, *self.ends)

    @property
    def left(self) -> set:
        """The agents that are done while the episode goes on."""
        return set() if self.is_last else set(self.observations) - self.alive


class ResultChecks:
    """Looks at every moment of the episodes that are played.

    Args:
        report: of what is found.
        agents: all.
        spaces: of `Moment.arrays`, or None.
        readers: of the observations that are not arrays, by name.
        team_reward: as for `CooperativeEnv`.
        agents_leave: whether the environment says that they do.
    """

    def __init__(
        self,
        report: EnvReport,
        agents: list,
        spaces: Mapping[str, Any],
        readers: Mapping[str, ObservationReader],
        team_reward: Any,
        agents_leave: bool,
    ) -> None:
        self._report, self._agents, self._team_reward = report, agents, team_reward
        self._spaces = {name: space for name, space in spaces.items() if isinstance(space, Box)}
        self._readers, self._agents_leave = readers, agents_leave
        self._left: dict[Any, str] = {}  # who was away while others acted, and when first
        self._num_moments = self._num_choices = self._num_unavailable = 0
        self._own_rewards: list[list[float]] = []  # of every agent
        self._difference: tuple[str, str] | None = None  # of rewards that should be shared: what, and what to do
        self._ranges: dict[str, tuple[np.ndarray, np.ndarray, int]] = {}  # smallest, largest, and of how many
        self._rewards: list[float] = []  # the team's; NaN where there is none
        self._moment: Moment | None = None

    def see(self, moment: Moment) -> None:
        """Checks one moment, in the order in which they come."""
        last, self._moment = self._moment, moment
        self._see_agents(moment)
        for name, space in self._spaces.items():
            if name in moment.arrays:
                self._see_array(_check(name), name, moment.arrays[name], space)
        for name, reader in self._readers.items():
            if name in moment.arrays:
                with self._report.guard("observations", moment.when, name):
                    self._see_numbers(name, reader.read(moment.arrays[name]))
        if moment.rewards is not None:
            self._see_rewards(moment.rewards, moment.acted)
            self._see_flags(moment.terminateds, moment.truncateds)
        for name, value in last.arrays.items() if last else ():
            if isinstance(value, np.ndarray) and value.tobytes() != last.copies[name].tobytes():
                self._say("warning", _check(name), f"{name} that was returned before changed afterwards", _COPY, name)

    def finish(self) -> None:
        """Checks what only shows after many moments."""
        self._hint_at_rewards()
        self._hint_at_entries()
        self._tell_of_leaving()
        self._tell_of_masks()
        judge_rewards(self._report, self._agents, np.array(self._own_rewards), self._difference)

    def _say(self, severity: Severity, check: str, found: str, advice: str, owner: str = "") -> None:
        self._report.add(severity, check, f"{self._moment.when}, {found}.", advice, owner)

    def _see_agents(self, moment: Moment) -> None:
        """Missing and unknown agents, and infos."""
        needed = {"observations": moment.observations, "rewards": moment.rewards}
        others = {"flags": {**moment.terminateds, **moment.truncateds}, "infos": moment.infos}
        for check, given in needed.items():
            with self._report.guard(check, self._moment.when):
                if given is not None:
                    known = {agent for agent in self._agents if agent in given}
                    if check == "rewards" and not (self._agents_leave or self._left):
                        known |= set(moment.acted)
                    require_agents(f"The {check}", given, known, _NAME_ALL)
        self._num_moments += 1
        for agent in [] if moment.is_last else self._agents:
            if agent not in moment.alive:
                self._left.setdefault(agent, self._moment.when)
        sizes = [mask.size for mask in moment.masks.values()]
        self._num_choices += sum(sizes)
        self._num_unavailable += sum(sizes) - int(sum(mask.sum() for mask in moment.masks.values()))
        for check, given in others.items():
            unknown = [agent for agent in given if agent not in [*self._agents, ALL, "__common__"]]
            if unknown:
                found = f"there are {check} of agents {unknown}, which possible_agents does not name"
                self._say("warning", check, found, "Name them there, in __init__, or leave them out.")
        wrong = {key: info for key, info in moment.infos.items() if not isinstance(info, Mapping | None)}
        if wrong:
            self._say("error", "infos", f"infos are no dicts: {wrong}", "Return a dict for every agent, or none.")

    def _see_array(self, check: str, name: str, value: Any, space: Box) -> None:
        with self._report.guard(check, self._moment.when, name):
            array = read_array(name, value, space.shape, f" {LEAVE_STATE_OUT}" if name == STATE else "")
            require_usable(name, array)
            outside = np.flatnonzero((array < space.low) | (array > space.high))
            if outside.size or not np.can_cast(array.dtype, space.dtype):
                found = (
                    f"{name} is {array.dtype}, its space {space.dtype}, and entries {listed(outside)} exceed its bounds"
                )
                self._say("warning", check, found, "Return what the space says, or correct the space.", name)
            self._see_numbers(name, array)

    def _see_numbers(self, name: str, array: np.ndarray) -> None:
        require_usable(name, array)
        values = array.astype(np.float64).reshape(-1)
        low, high, count = self._ranges.get(name, (values, values, 0))
        self._ranges[name] = np.minimum(low, values), np.maximum(high, values), count + 1

    def _see_rewards(self, rewards: Mapping[Any, Any], acted: tuple) -> None:
        numbers, team_reward = {}, math.nan
        for agent, reward in rewards.items():
            with self._report.guard("rewards", self._moment.when, f"that of agent {agent!r}"):
                numbers[agent] = reward_number(agent, reward)
        if numbers.keys() >= set(self._agents) - set(self._left):
            self._own_rewards.append([numbers.get(a, math.nan) if a in acted else math.nan for a in self._agents])
            with self._report.guard("rewards", self._moment.when):
                team_reward = self._combined(counted_rewards(numbers, self._agents, acted, self._team_reward))
        self._rewards.append(team_reward)

    def _combined(self, rewards: Mapping[Any, float]) -> float:
        """The team's reward; NaN where there is none, as agents' rewards differ, which is told in the end."""
        try:
            return combine_rewards(rewards, self._team_reward)
        except NonFiniteError:
            raise
        except ContractError as error:
            self._difference = self._difference or (f"{self._moment.when}: {error.found}", error.advice)
            return math.nan

    def _see_flags(self, terminateds: Mapping, truncateds: Mapping) -> None:
        for name, flags in (("terminated", terminateds), ("truncated", truncateds)):
            wrong = {key: flag for key, flag in flags.items() if not isinstance(flag, (bool, np.bool_))}
            if wrong:
                self._say("error", "flags", f"{name} flags are no booleans: {wrong}", "Return bool(...) of them.")
        with self._report.guard("flags", self._moment.when):
            team, said = self._moment.ends, (terminateds.get(ALL), truncateds.get(ALL))
            if said != team:
                found = f'"{ALL}" says terminated: {said[0]}, truncated: {said[1]}; from it and the agents\' own flags '
                self._say("warning", "flags", f"{found}DIMA reads terminated: {team[0]}, truncated: {team[1]}", _ALL)

    def _tell_of_leaving(self) -> None:
        """What happens with agents that are away while others act, or that none was although some were to be."""
        if self._left:
            agents, when = [repr(agent) for agent in self._left], next(iter(self._left.values()))
            found = f"agents are done or missing while the episode goes on: {listing(agents)}, first {when}."
            severity, advice = ("note", _LEAVING) if self._agents_leave else ("error", KEEP_AGENTS)
            self._report.add(severity, "agents", found, advice)
        elif self._agents_leave and self._num_moments >= MANY:
            found = (
                f"agents may leave, as the environment or env_config says, but in {self._num_moments} moments none did."
            )
            self._report.add("warning", "agents", found, _NONE_LEFT)

    def _tell_of_masks(self) -> None:
        if self._num_choices:
            share = self._num_unavailable / self._num_choices
            found = f"actions are masked: {share:.0%} of the agents' choices were unavailable."
            self._report.add("note", "actions", found, _MASKED)

    def _hint_at_rewards(self) -> None:
        """Whether they vary at all, and whether training would learn them on another scale."""
        rewards, normalizer = np.array(self._rewards, np.float32), RewardNormalizer()
        if rewards.size < MANY or np.isnan(rewards).any():
            return
        normalizer.update(torch.as_tensor(rewards))
        offset, scale = normalizer.offset.item(), normalizer.scale.item()
        if np.ptp(rewards) == 0:
            found = f"the reward was {rewards[0]:g} in all of {rewards.size} steps."
            advice = _CONSTANT_REWARD + (_UNSEEN_DIFFERENCES if self._team_reward == "shared" else "")
            self._report.add("warning", "rewards", found, advice)
        elif (offset, scale) != (0.0, 1.0):
            found = (
                f"rewards are far from 1: in {rewards.size} steps their mean was {rewards.mean():.2g}, with a standard "
                f"deviation of {rewards.std():.2g}. DIMA learns them less {offset:.2g}, divided by {scale:.2g}."
            )
            self._report.add("warning", "rewards", found, _SCALE["rewards"])

    def _hint_at_entries(self) -> None:
        """Large entries, constant ones of what changes, and a state that does not change while observations do."""
        constant = {name: (low == high) & (count >= MANY) for name, (low, high, count) in self._ranges.items()}
        large = {name: np.maximum(-low, high) > LARGE for name, (low, high, _) in self._ranges.items()}
        moving = [name for name, entries in constant.items() if not entries.all()]
        if moving and STATE in constant and STATE not in moving:
            found = f"state() returned the same numbers all {self._ranges[STATE][2]} times, while observations changed."
            self._report.add("error", "state", found, _FROZEN)
        for name, entries in large.items():
            if entries.any():
                found = f"{_some(name, entries)} exceed {LARGE:g}."
                self._report.add("warning", _check(name), found, _SCALE[_check(name)], name)
        for name in moving:
            if constant[name].any():
                found = f"{_some(name, constant[name])} never changed."
                self._report.add("warning", _check(name), found, _CONSTANT, name)


def by_agent(observations: Mapping) -> dict[str, Any]:
    """What every agent has, observations or their spaces, by the names that they have in findings."""
    return {f"the observation of agent {agent!r}": value for agent, value in observations.items()}


def _check(name: str) -> str:
    return "state" if name == STATE else "observations"


def _some(name: str, entries: np.ndarray) -> str:
    return f"entries {listed(np.flatnonzero(entries))} of {name}"


_NAME_ALL = "Name them in possible_agents, in __init__, or leave them out."
_LEAVING = (
    "DIMA keeps them in the team until the episode ends: observation zero with an entry that says so, action without "
    "effect, and nothing learnt from them. The team's reward goes on, and they may come back."
)
_NONE_LEFT = "Nothing, if it is rare. Else leave agents_leave out, which costs an entry in every observation."
_MASKED = (
    "Policies never take what is unavailable, and DIMA predicts masks for imagined states; see the metric mask_error. "
    "The global state should tell what is available."
)
_COPY = "The environment goes on writing to it. DIMA copies it, other code may keep it: return array.copy()."
_ALL = f'Set both under "{ALL}": terminated if no reward follows an end, or else truncated, as at a time limit.'
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
