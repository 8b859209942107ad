"""Imagined rollouts: the policy acts for H steps inside the world model.

Which values belong together (time-major tensors; index 0 is the real starting point):

    time            0        1      ...     H-1        H
    states         s_0      s_1     ...    s_{H-1}    s_H          (H + 1, B, S)
    observations   o_0      o_1     ...    o_{H-1}                 (H, B, N, O)      o_0 real, the others decoded
    actions        a_0      a_1     ...    a_{H-1}                 (H, B, N, ...)    drawn from pi(. | o_t)
    rewards        r_0      r_1     ...    r_{H-1}                 (H, B)            of a_t in s_t
    continuations  c_0      c_1     ...    c_{H-1}                 (H, B)            P(episode goes on after a_t)

Rollouts are not reset where they end: the continuations carry the ending into the returns.
"""

from __future__ import annotations

import torch

from rllib_dima.core.dima.world_model import WorldModel
from rllib_dima.core.policy.data import Rollout
from rllib_dima.core.policy.networks import Actor
from rllib_dima.core.replay.data import Window


@torch.no_grad()
def imagine(world_model: WorldModel, actor: Actor, start: Window, horizon: int) -> Rollout:
    """Section C of the appendix: rolls the policy out from every window of `start`.

    Args:
        world_model: in evaluation mode.
        actor: the policy shared by the agents.
        start: B windows of L real steps.
        horizon: H.
    """
    simulation = world_model.reset(start)
    states, columns = [simulation.states], []
    for _ in range(horizon):
        observations = simulation.observations
        policy = actor(observations)
        actions = policy.sample()
        step = simulation.step(actor.executed(actions, observations))
        states.append(step.states)
        columns.append((observations, actions, policy.log_prob(actions), step.rewards, step.continuations))
    return Rollout(torch.stack(states), *(torch.stack(column) for column in zip(*columns, strict=True)))
