"""Episodes in which the simulator broke down: their last step says nothing about the task.

`CooperativeEnv` truncates them and repeats the moment before in that last step, with the reason in the first agent's
info. The learner leaves the step out, runners and the collector do not count it, and statistics over episodes leave the
whole episode out: where rewards are negative, an early end would look like success.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from ray.rllib.env.multi_agent_episode import MultiAgentEpisode

from rllib_dima.envs.cooperative import SIMULATION_ERROR
from rllib_dima.envs.outcomes import SimulationError

MAX_BROKEN, RECENT_EPISODES = 10, 100
"""A run stops if the simulator broke down in more than `MAX_BROKEN` of the last `RECENT_EPISODES` episodes."""


def breakdown(episode: MultiAgentEpisode) -> str | None:
    """Why the simulator broke down in the last step of an episode, or of this chunk of it; None if it did not."""
    if not episode.is_truncated:
        return None
    last = (agent.infos.data[-1] for agent in episode.agent_episodes.values())  # pyright: ignore[reportIndexIssue]: a list
    return next((info[SIMULATION_ERROR] for info in last if info and SIMULATION_ERROR in info), None)


def num_good_steps(episode: MultiAgentEpisode) -> int:
    """Steps of an episode, or of a chunk of it, without one in which the simulator broke down."""
    return len(episode) - (breakdown(episode) is not None)


class BreakdownLimit:
    """Stops a run whose simulator breaks down too often.

    Args:
        env: the environment, for the error.
    """

    def __init__(self, env: object) -> None:
        self._env = env
        self.recent: deque[bool] = deque(maxlen=RECENT_EPISODES)
        """Whether each of the last episodes broke down."""

    def check(self, episodes: Iterable[MultiAgentEpisode]) -> None:
        """Counts the episodes among these that have ended.

        Raises:
            SimulationError: too many broke down.
        """
        for episode in episodes:
            if not episode.is_done:
                continue
            reason = breakdown(episode)
            self.recent.append(reason is not None)
            if reason is not None and sum(self.recent) > MAX_BROKEN:
                raise SimulationError(
                    f"The simulator of environment {self._env!r} broke down in {sum(self.recent)} of the last "
                    f"{len(self.recent)} episodes; at most {MAX_BROKEN} of {RECENT_EPISODES} may. The last time: "
                    f"{reason} Find the actions that break it (rllib_dima.envs.check_env plays extreme ones), and give "
                    "the simulator shorter time steps or weaker actuators, or let the environment end such episodes "
                    "before. What was collected and learnt until now is not affected."
                )
