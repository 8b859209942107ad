"""`check_env`: everything that keeps DIMA from training on an environment, in one call.

    print(check_env(MyEnv))                                # before the first training run
    check_env(MyEnv, env_config={...}).raise_if_errors()   # in the environment's own tests

It plays short episodes of random and of extreme actions on the environment itself, without `CooperativeEnv`, which
would stop at the first breach of its contract. `results` holds what is asked of every single reset and step, and this
file holds the experiments.

Of PettingZoo's tests it runs `parallel_api_test`. Its `parallel_seed_test` compares one step only and needs two
environments, and its `state_test` needs the turn-based form and warns of every unbounded state.
"""

from __future__ import annotations

import contextlib
import copy
import io
import itertools
import pickle
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from pettingzoo import AECEnv, ParallelEnv
from pettingzoo.test import parallel_api_test
from ray.rllib.env.multi_agent_env import MultiAgentEnv

import rllib_dima
from rllib_dima.envs.check.report import EnvReport, Findings
from rllib_dima.envs.check.results import Moment, ResultChecks
from rllib_dima.envs.cooperative import (
    ALL,
    LEAVE_STATE_OUT,
    CooperativeEnv,
    SimulationError,
    can_restore,
    offers_state,
    ordered_agents,
    require_one_kind,
)
from rllib_dima.envs.creation import as_multi_agent_env, create_team, wrapper_settings
from rllib_dima.envs.pettingzoo import PettingZooEnv
from rllib_dima.envs.spaces import agent_action, box_size

SHORT_EPISODE = 50  # steps of an experiment that needs no whole episode
PATIENCE = 10  # times `steps` before an episode is said not to end
STEPS_BEFORE_SNAPSHOT, STEPS_AFTER_SNAPSHOT = 5, 20
RESULTS = {"reset": ("observations", "infos")}
RESULTS["step"] = ("observations", "rewards", "terminated flags", "truncated flags", "infos")


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
    findings, source = Findings(), _Source(env_or_creator, env_config or {})
    with findings.guard("environment", "making the environment"):
        source.open()
    if source.opened:
        _Inspection(source, findings, settings, seed).run(episodes, steps)
    for env in source.opened if not source.is_instance else ():
        with findings.guard("close", "close()"):
            env.close()
    return findings.report(source.name)


class _Source:
    """Where the environment comes from: an environment, an id, a class or a function, and its `env_config`."""

    def __init__(self, given: Any, env_config: Mapping[str, Any]) -> None:
        self._given, self._env_config = given, env_config
        self.is_instance = isinstance(given, (gymnasium.Env, ParallelEnv, AECEnv))
        self.opened: list[MultiAgentEnv] = []

    def open(self) -> MultiAgentEnv:
        """The environment, a new one if it can be made."""
        if self.is_instance:
            env = as_multi_agent_env(self._given, self._env_config.get("state") != "observations")
        else:
            if isinstance(self._given, str):
                rllib_dima.register()  # Ray forgets the ids when it is shut down
                rllib_dima.envs.require_registered(self._given)
            env = create_team(self._given, self._env_config)[0]
        self.opened.append(env)
        return env

    @property
    def name(self) -> str:
        """What to call it in the report."""
        if isinstance(self._given, str):
            return self._given
        if not self.opened:
            return getattr(self._given, "__name__", type(self._given).__name__)
        env = self.opened[0]
        return str(env.par_env) if isinstance(env, PettingZooEnv) else type(env.unwrapped).__name__


