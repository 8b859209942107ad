"""Imagined rollouts: the policy acts for H steps inside a world model, which looks like an environment.

simulation = world_model.reset(start)
step = simulation.step(joint_action)           # reward, continuation, next state, next observations

Which values belong together (time-major tensors; index 0 is the real starting point):

    time            0        1      ...     H-1        H
    states         s_0      s_1     ...    s_{H-1}    s_H          (H + 1, B, S)
    observations   o_0      o_1     ...    o_{H-1}                 (H, B, N, O)      o_0 real, the others imagined
    actions        a_0      a_1     ...    a_{H-1}                 (H, B, N, ...)    drawn from pi(. | o_t)
    rewards        r_0      r_1     ...    r_{H-1}                 (H, B)            of a_t in s_t
    continuations  c_0      c_1     ...    c_{H-1}                 (H, B)            P(episode goes on after a_t)

Rollouts are not reset where they end: the continuations carry the ending into the returns.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch

from rllib_dima.core.policy.data import Rollout
from rllib_dima.core.policy.networks import Actor


class ImaginedStep(NamedTuple):
    """What an imagined joint action leads to: the same quantities that a real environment returns."""

    states: torch.Tensor  # (B, S) next states, normalised; of models without global states what critics read instead
    observations: torch.Tensor  # (B, N, O) next observations
    rewards: torch.Tensor  # (B,), or (B, N) or (B, 1) of models that predict agent by agent
    continuations: torch.Tensor  # probability that the episode goes on, (B,), or (B, N) of such models


class Simulation(ABC):
    """B rollouts in progress inside a world model.

    Attributes:
        states: (B, ...) the present, as critics read it.
        observations: (B, N, O) present observations: the real ones at the start, imagined ones afterwards.
    """

    states: torch.Tensor
    observations: torch.Tensor

    @property
    def actor_inputs(self) -> torch.Tensor:
        """(B, N, ...) the present, as the actor reads it."""
        return self.observations

    @abstractmethod
    def step(self, actions: torch.Tensor) -> ImaginedStep:
        """Takes the joint action in the present.

        Args:
            actions: (B, N, A) executed actions: continuous in [-1, 1], discrete one-hot.
        """


@torch.no_grad()
def imagine(simulation: Simulation, actor: Actor, horizon: int) -> Rollout:
    """Section C of the appendix: rolls the policy out.

    Args:
        simulation: just begun, in a model in evaluation mode.
        actor: the policy shared by the agents.
        horizon: H.
    """
    states, columns = [simulation.states], []
    for _ in range(horizon):
        observations = simulation.actor_inputs
        policy = actor(observations)
        actions = policy.sample()
        step = simulation.step(actor.executed(actions, observations))
        states.append(step.states)
        columns.append((observations, actions, policy.log_prob(actions), step.rewards, step.continuations))
    return Rollout(torch.stack(states), *(torch.stack(column) for column in zip(*columns, strict=True)))
