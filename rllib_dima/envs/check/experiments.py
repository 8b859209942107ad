"""`check_env`: everything that keeps DIMA from training on an environment, in one call.

    print(check_env(MyEnv))                                # before the first training run
    check_env(MyEnv, env_config={...}).raise_if_errors()   # in the environment's own tests

It plays short episodes of random and of extreme actions on the environment itself, without `CooperativeEnv`, which
would stop at the first breach of its contract. `check_play` plays, `check_results` holds what is asked of every single
reset and step, and this file holds the experiments.
"""

from __future__ import annotations

import copy
import itertools
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from pettingzoo import AECEnv, ParallelEnv
from ray.rllib.env.multi_agent_env import MultiAgentEnv

import rllib_dima
from rllib_dima.envs.check.play import Moment, Player
from rllib_dima.envs.check.report import EnvReport, Findings
from rllib_dima.envs.check.results import ResultChecks
from rllib_dima.envs.cooperative import ALL, CooperativeEnv, can_restore, offers_state, ordered_agents, require_one_kind
from rllib_dima.envs.creation import as_multi_agent_env, create_team, wrapper_settings
from rllib_dima.envs.pettingzoo import PettingZooEnv
from rllib_dima.envs.spaces import ContractError, agent_action, box_size

SHORT_EPISODE = 50  # steps of an experiment that needs no whole episode
PATIENCE = 10  # times `steps` before an episode is said not to end
STEPS_BEFORE_SNAPSHOT, STEPS_AFTER_SNAPSHOT = 5, 20


def check_env(
    env_or_creator: Any,
    *,
    env_config: Mapping[str, Any] | None = None,
    episodes: int = 3,
    steps: int = 1000,
    seed: int = 0,
) -> EnvReport:
    """Finds out what is wrong with an environment for DIMA. An environment that fails is reported, never raised.

    Args:
        env_or_creator: what `DIMAConfig().environment()` takes: an id, or a class or function of an `env_config`. Or an
            environment: an RLlib `MultiAgentEnv` or a parallel PettingZoo environment. It is left in mid-episode.
        env_config: as for `DIMAConfig().environment()`; its "team_reward" and "state" are those of `CooperativeEnv`.
        episodes: least number of random episodes to play.
        steps: least number of random steps to play: some faults are rare. Where an episode is longer, the first is
            played for ten times as many.
        seed: of the environment and of the random actions.

    Returns:
        All findings. `print` it, ask it for `.ok`, or call `.raise_if_errors()`.

    Raises:
        TypeError: env_config is no dict.
        ValueError: an unknown team_reward or state, or less than one episode or step.
    """
    if not isinstance(env_config, Mapping | None):
        raise TypeError(f"env_config must be a dict of the environment's settings, or None, but is {env_config!r}.")
    settings = wrapper_settings(env_config or {})
    if min(episodes, steps) < 1:
        raise ValueError(f"episodes and steps must be at least 1, but are {episodes} and {steps}.")
    findings = Findings()
    source = _Source(env_or_creator, env_config or {}, findings)
    env = source.open()
    if env is not None:
        _Inspection(env, source, findings, settings, seed).run(episodes, steps)
        source.close_all()
    return findings.report(source.name)


class _Source:
    """Where the environment comes from.

    Args:
        given: an environment, an id, a class or a function.
        env_config: as for `create_team`.
        findings: where to put what goes wrong.
    """

    def __init__(self, given: Any, env_config: Mapping[str, Any], findings: Findings) -> None:
        self._given, self._env_config, self._findings = given, env_config, findings
        self.is_instance = isinstance(given, (gymnasium.Env, ParallelEnv, AECEnv))
        self.name = given if isinstance(given, str) else getattr(given, "__name__", type(given).__name__)
        self._opened: list[MultiAgentEnv] = []

    def open(self) -> MultiAgentEnv | None:
        """The environment, a new one if it can be made; None if it cannot be had."""
        try:
            env = self._given_team() if self.is_instance else self._create()
        except Exception as error:
            return self._findings.failure("environment", "making the environment", error)
        if not self.is_instance:
            self._opened.append(env)
        if not isinstance(self._given, str):
            self.name = str(env.par_env) if isinstance(env, PettingZooEnv) else type(env.unwrapped).__name__
        return env

    def close_all(self) -> None:
        """Closes what was opened here."""
        for env in self._opened:
            try:
                env.close()
            except Exception as error:
                self._findings.failure("close", "close()", error)

    def _given_team(self) -> MultiAgentEnv:
        return as_multi_agent_env(self._given, self._env_config.get("state") != "observations")

    def _create(self) -> MultiAgentEnv:
        if isinstance(self._given, str):
            rllib_dima.register()  # Ray forgets the ids when it is shut down
            rllib_dima.envs.require_registered(self._given)
        return create_team(self._given, self._env_config)[0]


