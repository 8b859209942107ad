"""The dynamics: an EDM diffusion model of the next global state that is shown the agents' actions bit by bit.

Karras et al. 2022 ("EDM") for preconditioning, schedule and sampler; section 4.2 and appendix B of the DIMA paper for
revealing one agent's action per denoising step. States in this file are normalised and scaled by sigma_data; what is
denoised, the data x, is the next state, or the change towards it in units of the changes' own deviation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

from rllib_dima.core.dima.action_encoder import ActionSetEncoder
from rllib_dima.core.dima.denoisers import DENOISERS, DenoiserHyperparameters, MLPDenoiser, UNetDenoiser
from rllib_dima.core.dima.normalization import ChangeStatistics
from rllib_dima.core.dima.sampler import SamplerHyperparameters, karras_schedule, visible_in_sampling
from rllib_dima.core.hyperparameters import knob
from rllib_dima.core.layout import AgentLayout
from rllib_dima.core.training.averaging import AveragedCopy


@dataclass(frozen=True)
class DynamicsHyperparameters(DenoiserHyperparameters, SamplerHyperparameters):
    """What the dynamics model is made, trained and sampled with."""

    dynamics_target: str = knob(
        "state",
        "What is denoised: the next state (the paper), or the change towards it, in units of the deviation of changes "
        "of that entry.",
        choices=("state", "change"),
    )
    dynamics_training: str = knob(
        "denoising",
        "What a denoising step is trained on: data and random noise (denoising, the paper), or what the sampler's "
        "steps before it left (refinement).",
        choices=("denoising", "refinement"),
    )
    dynamics_huber_delta: float = knob(
        0.0,
        "Unit error at which the loss turns from squared to linear (pseudo-Huber); 0 is squared everywhere, eq. 9.",
        low=0.0,
    )
    dynamics_ema_decay: float = knob(
        0.0,
        "Decay of the moving average of weights that imagination uses; 0 uses the present ones.",
        low=0,
        high=0.99999,
    )
    num_autoregressive_steps: int = knob(
        3,
        "Consecutive predictions trained per window, each fed back (paper's Algorithm 1: 1; released code: 3).",
        low=1,
    )
    sigma_data: float = knob(0.5, "Standard deviation of the diffusion model's data.", symbol="sigma_data", low=1e-6)
    noise_log_mean: float = knob(-0.4, "Mean of ln(sigma) in training, eq. 18.", symbol="P_mean")
    noise_log_std: float = knob(1.2, "Standard deviation of ln(sigma) in training, eq. 18.", symbol="P_std", low=0.0)
    noise_sigma_min: float = knob(2e-3, "Smallest noise level in training (released code).", low=0.0)
    noise_sigma_max: float = knob(20.0, "Largest noise level in training (released code).", low=0.0)
    sigma_offset_noise: float = knob(
        0.3, "Extra noise on the noisy state, not part of sigma (released code; 0 as in the paper).", low=0.0
    )
    dynamics_lr: float = knob(1e-4, "Learning rate of the dynamics model (AdamW).", low=0.0)
    dynamics_lr_warmup_updates: int = knob(100, "Updates of linear learning-rate warm-up (released code).", low=0)
    dynamics_weight_decay: float = knob(0.01, "Weight decay of the dynamics model, on matrices only.", low=0.0)
    dynamics_grad_clip: float = knob(
        1.0, "Largest gradient norm of the dynamics model; a larger gradient is scaled down to it.", low=1e-9
    )
    dynamics_batch_size: int = knob(64, "Windows per dynamics update.", low=1)
    dynamics_updates_per_iteration: int = knob(200, "Dynamics updates per iteration.", low=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.noise_sigma_min > self.noise_sigma_max:
            raise ValueError(
                f"noise_sigma_min ({self.noise_sigma_min}) exceeds noise_sigma_max ({self.noise_sigma_max})."
            )


class Preconditioning(NamedTuple):
    """EDM's coefficients for noise levels sigma, each of sigma's shape."""

    c_skip: torch.Tensor
    c_out: torch.Tensor
    c_in: torch.Tensor
    c_noise: torch.Tensor


def precondition(sigma: torch.Tensor, sigma_data: float) -> Preconditioning:
    """The preconditioners of Karras et al. 2022, Table 1 (eqs. 14 to 17 of the DIMA appendix)."""
    total = (sigma**2 + sigma_data**2).sqrt()
    return Preconditioning(sigma_data**2 / total**2, sigma * sigma_data / total, 1 / total, sigma.log() / 4)


def visible_in_training(conditioning: str, batch_size: int, num_agents: int, device: torch.device) -> torch.Tensor:
    """Which of the present actions each training sample sees, (B, N) bool.

    sequential: one agent, uniform (eq. 9). joint: all. cumulative: a random subset of uniform size 1..N.
    """
    if conditioning == "joint":
        return torch.ones(batch_size, num_agents, dtype=torch.bool, device=device)
    rank = torch.rand(batch_size, num_agents, dtype=torch.float32, device=device).argsort(
        dim=1
    )  # a random permutation per sample
    if conditioning == "sequential":
        return rank == 0
    return rank < torch.randint(1, num_agents + 1, (batch_size, 1), device=device)


class _Task(NamedTuple):
    """One prediction to be trained, for each of B samples."""

    actions: torch.Tensor  # (B, L, N, A)
    visible: torch.Tensor  # (B, L, N) bool
    next_states: torch.Tensor  # (B, S)
    noise: torch.Tensor  # (B, S) what is added to the data
    sigma: torch.Tensor  # (B,) the noise level, without offset noise


class Diffusion(nn.Module):
    """D_theta(x + noise; sigma, visible actions, context) -> x.

    Args:
        layout: sizes.
        hp: hyperparameters.

    Raises:
        ValueError: if the number of denoising steps is too small for the conditioning mode.
    """

    def __init__(self, layout: AgentLayout, hp: DynamicsHyperparameters) -> None:
        super().__init__()
        self.hp, self.num_agents = hp, layout.num_agents
        self.num_steps = hp.denoising_steps(layout.num_agents)
        self.denoiser = DENOISERS[hp.dynamics_network](layout, hp).float()
        self.averaged = AveragedCopy(self.denoiser, hp.dynamics_ema_decay) if hp.dynamics_ema_decay else None
        self.changes = ChangeStatistics(layout.state_size) if hp.dynamics_target == "change" else None

    @property
    def action_encoder(self) -> ActionSetEncoder:
        """Encodes the visible actions."""
        return self.network.action_encoder

    @property
    def network(self) -> UNetDenoiser | MLPDenoiser:
        """F_theta: noisy (B, S), c_noise (B,) or (1,), context (B, L, S), encoded actions (B, E) -> (B, S).

        The one that is trained; outside training the average of its weights, if there is one.
        """
        return self.denoiser if self.training or self.averaged is None else self.averaged.network

    @torch.no_grad()
    def after_update(self) -> None:
        """Follows an update of the weights."""
        if self.averaged is not None:
            self.averaged.update(self.denoiser)

    def forward(
        self, noisy: torch.Tensor, sigma: torch.Tensor, context: torch.Tensor, actions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One evaluation of D_theta, and of F_theta inside it.

        Args:
            noisy: (B, S).
            sigma: (B,) or (1,) noise level; offset noise is added to it here.
            context: (B, L, S) states t-L+1..t.
            actions: (B, E) encoded visible actions.

        Returns:
            The denoised data and the network's raw output, (B, S) each.
        """
        if (
            self.hp.dynamics_training == "refinement"
        ):  # the input is no data with noise: the data themselves are predicted
            output = self.network(noisy / self.hp.sigma_data, sigma.log() / 4, context, actions)
            return output * self.hp.sigma_data, output
        c = self.preconditioning(sigma)
        output = self.network(noisy * c.c_in.unsqueeze(1), c.c_noise, context, actions)
        return c.c_skip.unsqueeze(1) * noisy + c.c_out.unsqueeze(1) * output, output

    def preconditioning(self, sigma: torch.Tensor) -> Preconditioning:
        """Coefficients with sigma replaced by sqrt(sigma^2 + offset^2), as the noisy data really have it."""
        return precondition((sigma**2 + self.hp.sigma_offset_noise**2).sqrt(), self.hp.sigma_data)

    def to_data(self, present: torch.Tensor, next_states: torch.Tensor) -> torch.Tensor:
        """What is denoised: (B, S) states t and t+1 -> (B, S)."""
        return next_states if self.changes is None else (next_states - present) * self.changes.scale

    def to_states(self, present: torch.Tensor, data: torch.Tensor) -> torch.Tensor:
        """The inverse of `to_data`: states t (B, S) and the data (B, S) -> states t+1 (B, S)."""
        return data if self.changes is None else present + data / self.changes.scale

    def loss(
        self, states: torch.Tensor, actions: torch.Tensor, next_states: torch.Tensor, valid: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Error of U consecutive predictions, each (detached) in the context of the next; eq. 9.

        The error is weighted by 1 / c_out^2, that is, F_theta learns a target of unit variance.

        Args:
            states: (B, W, S) for W = L - 1 + U; the first prediction is of what follows position L - 1.
            actions: (B, W, N, A).
            next_states: (B, W, S).
            valid: (B, W) bool; padding before an episode's start and after its end is False.
        """
        length = self.hp.context_length
        states = states * valid.unsqueeze(-1)  # padded context is zero
        spans = [slice(step, step + length) for step in range(states.shape[1] - length + 1)]
        error_of = self._denoising_error if self.hp.dynamics_training == "denoising" else self._refinement_error
        error = error_of(states[:, :length], actions, next_states, valid, spans)  # (B, U)
        weight = valid[:, length - 1 :].float()
        loss = (error * weight).sum() / weight.sum().clamp(min=1)
        return loss, {"dynamics_loss": loss.detach()}

    def _denoising_error(
        self,
        context: torch.Tensor,
        actions: torch.Tensor,
        next_states: torch.Tensor,
        valid: torch.Tensor,
        spans: Sequence[slice],
    ) -> torch.Tensor:
        """Errors (B, U) of denoising data with random noise, for the first context (B, L, S); see `loss`."""
        batch_size = len(context)
        tasks = [
            self._denoising_task(actions[:, seen], valid[:, seen], next_states[:, seen.stop - 1]) for seen in spans
        ]
        task = _Task(*(torch.cat(column) for column in zip(*tasks, strict=True)))  # (U * B, ...)
        encoded = self.action_encoder(task.actions, task.visible)  # (U * B, E)
        contexts = self._contexts(context, tasks, encoded)  # (U * B, L, S)
        data = self.to_data(contexts[:, -1], task.next_states)
        noisy = data + task.noise
        _, output = self(noisy, task.sigma, contexts, encoded)
        c = self.preconditioning(task.sigma)
        unit_target = (data - c.c_skip.unsqueeze(1) * noisy) / c.c_out.unsqueeze(1)
        return self._penalty(output - unit_target).view(-1, batch_size).T

    def _refinement_error(
        self,
        context: torch.Tensor,
        actions: torch.Tensor,
        next_states: torch.Tensor,
        valid: torch.Tensor,
        spans: Sequence[slice],
    ) -> torch.Tensor:
        """Errors (B, U), mean over the sampler's steps, each of which starts from what the one before left."""
        sigmas, errors = self._levels(), []
        for seen in spans:
            data, unit_errors = self.to_data(context[:, -1], next_states[:, seen.stop - 1]), []
            encoded = self._encode_steps(actions[:, seen], valid[:, seen])
            x = self._start(data, sigmas[0])
            for step in range(self.num_steps):
                denoised, _ = self(x, x.new_full((1,), sigmas[step]), context, encoded[step])
                unit_errors.append(self._penalty((denoised - data) / self.hp.sigma_data))
                x = (denoised + (x - denoised) * (sigmas[step + 1] / sigmas[step])).detach()
            errors.append(torch.stack(unit_errors).mean(dim=0))
            context = self._shift(context, x)
        return torch.stack(errors, dim=1)

    def _penalty(self, error: torch.Tensor) -> torch.Tensor:
        """Mean over entries of the squared error, or of 2 d^2 (sqrt(1 + (e / d)^2) - 1): (B, S) -> (B,)."""
        delta = self.hp.dynamics_huber_delta
        if not delta:
            return error.square().mean(dim=1)
        return 2 * delta**2 * ((1 + (error / delta).square()).sqrt() - 1).mean(dim=1)

    def _denoising_task(self, actions: torch.Tensor, valid: torch.Tensor, next_states: torch.Tensor) -> _Task:
        """Draws what is visible and the noise: actions (B, L, N, A), valid (B, L), next_states (B, S)."""
        hp, like = self.hp, next_states
        visible = self._visible(valid, visible_in_training(hp.conditioning, len(valid), self.num_agents, valid.device))
        log_sigma = torch.randn(len(like), dtype=like.dtype, device=like.device) * hp.noise_log_std + hp.noise_log_mean
        sigma = log_sigma.exp().clamp(hp.noise_sigma_min, hp.noise_sigma_max)  # (B,)
        noise = torch.randn_like(like) * sigma.unsqueeze(1) + torch.randn_like(like) * hp.sigma_offset_noise
        return _Task(actions, visible, next_states, noise, sigma)

    def _visible(self, valid: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        """Past actions where valid, and the given ones of the present: (B, L) and (B, N) -> (B, L, N)."""
        past = valid[:, :-1].unsqueeze(-1).expand(-1, -1, self.num_agents)
        return torch.cat([past, present.unsqueeze(1)], dim=1)

    @torch.no_grad()
    def _contexts(self, first: torch.Tensor, tasks: Sequence[_Task], encoded: torch.Tensor) -> torch.Tensor:
        """The context of every task: the first one, then each shifted by one to end in the prediction before.

        Predictions are fed back without gradients. That makes the tasks independent of each other once their contexts
        are known, so that one pass with gradients can do all of them: predicting U - 1 of them twice costs less than
        U separate backward passes over small batches.

        Args:
            first: (B, L, S).
            tasks: U tasks of B samples.
            encoded: (U * B, E) their encoded actions.

        Returns:
            (U * B, L, S).
        """
        contexts = [first]
        for task, actions in zip(tasks[:-1], encoded.detach().split(len(first)), strict=False):
            noisy = self.to_data(contexts[-1][:, -1], task.next_states) + task.noise
            denoised, _ = self(noisy, task.sigma, contexts[-1], actions)
            contexts.append(self._shift(contexts[-1], denoised))
        torch.clear_autocast_cache()  # before torch 2.11 weights cast here without gradients would be used with them
        return torch.cat(contexts)

    def _shift(self, context: torch.Tensor, data: torch.Tensor) -> torch.Tensor:
        """The context (B, L, S) one step later, which ends in the state that the data (B, S) say."""
        return torch.cat([context[:, 1:], self.to_states(context[:, -1], data).unsqueeze(1)], dim=1)

    def sample(self, context: torch.Tensor, actions: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """Draws s_{t+1}: starts with noise of level sigma_max and follows the probability-flow ODE down to 0.

        Args:
            context: (B, L, S) states t-L+1..t, padded ones zero.
            actions: (B, L, N, A).
            valid: (B, L) bool.

        Returns:
            (B, S).
        """
        sigmas, encoded = self._levels(), self._encode_steps(actions, valid)
        x = self._start(context[:, 0], sigmas[0])
        for step in range(self.num_steps):
            x = self._solver_step(x, sigmas[step], sigmas[step + 1], context, encoded[step])
        return self.to_states(context[:, -1], x)

    def _levels(self) -> list[float]:
        """Noise levels of the sampler's steps, and a final 0."""
        hp = self.hp
        return karras_schedule(self.num_steps, hp.sampler_sigma_min, hp.sampler_sigma_max, hp.sampler_rho)

    def _start(self, like: torch.Tensor, sigma: float) -> torch.Tensor:
        """Where sampling starts, (B, S)."""
        return torch.randn_like(like) * (sigma * self.hp.sampler_start_noise)

    def _encode_steps(self, actions: torch.Tensor, valid: torch.Tensor) -> list[torch.Tensor]:
        """What each denoising step sees of the actions (B, L, N, A), encoded: K times (B, E)."""
        hp, encoder = self.hp, self.action_encoder
        present = visible_in_sampling(
            hp.conditioning, hp.conditioning_order, self.num_steps, len(valid), self.num_agents, valid.device
        )
        tokens = encoder.tokens(actions)
        return [encoder.pool(tokens, self._visible(valid, now)) for now in present]

    def _solver_step(
        self, x: torch.Tensor, sigma: float, next_sigma: float, context: torch.Tensor, actions: torch.Tensor
    ) -> torch.Tensor:
        """From noise level sigma to next_sigma (Karras et al. 2022, algorithm 2; Euler stops after its first line)."""
        hp = self.hp
        if hp.sampler_churn > 0:
            raised = sigma * (1 + min(hp.sampler_churn / self.num_steps, math.sqrt(2) - 1))
            x = x + torch.randn_like(x) * (hp.sampler_churn_noise * math.sqrt(raised**2 - sigma**2))
            sigma = raised
        slope = self._slope(x, sigma, context, actions)
        proposal = x + slope * (next_sigma - sigma)
        if hp.sampler_solver == "euler" or next_sigma == 0:
            return proposal
        next_slope = self._slope(proposal, next_sigma, context, actions)
        return x + (slope + next_slope) * ((next_sigma - sigma) / 2)

    def _slope(self, x: torch.Tensor, sigma: float, context: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        """dx / dsigma = (x - D(x; sigma)) / sigma."""
        denoised, _ = self(x, x.new_full((1,), sigma), context, actions)
        return (x - denoised) / sigma
