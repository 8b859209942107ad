"""Rewards and endings of one step: a residual MLP of the state, the joint action and, if asked for, the next state.

The global state of most tasks is Markov, so that what came before tells nothing more. Where nothing is random the next
state tells nothing more either, but then what a step changes need not be learnt twice: many rewards are a distance
covered, and many endings a bound that the next state passes. In imagination it is the imagined one.

Where some of the states are imagined in training, too, endings have an MLP of their own, of one hidden layer: beside
rewards, a few ends among ten thousand steps are learnt by heart, and neither new ones nor those of imagined states are
predicted.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from rllib_dima.core.dima.action_encoder import FlatActionEncoder
from rllib_dima.core.dima.reward_termination import OutcomeModel, RewardTerminationHyperparameters, summed
from rllib_dima.core.layout import AgentLayout
from rllib_dima.core.residual_mlp import ResidualMLP


class RewardMLP(OutcomeModel):
    """f_phi(s_t, a_t[, s_{t+1}]) -> reward r_t, normalised, and logit of the episode continuing after step t.

    Args:
        layout: sizes.
        hp: hyperparameters.
    """

    def __init__(self, layout: AgentLayout, hp: RewardTerminationHyperparameters) -> None:
        super().__init__()
        self.action_encoder = FlatActionEncoder(1, layout.num_agents, layout.action_mask())
        self.reads_next_state = hp.reward_reads_next_state
        size_in = layout.state_size * (1 + self.reads_next_state) + layout.num_agents * layout.action_size
        is_apart = hp.reward_imagined_fraction > 0
        self.mlp = ResidualMLP(size_in, hp.reward_width, hp.reward_num_blocks, 1 if is_apart else 2)
        self.endings = ResidualMLP(size_in, (hp.reward_width + 1) // 2, 0, 1) if is_apart else None

    def forward(
        self, states: torch.Tensor, actions: torch.Tensor, next_states: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Rewards and continuation logits, (B, M) each, of normalised states (B, M, S) and actions (B, M, N, A)."""
        return self._predict(self.inputs(states, actions, next_states))

    def inputs(self, states: torch.Tensor, actions: torch.Tensor, next_states: torch.Tensor) -> torch.Tensor:
        """What the network reads, (B, M, I), of normalised states (B, M, S) and actions (B, M, N, A)."""
        joint = self.action_encoder.tokens(actions).flatten(2)  # (B, M, N A)
        return torch.cat([states, joint, next_states] if self.reads_next_state else [states, joint], dim=-1)

    def examples(
        self,
        states: torch.Tensor,
        actions: torch.Tensor,
        next_states: torch.Tensor,
        rewards: torch.Tensor,
        terminated: torch.Tensor,
    ) -> torch.Tensor:
        """Steps to learn from, a row each: what the network reads, the reward, and 1, or 0 for a termination.

        Args:
            states: (M, S) normalised.
            actions: (M, N, A).
            next_states: (M, S) normalised.
            rewards: (M,) normalised.
            terminated: (M,) bool; a time limit is not a termination.

        Returns:
            (M, I + 2).
        """
        inputs = self.inputs(*(column.unsqueeze(1) for column in (states, actions, next_states))).squeeze(1)
        return torch.cat([inputs, rewards.unsqueeze(1), (~terminated).unsqueeze(1)], dim=1)

    def loss(self, examples: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """SmoothL1 of the reward plus cross-entropy of the continuation, averaged over `examples`; eq. 23."""
        rewards, logits = self._predict(examples[:, :-2])
        reward_loss = functional.smooth_l1_loss(rewards, examples[:, -2])
        return summed(reward_loss, functional.binary_cross_entropy_with_logits(logits, examples[:, -1]))

    def _predict(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Rewards and continuation logits, (...) each, of inputs (..., I)."""
        outcome = self.mlp(inputs).to(inputs.dtype)
        if self.endings is None:
            return outcome[..., 0], outcome[..., 1]
        return outcome.squeeze(-1), self.endings(inputs).to(inputs.dtype).squeeze(-1)

    def extend(
        self, states: torch.Tensor, actions: torch.Tensor, next_states: torch.Tensor, cache: None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As `forward`: it remembers nothing."""
        return self(states, actions, next_states)

    def new_cache(self, batch_size: int) -> None:
        """Nothing."""

    @torch.no_grad()
    def transform_rewards(self, factor: torch.Tensor, shift: torch.Tensor) -> None:
        """Makes all predicted rewards x become factor * x + shift."""
        last = self.mlp.linear_out
        last.weight[0].mul_(factor)
        last.bias[0].mul_(factor).add_(shift)
