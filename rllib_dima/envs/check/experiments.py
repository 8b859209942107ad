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

import rllib_dima
from rllib_dima.envs.check.report import EnvReport, Finding
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
RESULTS = {
    "reset": ("observations", "infos"),
    "step": ("observations", "rewards", "terminated flags", "truncated flags", "infos"),
}


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
    report, source = EnvReport(), _Source(env_or_creator, env_config or {})
    with report.guard("environment"):
        source.open()
    if source.opened:
        _Inspection(source, report, settings, seed).run(episodes, steps)
    for env in source.opened if not source.is_instance else ():
        with report.guard("close", "close()"):
            env.close()
    report.env_name = source.name
    return report


class _Source:
    """Where the environment comes from: an environment, an id, a class or a function, and its `env_config`."""

    def __init__(self, given: Any, env_config: Mapping[str, Any]) -> None:
        self._given, self._env_config = given, env_config
        self.is_instance = isinstance(given, (gymnasium.Env, ParallelEnv, AECEnv))
        self.name = given if isinstance(given, str) else getattr(given, "__name__", type(given).__name__)
        self.opened: list[Any] = []

    def open(self) -> Any:
        """The environment, a new one if it can be made."""
        if isinstance(self._given, str):
            rllib_dima.register()  # Ray forgets the ids when it is shut down
            rllib_dima.envs.require_registered(self._given)
        if self.is_instance:
            env = as_multi_agent_env(self._given, self._env_config.get("state") != "observations")
        else:
            env = create_team(self._given, self._env_config)[0]
        if not isinstance(self._given, str):
            self.name = str(env.par_env) if isinstance(env, PettingZooEnv) else type(env.unwrapped).__name__
        self.opened.append(env)
        return env


class _Player:
    """Resets and steps an environment; what goes wrong becomes a finding."""

    def __init__(self, env: Any, report: EnvReport, agents: list, has_state: bool) -> None:
        self.env, self._report, self._agents, self._has_state = env, report, agents, has_state

    def play(self, label: str, actions: Iterable[dict], seed: int | None) -> Iterator[Moment]:
        """A new episode, until it ends, fails or has no more actions."""
        self._moment = None
        call = f"reset(seed={seed}, options=None)"
        with self._report.guard("reset", call):
            self._moment = self._returned("reset", f"after {call} of {label}", self.env.reset(seed=seed, options=None))
        if self._moment is not None:
            yield self._moment
            yield from self.go_on(label, actions)

    def go_on(self, label: str, actions: Iterable[dict]) -> Iterator[Moment]:
        """The episode that runs, until it ends, fails or has no more actions."""
        for number, joint_action in enumerate(actions, start=1):
            self._moment = self._step(f"in step {number} of {label}", joint_action)
            if self._moment is None:
                return
            yield self._moment
            if self._moment.is_last(self._agents):
                return

    def _step(self, when: str, joint_action: dict) -> Moment | None:
        with self._report.guard("step", f"step(), {when},"):
            try:
                return self._returned("step", when, self.env.step(copy.deepcopy(joint_action)))
            except SimulationError as error:
                self._report.add(
                    Finding("warning", "simulation", f"{when}, the simulator broke down: {error}", _BROKEN)
                )
                rewards, nothing = dict.fromkeys(self._agents, 0.0), dict.fromkeys([*self._agents, ALL], False)
                results = rewards, nothing, dict.fromkeys(nothing, True)  # the end of the episode, as in training
                news = dict(zip(RESULTS["step"][1:-1], results, strict=True))
                return Moment(when, {**self._moment.results, **news}, self._moment.infos)

    def _returned(self, method: str, when: str, given: Any) -> Moment | None:
        """What a method returned, if all of it is there; RLlib allows None for infos, which are the last."""
        names, given = RESULTS[method], given if isinstance(given, tuple) else (given,)
        dicts = [isinstance(result, Mapping) for result in given]
        if len(given) == len(names) and all(dicts[:-1]) and (dicts[-1] or given[-1] is None):
            *results, infos = given
            return Moment(when, dict(zip(names, results, strict=False)) | self._state(when), infos or {})
        found = f"{when}, it returned {[type(one).__name__ for one in given]}, not {len(names)} dicts in a tuple."
        advice = f"Return ({', '.join(names)}), each of them a dict by agent."
        return self._report.add(Finding("error", method, found, advice))

    def _state(self, when: str) -> dict[str, Any]:
        state = {}
        if self._has_state:
            with self._report.guard("state", f"state(), {when},", or_else=LEAVE_STATE_OUT):
                state["state"] = self.env.state()
        return state


