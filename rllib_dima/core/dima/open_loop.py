"""Imagination beside what has just happened, measured during training on steps that were not learnt from yet."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch

from rllib_dima.core.dima.world_model import WorldModel
from rllib_dima.core.replay.data import Window

STEPS_SHOWN = (5, 15)  # beside the first, which every iteration measures


@dataclass(frozen=True)
class OpenLoopReport:
    """Errors of states by step, T <= H steps being reached, mean absolute, in deviations of each entry; and ends.

    Attributes:
        num_env_steps: real steps so far.
        errors: (T, S) of the model on its own predictions.
        persistence: (T, S) of "nothing changes".
        end_rate: mean probability of an end per step, on the model's own predictions.
        real_end_rate: share of the same steps that did end the task.
    """

    num_env_steps: int
    errors: np.ndarray
    persistence: np.ndarray
    end_rate: float
    real_end_rate: float

    def metrics(self) -> dict[str, float]:
        """The means over entries after `STEPS_SHOWN`, as far as steps are reached, and the rates of ends."""
        columns = {"open_loop_error": self.errors, "persistence_error": self.persistence}
        errors = {
            f"{name}_{step}": float(column[step - 1].mean())
            for step in STEPS_SHOWN
            for name, column in columns.items()
            if step <= len(column)
        }
        return errors | {"open_loop_end_rate": self.end_rate, "real_end_rate": self.real_end_rate}


@torch.no_grad()
def open_loop_report(world_model: WorldModel, window: Window, num_env_steps: int) -> OpenLoopReport:
    """Takes real actions in the model, from real contexts, over the horizon; waits for the device.

    Args:
        world_model: in evaluation mode.
        window: B windows of L - 1 past steps, the anchor and H - 1 future ones, H being at most `imagination_horizon`.
        num_env_steps: real steps so far.
    """
    past = world_model.hp.context_length - 1
    simulation = world_model.reset(Window(*(getattr(window, field.name)[:, : past + 1] for field in fields(Window))))
    first, valid = simulation.states, window.valid[:, past:].unsqueeze(-1)  # (B, S), (B, H, 1)
    truth = world_model.normalizer(window.next_states[:, past:])  # (B, H, S)
    imagined = [simulation.step(window.actions[:, step]) for step in range(past, window.actions.shape[1])]
    states = torch.stack([step.states for step in imagined], dim=1), first.unsqueeze(1)
    counts = valid.sum(dim=0)  # (H, 1)
    reached = counts[:, 0] > 0
    means = [(torch.where(valid, (s - truth).abs(), 0).sum(dim=0) / counts)[reached] for s in states]
    ends = 1 - torch.stack([step.continuations for step in imagined], dim=1), window.terminated[:, past:]
    rates = [(torch.where(valid[..., 0], end, 0).sum() / counts.sum()).expand_as(means[0][:, :1]) for end in ends]
    numbers = torch.cat([*means, *rates], dim=1).double().cpu().numpy()  # one transfer
    errors, persistence, rates = np.split(numbers, [first.shape[1], 2 * first.shape[1]], axis=1)
    return OpenLoopReport(num_env_steps, errors, persistence, *rates[0].tolist())
