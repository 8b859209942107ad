"""From running episodes to the policy's batch and back, each in one piece.

RLlib's default pieces, thirteen in all, pass every agent of every environment through lists and dicts, which takes
longer than the network. Teams need none of that: all agents act at every step, and one module acts for all of them.

What a joint policy remembers of a running episode is kept in the data that a runner shares with its connectors, and so
with running episodes when they are saved. It is not in the episodes, which go to the learners.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Dict
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.core.columns import Columns
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode

from rllib_dima.core.policy.networks import ActingNetwork, JointPolicyNetwork
from rllib_dima.learning.rl_modules import POLICY_ID

Episodes = list[MultiAgentEpisode]
"""One per environment."""

MEMORIES = "memories"
"""In the shared data: (N, M) by the id of each episode in which the policy has acted."""


class TeamToModule(ConnectorV2):
    """The last observations of all acting teams, (B * N, O): one team after the other, agents in their order.

    RLlib asks it for the spaces of the modules, too.
    """

    def recompute_output_observation_space(
        self, input_observation_space: gymnasium.Space, input_action_space: gymnasium.Space
    ) -> gymnasium.Space:
        """Spaces by module."""
        return _by_module(input_observation_space)

    def recompute_output_action_space(
        self, input_observation_space: gymnasium.Space, input_action_space: gymnasium.Space
    ) -> gymnasium.Space:
        """Spaces by module."""
        return _by_module(input_action_space)

    def __call__(
        self,
        *,
        rl_module: Any,
        batch: dict[str, Any],
        episodes: Episodes,
        shared_data: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """The batch by module, with the teams' memories if the policy has any; empty if no team acts."""
        policy = rl_module[POLICY_ID]
        rows = [
            episode.agent_episodes[agent].observations.data[-1]  # pyright: ignore[reportIndexIssue]: it is a list
            for episode in episodes
            if _acts(episode)
            for agent in policy.layout.agent_ids
        ]
        if not rows:
            return {}
        observations = torch.from_numpy(np.stack(rows)).to(policy.net.action_mask.device)
        return {POLICY_ID: {Columns.OBS: observations, **_memories(policy.net, episodes, shared_data or {})}}


class ModuleToTeam(ConnectorV2):
    """What the policy returned for these rows, by column, environment and agent."""

    def __call__(
        self,
        *,
        rl_module: Any,
        batch: dict[str, Any],
        episodes: Episodes,
        shared_data: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """A list of one dict per environment for each column; the dict is empty where the team does not act."""
        agents = rl_module[POLICY_ID].layout.agent_ids
        acting = [_acts(episode) for episode in episodes]
        outputs, columns = dict(batch[POLICY_ID]), {}
        memories = outputs.pop(Columns.STATE_OUT, None)
        if memories is not None and shared_data is not None:
            ids = [episode.id_ for episode, acts in zip(episodes, acting, strict=True) if acts]
            shared_data[MEMORIES] = dict(zip(ids, memories.cpu(), strict=True))
        for name, tensor in outputs.items():
            rows = iter(tensor.cpu().numpy())
            columns[name] = [{agent: next(rows) for agent in agents} if acts else {} for acts in acting]
        return columns


def _by_module(space: gymnasium.Space) -> Dict:
    """All agents of a team have the same space."""
    assert isinstance(space, Dict), "that of all agents"
    return Dict({POLICY_ID: next(iter(space.values()))})


def _acts(episode: MultiAgentEpisode) -> bool:
    """Whether the team has been reset and has not ended its episode: an environment is reset in a step of its own."""
    return episode.is_reset and not episode.is_done


def _memories(policy: ActingNetwork, episodes: Episodes, shared_data: dict[str, Any]) -> dict[str, torch.Tensor]:
    """(B, N, M) of the acting teams, zeros in an episode's first step; nothing if the policy has none."""
    if not isinstance(policy, JointPolicyNetwork):
        return {}
    kept, nothing = shared_data.get(MEMORIES, {}), torch.zeros(policy.layout.num_agents, policy.memory_size)
    memories = [kept.get(episode.id_, nothing) for episode in episodes if _acts(episode)]
    return {Columns.STATE_IN: torch.stack(memories).to(policy.action_mask.device)}
