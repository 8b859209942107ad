"""From RLlib's episodes to the trajectories that trainers learn from."""

from __future__ import annotations

from typing import Any

import numpy as np
from ray.rllib.core.columns import Columns
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode
from ray.rllib.env.single_agent_episode import SingleAgentEpisode

from rllib_dima.core.layout import AgentLayout
from rllib_dima.core.replay.data import Trajectory, executed_actions
from rllib_dima.sampling.broken_episodes import num_good_steps


def to_trajectory(episode: MultiAgentEpisode, layout: AgentLayout) -> Trajectory:
    """The T steps of an episode or of a chunk of one, stacked over the N agents.

    A last step in which the simulator broke down is left out, so that T may be 0. Actions are stored as they were
    executed (continuous ones clipped to [-1, 1], discrete ones one-hot) and as they were drawn.

    Raises:
        ValueError: if an info of the first agent lacks "state".
    """
    agents = [episode.agent_episodes[agent_id] for agent_id in layout.agent_ids]
    end = num_good_steps(episode)
    actions = np.stack([_present(agent.actions)[:end] for agent in agents], axis=1)
    observations = np.stack([_floats(agent.observations)[: end + 1] for agent in agents], axis=1)  # (T+1, N, O)
    return Trajectory(
        episode_id=episode.id_,
        states=_states(agents[0].infos)[: end + 1],  # (T+1, S)
        observations=observations[:-1],  # (T, N, O)
        actions=executed_actions(actions, observations[:-1], layout),  # (T, N, A)
        rewards=_floats(agents[0].rewards)[:end],  # (T,), the team's: every agent holds the same
        terminated=bool(episode.is_terminated),
        truncated=bool(episode.is_truncated),
        broke_down=end < len(episode),
        is_start=episode.env_t_started == 0,
        drawn_actions=actions,
        log_probs=_log_probs(agents, end),
        last_observations=observations[-1],
    )


def _log_probs(agents: list[SingleAgentEpisode], end: int) -> np.ndarray | None:
    """(T, N) as the policy recorded them, if it does."""
    if any(Columns.ACTION_LOGP not in agent.extra_model_outputs for agent in agents):
        return None
    return np.stack([_floats(agent.extra_model_outputs[Columns.ACTION_LOGP])[:end] for agent in agents], axis=1)


def _present(buffer: Any) -> np.ndarray:
    """The entries of this chunk, without the look-back entries that RLlib keeps of the chunk before."""
    return np.asarray(buffer.data[buffer.lookback :])


def _floats(buffer: Any) -> np.ndarray:
    return _present(buffer).astype(np.float32)


def _states(infos: Any) -> np.ndarray:
    """(T+1, S) global states from the infos of the first agent."""
    infos = infos.data[infos.lookback :]
    if not all("state" in info for info in infos):
        raise ValueError(
            "An episode reached the learner without the global state in the infos of the first agent. "
            "TeamEnvRunner puts it there: use it (or a subclass) as env_runner_cls, and keep infos in your connectors."
        )
    return np.stack([np.asarray(info["state"], dtype=np.float32) for info in infos])
