"""What a plain network makes of the same data: a baseline that a world model should beat.

Two hidden layers with about as many parameters as the dynamics model, which see the same context and all actions, and
predict the change of the state. No noise, no conditioning order: one evaluation a step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from rllib_dima.core.dima.hyperparameters import DIMAHyperparameters
from rllib_dima.core.dima.world_model import WorldModel
from rllib_dima.core.layout import AgentLayout
from rllib_dima.core.mlp import mlp
from rllib_dima.core.replay.buffer import ReplayBuffer
from rllib_dima.core.replay.data import Window
from rllib_dima.core.training.averaging import AveragedCopy
from rllib_dima.core.training.optimization import ModelOptimizer
from rllib_dima.core.training.random_numbers import own_random_numbers


class PlainMLP(nn.Module):
    """Predicts z_{t+1} from L states and joint actions, as z_t and a change. (B, L, S), (B, L, N, A) -> (B, S)."""

    def __init__(self, layout: AgentLayout, hp: DIMAHyperparameters, hidden: int) -> None:
        super().__init__()
        size_in = hp.context_length * (layout.state_size + layout.num_agents * layout.action_size)
        self.network = mlp([size_in, hidden, hidden, layout.state_size], nn.SiLU)

    def forward(self, states: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        """(B, S)."""
        return states[:, -1] + self.network(torch.cat([states.flatten(1), actions.flatten(1)], dim=1))


class PlainDynamics(nn.Module):
    """A plain MLP in the place of a world model's dynamics, with as many parameters: h^2 + (in + out + 2) h + out.

    Args:
        layout: sizes.
        hp: hyperparameters.
        world_model: whose dynamics it is compared with, and whose normaliser it reads states through.
        like_recipe: whether it is trained with the recipe's loss, and averaged like it, instead of by squared errors.
    """

    def __init__(
        self, layout: AgentLayout, hp: DIMAHyperparameters, world_model: WorldModel, like_recipe: bool = False
    ) -> None:
        super().__init__()
        self.hp, self.normalizer = hp, world_model.normalizer
        self._penalty: Callable[[torch.Tensor], torch.Tensor] = (
            world_model.dynamics._penalty if like_recipe else lambda error: error.square().mean(1)
        )
        wanted = sum(p.numel() for p in world_model.dynamics.parameters() if p.requires_grad)
        sizes = hp.context_length * (layout.state_size + layout.num_agents * layout.action_size) + layout.state_size
        self.module = PlainMLP(layout, hp, int(((sizes + 2) ** 2 / 4 + wanted) ** 0.5 - (sizes + 2) / 2))
        averages = like_recipe and hp.dynamics_ema_decay
        self.averaged = AveragedCopy(self.module, hp.dynamics_ema_decay) if averages else None

    def loss(self, window: Window) -> torch.Tensor:
        """() error of U consecutive predictions, each (detached) in the context of the next, as of the dynamics."""
        length = self.hp.context_length
        z, z_next = self.normalizer(window.states) * window.valid[..., None], self.normalizer(window.next_states)
        actions = window.actions * window.valid[..., None, None]
        context, errors = z[:, :length], []
        for step in range(z.shape[1] - length + 1):
            predicted = self.module(context, actions[:, step : step + length])
            errors.append(self._penalty(predicted - z_next[:, step + length - 1]))
            context = torch.cat([context[:, 1:], predicted.detach()[:, None]], dim=1)
        weight = window.valid[:, length - 1 :].float()
        return (torch.stack(errors, 1) * weight).sum() / weight.sum()

    def after_update(self) -> None:
        """Follows an update of the weights."""
        if self.averaged is not None:
            self.averaged.update(self.module)

    def predict(self, context: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        """Normalised states (B, L, S) and joint actions (B, L, N, A) -> (B, S)."""
        return (self.module if self.averaged is None else self.averaged.network)(context, actions)

    def sample(self, context: torch.Tensor, actions: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """The same as `Diffusion.sample` takes and returns it."""
        scale = self.hp.sigma_data
        return self.predict(context / scale, actions * valid[..., None, None]) * scale


def train_dynamics(model: Any, replay: ReplayBuffer, hp: DIMAHyperparameters, updates: int) -> None:
    """`updates` steps of AdamW on windows from `replay`, with the settings of the dynamics.

    Args:
        model: with `module`, `loss(window)` and `after_update()`.
        replay: what to learn from.
        hp: hyperparameters.
        updates: how many.
    """
    settings = (hp.dynamics_lr, hp.dynamics_grad_clip, hp.dynamics_weight_decay, 1e-8, hp.dynamics_lr_warmup_updates)
    optimizer = ModelOptimizer("dynamics", model.module, torch.optim.AdamW, *settings)
    for _ in range(updates):
        window = replay.sample(hp.dynamics_batch_size, hp.context_length - 1, hp.num_autoregressive_steps - 1)
        optimizer.begin_update()
        optimizer.step(model.loss(window))
        model.after_update()


def train_baseline(world_model: WorldModel, replay: ReplayBuffer, updates: int, seed: int = 0) -> PlainDynamics:
    """A plain MLP that has learnt from the replay that a world model learnt from, in its units.

    Args:
        world_model: trained; its hyperparameters are the baseline's.
        replay: real steps.
        updates: how many.
        seed: of weights and batches.
    """
    with own_random_numbers(seed):
        baseline = PlainDynamics(replay.layout, world_model.hp, world_model)
        train_dynamics(baseline, replay, world_model.hp, updates)
    return baseline.eval()


@contextmanager
def replaced_dynamics(world_model: WorldModel, dynamics: nn.Module) -> Iterator[WorldModel]:
    """The world model with other dynamics until the block ends: its decoder and its rewards read their states."""
    own: Any = world_model.dynamics
    try:
        world_model.dynamics = dynamics  # pyright: ignore[reportAttributeAccessIssue]
        yield world_model
    finally:
        world_model.dynamics = own
