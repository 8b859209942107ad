"""Playing an environment for `check_env`: one moment after the other, with failures as findings."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ray.rllib.env.multi_agent_env import MultiAgentEnv

from rllib_dima.envs.check.report import Findings
from rllib_dima.envs.cooperative import ALL, LEAVE_STATE_OUT, SimulationError, team_flags
from rllib_dima.envs.spaces import ContractError

RESET_RESULTS = ("observations", "infos")
STEP_RESULTS = ("observations", "rewards", "terminateds", "truncateds", "infos")


@dataclass(frozen=True)
class Moment:
    """What one reset or step returned.

    Args:
        when: for messages, as in "in step 3 of episode 1".
        observations: by agent.
        infos: by agent.
        state: what `state()` returned then; None if it is not offered.
        rewards: by agent; None after a reset.
        terminateds: flags; empty after a reset.
        truncateds: flags; empty after a reset.
    """

    when: str
    observations: Mapping[Any, Any]
    infos: Mapping[Any, Any]
    state: Any = None
    rewards: Mapping[Any, Any] | None = None
    terminateds: Mapping[Any, Any] = field(default_factory=dict)
    truncateds: Mapping[Any, Any] = field(default_factory=dict)

    def is_last(self, agents: list) -> bool:
        """Whether no step may follow: the episode has ended, or some agents have left while it goes on."""
        try:
            return any(team_flags(agents, self.terminateds, self.truncateds))
        except ContractError:
            return True

    def values(self) -> dict[str, Any]:
        """Copies of all that a seed should determine, by name."""
        return copy.deepcopy(
            {
                "observations": dict(self.observations),
                "state": self.state,
                "rewards": self.rewards,
                "terminated flags": dict(self.terminateds),
                "truncated flags": dict(self.truncateds),
            }
        )


class Player:
    """Resets and steps one environment; what goes wrong becomes a finding.

    Args:
        env: the environment.
        findings: where to put what goes wrong.
        agents: the agents it has.
        has_state: whether to ask for the state at every moment.

    Attributes:
        has_failed: whether something went wrong.
    """

    def __init__(self, env: MultiAgentEnv, findings: Findings, agents: list, has_state: bool) -> None:
        self.env, self._findings = env, findings
        self._agents, self._has_state = agents, has_state
        self.has_failed = False
        self._last: Moment | None = None

    def reset(self, label: str, seed: int | None) -> Moment | None:
        """The first moment of an episode, or None if there is none."""
        when = f"after reset(seed={seed}) of {label}"
        try:
            results = self.env.reset(seed=seed, options=None)
        except Exception as error:
            return self._fail("reset", f"reset(seed={seed}, options=None)", error)
        if not self._are_dicts(results, RESET_RESULTS, "reset", when):
            return None
        observations, infos = results
        self._last = Moment(when, observations, infos or {}, self._state(when))
        return self._last

    def step(self, label: str, number: int, actions: Mapping) -> Moment | None:
        """The next moment of an episode, or None if there is none."""
        when = f"in step {number} of {label}"
        try:
            results = self.env.step(copy.deepcopy(dict(actions)))
        except SimulationError as error:
            return self._broken(when, error)
        except Exception as error:
            return self._fail("step", f"step(), {when},", error)
        if not self._are_dicts(results, STEP_RESULTS, "step", when):
            return None
        observations, rewards, terminateds, truncateds, infos = results
        self._last = Moment(when, observations, infos or {}, self._state(when), rewards, terminateds, truncateds)
        return self._last

    def play(self, label: str, actions: Iterable[Mapping], seed: int | None) -> Iterator[Moment]:
        """A new episode, until it ends, fails or has no more actions."""
        moment = self.reset(label, seed)
        if moment is not None:
            yield moment
            yield from self.go_on(label, actions)

    def go_on(self, label: str, actions: Iterable[Mapping]) -> Iterator[Moment]:
        """The episode that runs, until it ends, fails or has no more actions."""
        for number, joint_action in enumerate(actions, start=1):
            moment = self.step(label, number, joint_action)
            if moment is None:
                return
            yield moment
            if moment.is_last(self._agents):
                return

    def _broken(self, when: str, error: SimulationError) -> Moment:
        """The moment before once more, as the end of the episode: so does training."""
        self._findings.warning(
            "simulation",
            f"{when}, the simulator broke down: {error}",
            "Training truncates such an episode, learns nothing from this step, and stops if it happens often.",
            "broken",
        )
        flags = [*self._agents, ALL]
        nothing, over = dict.fromkeys(flags, False), dict.fromkeys(flags, True)
        return replace(
            self._last, when=when, rewards=dict.fromkeys(self._agents, 0.0), terminateds=nothing, truncateds=over
        )

    def _state(self, when: str) -> Any:
        if not self._has_state:
            return None
        try:
            return self.env.state()
        except Exception as error:
            return self._fail("state", f"state(), {when},", error, LEAVE_STATE_OUT)

    def _fail(self, check: str, what: str, error: Exception, advice: str = "") -> None:
        self.has_failed = True
        self._findings.failure(check, what, error, advice)

    def _are_dicts(self, results: Any, names: tuple[str, ...], method: str, when: str) -> bool:
        """Whether all results are there; RLlib allows None for infos, which are the last."""
        given = results if isinstance(results, tuple) else (results,)
        dicts = [isinstance(result, Mapping) for result in given]
        if len(given) == len(names) and all(dicts[:-1]) and (dicts[-1] or given[-1] is None):
            return True
        self.has_failed = True
        found = f"{when}, it returned {[type(result).__name__ for result in given]}, not {len(names)} dicts in a tuple."
        self._findings.error(method, found, f"Return ({', '.join(names)}), each of them a dict by agent.")
        return False
