"""The world model: state decoder, dynamics, and reward and termination, together an environment to imagine in.

simulation = world_model.reset(start)          # start: windows of L real steps, L context states
step = simulation.step(joint_action)           # reward, continuation, next state, next observations
"""

from __future__ import annotations

import torch
from torch import nn

from rllib_dima.core.dima.diffusion import Diffusion
from rllib_dima.core.dima.hyperparameters import DIMAHyperparameters
from rllib_dima.core.dima.normalization import PredictionErrors, RewardNormalizer, StateNormalizer
from rllib_dima.core.dima.reward_mlp import RewardMLP
from rllib_dima.core.dima.reward_termination import OutcomeModel, RewardTermination
from rllib_dima.core.dima.state_decoder import STATE_DECODERS, StateDecoder
from rllib_dima.core.imagination import ImaginedStep, Simulation
from rllib_dima.core.layout import AgentLayout
from rllib_dima.core.replay.data import Window

OUTCOME_MODELS: dict[str, type[RewardTermination | RewardMLP]] = {"transformer": RewardTermination, "mlp": RewardMLP}


class WorldModel(nn.Module):
    """Three models, the state statistics that all of them read their states through (z, see `StateNormalizer`), and the
    reward statistics whose scale the reward is learnt on (see `RewardNormalizer`).

    Args:
        layout: sizes.
        hp: hyperparameters.
    """

    def __init__(self, layout: AgentLayout, hp: DIMAHyperparameters) -> None:
        super().__init__()
        self.hp = hp
        self.normalizer = StateNormalizer(layout.state_size)
        self.reward_normalizer = RewardNormalizer()
        self.state_decoder: StateDecoder = STATE_DECODERS[hp.decoder_network](layout, hp)
        self.dynamics = Diffusion(layout, hp)
        self.errors = PredictionErrors(layout.state_size) if hp.imagination_noise else None
        self.reward_termination: OutcomeModel = OUTCOME_MODELS[hp.reward_network](layout, hp).float()

    def statistics(self) -> dict[str, torch.Tensor]:
        """What the statistics make of rewards, and how many values they have clipped so far."""
        states, rewards = self.normalizer, self.reward_normalizer
        return {
            "reward_scale": rewards.scale,
            "reward_offset": rewards.offset,
            "num_reward_outliers": rewards.num_outliers,
            "num_state_outliers": states.num_outliers,
        }

    def state_decoder_loss(self, window: Window) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Eq. 22 on single transitions (windows of W = 1)."""
        with self.autocast():
            return self.state_decoder.loss(self.normalizer(window.states[:, 0]), window.observations[:, 0])

    def dynamics_loss(self, window: Window) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Eq. 9 on windows of L - 1 past steps, the anchor and U - 1 future steps."""
        scale = self.hp.sigma_data
        states, next_states = self.normalizer(window.states) * scale, self.normalizer(window.next_states) * scale
        with self.autocast():
            return self.dynamics.loss(states, window.actions, next_states, window.valid)

    def reward_termination_loss(self, data: Window | torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Eq. 23 on windows of H steps that begin at the anchor (transformer), or on rows of `outcomes` (mlp)."""
        model = self.reward_termination
        with self.autocast():
            if isinstance(model, RewardMLP):
                assert isinstance(data, torch.Tensor)
                return model.loss(data)
            assert isinstance(model, RewardTermination) and isinstance(data, Window)
            states, rewards = self.normalizer(data.states), self.reward_normalizer(data.rewards)
            return model.loss(states, data.actions, rewards, data.terminated, data.valid)

    @torch.no_grad()
    def outcomes(self, steps: Window) -> torch.Tensor:
        """What the MLP of rewards and endings learns from: the valid ones of M steps, as `RewardMLP.examples`.

        Args:
            steps: M windows of one step, at least one of them valid.

        Returns:
            (M, I + 2) in random order; valid steps come again in the place of those that are not.
        """
        model, valid = self.reward_termination, steps.valid[:, 0]
        assert isinstance(model, RewardMLP)
        valid_first = (torch.rand(len(valid), dtype=torch.float32, device=valid.device) + ~valid).argsort()
        rows = valid_first[torch.arange(len(valid), device=valid.device) % valid.sum()]
        states, next_states = (self.normalizer(column[:, 0]) for column in (steps.states, steps.next_states))
        rewards = self.reward_normalizer(steps.rewards[:, 0])
        return model.examples(states, steps.actions[:, 0], next_states, rewards, steps.terminated[:, 0])[rows]

    @torch.no_grad()
    def measure(self, window: Window) -> dict[str, torch.Tensor]:
        """How well fresh next states are predicted, and observations of the present ones decoded, () each.

        Errors of states are means over entries, absolute, in normalised units; imagination's noise is drawn from them.

        Args:
            window: B windows of L real steps, the last of which is predicted; in evaluation mode.
        """
        states, truth = self.normalizer(window.states), self.normalizer(window.next_states[:, -1])
        with self.autocast():
            predicted = self.next_states(states * window.valid.unsqueeze(-1), window.actions, window.valid)
            unexplained = self.state_decoder.unexplained_variance(states[:, -1], window.observations[:, -1])
        errors = truth - predicted
        if self.errors is not None:
            self.errors.add(states[:, -1], errors)
        return {
            "decoder_unexplained_variance": unexplained,
            "open_loop_error_1": errors.abs().mean(),
            "persistence_error_1": (states[:, -1] - truth).abs().mean(),  # of "nothing changes"
        }

    @torch.no_grad()
    def replayed(self, window: Window) -> Window:
        """The steps of windows as they are imagined: each state is predicted from the one before and recorded actions.

        Args:
            window: B windows of L - 1 past steps, the start and H - 1 more; in evaluation mode.

        Returns:
            The H steps from the start on. States are imagined but for the first, next states all; the rest is recorded.
        """
        length, valid = self.hp.context_length, window.valid
        context = self.normalizer(window.states[:, :length]) * valid[:, :length].unsqueeze(-1)
        states = [context[:, -1]]
        with self.autocast():
            for step in range(valid.shape[1] - length + 1):
                seen = slice(step, step + length)
                states.append(self.next_states(context, window.actions[:, seen], valid[:, seen]))
                context = torch.cat([context[:, 1:], states[-1].unsqueeze(1)], dim=1)
        imagined = self.normalizer.denormalize(torch.stack(states, dim=1))  # (B, H + 1, S)
        recorded = window.observations, window.actions, window.rewards, window.terminated, valid
        return Window(imagined[:, :-1], imagined[:, 1:], *(column[:, length - 1 :] for column in recorded))

    def next_states(
        self, context: torch.Tensor, actions: torch.Tensor, valid: torch.Tensor, is_noisy: bool = False
    ) -> torch.Tensor:
        """Draws what follows L normalised states, padded ones zero.

        Args:
            context: (B, L, S).
            actions: (B, L, N, A).
            valid: (B, L) bool.
            is_noisy: whether the noise of `hp.imagination_noise` is added.

        Returns:
            (B, S) normalised.
        """
        scale = self.hp.sigma_data
        states = self.dynamics.sample(context * scale, actions, valid) / scale
        if is_noisy and self.errors is not None:
            states = states + self.hp.imagination_noise * self.errors.draw(context[:, -1])
        return self.normalizer.rounded(states)

    def autocast(self) -> torch.autocast:
        """bfloat16 for matrix products inside, if hp.precision asks for it; what the models return is float32."""
        device = self.normalizer.mean.device.type
        return torch.autocast(device, torch.bfloat16, enabled=self.hp.precision == "bfloat16")

    def fusible_modules(self) -> list[nn.Module]:
        """Modules of many small operations, which a compiler can fuse."""
        return [self.dynamics, self.reward_termination]

    def reset(self, start: Window, is_noisy: bool = False) -> DiffusionSimulation:
        """Begins one imagined rollout per window of `start`: W = L positions, the last one is the present.

        Args:
            start: real steps.
            is_noisy: whether states get the noise of `hp.imagination_noise`, as they do for the policy to learn from.
        """
        return DiffusionSimulation(self, start, is_noisy)


class DiffusionSimulation(Simulation):
    """B rollouts in progress inside a world model. Created by `WorldModel.reset`.

    Attributes:
        states: (B, S) present states, normalised.
        observations: (B, N, O) present observations: the real ones at the start, decoded ones afterwards.
    """

    def __init__(self, world_model: WorldModel, start: Window, is_noisy: bool = False) -> None:
        assert start.states.shape[1] == world_model.hp.context_length, "a start holds L positions"
        self._model, self._is_noisy = world_model, is_noisy
        self._valid = start.valid  # (B, L)
        self._context = world_model.normalizer(start.states) * start.valid.unsqueeze(-1)  # (B, L, S)
        self._past_actions = start.actions[:, :-1]  # (B, L - 1, N, A)
        with world_model.autocast():
            self._cache = world_model.reward_termination.new_cache(len(start.states))
        self.states, self.observations = self._context[:, -1], start.observations[:, -1]

    def step(self, actions: torch.Tensor) -> ImaginedStep:
        """Takes the joint action in the present states.

        Args:
            actions: (B, N, A) executed actions: continuous in [-1, 1], discrete one-hot.
        """
        actions_in_context = torch.cat([self._past_actions, actions.unsqueeze(1)], dim=1)  # (B, L, N, A)
        with self._model.autocast():
            next_states = self._model.next_states(self._context, actions_in_context, self._valid, self._is_noisy)
            reward, logit = self._model.reward_termination.extend(
                self.states.unsqueeze(1), actions.unsqueeze(1), next_states.unsqueeze(1), self._cache
            )
            self._advance(next_states, actions_in_context)
        rewards = self._model.reward_normalizer.denormalize(reward.squeeze(1))
        return ImaginedStep(self.states, self.observations, rewards, logit.squeeze(1).sigmoid())

    def _advance(self, states: torch.Tensor, actions: torch.Tensor) -> None:
        """Shifts the context by one step to end in `states`."""
        self._context = torch.cat([self._context[:, 1:], states.unsqueeze(1)], dim=1)
        self._past_actions = actions[:, 1:]
        self._valid = torch.cat([self._valid[:, 1:], torch.ones_like(self._valid[:, :1])], dim=1)
        self.states, self.observations = states, self._model.state_decoder(states)
