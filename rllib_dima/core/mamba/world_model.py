"""MAMBA's world model (Egorov and Shpilman 2022): recurrent states with communication, and what is read off them.

Which values belong together. A window has rows 0..T, of which row 0 gives its action alone; row j of 1..T:

    observation o_j, action a_j taken there, its reward r_j, and whether the episode went on
    (h_j, z_j)                         after a_{j-1} and o_j, from zeros before row 1
    o_j and a_{j-1}                    are told by (h_j, z_j)
    r_j and the continuation           are told by (h_{j+1}, z_j), where h_{j+1} knows a_j

simulation = world_model.reset(start)          # start: windows of L real steps
step = simulation.step(joint_action)           # rewards, continuations, next states, next observations
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

from rllib_dima.core.flags import Flags
from rllib_dima.core.imagination import ImaginedStep, Simulation
from rllib_dima.core.layout import AgentLayout
from rllib_dima.core.mamba.hyperparameters import MAMBAHyperparameters
from rllib_dima.core.mamba.latents import balanced_kl
from rllib_dima.core.mamba.representation import Latent, Representation, xavier
from rllib_dima.core.mlp import mlp
from rllib_dima.core.replay.data import Window


class Track(NamedTuple):
    """The states along B stretches of T real steps."""

    latent: Latent  # (B, T, N, .) at each step
    next_h: torch.Tensor  # (B, T, N, D) after its action
    posterior: torch.Tensor  # (B, T, N, C, K) logits


class WorldModel(nn.Module):
    """The representation, and what predicts from its states; every agent has states and predictions of its own.

    Args:
        layout: sizes.
        hp: hyperparameters.
    """

    observation_mask: torch.Tensor
    action_mask: torch.Tensor

    def __init__(self, layout: AgentLayout, hp: MAMBAHyperparameters) -> None:
        super().__init__()
        self.layout, self.hp, width = layout, hp, hp.model_hidden_size
        self.register_buffer("observation_mask", layout.observation_mask().float(), persistent=False)  # (N, O)
        self.register_buffer("action_mask", layout.action_mask().float(), persistent=False)  # (N, A)
        self.prior = mlp([hp.deterministic_size, width, hp.stochastic_size], nn.ReLU)
        self.decoder = nn.Sequential(mlp([hp.feature_size, width, width, width], nn.ReLU), nn.ReLU())
        self.observation = nn.Linear(width, layout.observation_size)
        self.information = nn.Sequential(
            nn.Linear(width, width), nn.ELU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, layout.action_size)
        )
        outcome = [hp.feature_size, hp.outcome_hidden_size, hp.outcome_hidden_size, 1]
        self.reward, self.continuation = mlp(outcome, nn.ELU), mlp(outcome, nn.ELU)
        xavier(self)
        self.float()  # whatever torch.set_default_dtype says
        self.representation = Representation(layout, hp)
        self.flags = Flags(layout) if layout.num_flags else None

    def loss(self, window: Window) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The sum of all losses, of windows of 1 + T steps; what is not valid has no influence.

        Args:
            window: valid steps follow each other, and only the first step may be missing before them.
        """
        hp, valid = self.hp, window.valid[:, 1:]
        track = self.track(window, num_before=1)
        weights = valid.float().unsqueeze(-1).expand(-1, -1, self.layout.num_agents)  # (B, T, N)
        told = self.decoder(track.latent.features)
        follows = weights * window.valid[:, :-1, None]  # steps whose action before is known
        logits = self.representation.classes(self.prior(track.latent.h))
        reward, continuation = (output.squeeze(-1) for output in self._outcomes(track.latent.z, track.next_h))
        rewards, goes_on = (
            values[:, 1:, None].float().expand_as(weights) for values in (window.rewards, ~window.terminated)
        )
        losses = {
            "reconstruction_loss": _mean(self._reconstruction(told, window.observations[:, 1:]), weights),
            "kl_loss": _mean(balanced_kl(track.posterior, logits, hp.kl_balance), weights),
            "reward_loss": _mean(functional.smooth_l1_loss(reward, rewards, reduction="none"), weights),
            "continuation_loss": _mean(
                functional.binary_cross_entropy_with_logits(continuation, goes_on, reduction="none"), weights
            ),
            "information_loss": _mean(self._information(told, window.actions[:, :-1]), follows),
        }
        scales = (1.0, 1.0, hp.reward_weight, hp.continuation_weight, hp.information_weight)
        loss = torch.stack([scale * value for scale, value in zip(scales, losses.values(), strict=True)]).sum()
        return loss, {"model_loss": loss.detach(), **{name: value.detach() for name, value in losses.items()}}

    def track(self, window: Window, num_before: int = 0) -> Track:
        """The states along windows, from zeros at their first valid step.

        Args:
            window: B windows.
            num_before: 1 if their first step gives its action alone, else 0: then no action was before them.
        """
        observations, valid = window.observations[:, num_before:], window.valid.float()[:, :, None, None]
        encoded, actions = self.representation.encode(observations), window.actions * valid
        latent, rows = self.representation.start(len(actions)), []
        before = actions[:, 0] if num_before else torch.zeros_like(actions[:, 0])
        for step in range(num_before, actions.shape[1]):
            latent, logits = self.representation.observe(latent, before, encoded[:, step - num_before])
            rows.append((*latent, logits))
            latent, before = Latent(*(part * valid[:, step] for part in latent)), actions[:, step]
        hs, zs, posterior = (torch.stack(column, dim=1) for column in zip(*rows, strict=True))
        last = self.representation.advance(latent, before)
        return Track(Latent(hs, zs), torch.cat([hs[:, 1:], last.unsqueeze(1)], dim=1), posterior)

    def reset(self, start: Window) -> LatentSimulation:
        """Begins one imagined rollout per window of `start`, whose last step is the present; all are read."""
        latent = self.track(start).latent
        return self.simulate(Latent(latent.h[:, -1], latent.z[:, -1]), start.observations[:, -1])

    def simulate(self, latent: Latent, observations: torch.Tensor) -> LatentSimulation:
        """Begins a rollout in each of B states of all agents, with what was seen there."""
        return LatentSimulation(self, latent, observations)

    def imagine(self, latent: Latent, actions: torch.Tensor) -> tuple[Latent, torch.Tensor, torch.Tensor]:
        """The next states by the prior, and what the actions lead to: team reward (B, 1), continuations (B, N)."""
        h = self.representation.advance(latent, actions)
        reward, continuation = self._outcomes(latent.z, h)
        z = self.representation.draw(self.representation.classes(self.prior(h)))
        return Latent(h, z), reward.squeeze(-1).mean(-1, keepdim=True), continuation.squeeze(-1).sigmoid()

    def decode(self, latent: Latent) -> torch.Tensor:
        """(..., N, O) observations that states tell, as an environment would return them."""
        decoded = self.observation(self.decoder(latent.features))
        decoded = self.representation.denormalized(decoded) * self.observation_mask
        if self.flags is None:
            return decoded
        ids = torch.eye(self.layout.num_agents, device=decoded.device).expand(*decoded.shape[:-1], -1)
        return self.flags.set(torch.cat([decoded[..., : -self.layout.num_agents], ids], dim=-1))

    def _outcomes(self, z: torch.Tensor, next_h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Reward and logit of the continuation, (..., N, 1) each."""
        features = Latent(next_h, z).features
        return self.reward(features), self.continuation(features)

    def _reconstruction(self, told: torch.Tensor, observations: torch.Tensor) -> torch.Tensor:
        """(B, T, N) sums over real entries: smooth absolute errors, and of flags binary cross-entropies."""
        decoded, observations = self.observation(told), self.representation.normalized(observations)
        error = functional.smooth_l1_loss(decoded, observations, reduction="none")
        if self.flags is not None:
            first = max(self.layout.observation_sizes)
            of_flags = slice(first, first + self.layout.num_flags)
            entropy = functional.binary_cross_entropy_with_logits(
                decoded[..., of_flags], observations[..., of_flags], reduction="none"
            )
            error = torch.cat([error[..., :first], entropy, error[..., of_flags.stop :]], dim=-1)
        return (error * self.observation_mask).sum(-1)

    def _information(self, told: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        """(B, T, N) how badly states tell each agent's last action: minus its log-likelihood, up to a constant.

        Continuous ones are normally distributed with unit variance, others categorically.
        """
        predicted = self.information(told)
        if not self.layout.is_discrete:
            return 0.5 * ((predicted - actions).square() * self.action_mask).sum(-1)
        logits = predicted.masked_fill(self.action_mask == 0, -1e9)
        sizes = list(self.layout.block_sizes)
        blocks = zip(logits.split(sizes, -1), actions.split(sizes, -1), strict=True)
        return torch.stack([-(own * block.log_softmax(-1)).sum(-1) for block, own in blocks]).sum(0)


class LatentSimulation(Simulation):
    """Rollouts in progress inside a world model. Created by `WorldModel.reset` and `WorldModel.simulate`.

    Attributes:
        states: (B, N, F) present states, as actor and critic read them.
    """

    def __init__(self, model: WorldModel, latent: Latent, observations: torch.Tensor) -> None:
        self._model, self._latent = model, latent
        self.states, self.observations = latent.features, observations

    @property
    def actor_inputs(self) -> torch.Tensor:
        """(B, N, F + flags) see `actor_inputs`."""
        return actor_inputs(self.states, self.observations, self._model.layout)

    def step(self, actions: torch.Tensor) -> ImaginedStep:
        self._latent, rewards, continuations = self._model.imagine(self._latent, actions)
        self.states, self.observations = self._latent.features, self._model.decode(self._latent)
        return ImaginedStep(self.states, self.observations, rewards, continuations)


def actor_inputs(features: torch.Tensor, observations: torch.Tensor, layout: AgentLayout) -> torch.Tensor:
    """What the actor reads: states, and in teams with flags those of the observations, with the id behind them."""
    if not layout.num_flags:
        return features
    return torch.cat([features, observations[..., max(layout.observation_sizes) :]], dim=-1)


def _mean(x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return (x * weights).sum() / weights.sum().clamp(min=1)