class _Player:
    """Resets and steps one environment; what goes wrong becomes a finding.

    Attributes:
        has_failed: whether something went wrong.
    """

    def __init__(self, env: MultiAgentEnv, findings: Findings, agents: list, has_state: bool) -> None:
        self.env, self._findings = env, findings
        self._agents, self._has_state = agents, has_state
        self.has_failed = False

    def reset(self, label: str, seed: int | None) -> Moment | None:
        """The first moment of an episode, or None if there is none."""
        when, what = f"after reset(seed={seed}) of {label}", f"reset(seed={seed}, options=None)"
        return self._moment("reset", when, what, lambda: self.env.reset(seed=seed, options=None))

    def play(self, label: str, actions: Iterable[dict], seed: int | None) -> Iterator[Moment]:
        """A new episode, until it ends, fails or has no more actions."""
        moment = self.reset(label, seed)
        if moment is not None:
            yield moment
            yield from self.go_on(label, actions)

    def go_on(self, label: str, actions: Iterable[dict]) -> Iterator[Moment]:
        """The episode that runs, until it ends, fails or has no more actions."""
        for number, joint_action in enumerate(actions, start=1):
            when, given = f"in step {number} of {label}", copy.deepcopy(joint_action)
            moment = self._moment("step", when, f"step(), {when},", lambda given=given: self.env.step(given))
            if moment is None:
                return
            yield moment
            if moment.is_last(self._agents):
                return

    def _moment(self, method: str, when: str, what: str, call: Callable[[], Any]) -> Moment | None:
        with self._findings.guard(method, what):
            try:
                results = self._named(method, when, call())
            except SimulationError as error:
                if method == "reset":
                    raise
                results = self._broken(when, error)
            if results is not None:
                infos = results.pop("infos") or {}
                self._last = Moment(when, results, infos)
                return self._last
        self.has_failed = True
        return None

    def _named(self, method: str, when: str, results: Any) -> dict[str, Any] | None:
        """Results by name, if all are there; RLlib allows None for infos, which are the last."""
        names, given = RESULTS[method], results if isinstance(results, tuple) else (results,)
        dicts = [isinstance(result, Mapping) for result in given]
        if len(given) == len(names) and all(dicts[:-1]) and (dicts[-1] or given[-1] is None):
            return dict(zip(names, given, strict=True)) | self._state(when)
        found = f"{when}, it returned {[type(result).__name__ for result in given]}, not {len(names)} dicts in a tuple."
        self._findings.add("error", method, found, f"Return ({', '.join(names)}), each of them a dict by agent.")
        return None

    def _broken(self, when: str, error: SimulationError) -> dict[str, Any]:
        """The results before once more, as the end of the episode: so does training."""
        found = f"{when}, the simulator broke down: {error}"
        advice = "Training truncates such an episode, learns nothing from this step, and stops if it happens often."
        self._findings.add("warning", "simulation", found, advice)
        nothing, over = (dict.fromkeys([*self._agents, ALL], flag) for flag in (False, True))
        news = {"rewards": dict.fromkeys(self._agents, 0.0), "terminated flags": nothing, "truncated flags": over}
        return {**self._last.results, **news, "infos": self._last.infos}

    def _state(self, when: str) -> dict[str, Any]:
        if self._has_state:
            self._has_state = False
            with self._findings.guard("state", f"state(), {when},", LEAVE_STATE_OUT):
                state = self.env.state()
                self._has_state = True
                return {"state": state}
            self.has_failed = True
        return {}


