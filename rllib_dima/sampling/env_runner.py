"""`TeamEnvRunner`: RLlib's multi-agent runner, plus what algorithms here need from an environment.

Every environment is wrapped in `CooperativeEnv`, so that episodes carry the global state, the team reward and an
unambiguous end. The runner holds the policy only and never reads the state.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import math
import os
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.callbacks.utils import make_callback
from ray.rllib.env.env_context import EnvContext
from ray.rllib.env.multi_agent_env_runner import MultiAgentEnvRunner
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode
from ray.rllib.utils.metrics import (
    EPISODE_AGENT_RETURN_MEAN,
    EPISODE_AGENT_STEPS,
    EPISODE_DURATION_SEC_MEAN,
    EPISODE_LEN_MAX,
    EPISODE_LEN_MEAN,
    EPISODE_LEN_MIN,
    EPISODE_MODULE_RETURN_MEAN,
    EPISODE_RETURN_MAX,
    EPISODE_RETURN_MEAN,
    EPISODE_RETURN_MIN,
    NUM_AGENT_STEPS_SAMPLED,
    NUM_ENV_STEPS_SAMPLED,
    NUM_EPISODES,
    NUM_MODULE_STEPS_SAMPLED,
)
from ray.util import log_once

from rllib_dima.core.training.random_numbers import own_random_numbers
from rllib_dima.envs import CooperativeEnv, create_team
from rllib_dima.envs.outcomes import NonFiniteError
from rllib_dima.envs.spaces import ContractError
from rllib_dima.learning.rl_modules import POLICY_ID
from rllib_dima.sampling.broken_episodes import breakdown
from rllib_dima.sampling.team_vector import TeamVector

LAYOUT_KEY = "__layout__"
NUM_BROKEN_EPISODES = "num_broken_episodes"
MOST_REBUILDS = 10
"""So many times in one call of `sample` failed environments are built anew, if they are to be."""

logger = logging.getLogger("ray.rllib")


def make_cooperative_env(config: AlgorithmConfig, context: EnvContext) -> CooperativeEnv:
    """The environment of `config`, built and wrapped.

    Args:
        config: its `env` is an id known to Ray or gymnasium, or a class or function.
        context: settings of the environment and of its wrapper, and the indices of its worker.

    Raises:
        ContractError: see `create_team` and `CooperativeEnv`.
    """
    env, settings = create_team(config.env, context)
    return CooperativeEnv(env, **settings)


_RUNNING = (
    "_needs_initial_reset",
    "_ongoing_episodes",
    "_ongoing_episodes_for_metrics",
    "_done_episodes_for_metrics",
    "_shared_data",
    "_cached_to_module",
)
"""RLlib's attributes of a runner that hold episodes in flight, and what the policy is shown next."""


class _GivenUpError(RuntimeError):
    """Environments fail, and building them anew does not help."""


class EndlessEpisodeError(RuntimeError):
    """No episode of an evaluation ended in time."""