class _Inspection:
    """The experiments on one environment; what one of them finds does not keep the others from running."""

    def __init__(self, source: _Source, report: EnvReport, settings: dict[str, Any], seed: int) -> None:
        self.source, self.report, self.settings, self.seed = source, report, settings, seed
        self.env = env = source.opened[0]
        self.has_state = False
        with report.guard("state"):
            self.has_state = settings.get("state") != "observations" and offers_state(env)
        self.agents = list(env.possible_agents)
        with report.guard("agents"):
            self.agents = ordered_agents(env)
        self.observation_spaces, self.action_spaces = map(
            self._spaces, (env.get_observation_space, env.get_action_space)
        )
        self.player = _Player(env, report, self.agents, self.has_state)
        spaces = {"observations": self.observation_spaces, **({"state": env.state_space} if self.has_state else {})}
        self.results = ResultChecks(report, self.agents, spaces, settings.get("team_reward", "shared"))

    def _spaces(self, space_of: Callable[[Any], gymnasium.Space]) -> dict[Any, gymnasium.Space | None]:
        """Copies, so that sampling leaves the environment's own random numbers alone; None where there is no space."""
        spaces = {}
        for index, agent in enumerate(self.agents):
            with contextlib.suppress(Exception):  # reported by _look_at_spaces
                spaces[agent] = copy.deepcopy(space_of(agent))
                spaces[agent].seed(self.seed + index)
        return {agent: spaces.get(agent) for agent in self.agents}

    def run(self, episodes: int, steps: int) -> None:
        """Runs every experiment."""
        experiments = (
            ("spaces", self._look_at_spaces),
            ("state", self._look_at_state),
            ("episodes", lambda: self._play_random(episodes, steps)),
            ("episodes", lambda: self._play_extreme(min(steps, SHORT_EPISODE))),
            ("episodes", self.results.finish),
            ("seeding", self._compare_seeds),
            ("restoring", self._restore),
            ("training", self._prepare_training),
        )
        for check, experiment in experiments if self.agents else ():
            with self.report.guard(check):
                experiment()

    def _warn(self, check: str, found: str, advice: str) -> None:
        self.report.add(Finding("warning", check, found, advice))

    def _look_at_spaces(self) -> None:
        actions = {}
        for agent in self.agents:
            owner = f"that of agent {agent!r}"
            with self.report.guard("spaces", owner=owner, subject="observation"):
                box_size(self.observation_spaces[agent], f"The observation space of agent {agent!r}")
            with self.report.guard("spaces", owner=owner, subject="action"):
                actions[agent] = agent_action(agent, self.action_spaces[agent])
        require_one_kind(actions)

    def _look_at_state(self) -> None:
        if self.has_state:
            box_size(self.env.state_space, "state_space")
            if isinstance(self.env, PettingZooEnv) and getattr(self.env.par_env, "state_space", None) is None:
                found = "it has state() but no state_space; DIMA takes the shape of the first state, "
                self._warn(
                    "state", f"{found}{self.env.state_space.shape}.", "Add a state_space, a gymnasium.spaces.Box."
                )

    def _actions(self, steps: int, draw: Callable[[Any, int], Any]) -> Iterator[dict]:
        """Joint actions, `draw(space, step)` of every agent; none at all, where a space to draw from is missing."""
        can_act = None not in self.action_spaces.values()
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
                self._warn("episode end", found, _NO_END)
                longest = steps
            if length < 1 or (episode >= episodes and num_steps >= steps):
                return

    def _play_extreme(self, steps: int) -> None:
        kinds = {"lowest": [False], "highest": [True], "alternately lowest and highest": [False, True]}
        for kind, highest in kinds.items():
            actions = self._actions(steps, lambda space, step, h=highest: _bound(space, h[step % len(h)]))
            self._watch(f"an episode of the {kind} actions", actions, self.seed)

    def _record(self, label: str, seed: int | None, actions: Iterable[dict] = ()) -> list[Moment]:
        return list(self.player.play(label, actions, seed))

    def _compare_seeds(self) -> None:
        actions = list(self._random_actions(SHORT_EPISODE))
        first, second = (self._record("a seeded episode", self.seed, actions) for _ in range(2))
        seeds = [self.seed + 1, self.seed + 2, self.seed + 3]
        *others, unseeded, again = (self._record("an episode", seed) for seed in [*seeds, None, None])
        if difference := _first_difference(first, second):
            found = f"two episodes with the same seed and the same actions differ: {difference}."
            self._warn("seeding", found, _ONE_GENERATOR)
        elif first and not any(_first_difference(first[:1], other) for other in others):
            found = f"every episode starts alike, with seeds {[self.seed, *seeds]}."
            self._warn("seeding", found, _ONE_START)
        elif unseeded and not _first_difference(unseeded, again):
            found = "reset() without a seed starts the same episode every time."
            self._warn("seeding", found, _ONE_SEED)

    def _restore(self) -> None:
        """Whether an environment that is set to an earlier state, a new one if possible, goes on as the first did."""
        if not can_restore(self.env):
            return self._look_for_half_a_snapshot()
        label = "an episode to save"
        moments = self._record(label, self.seed, self._random_actions(STEPS_BEFORE_SNAPSHOT))
        if len(moments) <= STEPS_BEFORE_SNAPSHOT or moments[-1].is_last(self.agents):
            moments = self._record(label, self.seed)
        if not moments:
            return None
        actions = list(self._random_actions(STEPS_AFTER_SNAPSHOT))
        snapshot = self.env.get_state()
        pickle.dumps(snapshot)
        first = self._future(actions)
        self.player.env = self.env if self.source.is_instance else self.source.open()
        self.player.env.set_state(snapshot)
        if difference := _first_difference(first, self._future(actions)):
            found = f"after set_state(get_state()), the same actions have other results: {difference}."
            self.report.add(Finding("error", "restoring", found, _COPY_EVERYTHING))
        return None

    def _look_for_half_a_snapshot(self) -> None:
        has = {name: callable(getattr(self.env, name, None)) for name in ("get_state", "set_state")}
        if sum(has.values()) == 1:
            one, other = sorted(has, key=lambda name: not has[name])
            found = f"it has {one}() but no {other}(), so that checkpoints cannot hold a running episode."
            self._warn("restoring", found, f"Add {other}(), or remove {one}().")

    def _future(self, actions: list[dict]) -> list[Moment]:
        """The rest of the episode, and how the next one starts."""
        rest = list(self.player.go_on("the episode that goes on", actions))
        return rest + self._record("the episode after it", None)

    def _prepare_training(self) -> None:
        """A last look, if nothing is wrong, through the wrapper that training uses, and with PettingZoo's own test."""
        if not self.report.ok:
            return
        CooperativeEnv(self.env, **self.settings).reset(seed=self.seed)
        if isinstance(self.env, PettingZooEnv) and not self.source.is_instance:
            self._test_with_pettingzoo(self.source.open().par_env)

    def _test_with_pettingzoo(self, par_env: ParallelEnv) -> None:
        """An environment of its own, as the test sets `max_cycles` and draws from the action spaces."""
        with (
            self.report.guard("pettingzoo", "pettingzoo.test.parallel_api_test", severity="warning"),
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


_BROKEN = "Training truncates such an episode, learns nothing from this step, and stops if it happens often."
_ONE_START = "Nothing, if the task is like that. Else draw the start from a generator that reset() seeds."
_ONE_SEED = "Make a new generator only if seed is not None; RLlib gives a seed to the first reset only."
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