class _Record(NamedTuple):
    """What a seed should determine of a moment, and when it was."""

    when: str
    values: dict[str, Any]


class _Inspection:
    """The experiments on one environment; what one of them finds does not keep the others from running."""

    def __init__(
        self, env: MultiAgentEnv, source: _Source, findings: Findings, settings: dict[str, Any], seed: int
    ) -> None:
        self.env, self.source, self.findings = env, source, findings
        self.settings, self.seed = settings, seed
        self.has_state = False
        self._guard("state", self._look_at_state)
        self.agents: list = []
        self._guard("agents", self._find_agents)
        self.observation_spaces = {agent: self._space(env.get_observation_space, agent) for agent in self.agents}
        self.action_spaces = {agent: self._space(env.get_action_space, agent) for agent in self.agents}
        self.can_act = bool(self.agents) and all(space is not None for space in self.action_spaces.values())
        self.player = Player(env, findings, self.agents, self.has_state)
        state_space = env.state_space if self.has_state else None
        team_reward = settings.get("team_reward", "shared")
        self.results = ResultChecks(findings, self.agents, self.observation_spaces, state_space, team_reward)

    def run(self, episodes: int, steps: int) -> None:
        """Runs every experiment."""
        self._guard("spaces", self._look_at_spaces)
        self._guard("episodes", lambda: self._play_random(episodes, steps))
        self._guard("episodes", lambda: self._play_extreme(min(steps, SHORT_EPISODE)))
        self._guard("episodes", self.results.finish)
        self._guard("seeding", self._compare_seeds)
        self._guard("restoring", self._restore)
        if not self.findings.has_errors:
            self._guard("training", lambda: self._play_as_in_training(min(steps, SHORT_EPISODE)))

    def _guard(self, check: str, function: Callable[[], None]) -> None:
        try:
            function()
        except Exception as error:
            self.findings.failure(check, f"the check of {check}", error)

    def _find_agents(self) -> None:
        try:
            self.agents = ordered_agents(self.env)
        except ContractError as error:
            self.findings.refusal("agents", error)
            moment = Player(self.env, self.findings, [], self.has_state).reset("the first episode", self.seed)
            self.agents = list(self.env.possible_agents) or list(moment.observations if moment else [])

    def _space(self, space_of: Callable[[Any], gymnasium.Space], agent: Any) -> gymnasium.Space | None:
        """A copy, so that sampling leaves the environment's own random numbers alone; None if there is no space."""
        try:
            space = copy.deepcopy(space_of(agent))
        except Exception:
            return None  # reported by _look_at_spaces
        if space is not None:
            space.seed(self.seed + self.agents.index(agent))
        return space

    def _look_at_spaces(self) -> None:
        actions = {}
        for agent in self.agents:
            try:
                box_size(self.observation_spaces[agent], f"The observation space of agent {agent!r}")
            except ContractError as error:
                kind = type(self.observation_spaces[agent])
                self.findings.refusal("spaces", error, ("observation", kind), owner=f"that of agent {agent!r}")
            try:
                actions[agent] = agent_action(agent, self.action_spaces[agent])
            except ContractError as error:
                kind = type(self.action_spaces[agent])
                self.findings.refusal("spaces", error, ("action", kind), owner=f"that of agent {agent!r}")
        require_one_kind(actions)

    def _look_at_state(self) -> None:
        self.has_state = self.settings.get("state") != "observations" and offers_state(self.env)
        if not self.has_state:
            return
        box_size(self.env.state_space, "state_space")
        if isinstance(self.env, PettingZooEnv) and getattr(self.env.par_env, "state_space", None) is None:
            shape = self.env.state_space.shape
            found = f"it has state() but no state_space; DIMA takes the shape of the first state, {shape}."
            self.findings.warning("state", found, "Add a state_space, a gymnasium.spaces.Box.", "space")

    def _sample(self) -> dict:
        return {agent: space.sample() for agent, space in self.action_spaces.items()}

    def _random_actions(self, steps: int) -> Iterator[dict]:
        """None at all, where a space to draw from is missing."""
        return (self._sample() for _ in range(steps if self.can_act else 0))

    def _play_random(self, episodes: int, steps: int) -> None:
        """Plays on where nothing ends, since some faults show only near the end; but only once."""
        num_steps, longest = 0, PATIENCE * steps
        for episode in itertools.count():
            label = f"episode {episode + 1}"
            length, is_over = self._play_episode(label, longest, self.seed + episode)
            num_steps += length
            if length == PATIENCE * steps and not is_over:
                self._warn_of_no_end(label, length)
                longest = steps
            if length < 1 or (episode + 1 >= episodes and num_steps >= steps):
                return

    def _play_episode(self, label: str, steps: int, seed: int) -> tuple[int, bool]:
        """Plays random actions; returns how many steps there were, and whether no further one may follow."""
        moment, count = None, 0
        for moment in self.player.play(label, self._random_actions(steps), seed):
            self.results.see(moment)
            count += 1
        return count - 1, moment is not None and moment.is_last(self.agents)

    def _warn_of_no_end(self, label: str, steps: int) -> None:
        found = f"{label} went on for {steps} steps without an end. What happens only later was not checked."
        advice = (
            "Truncate episodes after a fixed number of steps: returns are of whole episodes, and an evaluation waits "
            "for them. If they are longer, give check_env more steps."
        )
        self.findings.warning("episode end", found, advice, "never")

    def _play_extreme(self, steps: int) -> None:
        kinds = {"lowest": [False], "highest": [True], "alternately lowest and highest": [False, True]}
        for kind, highest in kinds.items() if self.can_act else ():
            actions = (self._extreme(highest[step % len(highest)]) for step in range(steps))
            for moment in self.player.play(f"an episode of the {kind} actions", actions, self.seed):
                self.results.see(moment)

    def _extreme(self, highest: bool) -> dict:
        return {agent: _bound(space, highest) for agent, space in self.action_spaces.items()}

    def _compare_seeds(self) -> None:
        actions = list(self._random_actions(SHORT_EPISODE))
        first, second = (self._record(self.player.play("a seeded episode", actions, self.seed)) for _ in range(2))
        difference = _first_difference(first, second)
        if difference is not None:
            found = f"two episodes with the same seed and the same actions differ: {difference}."
            advice = (
                "Draw all random numbers from one generator that reset() seeds: call super().reset(seed=seed) and draw "
                "from self.np_random. Reset everything else that a step depends on."
            )
            self.findings.warning("seeding", found, advice)
        elif first:
            self._vary_seeds(first[0].values)

    def _vary_seeds(self, start: dict) -> None:
        """Whether other seeds, and none, start other episodes."""
        seeds = [self.seed + 1, self.seed + 2, self.seed + 3]
        others = [self._start(seed) for seed in seeds]
        if all(_same(start, other) for other in others):
            found = f"every episode starts alike, with seeds {[self.seed, *seeds]}."
            advice = "Nothing, if the task is like that. Else draw the start from a generator that reset() seeds."
            self.findings.warning("seeding", found, advice, "start")
        elif _same(self._start(None), self._start(None)):
            found = "reset() without a seed starts the same episode every time."
            advice = "Make a new generator only if seed is not None; RLlib gives a seed to the first reset only."
            self.findings.warning("seeding", found, advice, "unseeded")

    def _start(self, seed: int | None) -> dict:
        moment = self.player.reset("an episode", seed)
        return {} if moment is None else moment.values()

    def _restore(self) -> None:
        """Whether an environment that is set to an earlier state, a new one if possible, goes on as the first did."""
        if not can_restore(self.env):
            self._look_for_half_a_snapshot()
            return
        moments = list(self.player.play("an episode to save", self._random_actions(STEPS_BEFORE_SNAPSHOT), self.seed))
        if not moments:
            return
        if len(moments) <= STEPS_BEFORE_SNAPSHOT or moments[-1].is_last(self.agents):
            self.player.reset("an episode to save", self.seed)
        actions = list(self._random_actions(STEPS_AFTER_SNAPSHOT))
        snapshot = self.env.get_state()
        pickle.dumps(snapshot)
        first = self._future(self.player, actions)
        other = self.env if self.source.is_instance else self.source.open()
        other.set_state(snapshot)
        player = Player(other, self.findings, self.agents, self.has_state)
        difference = _first_difference(first, self._future(player, actions))
        if difference is not None and not player.has_failed:
            found = f"after set_state(get_state()), the same actions have other results: {difference}."
            advice = (
                "Let get_state() copy everything that the future depends on: simulator, random generator, step "
                "counter, the last actions."
            )
            self.findings.error("restoring", found, advice)

    def _look_for_half_a_snapshot(self) -> None:
        names = ("get_state", "set_state")
        given = [name for name in names if callable(getattr(self.env, name, None))]
        if len(given) == 1:
            missing = next(name for name in names if name not in given)
            found = f"it has {given[0]}() but no {missing}(), so that checkpoints cannot hold a running episode."
            self.findings.warning("restoring", found, f"Add {missing}(), or remove {given[0]}().")

    def _future(self, player: Player, actions: list[dict]) -> list[_Record]:
        """The rest of the episode, and how the next one starts."""
        moments = self._record(player.go_on("the episode that goes on", actions))
        start = player.reset("the episode after it", None)
        return moments if start is None else [*moments, *self._record([start])]

    def _record(self, moments: Iterable[Moment]) -> list[_Record]:
        return [_Record(moment.when, moment.values()) for moment in moments]

    def _play_as_in_training(self, steps: int) -> None:
        """A last look through the wrapper that training uses."""
        env = CooperativeEnv(self.env, **self.settings)
        env.reset(seed=self.seed)
        spaces = {agent: _unit_space(env, index, self.seed) for index, agent in enumerate(env.agents)}
        for _ in range(steps):
            *_, terminateds, truncateds, _ = env.step({agent: space.sample() for agent, space in spaces.items()})
            if terminateds[ALL] or truncateds[ALL]:
                return


