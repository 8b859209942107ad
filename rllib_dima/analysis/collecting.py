"""Whole episodes of a policy, with the simulator's own state saved on the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rllib_dima.core.layout import AgentLayout
from rllib_dima.core.replay.data import Trajectory, executed_actions
from rllib_dima.envs.cooperative import SIMULATION_ERROR, CooperativeEnv
from rllib_dima.envs.team import ALL

Act = Callable[[Mapping[Any, Any]], Mapping[Any, Any]]
"""Actions by agent from observations by agent."""


@dataclass(frozen=True)
class Episode:
    """A trajectory, and by step (0 is the first) what `env.get_state()` returned before that step."""

    trajectory: Trajectory
    snapshots: dict[int, Any]


def play_episode(env: CooperativeEnv, act: Act, seed: int | None = None, snapshot_every: int = 0) -> Episode:
    """One whole episode; a last step in which the simulator broke down is left out.

    Args:
        env: where.
        act: the policy, which has been reset if it is a joint one.
        seed: of the environment.
        snapshot_every: steps between saved states, of an environment that can restore them; 0 for none.
    """
    agents, first = env.layout.agent_ids, env.layout.agent_ids[0]
    observations, infos = env.reset(seed=seed)
    seen, states, joint, rewards, snapshots = [_stack(observations, agents)], [infos[first]["state"]], [], [], {}
    terminated = truncated = False
    while not (terminated or truncated):
        if snapshot_every and len(rewards) % snapshot_every == 0 and env.can_restore:
            snapshots[len(rewards)] = env.get_state()
        actions = act(observations)
        observations, reward, terminateds, truncateds, infos = env.step(actions)
        terminated, truncated = terminateds[ALL], truncateds[ALL]
        if SIMULATION_ERROR in infos[first]:
            break
        joint.append(executed_actions(_drawn(actions, env.layout), seen[-1], env.layout))
        rewards.append(reward[first])
        seen.append(_stack(observations, agents))
        states.append(infos[first]["state"])
    trajectory = Trajectory(
        episode_id=f"seed {seed}",
        states=np.stack(states),
        observations=np.stack(seen[:-1]) if joint else np.stack(seen)[:0],
        actions=np.stack(joint) if joint else np.zeros((0, len(agents), env.layout.action_size), np.float32),
        rewards=np.array(rewards, np.float32),
        terminated=terminated,
        truncated=truncated,
        last_observations=seen[-1],
    )
    return Episode(trajectory, {step: state for step, state in snapshots.items() if step < len(rewards)})


def _stack(by_agent: Mapping[Any, np.ndarray], agents: tuple) -> np.ndarray:
    return np.stack([by_agent[agent] for agent in agents]).astype(np.float32)


def _drawn(actions: Mapping[Any, Any], layout: AgentLayout) -> np.ndarray:
    """(N, ...) as a policy draws them."""
    return np.stack([actions[agent] for agent in layout.agent_ids])


def to_actions(executed: np.ndarray, layout: AgentLayout) -> dict[Any, Any]:
    """Actions by agent that an environment takes, out of (N, A) as the world model sees them."""
    rows = executed
    if layout.is_discrete:
        blocks = np.split(executed, np.cumsum(layout.block_sizes)[:-1], axis=1)
        choices = np.stack([block.argmax(axis=1) for block in blocks], axis=1)  # (N, F)
        rows = choices if layout.is_factored else choices[:, 0]
    return dict(zip(layout.agent_ids, rows, strict=True))