class _Inspection:
    """The experiments on one environment; what one of them finds does not keep the others from running."""

    def __init__(self, source: _Source, findings: Findings, settings: dict[str, Any], seed: int) -> None:
        self.source, self.findings, self.settings, self.seed = source, findings, settings, seed
        self.env = env = source.opened[0]
        self.has_state = False
        with findings.guard("state"):
            self.has_state = settings.get("state") != "observations" and offers_state(env)
        self.agents: list = []
        with findings.guard("agents"):
            self.agents = ordered_agents(env)
        if not self.agents:
            with findings.guard("reset", "reset()"):
                self.agents = list(env.possible_agents) or list(env.reset(seed=seed)[0])
        self.observation_spaces = {agent: self._space(env.get_observation_space, agent) for agent in self.agents}
        self.action_spaces = {agent: self._space(env.get_action_space, agent) for agent in self.agents}
        self.player = _Player(env, findings, self.agents, self.has_state)
        state_space = {"state": env.state_space} if self.has_state else {}
        spaces = {"observations": self.observation_spaces, **state_space}
        self.results = ResultChecks(findings, self.agents, spaces, settings.get("team_reward", "shared"))

    def _space(self, space_of: Callable[[Any], gymnasium.Space], agent: Any) -> gymnasium.Space | None:
        """A copy, so that sampling leaves the environment's own random numbers alone; None if there is no space."""
        try:
            space = copy.deepcopy(space_of(agent))
        except Exception:
            return None  # reported by _look_at_spaces
        if space is not None:
            space.seed(self.seed + self.agents.index(agent))
        return space

    def run(self, episodes: int, steps: int) -> None:
        """Runs every experiment."""
        short = min(steps, SHORT_EPISODE)
        for check, experiment in (
            ("spaces", self._look_at_spaces),
            ("state", self._look_at_state),
            ("episodes", lambda: self._play_random(episodes, steps)),
            ("episodes", lambda: self._play_extreme(short)),
            ("episodes", self.results.finish),
            ("seeding", self._compare_seeds),
            ("restoring", self._restore),
            ("training", lambda: self._play_as_in_training(short)),
        ):
            with self.findings.guard(check):
                experiment()

    def _look_at_spaces(self) -> None:
        actions = {}
        for agent in self.agents:
            owner = f"that of agent {agent!r}"
            with self.findings.guard("spaces", owner=owner, subject="observation"):
                box_size(self.observation_spaces[agent], f"The observation space of agent {agent!r}")
            with self.findings.guard("spaces", owner=owner, subject="action"):
                actions[agent] = agent_action(agent, self.action_spaces[agent])
        require_one_kind(actions)

    def _look_at_state(self) -> None:
        if not self.has_state:
            return
        box_size(self.env.state_space, "state_space")
        if isinstance(self.env, PettingZooEnv) and getattr(self.env.par_env, "state_space", None) is None:
            shape = self.env.state_space.shape
            found = f"it has state() but no state_space; DIMA takes the shape of the first state, {shape}."
            self.findings.add("warning", "state", found, "Add a state_space, a gymnasium.spaces.Box.")

    def _actions(self, steps: int, draw: Callable[[gymnasium.Space, int], Any]) -> Iterator[dict]:
        """Joint actions, `draw(space, step)` of every agent; none at all, where a space to draw from is missing."""
        can_act = self.agents and None not in self.action_spaces.values()
        for step in range(steps if can_act else 0):
            yield {agent: draw(space, step) for agent, space in self.action_spaces.items()}

    def _random_actions(self, steps: int) -> Iterator[dict]:
        return self._actions(steps, lambda space, step: space.sample())

    def _watch(self, label: str, actions: Iterable[dict], seed: int) -> tuple[int, bool]:
        """Plays an episode; returns how many steps there were, and whether no further one may follow."""
        moment, count = None, 0
        for moment in self.player.play(label, actions, seed):
            self.results.see(moment)
            count += 1
        return count - 1, moment is not None and moment.is_last(self.agents)

    def _play_random(self, episodes: int, steps: int) -> None:
        """Plays on where nothing ends, since some faults show only near the end; but only once."""
        num_steps, longest = 0, PATIENCE * steps
        for episode in itertools.count(1):
            label = f"episode {episode}"
            length, is_over = self._watch(label, self._random_actions(longest), self.seed + episode - 1)
            num_steps += length
            if length == longest and not is_over:
                found = f"{label} went on for {length} steps without an end. What happens only later was not checked."
                self.findings.add("warning", "episode end", found, _NO_END)
                longest = steps
            if length < 1 or (episode >= episodes and num_steps >= steps):
                return

    def _play_extreme(self, steps: int) -> None:
        kinds = {"lowest": [False], "highest": [True], "alternately lowest and highest": [False, True]}
        for kind, highest in kinds.items():
            actions = self._actions(steps, lambda space, step, h=highest: _bound(space, h[step % len(h)]))
            self._watch(f"an episode of the {kind} actions", actions, self.seed)

    def _compare_seeds(self) -> None:
        actions = list(self._random_actions(SHORT_EPISODE))
        first, second = (list(self.player.play("a seeded episode", actions, self.seed)) for _ in range(2))
        difference = _first_difference(first, second)
        if difference is not None:
            found = f"two episodes with the same seed and the same actions differ: {difference}."
            self.findings.add("warning", "seeding", found, _ONE_GENERATOR)
        elif first:
            self._vary_seeds(first[0])

    def _vary_seeds(self, start: Moment) -> None:
        """Whether other seeds, and none, start other episodes."""
        seeds = [self.seed + 1, self.seed + 2, self.seed + 3]
        starts = [list(self.player.play("an episode", [], seed)) for seed in [*seeds, None, None]]
        *others, unseeded, again = starts
        if not any(_first_difference([start], other) for other in others):
            found = f"every episode starts alike, with seeds {[self.seed, *seeds]}."
            advice = "Nothing, if the task is like that. Else draw the start from a generator that reset() seeds."
            self.findings.add("warning", "seeding", found, advice)
        elif not _first_difference(unseeded, again):
            found = "reset() without a seed starts the same episode every time."
            advice = "Make a new generator only if seed is not None; RLlib gives a seed to the first reset only."
            self.findings.add("warning", "seeding", found, advice)

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
        player = _Player(other, self.findings, self.agents, self.has_state)
        difference = _first_difference(first, self._future(player, actions))
        if difference is not None and not player.has_failed:
            found = f"after set_state(get_state()), the same actions have other results: {difference}."
            self.findings.add("error", "restoring", found, _COPY_EVERYTHING)

    def _look_for_half_a_snapshot(self) -> None:
        given = sorted(("get_state", "set_state"), key=lambda name: not callable(getattr(self.env, name, None)))
        one, other = given
        if callable(getattr(self.env, one, None)) and not callable(getattr(self.env, other, None)):
            found = f"it has {one}() but no {other}(), so that checkpoints cannot hold a running episode."
            self.findings.add("warning", "restoring", found, f"Add {other}(), or remove {one}().")

    def _future(self, player: _Player, actions: list[dict]) -> list[Moment]:
        """The rest of the episode, and how the next one starts."""
        moments = list(player.go_on("the episode that goes on", actions))
        start = player.reset("the episode after it", None)
        return moments if start is None else [*moments, start]

    def _play_as_in_training(self, steps: int) -> None:
        """A last look, if nothing is wrong, through the wrapper that training uses, and with PettingZoo's own test."""
        if self.findings.has_errors:
            return
        env = CooperativeEnv(self.env, **self.settings)
        action = 0 if env.layout.is_discrete else np.zeros(env.layout.action_size)
        env.reset(seed=self.seed)
        for _ in range(steps):
            *_, terminateds, truncateds, _ = env.step(dict.fromkeys(env.agents, action))
            if terminateds[ALL] or truncateds[ALL]:
                break
        if isinstance(self.env, PettingZooEnv) and not self.source.is_instance:
            self._test_with_pettingzoo(self.source.open().par_env)

    def _test_with_pettingzoo(self, par_env: ParallelEnv) -> None:
        """An environment of its own, as the test sets `max_cycles` and draws from the action spaces."""
        with (
            self.findings.guard("pettingzoo", "pettingzoo.test.parallel_api_test", severity="warning"),
            contextlib.redirect_stdout(io.StringIO()),
            warnings.catch_warnings(),
        ):
            warnings.filterwarnings("error", module=r"pettingzoo\.test")
            parallel_api_test(par_env, SHORT_EPISODE)