class TeamEnvRunner(MultiAgentEnvRunner):
    """Collects episodes of joint transitions with the current policy.

    Differences from RLlib's runner: environments are wrapped in `CooperativeEnv`, and `env.envs[i].unwrapped` is the
    user's within; `get_spaces()` also tells the learners the `AgentLayout`; returns are the team's, not the sum over
    agents, and every episode counts once; sampling noise comes from a private random stream and runs on one thread;
    episodes in flight can be saved and restored.
    """

    env: TeamVector | None

    _num_rebuilds = 0  # of environments; RLlib builds them before anything can be set here
    _num_rebuilds_of_call = 0  # of `sample`

    def __init__(self, config: AlgorithmConfig, **kwargs: Any) -> None:
        super().__init__(config=config, **kwargs)
        self._noise_seed = self._seed if self._seed is not None else int.from_bytes(os.urandom(4), "little")
        self._num_sample_calls = 0
        self._num_new_steps = self._num_new_episodes = self._num_new_broken = 0  # of this call of `sample`

    def sample(
        self, *, num_episodes: int | None = None, seeds: list[int] | None = None, **kwargs: Any
    ) -> list[MultiAgentEpisode]:
        """Episodes and episode chunks of the asked length.

        Args:
            num_episodes: how many whole episodes; every environment plays its share of them, begun by this call.
            seeds: of the episodes to begin, one per episode or step asked for; None goes on with those that run.
            **kwargs: as in RLlib, but no `random_actions`.

        Raises:
            ValueError: random actions are asked for, which RLlib would draw from the spaces of the user's environment.
            RuntimeError: an environment failed; `MOST_REBUILDS` times, if failed ones are to be built anew. What this
                call had collected is lost; the next starts new episodes.
            EndlessEpisodeError: this is evaluation, and no episode ended within `evaluation_sample_timeout_s`.
        """
        if kwargs.get("random_actions"):
            raise ValueError("Runners draw no random actions: step an environment with env.single_action_space.")
        self._no_end_since = time.monotonic() if num_episodes else math.inf
        self._num_rebuilds_of_call = 0
        if seeds is not None:
            self._drop_episodes()
        if self.env is not None:
            self.env.assign([None] * num_episodes if seeds is None and num_episodes is not None else seeds)
        try:
            with _single_thread(), self._own_noise(seeds):
                episodes = super().sample(num_episodes=num_episodes, **kwargs)
        except BaseException:  # also Ctrl-C, after which a notebook may go on
            self._drop_episodes()
            raise
        finally:
            self._log_new_steps()
        self._leave_out_broken()
        return episodes

    def make_env(self) -> None:
        """Builds the wrapped environments; called again after a failure, which RLlib would go on with for ever.

        Raises:
            RuntimeError: they break their contract, which building them anew does not mend; or they have failed more
                than `MOST_REBUILDS` times in one call of `sample`.
        """
        failed, reason = self.env, sys.exc_info()[1]  # what RLlib is handling
        if failed is not None:
            self._num_rebuilds_of_call += 1
            is_lasting = isinstance(reason, ContractError) and not isinstance(reason, NonFiniteError)
            if is_lasting or self._num_rebuilds_of_call > MOST_REBUILDS:
                raise _GivenUpError(
                    f"Environment {self.config.env!r} failed and is not built anew "
                    f"(restart_failed_sub_environments; {self._num_rebuilds_of_call - 1} times in this call): {reason}"
                ) from reason
            failed.close()
            self._num_rebuilds += 1
        context = self._env_context()
        self.env = TeamVector(self._make_envs(context))
        if failed is not None:
            self.env.take_over(failed.due)
        self.num_envs = self.env.num_envs
        self._needs_initial_reset = True
        make_callback(
            "on_environment_created",
            callbacks_objects=self._callbacks,
            callbacks_functions=self.config.callbacks_on_environment_created,
            kwargs={"env_runner": self, "metrics_logger": self.metrics, "env": self.env, "env_context": context},
        )

    def _make_envs(self, context: EnvContext) -> list[CooperativeEnv]:
        """All wrapped environments. If one cannot be built, those before it are closed.

        They are built before RLlib's vector of them, which would print a traceback of its own where one fails.
        """
        with contextlib.ExitStack() as built:
            envs = []
            for index in range(self.config.num_envs_per_env_runner):
                envs.append(make_cooperative_env(self.config, context.copy_with_overrides(vector_index=index)))
                built.callback(envs[-1].close)
            built.pop_all()
        return envs

    def make_module(self) -> None:
        """Builds the policy, in evaluation mode from the start."""
        super().make_module()
        self.module.foreach_module(lambda _, module: module.eval())  # pyright: ignore[reportAttributeAccessIssue]: torch's

    def get_spaces(self) -> dict[str, Any]:
        """RLlib's spaces by module id, and the `AgentLayout` under `LAYOUT_KEY` for the learners' networks."""
        if self.env is None:
            return self.spaces
        return {**super().get_spaces(), LAYOUT_KEY: self.env.envs[0].layout}

    def forget_weights_version(self) -> None:
        """Makes the runner accept the next weights it is sent, even those of an older checkpoint."""
        self._weights_seq_no = 0

    def get_sampling_state(self) -> dict[str, Any] | None:
        """Everything besides the policy that the next `sample()` depends on, as copies.

        Returns:
            The noise stream's position, the metrics' moving averages and, if all environments can tell their state,
            the state of every environment with the episode that is running in it ("running"; else None). None if this
            runner has no environments.
        """
        if self.env is None:
            return None
        return {
            "worker_index": self.worker_index,
            "noise_seed": self._noise_seed,
            "num_sample_calls": self._num_sample_calls,
            "num_env_steps_sampled_lifetime": self.num_env_steps_sampled_lifetime,
            "metrics": copy.deepcopy(self.metrics.get_state()),
            "running": self._get_running() if self._can_restore_envs() else None,
        }

    def set_sampling_state(self, state: dict[str, Any]) -> None:
        """Continues from what `get_sampling_state` returned.

        Environments that do not fit the state, for example because the configuration was changed, start new episodes,
        with a warning. With another seed than the saved one, noise and episodes are new.
        """
        if self.env is None:
            return
        goes_on = self._seed in (None, state["noise_seed"])
        if goes_on:
            self._noise_seed = state["noise_seed"]
        self._num_sample_calls = state["num_sample_calls"]
        self.num_env_steps_sampled_lifetime = state["num_env_steps_sampled_lifetime"]
        self.metrics.set_state(copy.deepcopy(state["metrics"]))
        self._drop_episodes()
        if goes_on and state["running"] is not None:
            try:
                self._set_running(copy.deepcopy(state["running"]))
            except ValueError as error:
                self._drop_episodes()
                logger.warning(f"The episodes that were running are lost, and new ones start: {error}")

    def _can_restore_envs(self) -> bool:
        if all(team.can_restore for team in self.env.envs):
            return True
        if log_once("DIMA_env_without_state"):
            name = type(self.env.envs[0].given).__name__
            logger.warning(
                f"{name} has no get_state() and set_state(), so checkpoints cannot hold the episode that is running: "
                "a restored run starts a new one. Everything else is restored exactly."
            )
        return False

    def _get_running(self) -> dict[str, Any] | None:
        """What is running, or None before the first reset."""
        if self.env.must_reset is None:
            return None
        running = {name: getattr(self, name) for name in _RUNNING}
        envs = [team.get_state() for team in self.env.envs]
        return copy.deepcopy({**running, "envs": envs, "must_reset": self.env.must_reset})

    def _set_running(self, running: dict[str, Any]) -> None:
        if len(running["envs"]) != self.num_envs:
            raise ValueError(f"the checkpoint has {len(running['envs'])} environments per runner, not {self.num_envs}.")
        for team, env_state in zip(self.env.envs, running["envs"], strict=True):
            team.set_state(env_state)
        self.env.go_on(running["must_reset"])
        for name in _RUNNING:
            setattr(self, name, running[name])

    def _new_episode(self, env_index: int, episodes: list[MultiAgentEpisode | None] | None = None) -> None:
        """As in RLlib, but with the spaces of the team, not of the user's environment within it."""
        episodes = self._ongoing_episodes if episodes is None else episodes
        team = self.env.envs[env_index]
        episodes[env_index] = MultiAgentEpisode(
            observation_space=team.observation_spaces,
            action_space=team.action_spaces,
            agent_to_module_mapping_fn=self.config.policy_mapping_fn,
        )
        self._make_on_episode_callback("on_episode_created", env_index, episodes)

    def _drop_episodes(self) -> None:
        """Makes the next `sample()` start new episodes."""
        self._needs_initial_reset = True
        self._ongoing_episodes = [None] * self.num_envs
        self._ongoing_episodes_for_metrics = defaultdict(list)
        self._done_episodes_for_metrics = []

    def _env_context(self) -> EnvContext:
        return EnvContext(
            self.config.env_config,
            worker_index=self.worker_index or 0,
            num_workers=self.config.num_env_runners,
            remote=False,
        )

    def _try_env_reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        try:
            return super()._try_env_reset(seed=None if seed is None else self._env_seed(seed), options=options)
        except _GivenUpError:
            raise
        except Exception as error:  # whatever an environment raises
            raise RuntimeError(f"Environment {self.config.env!r} failed in reset(): {error}") from error

    def _env_seed(self, seed: int) -> int:
        """Seed of this runner's first environment.

        RLlib gives the seed of the run plus the runner's number, so that the second runner of one run would play the
        episodes of the first one of the next run. And a runner that starts in mid-run must not repeat the first
        episodes of the run, nor environments that were built anew after a failure the episodes in which they failed.

        Args:
            seed: this runner's.
        """
        worker, steps, calls = self.worker_index or 0, self.num_env_steps_sampled_lifetime, self._num_sample_calls
        if not (worker or steps or calls > 1 or self._num_rebuilds):
            return seed
        return int(np.random.SeedSequence([seed, steps, calls, self._num_rebuilds, worker]).generate_state(1)[0])

    def _try_env_step(self, actions: list[dict[str, Any]]) -> Any:
        try:
            return super()._try_env_step(actions)
        except _GivenUpError:
            raise
        except RuntimeError as error:
            raise RuntimeError(
                f"Environment {self.config.env!r} failed in step(): {error.__cause__}"
            ) from error.__cause__

    def _increase_sampled_metrics(self, num_steps: int, next_obs: dict[str, Any], episode: MultiAgentEpisode) -> int:
        """Counts steps. RLlib logs some ten numbers here each time, which is slow; `_log_new_steps` logs sums."""
        if self.env.resting[self._ongoing_episodes.index(episode)]:
            return num_steps
        reason = breakdown(episode)
        if reason is None:
            self._num_new_steps += num_steps
        else:
            self._num_new_broken += 1
            logger.warning(f"The simulator of {self.config.env!r} broke down, and the episode is truncated: {reason}")
        self._num_new_episodes += episode.is_done
        if episode.is_done:
            self._no_end_since = time.monotonic()
        elif self.config.in_evaluation:
            self._check_that_episodes_end(len(episode))
        return num_steps  # broken steps too, so that `sample` ends even if every step is broken

    def _make_on_episode_callback(self, which: str, idx: int, episodes: list[MultiAgentEpisode]) -> None:
        if not self.env.resting[idx]:
            super()._make_on_episode_callback(which, idx, episodes)

    def _leave_out_broken(self) -> None:
        """Takes episodes in which the simulator broke down from those whose returns are reported."""
        done, self._done_episodes_for_metrics = self._done_episodes_for_metrics, []
        for episode in done:
            if breakdown(episode) is None:
                self._done_episodes_for_metrics.append(episode)
            else:
                self._ongoing_episodes_for_metrics.pop(episode.id_, None)

    def _check_that_episodes_end(self, num_steps: int) -> None:
        timeout = self.config.evaluation_sample_timeout_s
        if time.monotonic() - self._no_end_since > timeout:
            raise EndlessEpisodeError(
                f"No episode ended within evaluation_sample_timeout_s ({timeout:g}); the present one has {num_steps} "
                f"steps. If episodes of {self.config.env!r} have no end, give them a time limit; if they are long, "
                "raise evaluation_sample_timeout_s."
            )

    def _log_new_steps(self) -> None:
        """Logs the counts of a call of `sample`; all agents act in every step."""
        steps, episodes, broken = self._num_new_steps, self._num_new_episodes, self._num_new_broken
        self._num_new_steps = self._num_new_episodes = self._num_new_broken = 0
        if steps + broken == 0:
            return
        agents = self.env.envs[0].layout.agent_ids
        self._log_count(NUM_ENV_STEPS_SAMPLED, steps, with_throughput=True)
        self._log_count(NUM_BROKEN_EPISODES, broken)
        self._log_count(NUM_EPISODES, episodes)
        for agent in agents:
            self._log_count(NUM_AGENT_STEPS_SAMPLED, steps, str(agent))
        self._log_count(NUM_MODULE_STEPS_SAMPLED, steps * len(agents), POLICY_ID)

    def _log_count(self, name: str, count: int, *whose: str, with_throughput: bool = False) -> None:
        """Adds to a counter of this iteration, and to that of the runner's lifetime."""
        self.metrics.log_value((name, *whose), count, reduce="sum")
        lifetime = (f"{name}_lifetime", *whose)
        self.metrics.log_value(lifetime, count, reduce="lifetime_sum", with_throughput=with_throughput)

    def _log_episode_metrics(
        self,
        length: int,
        ret: float,
        sec: float,
        agents: dict[str, float],
        modules: dict[str, float],
        agent_steps: dict[str, int],
    ) -> None:
        """Logs an episode that has ended, with the team's return.

        Every agent holds the team reward, so RLlib's sum over agents counts it once for each of them.
        """
        ret = next(iter(agents.values()))
        means = {EPISODE_LEN_MEAN: length, EPISODE_RETURN_MEAN: ret, EPISODE_DURATION_SEC_MEAN: sec}
        by_name = {
            EPISODE_AGENT_RETURN_MEAN: agents,
            EPISODE_AGENT_STEPS: agent_steps,
            EPISODE_MODULE_RETURN_MEAN: dict.fromkeys(modules, ret),
        }
        window = self.config.metrics_num_episodes_for_smoothing
        for reduce, numbers in (
            ("episode_mean", {**means, **by_name}),
            ("episode_min", {EPISODE_LEN_MIN: length, EPISODE_RETURN_MIN: ret}),
            ("episode_max", {EPISODE_LEN_MAX: length, EPISODE_RETURN_MAX: ret}),
        ):
            self.metrics.log_dict(numbers, reduce=reduce, window=window)

    def _own_noise(self, seeds: list[int] | None) -> contextlib.AbstractContextManager:
        """Draws action noise from a stream of this runner's own, or of the episodes with these seeds.

        A local runner shares torch's global generator with the learner and with evaluation; without this, evaluating
        or resuming would change what training draws.
        """
        steps, worker = self.num_env_steps_sampled_lifetime, self.worker_index or 0
        entropy = seeds or [self._noise_seed, steps, self._num_sample_calls, worker]
        self._num_sample_calls += 1
        return own_random_numbers(int(np.random.SeedSequence(entropy).generate_state(1)[0]), self._device)


@contextlib.contextmanager
def _single_thread() -> Iterator[None]:
    """Runs torch on one thread: the policy is tiny, and waking more threads for it costs far more than it saves."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
