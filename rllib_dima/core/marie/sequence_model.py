"""One agent's future as a sequence of tokens, predicted by a causal transformer that all agents share.

A step is a block of m = K + F + 1 tokens; what stands at a position predicts what follows:

    slot in the block     0 ... K-2     K-1    K ... K+F-1   K+F
    input               tokens of o_t^i         of a_t^i     e_t^i, all agents' o_t and a_t summed up for agent i
    predicts          token 1 ... K-1    -         -         token 0 of o_{t+1}^i, r_t, whether the episode goes on

Given e, agents do not depend on each other: B * N sequences, without attention between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import nn
from torch.nn import functional

from rllib_dima.core.layout import AgentLayout
from rllib_dima.core.marie.action_tokens import ActionTokens
from rllib_dima.core.marie.hl_gauss import HLGauss
from rllib_dima.core.marie.hyperparameters import MARIEHyperparameters
from rllib_dima.core.marie.perceiver import Perceiver
from rllib_dima.core.marie.symlog import symexp, symlog
from rllib_dima.core.mlp import mlp
from rllib_dima.core.transformer import Block, KeyValueCache, dropout, unseen_tokens


class Predictions(NamedTuple):
    """Of T steps; index k of the token logits is for token k + 1 of o_t, the last one for token 0 of o_{t+1}."""

    tokens: torch.Tensor  # (B, T, N, K, V) logits
    rewards: torch.Tensor  # (B, T, N, Q) logits, or (B, T, N, 1) rewards
    continuations: torch.Tensor  # (B, T, N) logits


class SequenceModel(nn.Module):
    """Transformer, Perceiver, embeddings and heads.

    Args:
        layout: sizes.
        hp: hyperparameters.
        num_tokens: K.
        action_tokens: of the team.
        token_mask: (N, K) bool, which tokens tell anything; others are not learnt.
    """

    token_mask: torch.Tensor

    def __init__(
        self,
        layout: AgentLayout,
        hp: MARIEHyperparameters,
        num_tokens: int,
        action_tokens: ActionTokens,
        token_mask: torch.Tensor,
    ) -> None:
        super().__init__()
        self.hp, self.num_agents, self.num_tokens = hp, layout.num_agents, num_tokens
        self.block_size = num_tokens + action_tokens.per_agent + 1  # m
        self.max_tokens, size = hp.imagination_horizon * self.block_size, hp.model_embedding_size
        self.register_buffer("token_mask", token_mask.float(), persistent=False)
        self.token_embedding = nn.Embedding(hp.num_codes, size)
        self.action_embedding = nn.Embedding(action_tokens.num_codes, size)
        num_positions = hp.imagination_horizon if hp.factored_positions else self.max_tokens
        self.position_embedding = nn.Parameter(torch.empty(num_positions, size))
        self.slot_embedding = nn.Parameter(torch.empty(self.block_size, size)) if hp.factored_positions else None
        self.perceiver = Perceiver(
            layout.num_agents, self.block_size - 1, size, hp.perceiver_num_layers, hp.perceiver_num_heads,
            hp.perceiver_head_size, hp.model_dropout, hp.slot_embedding,
        )  # fmt: skip
        self.blocks = cast(
            "Sequence[Block]",
            nn.ModuleList(Block(i, size, hp.model_num_heads, hp.model_dropout) for i in range(hp.model_num_layers)),
        )
        self.norm_out = nn.LayerNorm(size)
        self.histogram = HLGauss(hp.reward_bins, hp.reward_range, hp.reward_sigma_ratio)
        self.token_head = mlp([size, size, hp.num_codes], nn.ReLU)
        self.reward_head = mlp([size, size, size, hp.reward_bins if self.has_histogram else 1], nn.ReLU)
        self.continuation_head = mlp([size, size, size, 1], nn.ReLU)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=hp.matrix_std)
                nn.init.zeros_(module.bias)
        for name, table in self.named_parameters():
            if "embedding" in name and name != "perceiver.latent_embedding":
                nn.init.normal_(table, std=hp.embedding_std)
        self.float()  # whatever torch.set_default_dtype says

    @property
    def has_histogram(self) -> bool:
        """Whether rewards are predicted as histograms."""
        return self.hp.reward_loss == "hl_gauss"

    def forward(self, tokens: torch.Tensor, actions: torch.Tensor) -> Predictions:
        """Whole sequences.

        Args:
            tokens: (B, T, N, K) of observations.
            actions: (B, T, N, F) tokens of actions.
        """
        batch, steps = tokens.shape[:2]
        x = torch.cat([*self._embed(tokens, actions), self._sum_up(tokens, actions).unsqueeze(3)], dim=3)
        rows = x.transpose(1, 2).reshape(batch * self.num_agents, steps * self.block_size, -1)  # (B N, T m, D)
        out = self._transform(rows).view(batch, self.num_agents, steps, self.block_size, -1).transpose(1, 2)
        at_end = out[..., -1, :]  # (B, T, N, D)
        predicting = torch.cat([out[..., : self.num_tokens - 1, :], at_end.unsqueeze(3)], dim=3)
        return Predictions(self.token_head(predicting), self.reward_head(at_end), self._continuation(at_end))

    def loss(
        self,
        tokens: torch.Tensor,
        actions: torch.Tensor,
        rewards: torch.Tensor,
        terminated: torch.Tensor,
        valid: torch.Tensor,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Cross-entropies of tokens, rewards and continuations, each a mean over valid steps (and real tokens).

        Valid steps come first in a window, and predictions are causal, so what follows an episode's end cannot reach
        them. The last step of a window predicts no token of the next observation, which is not in it.

        Args:
            tokens: (B, T, N, K).
            actions: (B, T, N, F) tokens.
            rewards: (B, T) of the team.
            terminated: (B, T) bool; a time limit is not a termination.
            valid: (B, T) bool.
        """
        predicted = self(tokens, actions)
        token_loss = self._token_loss(predicted.tokens, tokens, valid)
        weight = (valid.float() / (valid.sum() * self.num_agents)).unsqueeze(2)  # (B, T, 1)
        goes_on = (~terminated).float().unsqueeze(2).expand_as(predicted.continuations)
        ending_error = functional.binary_cross_entropy_with_logits(predicted.continuations, goes_on, reduction="none")
        reward_error, least = self._reward_error(predicted.rewards, rewards.unsqueeze(2).expand_as(goes_on))
        reward_loss, termination_loss = (reward_error * weight).sum(), (ending_error * weight).sum()
        metrics = {
            "token_loss": token_loss.detach(),
            "reward_loss": (reward_loss - (least * weight).sum()).detach(),
            "termination_loss": termination_loss.detach(),
        }
        return token_loss + reward_loss + termination_loss, metrics

    def new_cache(self, batch_size: int) -> KeyValueCache:
        """An empty cache for B rollouts."""
        hp, like = self.hp, self.position_embedding
        return KeyValueCache(
            hp.model_num_layers, batch_size * self.num_agents, hp.model_num_heads, self.max_tokens,
            like.shape[1] // hp.model_num_heads, like.dtype, like.device,
        )  # fmt: skip

    def act(
        self, unread: torch.Tensor, tokens: torch.Tensor, actions: torch.Tensor, cache: KeyValueCache
    ) -> Predictions:
        """What a joint action leads to, up to the first token of the next observations.

        Args:
            unread: (B, N, U) the last tokens of the present observations, which are not in the cache.
            tokens: (B, N, K) all of them.
            actions: (B, N, F) tokens.
            cache: of what came before.

        Returns:
            As `forward`, of one step, with the logits of token 0 alone: (B, 1, N, 1, V).
        """
        present, chosen = self._embed(unread, actions)
        summary = self._sum_up(tokens.unsqueeze(1), actions.unsqueeze(1)).squeeze(1).unsqueeze(2)  # (B, N, 1, D)
        at_end = self._extend(torch.cat([present, chosen, summary], dim=2), cache).unsqueeze(1)  # (B, 1, N, D)
        logits = self.token_head(at_end).unsqueeze(3)
        return Predictions(logits, self.reward_head(at_end), self._continuation(at_end))

    def read(self, tokens: torch.Tensor, cache: KeyValueCache) -> torch.Tensor:
        """(B, N, V) logits of what follows a token of an observation, (B, N)."""
        return self.token_head(self._extend(self.token_embedding(tokens).unsqueeze(2), cache))

    def expected_rewards(self, predicted: torch.Tensor) -> torch.Tensor:
        """(..., Q) logits, or (..., 1) -> (...)."""
        return symexp(self.histogram.mean(predicted)) if self.has_histogram else predicted.squeeze(-1)

    def _embed(self, tokens: torch.Tensor, actions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.token_embedding(tokens), self.action_embedding(actions)

    def _sum_up(self, tokens: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        """e (B, T, N, D) of tokens (B, T, N, K) and actions (B, T, N, F)."""
        joint = torch.cat(self._embed(tokens, actions), dim=3)  # (B, T, N, K + F, D)
        return self.perceiver(joint.flatten(0, 1)).unflatten(0, joint.shape[:2])

    def _transform(self, x: torch.Tensor) -> torch.Tensor:
        """Embedded tokens (B N, M, D) of whole sequences through the transformer."""
        x = x + self._positions()[: x.shape[1]]
        x = dropout(x, self.hp.model_dropout) if self.training else x
        for block in self.blocks:
            x = block(x)
        return self.norm_out(x)

    def _extend(self, x: torch.Tensor, cache: KeyValueCache) -> torch.Tensor:
        """Adds embedded tokens (B, N, U, D) to the cache; returns what comes out at the last, (B, N, D)."""
        batch, _, new, _ = x.shape
        x = x.flatten(0, 1) + self._positions()[cache.length : cache.length + new]
        unseen = unseen_tokens(new, cache.length, x.device)
        for block in self.blocks:
            x = block.extend(x, cache, unseen)
        cache.length += new
        return self.norm_out(x[:, -1]).unflatten(0, (batch, self.num_agents))

    def _positions(self) -> torch.Tensor:
        """(T m, D) embeddings of positions: one for each, or the sum of the step's and the slot's."""
        if self.slot_embedding is None:
            return self.position_embedding
        return (self.position_embedding.unsqueeze(1) + self.slot_embedding).flatten(0, 1)

    def _continuation(self, at_end: torch.Tensor) -> torch.Tensor:
        return self.continuation_head(at_end).squeeze(-1)

    def _token_loss(self, logits: torch.Tensor, tokens: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """() mean over the tokens that are predicted: all but token 0 of a window's first step."""
        following = torch.cat([tokens[:, 1:, :, :1], torch.zeros_like(tokens[:, :1, :, :1])], dim=1)  # (B, T, N, 1)
        is_known = torch.cat([valid[:, 1:], torch.zeros_like(valid[:, :1])], dim=1)  # (B, T): whether the next step is
        labels = torch.cat([tokens[..., 1:], following], dim=3)  # (B, T, N, K)
        within = valid.view(*valid.shape, 1, 1) * self.token_mask[:, 1:]  # (B, T, N, K - 1)
        weight = torch.cat([within, is_known.view(*valid.shape, 1, 1) * self.token_mask[:, :1]], dim=3)
        error = functional.cross_entropy(logits.flatten(0, 3), labels.flatten(), reduction="none").view_as(weight)
        return (error * weight).sum() / weight.sum().clamp(min=1)  # no step may be known, of one token

    def _reward_error(self, predicted: torch.Tensor, rewards: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, T, N), and the least that it can be."""
        if self.has_histogram:
            return self.histogram.loss(predicted, symlog(rewards))
        error = functional.smooth_l1_loss(predicted.squeeze(-1), rewards, reduction="none")
        return error, torch.zeros_like(error)
