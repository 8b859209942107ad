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
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from pettingzoo import AECEnv, ParallelEnv
from pettingzoo.test import parallel_api_test

import rllib_dima
from rllib_dima.envs.adapter import can_restore
from rllib_dima.envs.check.report import EnvReport, listing
from rllib_dima.envs.check.results import STATE, Moment, ResultChecks, by_agent
from rllib_dima.envs.cooperative import (
    LEAVE_STATE_OUT,
    CooperativeEnv,
    declared,
    offers_state,
    ordered_agents,
    refuse_unread_masks,
)
from rllib_dima.envs.creation import as_multi_agent_env, create_team, wrapper_settings
from rllib_dima.envs.masks import ActionMasks
from rllib_dima.envs.observations import ObservationReader
from rllib_dima.envs.outcomes import SimulationError
from rllib_dima.envs.pettingzoo import PettingZooEnv
from rllib_dima.envs.spaces import MultiDiscreteAction, agent_action, box_size, team_actions
from rllib_dima.envs.team import ALL

SHORT_EPISODE = 50  # steps of an experiment that needs no whole episode
PATIENCE = 10  # times `steps` before an episode is said not to end
STEPS_BEFORE_SNAPSHOT, STEPS_AFTER_SNAPSHOT = 5, 20
EXTREMES = {"lowest": [False, False], "highest": [True, True], "alternately lowest and highest": [False, True]}
RESULTS = {
    "reset": ["observations", "infos"],
    "step": ["observations", "rewards", "terminated flags", "truncated flags", "infos"],
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
            environment: an RLlib `MultiAgentEnv`, a parallel PettingZoo or a gymnasium one of several agents. It is
            left in mid-episode.
        env_config: as for `DIMAConfig().environment()`; its "team_reward", "state", "agents_leave" and "action_masks"
            are those of `CooperativeEnv`.
        episodes: least number of random episodes to play.
        steps: least number of random steps to play: some faults are rare. Where an episode is longer, the first is
            played for ten times as many.
        seed: of the environment and of the random actions.

    Returns:
        All findings. `print` it, ask it for `.ok`, or call `.raise_if_errors()`.

    Raises:
        TypeError: env_config is no dict.
        ValueError: an unknown value of one of these, or less than one episode or step.
    """
    if not isinstance(env_config, Mapping | None):
        raise TypeError(f"env_config must be a dict of the environment's settings, or None, but is {env_config!r}.")
    settings = wrapper_settings(env_config or {})
    if min(episodes, steps) < 1:
        raise ValueError(f"episodes and steps must be at least 1, but are {episodes} and {steps}.")
    inspection = _Inspection(env_or_creator, env_config or {}, settings, seed)
    inspection.run(episodes, steps)
    return inspection.report


class _Inspection:
    """The experiments on one environment; what one of them finds does not keep the others from running."""

    def __init__(self, given: Any, env_config: Mapping[str, Any], settings: dict[str, Any], seed: int) -> None:
        self._given, self._env_config, self._settings, self._seed = given, env_config, settings, seed
        self._is_instance = isinstance(given, (gymnasium.Env, ParallelEnv, AECEnv))
        self._opened: list[Any] = []
        self._readers: dict[Any, ObservationReader] = {}
        self._can_act: list[Any] = []
        self._masks: ActionMasks | None = None
        self.report = EnvReport(given if isinstance(given, str) else getattr(given, "__name__", type(given).__name__))

    def run(self, episodes: int, steps: int) -> None:
        """Runs every experiment, and closes what was opened for them."""
        experiments = {
            "episodes": lambda: self._play_episodes(episodes, steps),
            "seeding": self._compare_seeds,
            "restoring": self._restore,
            "training": self._prepare_training,
        }
        with self.report.guard("environment"):
            self._env = self._open()
            self._look_at_team()
            for check, experiment in experiments.items() if self._agents else ():
                with self.report.guard(check):
                    experiment()
        for env in self._opened if not self._is_instance else ():
            with self.report.guard("close", "close()"):
                env.close()

    def _open(self) -> Any:
        """The environment, a new one if it can be made."""
        if self._is_instance:
            env = as_multi_agent_env(self._given, self._settings.get("state") != "observations")
        else:
            rllib_dima.register()  # Ray forgets the ids when it is shut down
            env = create_team(self._given, self._env_config)[0]
        if not isinstance(self._given, str):
            is_pettingzoo = isinstance(env, PettingZooEnv)
            self.report.env_name = str(env.par_env) if is_pettingzoo else type(env.unwrapped).__name__
        self._opened.append(env)
        return env

    def _look_at_team(self) -> None:
        """Agents, spaces, and whether there is a state."""
        self._agents, self._has_state = list(self._env.possible_agents), False
        with self.report.guard("agents"):
            self._agents = ordered_agents(self._env)
        own = {agent: self._space("observation", agent) for agent in self._agents}
        spaces, readers = by_agent(own), by_agent(self._readers)
        self._action_spaces = {agent: self._space("action", agent) for agent in self._agents}
        self._look_at_masks()
        with self.report.guard("state"):
            self._has_state = self._settings.get("state") != "observations" and offers_state(self._env)
            spaces |= self._state_space() if self._has_state else {}
        readers = {name: reader for name, reader in readers.items() if not isinstance(spaces[name], Box)}
        self._agents_leave = declared(self._env, "agents_leave", self._settings.get("agents_leave"), False)
        team_reward = self._settings.get("team_reward", "shared")
        self._results = ResultChecks(self.report, self._agents, spaces, readers, team_reward, self._agents_leave)

    def _look_at_masks(self) -> None:
        """One kind of actions, and where it is told which of them are available."""
        usable = {*self._readers} == {*self._can_act} == {*self._agents}
        with self.report.guard("spaces"):
            if usable:
                actions = team_actions(self._action_spaces)
                source = declared(self._env, "action_masks", self._settings.get("action_masks"), "auto")
                self._masks = ActionMasks(self._env, self._readers, actions, source)

    def _space(self, kind: str, agent: Any) -> gymnasium.Space | None:
        """A copy, so that sampling leaves the environment's own random numbers alone; None where there is no space."""
        space = None
        with contextlib.suppress(Exception):
            space = copy.deepcopy(getattr(self._env, f"get_{kind}_space")(agent))
            space.seed(self._seed + self._agents.index(agent))
        with self.report.guard("spaces", owner=f"the {kind} space of agent {agent!r}"):
            if kind == "action":
                agent_action(agent, space)
                self._can_act.append(agent)
            else:
                self._readers[agent] = ObservationReader(agent, space)
        return space

    def _state_space(self) -> dict[str, gymnasium.Space]:
        size = box_size(self._env.state_space, "state_space")
        if isinstance(self._env, PettingZooEnv) and getattr(self._env.par_env, "state_space", None) is None:
            found = f"it has state() but no state_space; DIMA takes the size of the first state, {size}."
            self.report.add("warning", "state", found, "Add a state_space, a gymnasium.spaces.Box.")
        return {STATE: self._env.state_space}

    def _play(self, label: str, seed: int | None, actions: Iterable[dict] = ()) -> Iterator[Moment]:
        """A new episode, until it ends, fails or has no more actions."""
        when = f"in reset(seed={seed}, options=None) of {label}"
        self._moment = self._ask("reset", when, seed=seed, options=None)
        if self._moment is not None:
            yield self._moment
            yield from self._go_on(label, actions)

    def _go_on(self, label: str, actions: Iterable[dict]) -> Iterator[Moment]:
        """The episode that runs, until it ends, fails or has no more actions."""
        for number, joint_action in enumerate(actions, start=1):
            possible = self._possible(copy.deepcopy(joint_action))
            self._moment = self._ask("step", f"in step {number} of {label}", possible)
            if self._moment is None:
                return
            yield self._moment
            if self._moment.is_last or (not self._agents_leave and self._moment.left):
                return

    def _possible(self, joint_action: dict) -> dict:
        """The actions of those who are there, of a team that agents can leave, each the next one that is available."""
        assert self._moment is not None, "there was a reset"
        alive, masks = self._moment.alive if self._agents_leave else self._agents, self._moment.masks
        return {
            agent: next_available(self._action_spaces[agent], action, masks[agent]) if agent in masks else action
            for agent, action in joint_action.items()
            if agent in alive
        }

    def _ask(self, method: str, when: str, *args: Any, **kwargs: Any) -> Moment | None:
        """What the environment's `reset` or `step` returns, if it can be used."""
        with self.report.guard(method, f"the environment, {when},"):
            try:
                acted = tuple(args[0]) if args else ()
                return self._read(method, when, getattr(self._env, method)(*args, **kwargs), acted)
            except SimulationError as error:
                if method == "reset" or self._moment is None:
                    raise
                self.report.add("warning", "simulation", f"{when}, the simulator broke down: {error}", _BROKEN)
                return replace(self._moment, when=when, rewards=None, truncateds={ALL: True})  # as in training

    def _read(self, method: str, when: str, given: Any, acted: tuple) -> Moment | None:
        names, given = RESULTS[method], given if isinstance(given, tuple) else (given,)
        dicts = [isinstance(result, Mapping) for result in given]
        if len(given) == len(names) and all(dicts[:-1]) and (dicts[-1] or given[-1] is None):  # RLlib allows no infos
            state = {}
            with self.report.guard("state", f"state(), {when},", or_else=LEAVE_STATE_OUT):
                state = {STATE: self._env.state()} if self._has_state else {}
            moment = Moment(when, given[-1] or {}, state, *given[:-1], acted=acted)
            with self.report.guard("actions", when):
                self._read_masks(moment)
            return moment
        found = f"{when}, it returned {[type(one).__name__ for one in given]}, not {len(names)} dicts in a tuple."
        return self.report.add("error", method, found, f"Return ({', '.join(names)}), each of them a dict by agent.")

    def _read_masks(self, moment: Moment) -> None:
        alive = [agent for agent in self._agents if agent in moment.alive]
        if self._masks is not None and self._masks.source:
            moment.masks = self._masks.read(alive, moment.observations, moment.infos, moment.is_last)
        elif all(isinstance(space, Discrete) for space in self._action_spaces.values()):
            refuse_unread_masks(moment.infos)

    def _actions(
        self, steps: int, draw: Callable[[Any, int], Any] = lambda space, step: space.sample()
    ) -> Iterator[dict]:
        """Joint actions, `draw(space, step)` of every agent; none at all, where a space to draw from is missing."""
        can_act = None not in self._action_spaces.values()
        for step in range(steps if can_act else 0):
            yield {agent: draw(space, step) for agent, space in self._action_spaces.items()}

    def _watch(self, label: str, actions: Iterable[dict], seed: int) -> int:
        """Plays an episode that `ResultChecks` sees; returns the number of steps, -1 where it did not begin."""
        num_moments = 0
        for moment in self._play(label, seed, actions):
            self._results.see(moment)
            num_moments += 1
        return num_moments - 1

    def _play_episodes(self, episodes: int, steps: int) -> None:
        """Plays on where nothing ends, as some faults show only near the end, but only once; then extreme actions."""
        num_steps, longest = 0, PATIENCE * steps
        for episode in itertools.count(1):
            label = f"episode {episode}"
            length = self._watch(label, self._actions(longest + 1), self._seed + episode - 1)
            num_steps += length
            if length > longest:
                found = f"{label} went on for {longest} steps without an end. What happens only later was not checked."
                self.report.add("warning", "episode end", found, _NO_END)
                longest = steps
            if length < 1 or (episode >= episodes and num_steps >= steps):
                break
        for kind, highest in EXTREMES.items():
            actions = self._actions(
                min(steps, SHORT_EPISODE), lambda space, step, h=highest: _bound(space, h[step % 2])
            )
            self._watch(f"an episode of the {kind} actions", actions, self._seed)
        self._results.finish()

    def _compare_seeds(self) -> None:
        actions = list(self._actions(SHORT_EPISODE))
        first, second = (list(self._play("a seeded episode", self._seed, actions)) for _ in range(2))
        seeds = [self._seed + 1, self._seed + 2, self._seed + 3]
        *others, unseeded, again = (list(self._play("an episode", seed)) for seed in [*seeds, None, None])
        if difference := _first_difference(first, second):
            found = f"two episodes with the same seed and the same actions differ: {difference}."
            self.report.add("warning", "seeding", found, _ONE_GENERATOR)
        elif first and not any(_first_difference(first[:1], other) for other in others):
            found = f"every episode starts alike, with seeds {[self._seed, *seeds]}."
            self.report.add("warning", "seeding", found, _ONE_START)
        elif unseeded and not _first_difference(unseeded, again):
            found = "reset() without a seed starts the same episode every time."
            self.report.add("warning", "seeding", found, _ONE_SEED)

    def _restore(self) -> None:
        """Whether an environment that is set to an earlier state, a new one if possible, goes on as the first did."""
        methods = [name for name in ("get_state", "set_state") if callable(getattr(self._env, name, None))]
        if len(methods) == 1:
            found = f"it has only {methods[0]}(), so that checkpoints cannot hold a running episode."
            self.report.add("warning", "restoring", found, "Have both get_state() and set_state(), or none of them.")
        if can_restore(self._env):
            label = "an episode to save"
            moments = list(self._play(label, self._seed, self._actions(STEPS_BEFORE_SNAPSHOT)))
            if len(moments) <= STEPS_BEFORE_SNAPSHOT or moments[-1].is_last:
                moments = list(self._play(label, self._seed))
            if moments:
                self._compare_futures(list(self._actions(STEPS_AFTER_SNAPSHOT)))

    def _compare_futures(self, actions: list[dict]) -> None:
        snapshot = self._env.get_state()
        pickle.dumps(snapshot)
        first = self._future(actions)
        self._env = self._env if self._is_instance else self._open()
        self._env.set_state(snapshot)
        if difference := _first_difference(first, self._future(actions)):
            found = f"after set_state(get_state()), the same actions have other results: {difference}."
            self.report.add("error", "restoring", found, _COPY_EVERYTHING)

    def _future(self, actions: list[dict]) -> list[Moment]:
        """The rest of the episode, and how the next one starts."""
        return [*self._go_on("the episode that goes on", actions), *self._play("the episode after it", None)]

    def _prepare_training(self) -> None:
        """A last look, if nothing is wrong, through the wrapper that training uses, and with PettingZoo's own test."""
        if not self.report.ok:
            return
        CooperativeEnv(self._env, **self._settings).reset(seed=self._seed)
        if not isinstance(self._env, PettingZooEnv) or self._is_instance:
            return
        par_env = self._open().par_env  # of its own: the test sets `max_cycles`, and draws from the action spaces
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
    if isinstance(space, MultiDiscrete):
        return (space.start + (space.nvec - 1 if highest else 0)).astype(space.dtype)
    if isinstance(space, MultiBinary):
        return np.full(space.shape, highest, space.dtype)
    if isinstance(space, Box) and space.is_bounded():
        return (space.high if highest else space.low).copy()
    return space.sample()


def next_available(space: Any, action: Any, mask: np.ndarray) -> Any:
    """The action, or of each choice that is unavailable the next one that is not.

    Args:
        space: Discrete, MultiDiscrete or MultiBinary.
        action: of that space.
        mask: (choices,) of all of them.
    """
    start, sizes = getattr(space, "start", 0), MultiDiscreteAction("", space).choices
    numbers = np.reshape(action - start, -1)
    blocks = np.split(np.asarray(mask) > 0, np.cumsum(sizes)[:-1])
    for index, block in enumerate(blocks):
        ahead = np.roll(block, -numbers[index])
        numbers[index] = (numbers[index] + np.argmax(ahead)) % len(block)
    chosen = np.reshape(numbers, np.shape(action)) + start
    return chosen.astype(space.dtype) if np.ndim(action) else int(chosen)


def _first_difference(first: list[Moment], second: list[Moment]) -> str | None:
    """Where two records of an episode differ first, in words."""
    for one, other in zip(first, second, strict=False):
        different = [name for name, value in one.copies.items() if not _same(value, other.copies.get(name))]
        if different:
            return f"{listing(different)}, {one.when}"
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
    "Call super().reset(seed=seed) and draw all random numbers from self.np_random. Reset all else that a step needs."
)
_COPY_EVERYTHING = "Let get_state() copy all that the future depends on: simulator, random generator, step counter."
