"""The world model: tokeniser and sequence model, together an environment of observations to imagine in.

simulation = world_model.reset(start)          # start: windows of one real step
step = simulation.step(joint_action)           # rewards, continuations and next observations of every agent
"""

from __future__ import annotations

import torch
from torch import nn

from rllib_dima.core.imagination import ImaginedStep, Simulation
from rllib_dima.core.layout import AgentLayout
from rllib_dima.core.marie.action_tokens import ActionTokens
from rllib_dima.core.marie.hyperparameters import MARIEHyperparameters
from rllib_dima.core.marie.sequence_model import SequenceModel
from rllib_dima.core.marie.tokenizers import make_tokenizer
from rllib_dima.core.policy.distributions import gumbel_max
from rllib_dima.core.replay.data import Window


class MARIEWorldModel(nn.Module):
    """Observations to tokens, and tokens to what follows them. It knows nothing of global states.

    Args:
        layout: sizes.
        hp: hyperparameters.
    """

    def __init__(self, layout: AgentLayout, hp: MARIEHyperparameters) -> None:
        super().__init__()
        self.hp, self.layout = hp, layout
        self.tokenizer = make_tokenizer(layout, hp)
        self.action_tokens = ActionTokens(layout, hp.action_bins)
        shape = (layout.num_agents, self.tokenizer.num_tokens)
        is_entry = self.tokenizer.observation_mask[:, : self.tokenizer.num_entries] > 0
        token_mask = torch.ones(shape, dtype=torch.bool) if self.tokenizer.is_trained else is_entry
        self.has_padding = not token_mask.all()
        self.sequence_model = SequenceModel(layout, hp, shape[1], self.action_tokens, token_mask)

    def tokenizer_loss(self, window: Window) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Reconstruction of the anchors' observations."""
        return self.tokenizer.loss(window.observations[:, 0])

    def sequence_loss(self, window: Window) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """On windows of H steps that begin at the anchor; the tokeniser is not trained by it."""
        with torch.no_grad():
            tokens = self.tokenizer.encode(window.observations)
        actions = self.action_tokens.encode(window.actions)
        return self.sequence_model.loss(tokens, actions, window.rewards, window.terminated, window.valid)

    def reset(self, start: Window) -> MARIESimulation:
        """Begins one imagined rollout per window of `start`, which holds one position."""
        return self.begin(start.observations[:, -1])

    @torch.no_grad()
    def begin(self, observations: torch.Tensor) -> MARIESimulation:
        """Begins one imagined rollout per joint observation, (B, N, O)."""
        return MARIESimulation(self, observations)

    def critic_inputs(self, observations: torch.Tensor) -> torch.Tensor:
        """(..., N, O) as the critic reads them: normalised, if observations are."""
        normalizer = self.tokenizer.normalizer
        return observations if normalizer is None else normalizer(observations)


class MARIESimulation(Simulation):
    """B rollouts in progress inside a world model. Created by `MARIEWorldModel.reset`.

    Every agent predicts the team's reward, and whether the episode goes on.

    Attributes:
        states: (B, N, O) present observations as the critic reads them.
        observations: (B, N, O) present observations, as their tokens tell them: also those at the start.
    """

    def __init__(self, world_model: MARIEWorldModel, observations: torch.Tensor) -> None:
        self._model, self._sequence = world_model, world_model.sequence_model
        self._cache = self._sequence.new_cache(len(observations))
        self._tokens = world_model.tokenizer.encode(observations)  # (B, N, K)
        self._unread = self._tokens  # those that are not in the cache yet
        self._look()

    @torch.no_grad()
    def step(self, actions: torch.Tensor) -> ImaginedStep:
        """Takes the joint action in the present observations; see `Simulation.step`.

        Raises:
            ValueError: beyond the steps that the transformer holds.
        """
        self._require_room()
        chosen = self._model.action_tokens.encode(actions)
        predicted = self._sequence.act(self._unread, self._tokens, chosen, self._cache)
        rewards = self._sequence.expected_rewards(predicted.rewards).squeeze(1)
        self._advance(gumbel_max(predicted.tokens[:, 0, :, 0]))
        continuations = predicted.continuations.squeeze(1).sigmoid()
        return ImaginedStep(self.states, self.observations, rewards, continuations)

    def _advance(self, first: torch.Tensor) -> None:
        """Draws the next observations' tokens one after the other; the last is read with the next action."""
        drawn = [self._padded(first, 0)]  # (B, N) each
        while len(drawn) < self._sequence.num_tokens:
            token = gumbel_max(self._sequence.read(drawn[-1], self._cache))
            drawn.append(self._padded(token, len(drawn)))
        self._tokens = torch.stack(drawn, dim=-1)
        self._unread = self._tokens[..., -1:]
        self._look()

    def _padded(self, tokens: torch.Tensor, slot: int) -> torch.Tensor:
        """Drawn tokens (B, N), of padded entries, which nothing is learnt of, those that real observations have."""
        if not self._model.has_padding:
            return tokens
        return torch.where(self._sequence.token_mask[:, slot] > 0, tokens, self._model.tokenizer.token_of_zero)

    def _look(self) -> None:
        self.observations = self._model.tokenizer.decode(self._tokens)
        self.states = self._model.critic_inputs(self.observations)

    def _require_room(self) -> None:
        """Of the last step that fits, the tokens of the observation behind it are drawn but for the last one read."""
        needed = self._cache.length + self._unread.shape[-1] + self._sequence.block_size - 1
        if needed > self._sequence.max_tokens:
            raise ValueError(
                f"The transformer holds {self._model.hp.imagination_horizon} steps (imagination_horizon), of which "
                "none is left: fewer can be imagined from one start."
            )
