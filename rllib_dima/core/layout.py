"""Who the agents are and how large their observations and actions are: the one place where sizes are decided.

All agents share one set of parameters, so their observations and actions are padded to common sizes. A padded
observation of agent i is laid out as

    [ its own entries | zeros up to the largest agent's size | flags | one-hot agent id, if the layout appends one ]

Flags are there only in teams that need them, and are 0 or 1:

    [ A: which action entries are available, if actions are masked | 1: the agent is alive, if agents can leave ]

What is available or alive thus goes wherever observations go. Of an agent that has left, all but the id is zero.

A padded action is [its own entries | zeros]. Where agents choose several times at once ("multi_discrete"), an action in
its one-hot form has one block per choice, as wide as the most that any agent can choose from there:

    [ choice 0, one-hot | choice 1, one-hot | ... ]

The masks below say which entries are real; padding never enters a loss, a log-probability, an entropy or an action, and
neither does an agent that has left.
"""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Literal

import numpy as np
import torch
from torch.nn import functional

from rllib_dima.core.names import check_name

ActionKind = Literal["continuous", "discrete", "multi_discrete"]
ACTION_KINDS = ("continuous", "discrete", "multi_discrete")
AgentId = str | int | tuple


@dataclass(frozen=True)
class AgentLayout:
    """Sizes of the global state and of every agent's observation and action.

    Letters used in shape comments throughout `core`: N agents, S state, O padded observation, A padded action, F
    choices at once.

    Args:
        agent_ids: the agents, in the order of every axis named N: strings, whole numbers or tuples of these.
        state_size: S, entries of the global state.
        observation_sizes: real entries of each agent's observation (without an appended id).
        action_sizes: for continuous actions the entries of each agent's action vector, for discrete actions the
            number of its choices, for several choices at once the sum of these numbers.
        action_kind: "continuous" (actions in [-1, 1]), "discrete" (actions stored one-hot) or "multi_discrete" (several
            choices at once, each stored one-hot).
        appends_agent_id: whether a one-hot agent id of N entries ends every padded observation.
        action_choices: of "multi_discrete" actions, for each agent the numbers of its choices; else empty.
        masks_actions: whether some choices are unavailable at times. Needs discrete actions and an appended id.
        agents_leave: whether agents can leave, and come back, while the episode goes on. Needs an appended id.
        clips_actions: whether continuous actions are executed clipped to [-1, 1], and not as they are drawn.

    Raises:
        ValueError: on fewer than two agents, on other kinds of agent ids, on size tuples of a wrong length, on sizes
            below one, on an unknown action kind, and on choices that do not fit the sizes.
    """

    agent_ids: tuple[AgentId, ...]
    state_size: int
    observation_sizes: tuple[int, ...]
    action_sizes: tuple[int, ...]
    action_kind: ActionKind = "continuous"
    appends_agent_id: bool = False
    action_choices: tuple[tuple[int, ...], ...] = ()
    masks_actions: bool = False
    agents_leave: bool = False
    clips_actions: bool = True

    def __post_init__(self) -> None:
        if len(self.agent_ids) < 2:
            raise ValueError(
                f"DIMA trains teams: it needs at least 2 agents, but was given {len(self.agent_ids)} "
                f"({list(self.agent_ids)}). For a single agent use a single-agent algorithm such as RLlib's PPO or SAC."
            )
        for agent in self.agent_ids:
            if not _survives_json(agent):
                raise ValueError(
                    f"The agent {agent!r} is a {type(agent).__name__}, but an agent's id must be a string, a whole "
                    "number or a tuple of these: saved policies name the agents in JSON. Rename it in the environment."
                )
        for name in ("observation_sizes", "action_sizes"):
            sizes = getattr(self, name)
            if len(sizes) != len(self.agent_ids) or min(sizes) < 1:
                raise ValueError(f"{name} must hold one size >= 1 for each of {list(self.agent_ids)}, but is {sizes}.")
        if self.state_size < 1:
            raise ValueError(f"state_size must be at least 1, but is {self.state_size}.")
        check_name(self.action_kind, ACTION_KINDS, "action_kind")
        if self.num_flags and not self.appends_agent_id:
            raise ValueError("Observations with flags must end in an appended agent id: set appends_agent_id.")
        if self.masks_actions and not self.is_discrete:
            raise ValueError("Only discrete actions can be masked, but these are continuous.")
        choices, expected = tuple(map(sum, self.action_choices)), self.action_sizes if self.is_factored else ()
        if choices != expected:
            raise ValueError(f"The sums of action_choices must be {expected}, but are {choices}.")

    @property
    def num_agents(self) -> int:
        """N."""
        return len(self.agent_ids)

    @property
    def observation_size(self) -> int:
        """O, entries of a padded observation, flags and the appended agent id included."""
        return max(self.observation_sizes) + self.num_flags + (self.num_agents if self.appends_agent_id else 0)

    @property
    def num_flags(self) -> int:
        """Flags in an observation."""
        return (self.action_size if self.masks_actions else 0) + self.agents_leave

    @property
    def action_size(self) -> int:
        """A, entries of a padded action (continuous) or of its one-hot form (discrete)."""
        return sum(self.block_sizes)

    @property
    def block_sizes(self) -> tuple[int, ...]:
        """Entries of the blocks of a padded action: F blocks of several choices at once, else one."""
        blocks = zip_longest(*self.action_choices, fillvalue=0) if self.is_factored else [self.action_sizes]
        return tuple(map(max, blocks))

    @property
    def drawn_shape(self) -> tuple[int, ...]:
        """Shape of an agent's action as a policy draws it: (A,) continuous, () one choice, (F,) several."""
        if self.is_factored:
            return (len(self.block_sizes),)
        return () if self.is_discrete else (self.action_size,)

    @property
    def is_discrete(self) -> bool:
        """Whether all agents choose among finitely many actions."""
        return self.action_kind != "continuous"

    @property
    def is_factored(self) -> bool:
        """Whether agents make several choices at once."""
        return self.action_kind == "multi_discrete"

    def observation_mask(self) -> torch.Tensor:
        """(N, O) bool: which entries of a padded observation carry information."""
        mask = self.own_observation_mask()
        if self.masks_actions:
            mask[:, self.available_slice] = self.action_mask()
        if self.agents_leave:
            mask[:, self.alive_index] = True
        if self.appends_agent_id:
            mask[:, -self.num_agents :] = True
        return mask

    def own_observation_mask(self) -> torch.Tensor:
        """(N, O) bool: the entries that the environment itself gives an agent, without flags and the id."""
        return _leading_entries(self.observation_sizes, self.observation_size)

    @property
    def available_slice(self) -> slice:
        """Where an observation tells which action entries are available."""
        start = max(self.observation_sizes)
        return slice(start, start + self.action_size)

    @property
    def alive_index(self) -> int:
        """Where an observation tells whether its agent is alive."""
        return -self.num_agents - 1

    def alive(self, observations: torch.Tensor) -> torch.Tensor | None:
        """(...) 1 where the agent of an observation (..., O) is alive, else 0; None if all of them always are."""
        return observations[..., self.alive_index] if self.agents_leave else None

    def usable(self, action_mask: torch.Tensor, observations: torch.Tensor) -> torch.Tensor:
        """Which action entries agents can use now: none, if they have left.

        Args:
            action_mask: (..., A) float, 1 for entries that each of them really has.
            observations: (..., O).

        Returns:
            (..., A) float.
        """
        if self.masks_actions:
            action_mask = action_mask * observations[..., self.available_slice]
        return self.effective(action_mask, observations)

    def effective(self, action_mask: torch.Tensor, observations: torch.Tensor) -> torch.Tensor:
        """(..., A) which action entries have an effect: none, if their agent has left. Arguments as of `usable`."""
        return action_mask * observations[..., self.alive_index, None] if self.agents_leave else action_mask

    def action_mask(self) -> torch.Tensor:
        """(N, A) bool: which action entries (or discrete choices) an agent really has."""
        if not self.is_factored:
            return _leading_entries(self.action_sizes, self.action_size)
        blocks = zip(zip_longest(*self.action_choices, fillvalue=0), self.block_sizes, strict=True)
        return torch.cat([_leading_entries(sizes, width) for sizes, width in blocks], dim=1)

    def executed(self, drawn: torch.Tensor, effective: torch.Tensor) -> torch.Tensor:
        """Actions as the environment executes and the world model sees them: `bounded`, or one-hot.

        Args:
            drawn: (..., N, *drawn_shape).
            effective: (N, A) or (..., N, A) float, 1 for entries that have an effect.

        Returns:
            (..., N, A) float32; what has no effect is 0.
        """
        if not self.is_discrete:
            return self.bounded(drawn).float() * effective
        choices = drawn.unbind(-1) if self.is_factored else [drawn]
        blocks = [functional.one_hot(choice, width) for choice, width in zip(choices, self.block_sizes, strict=True)]
        return torch.cat(blocks, dim=-1) * effective

    def bounded(self, drawn: torch.Tensor) -> torch.Tensor:
        """Drawn actions (...) as an environment executes them: continuous ones clipped to [-1, 1], if it clips."""
        return drawn.clamp(-1, 1) if self.clips_actions and not self.is_discrete else drawn

    def agent_index(self, observations: torch.Tensor) -> torch.Tensor:
        """Index of the agent that each padded observation belongs to.

        The last N entries of an observation identify its agent: they are a one-hot id, or one that was standardised
        together with the rest of the observation, which keeps the largest entry the largest.

        Args:
            observations: (..., O).

        Returns:
            (...) int64.
        """
        return observations[..., -self.num_agents :].argmax(dim=-1)


def joined_mask(mask: Any) -> Any:
    """A mask of several choices, given as a tuple with one for each, as one; anything else as it is."""
    return np.concatenate(mask) if isinstance(mask, tuple) and all(np.ndim(part) for part in mask) else mask


def usable_blocks(available: np.ndarray, choices: Sequence[int]) -> bool:
    """Whether of each of an agent's choices something is available.

    Args:
        available: (own entries,) bool.
        choices: how many entries each choice has.
    """
    return all(block.any() for block in np.split(available, np.cumsum(choices)[:-1]))


def _leading_entries(sizes: Sequence[int], width: int) -> torch.Tensor:
    """(N, width) bool with the first sizes[i] entries of row i set."""
    return torch.arange(width).unsqueeze(0) < torch.tensor(sizes).unsqueeze(1)


def _survives_json(agent: Any) -> bool:
    if isinstance(agent, tuple):
        return all(map(_survives_json, agent))
    return isinstance(agent, str | numbers.Integral)
