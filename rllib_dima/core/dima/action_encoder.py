"""Encoders of a set of (time, agent) actions of which only some may be seen.

The released research code uses a Perceiver here, which holds over 95% of the dynamics model's arithmetic. A sum of
token features does the same job at a fraction of the cost, and lets everything that does not change between
denoising steps be computed once (see `Diffusion.sample`).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import nn


class ActionSetEncoder(nn.Module, ABC):
    """Interface: token features of actions, and their pooling into one vector under a visibility mask.

    A token that is not visible must have exactly no influence on the pooled vector.
    """

    @abstractmethod
    def tokens(self, actions: torch.Tensor) -> torch.Tensor:
        """Features of each action on its own: (B, T, N, A) -> (B, T, N, D)."""

    @abstractmethod
    def pool(self, tokens: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        """One vector per set: tokens (B, T, N, D), visible (B, T, N) bool -> (B, E)."""

    def forward(self, actions: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        """actions (B, T, N, A), visible (B, T, N) bool -> (B, E)."""
        return self.pool(self.tokens(actions), visible)


class SumActionEncoder(ActionSetEncoder):
    """Deep Sets (Zaheer et al. 2017): visible tokens are summed over the agents, then mixed over time.

    A token is an MLP of the action and of what tells its agent apart; the sum over the visible agents of one time
    step, scaled by 1 / sqrt(N), is independent of how many other agents are visible, unlike a mean. The T sums are
    concatenated, so that time needs no embedding, and projected.

    Args:
        num_steps: T.
        num_agents: N.
        action_mask: (N, A) bool, real entries of each agent's action.
        hidden_size: D, width of a token.
        output_size: E.
    """

    action_mask: torch.Tensor

    def __init__(
        self, num_steps: int, num_agents: int, action_mask: torch.Tensor, hidden_size: int, output_size: int
    ) -> None:
        super().__init__()
        self.register_buffer("action_mask", action_mask.float(), persistent=False)
        self.action_in = nn.Linear(action_mask.shape[1], hidden_size)
        self.agent_embedding = nn.Parameter(torch.randn(num_agents, hidden_size))
        self.token_out = nn.Linear(hidden_size, hidden_size)
        self.project = nn.Linear(num_steps * hidden_size, output_size)
        self.activation = nn.SiLU()
        self.scale = 1 / math.sqrt(num_agents)

    def tokens(self, actions: torch.Tensor) -> torch.Tensor:
        features = self.action_in(actions * self.action_mask) + self.agent_embedding  # (B, T, N, D)
        return self.activation(self.token_out(self.activation(features)))

    def pool(self, tokens: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        summed = (tokens * visible.unsqueeze(-1)).sum(dim=2) * self.scale  # (B, T, D)
        return self.project(summed.flatten(1))


class FlatActionEncoder(ActionSetEncoder):
    """No encoding: the visible actions themselves, zero where hidden, and which of them are visible.

    The vector has E = T N (A + 1) entries.

    Args:
        num_steps: T.
        num_agents: N.
        action_mask: (N, A) bool, real entries of each agent's action.
    """

    action_mask: torch.Tensor

    def __init__(self, num_steps: int, num_agents: int, action_mask: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("action_mask", action_mask.float(), persistent=False)
        self.output_size = num_steps * num_agents * (action_mask.shape[1] + 1)

    def tokens(self, actions: torch.Tensor) -> torch.Tensor:
        return actions * self.action_mask

    def pool(self, tokens: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        seen = visible.unsqueeze(-1).to(tokens.dtype)  # (B, T, N, 1)
        return torch.cat([tokens * seen, seen], dim=-1).flatten(1)