def _unit_space(env: CooperativeEnv, index: int, seed: int) -> gymnasium.Space:
    """What an agent may do of the actions that all agents share."""
    size = env.layout.action_sizes[index]
    return Discrete(size, seed) if env.layout.is_discrete else Box(-1.0, 1.0, (env.layout.action_size,), seed=seed)


def _bound(space: gymnasium.Space, highest: bool) -> Any:
    """The lowest or highest action, or a random one where there is none."""
    if isinstance(space, Discrete):
        return int(space.start + (space.n - 1 if highest else 0))
    if isinstance(space, Box) and space.is_bounded():
        return (space.high if highest else space.low).copy()
    return space.sample()


def _first_difference(first: list[_Record], second: list[_Record]) -> str | None:
    """Where two records of an episode differ first, in words."""
    for one, other in zip(first, second, strict=False):
        different = [name for name in one.values if not _same(one.values[name], other.values[name])]
        if different:
            return f"{' and '.join(different)}, {one.when}"
    return None if len(first) == len(second) else f"one is {abs(len(first) - len(second))} steps longer"


def _same(first: Any, second: Any) -> bool:
    """Whether two values are identical, dicts by key and arrays bit by bit."""
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        return first.keys() == second.keys() and all(_same(first[key], second[key]) for key in first)
    if isinstance(first, (tuple, list)) and isinstance(second, (tuple, list)):
        return len(first) == len(second) and all(map(_same, first, second))
    one, other = np.asarray(first), np.asarray(second)
    if object in (one.dtype, other.dtype):
        return bool(np.all(first == second))
    return one.shape == other.shape and one.dtype == other.dtype and one.tobytes() == other.tobytes()
