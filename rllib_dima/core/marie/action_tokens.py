"""Actions as tokens: one per entry of a continuous action, one per choice of a discrete one."""

from __future__ import annotations

import torch

from rllib_dima.core.layout import AgentLayout
from rllib_dima.core.marie.symlog import bin_numbers


class ActionTokens:
    """Reads executed actions.

    Padded entries are 0, hence always the same token, which tells nothing.

    Args:
        layout: sizes.
        num_bins: of each entry of a continuous action, on [-1, 1].

    Attributes:
        per_agent: F, tokens of an agent's action.
        num_codes: what a token can be.
    """

    def __init__(self, layout: AgentLayout, num_bins: int) -> None:
        self.layout, self.num_bins = layout, num_bins
        self.per_agent = len(layout.block_sizes) if layout.is_discrete else layout.action_size
        self.num_codes = max(layout.block_sizes) if layout.is_discrete else num_bins

    def encode(self, actions: torch.Tensor) -> torch.Tensor:
        """(..., N, A) executed, 0 where padded -> (..., N, F) int64."""
        if not self.layout.is_discrete:
            return bin_numbers(actions, -1.0, 1.0, self.num_bins)
        blocks = actions.split(list(self.layout.block_sizes), -1)
        return torch.stack([block.argmax(-1) for block in blocks], dim=-1)