def _bound(space: gymnasium.Space, highest: bool) -> Any:
    """The lowest or highest action, or a random one where there is none."""
    if isinstance(space, Discrete):
        return int(space.start + (space.n - 1 if highest else 0))
    if isinstance(space, Box) and space.is_bounded():
        return (space.high if highest else space.low).copy()
    return space.sample()


def _first_difference(first: list[Moment], second: list[Moment]) -> str | None:
    """Where two records of an episode differ first, in words."""
    for one, other in zip(first, second, strict=False):
        different = [name for name, value in one.copies.items() if not _same(value, other.copies.get(name))]
        if different:
            return f"{' and '.join(different)}, {one.when}"
    return None if len(first) == len(second) else f"one is {abs(len(first) - len(second))} steps longer"


def _same(first: Any, second: Any) -> bool:
    """Whether two values are equal, dicts and lists by entry, NaN like any number."""
    try:
        np.testing.assert_equal(first, second)
    except AssertionError:
        return False
    return True


_NO_END = (
    "Truncate episodes after a fixed number of steps: returns are of whole episodes, and an evaluation waits for them. "
    "If they are longer, give check_env more steps."
)
_ONE_GENERATOR = (
    "Draw all random numbers from one generator that reset() seeds: call super().reset(seed=seed) and draw from "
    "self.np_random. Reset everything else that a step depends on."
)
_COPY_EVERYTHING = (
    "Let get_state() copy everything that the future depends on: simulator, random generator, step counter, the last "
    "actions."
)
