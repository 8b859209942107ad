"""Who the agents are and how large their observations and actions are: the one place where sizes are decided.

All agents share one set of parameters, so their observations and actions are padded to common sizes. A padded
observation of agent i is laid out as

    [ its own entries | zeros up to the largest agent's size | one-hot agent id, if the layout appends one ]

and a padded action as [its own entries | zeros]. The masks below say which entries are real; padding never enters a
loss, a log-probability, an entropy or an action.
"""

from __future__ import annotations

import numbers
from dataclasses import dataclass
from typing import Any, Literal

import torch

ActionKind = Literal["continuous", "discrete"]
AgentId = str | int | tuple


@dataclass(frozen=True)
class AgentLayout:
    """Sizes of the global state and of every agent's observation and action.

    Letters used in shape comments throughout `core`: N agents, S state, O padded observation, A padded action.

    Args:
        agent_ids: the agents, in the order of every axis named N: strings, whole numbers or tuples of these.
        state_size: S, entries of the global state.
        observation_sizes: real entries of each agent's observation (without an appended id).
        action_sizes: for continuous actions the entries of each agent's action vector, for discrete actions the
            number of its choices.
        action_kind: "continuous" (actions in [-1, 1]) or "discrete" (actions stored one-hot).
        appends_agent_id: whether a one-hot agent id of N entries ends every padded observation.

    Raises:
        ValueError: on fewer than two agents, on other kinds of agent ids, on size tuples of a wrong length, on sizes
            below one and on an unknown action kind.
    """

    agent_ids: tuple[AgentId, ...]
    state_size: int
    observation_sizes: tuple[int, ...]
    action_sizes: tuple[int, ...]
    action_kind: ActionKind = "continuous"
    appends_agent_id: bool = False

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
        if self.action_kind not in ("continuous", "discrete"):
            raise ValueError(f"action_kind must be 'continuous' or 'discrete', but is {self.action_kind!r}.")

    @property
    def num_agents(self) -> int:
        """N."""
        return len(self.agent_ids)

    @property
    def observation_size(self) -> int:
        """O, entries of a padded observation, the appended agent id included."""
        return max(self.observation_sizes) + (self.num_agents if self.appends_agent_id else 0)

    @property
    def action_size(self) -> int:
        """A, entries of a padded action (continuous) or of its one-hot form (discrete)."""
        return max(self.action_sizes)

    @property
    def is_discrete(self) -> bool:
        """Whether all agents choose among finitely many actions."""
        return self.action_kind == "discrete"

    def observation_mask(self) -> torch.Tensor:
        """(N, O) bool: which entries of a padded observation carry information."""
        mask = _leading_entries(self.observation_sizes, self.observation_size)
        if self.appends_agent_id:
            mask[:, -self.num_agents :] = True
        return mask

    def action_mask(self) -> torch.Tensor:
        """(N, A) bool: which action entries (or discrete choices) an agent really has."""
        return _leading_entries(self.action_sizes, self.action_size)

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


def _leading_entries(sizes: tuple[int, ...], width: int) -> torch.Tensor:
    """(N, width) bool with the first sizes[i] entries of row i set."""
    return torch.arange(width).unsqueeze(0) < torch.tensor(sizes).unsqueeze(1)


def _survives_json(agent: Any) -> bool:
    if isinstance(agent, tuple):
        return all(map(_survives_json, agent))
    return isinstance(agent, str | numbers.Integral)
