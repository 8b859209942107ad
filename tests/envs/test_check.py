"""check_env on a healthy environment, and on ones that are broken in exactly one way each."""

import itertools
import re

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, Sequence, Tuple
from mpe2 import simple_spread_v3
from pettingzoo import ParallelEnv
from ray.rllib.env.multi_agent_env import MultiAgentEnv

from rllib_dima.envs.check.experiments import check_env
from rllib_dima.envs.cooperative import CooperativeEnv

AGENTS = ["a", "b"]
UNIT = Box(-1, 1, (1,), np.float32)
WIDE = Box(-10, 10, (2,), np.float32)


class Meet(MultiAgentEnv):
    """Two points on a line that should meet, within 12 steps: in every respect as DIMA wants an environment."""

    state_space = WIDE

    def __init__(self, env_config=None):
        self.possible_agents = self.agents = list(AGENTS)
        super().__init__()
        self.observation_spaces, self.action_spaces = dict.fromkeys(AGENTS, WIDE), dict.fromkeys(AGENTS, UNIT)

    def reset(self, *, seed=None, options=None):
        gymnasium.Env.reset(self, seed=seed)
        self.positions, self.num_steps = self.np_random.uniform(-5, 5, 2).astype(np.float32), 0
        return self.observe(), {}

    def step(self, action_dict):
        if self.num_steps == 12:
            raise RuntimeError("call reset() first")
        self.num_steps += 1
        moves = [action_dict[agent][0] for agent in AGENTS] + 0.01 * self.np_random.normal(size=2)
        self.positions = (self.positions + moves).clip(-10, 10).astype(np.float32)
        rewards = dict.fromkeys(AGENTS, -float(abs(self.positions[0] - self.positions[1])))
        flags = dict.fromkeys(AGENTS, False), dict.fromkeys(AGENTS, self.num_steps == 12)
        flags = [{**flag, "__all__": flag["a"]} for flag in flags]
        return self.observe(), rewards, *flags, {}

    def observe(self):
        return {"a": self.positions.copy(), "b": self.positions[::-1].copy()}

    def state(self):
        return self.positions.copy()

    def get_state(self):
        random = self.np_random.bit_generator.state
        return {"positions": self.positions.copy(), "num_steps": self.num_steps, "random": random}

    def set_state(self, state):
        self.positions, self.num_steps = state["positions"].copy(), state["num_steps"]
        self.np_random = np.random.Generator(np.random.PCG64())
        self.np_random.bit_generator.state = state["random"]


def broken(**members):
    """Meet with some members replaced."""
    return type("Broken", (Meet,), members)


def with_spaces(observation=None, action=None):
    """Meet with other spaces of agent "b"; its observations stay as they are."""

    def init(self, env_config=None):
        Meet.__init__(self)
        self.observation_spaces = {"a": WIDE, "b": observation or WIDE}
        self.action_spaces = {"a": UNIT, "b": action or UNIT}

    def step(self, action_dict):
        return Meet.step(self, {"a": action_dict["a"], "b": np.zeros(1)})

    return broken(__init__=init, step=step)


def step_gives(change, from_step=3):
    """Meet whose `step` returns what `change(env, observations, rewards, terminateds, truncateds, infos)` returns."""

    def step(self, action_dict):
        results = Meet.step(self, action_dict)
        return change(self, *results) if self.num_steps >= from_step else results

    return broken(step=step)


def observations_give(change, from_step=3):
    return step_gives(lambda env, obs, *others: ({**obs, **change(env, obs)}, *others), from_step)


def rewards_give(change):
    return step_gives(lambda env, obs, rewards, *others: (obs, {**rewards, **change}, *others))


def rewards_are(change):
    """Meet whose reward, of both agents, is `change(reward)` from the first step on."""
    return step_gives(lambda env, obs, r, *others: (obs, dict.fromkeys(AGENTS, change(r["a"])), *others), from_step=1)


def flags_give(change, from_step=12):
    return step_gives(lambda env, obs, rewards, te, tr, infos: (obs, rewards, *change(te, tr), infos), from_step)


def infos_give(infos):
    return step_gives(lambda env, *results: (*results[:4], infos))


def raises(self, *args, **kwargs):
    raise ZeroDivisionError("broken on purpose")


class Alone(Meet):
    """Meet with one agent; the other point moves by itself."""

    def __init__(self, env_config=None):
        super().__init__()
        self.possible_agents = ["a"]

    def step(self, action_dict):
        observations, *results, infos = super().step({**action_dict, "b": np.zeros(1)})
        for result in results:
            del result["b"]
        return observations, *results, infos

    def observe(self):
        return {"a": self.positions.copy()}


def no_agents(self, env_config=None):
    Meet.__init__(self)
    self.possible_agents = self.agents = []


def action_spaces_missing(self, env_config=None):
    Meet.__init__(self)
    self.action_spaces = {"a": UNIT}


def reset_forgets_b(self, *, seed=None, options=None):
    observations, infos = Meet.reset(self, seed=seed)
    return {"a": observations["a"]}, infos


def reset_without_seed(self):
    return Meet.reset(self)


def reset_ignores_seed(self, *, seed=None, options=None):
    return Meet.reset(self)


def reset_always_seeds(self, *, seed=None, options=None):
    return Meet.reset(self, seed=seed or 7)


def reset_is_fixed(self, *, seed=None, options=None):
    return Meet.reset(self, seed=7)


def step_keeps_momentum(self, action_dict):
    """What happened before the reset goes on to matter."""
    self.momentum = getattr(self, "momentum", 0.0) + 0.1
    return Meet.step(self, {agent: action + self.momentum for agent, action in action_dict.items()})


def step_never_ends(self, action_dict):
    self.num_steps = 0
    return Meet.step(self, action_dict)


def step_explodes(self, action_dict):
    """NaN once the extreme action was given five times on end."""
    is_extreme = all(abs(action[0]) == 1 for action in action_dict.values())
    self.num_extreme = self.num_extreme + 1 if is_extreme and self.num_steps else int(is_extreme)
    results = Meet.step(self, action_dict)
    if self.num_extreme >= 5:
        results[0]["a"][:] = np.nan
    return results


def observe_without_copies(self):
    self.buffers = getattr(self, "buffers", {"a": np.zeros(2, np.float32), "b": np.zeros(2, np.float32)})
    self.buffers["a"][:], self.buffers["b"][:] = self.positions, self.positions[::-1]
    return dict(self.buffers)


def state_without_copy(self):
    self.buffer = getattr(self, "buffer", np.zeros(2, np.float32))
    self.buffer[:] = self.positions
    return self.buffer


def forgets(name):
    """Meet whose `set_state` leaves out one entry of the state."""

    def set_state(self, state):
        Meet.reset(self)
        now = Meet.get_state(self)
        Meet.set_state(self, {**state, name: now[name]})

    return broken(set_state=set_state)


LEFT = {"a": True, "b": False, "__all__": False}
EVERYONE = {"a": True, "b": True}

ERRORS = {
    # what it is to be a cooperative environment
    "no environment": (object(), "environment", "is no environment"),
    "a single agent": (lambda config: gymnasium.make("CartPole-v1"), "environment", "single-agent gymnasium.Env"),
    "two arguments": (lambda a, b: Meet(), "environment", r"takes the keywords \['a', 'b'\].*Missing: \['a', 'b'\]"),
    "unknown id": ("meet", "environment", "Unknown environment 'meet'"),
    "wrapped": (CooperativeEnv(Meet()), "environment", "a CooperativeEnv already"),
    "turn-based": (simple_spread_v3.env(), "environment", "turn-based"),
    "broken constructor": (broken(__init__=raises), "environment", "raised ZeroDivisionError: broken on purpose"),
    # agents
    "one agent": (Alone, "agents", r"possible_agents of Alone is \['a'\]"),
    "no agents": (broken(__init__=no_agents), "agents", r"possible_agents of Broken is \[\]"),
    "agent not there at the reset": (broken(reset=reset_forgets_b), "agents", r"missing .*: 'b', first in reset"),
    "agent that comes and goes": (
        step_gives(lambda env, obs, *others: ({"a": obs["a"]}, *others)),
        "agents",
        r"done or missing while the episode goes on: 'b', first in step 3 of episode 1",
    ),
    "unknown agent": (observations_give(lambda env, obs: {"c": obs["a"]}), "observations", r"unknown: \['c'\]"),
    "agent that leaves": (flags_give(lambda te, tr: (LEFT, tr), 3), "agents", r"goes on: 'a', first in step 3"),
    # spaces
    "missing action space": (broken(__init__=action_spaces_missing), "spaces", "action space of agent 'b' is None"),
    "Dict observation": (
        with_spaces(observation=Dict({"x": Sequence(UNIT)})),
        "spaces",
        "observation space of agent 'b' is Dict",
    ),
    "Tuple action": (with_spaces(action=Tuple((UNIT, UNIT))), "spaces", "action space of agent 'b' is Tuple"),
    "unbounded action": (with_spaces(action=Box(-np.inf, 1, (1,))), "spaces", "agent 'b' .*needs finite bounds"),
    "integer Box action": (with_spaces(action=Box(0, 5, (1,), np.int64)), "spaces", "agent 'b' is a Box of int64"),
    "mixed actions": (with_spaces(action=Discrete(3)), "spaces", "'a': 'continuous', 'b': 'discrete'"),
    # observations
    "shape": (observations_give(lambda env, obs: {"b": np.zeros(3)}), "observations", r"step 3 .*'b' has shape \(3,\)"),
    "NaN": (
        observations_give(lambda env, obs: {"b": np.array([0, np.nan])}),
        "observations",
        r"'b' became NaN.*\[1\] of 2; the first is nan",
    ),
    "text": (
        observations_give(lambda env, obs: {"b": "here"}),
        "observations",
        "'b' is not an array of numbers: 'here'",
    ),
    "ragged": (observations_give(lambda env, obs: {"b": [[1], [1, 2]]}), "observations", "'b' is not an array"),
    "explosion": (broken(step=step_explodes), "observations", "in step 5 of an episode of the lowest actions.*NaN"),
    # rewards
    "reward missing": (step_gives(lambda env, obs, rewards, *o: (obs, {"a": 1.0}, *o)), "rewards", r"Missing: \['b'\]"),
    "reward of unknown agent": (rewards_give({"c": 1.0}), "rewards", r"unknown: \['c'\]"),
    "reward no number": (
        rewards_give({"b": [1.0]}),
        "rewards",
        r"step 3 .*'b' is \[1.0\] \(list\), but must be one number",
    ),
    "reward NaN": (rewards_give({"b": np.nan}), "rewards", r"reward of agent 'b' became NaN.* is nan"),
    "reward beyond float32": (
        rewards_give({"b": 1e39}),
        "rewards",
        r"step 3 .*reward of agent 'b' became NaN.* is 1e\+39",
    ),
    "rewards differ": (rewards_give({"b": 1e3}), "rewards", "step 3 of episode 1: The agents' rewards differ"),
    # flags and infos
    "flags of a wrong type": (flags_give(lambda te, tr: ({**te, "a": 0}, tr), 3), "flags", "no booleans: {'a': 0}"),
    "infos no dict": (infos_give({"a": "fast"}), "infos", "infos are no dicts: {'a': 'fast'}"),
    # methods
    "reset fails": (
        broken(reset=raises),
        "reset",
        r"ZeroDivisionError: .* \(test_check.py, line \d+, in raises\)",
    ),
    "reset takes no seed": (broken(reset=reset_without_seed), "reset", "TypeError: .*keyword argument 'seed'"),
    "reset without infos": (broken(reset=lambda self, seed, options: Meet.reset(self)[0]), "reset", "not 2 dicts"),
    "step fails": (step_gives(raises), "step", "in step 3 of episode 1, raised ZeroDivisionError"),
    "step of four": (step_gives(lambda env, obs, rewards, te, tr, infos: (obs, rewards, te, infos)), "step", "not 5"),
    "close fails": (broken(close=raises), "close", "ZeroDivisionError"),
    # state
    "state without space": (broken(state_space=None), "state", r"has state\(\) but no state_space"),
    "space without state": (broken(state=None), "state", r"has state_space but no state\(\)"),
    "state space no Box": (broken(state_space=Discrete(3)), "state", "state_space is Discrete"),
    "state fails": (broken(state=raises), "state", r"state\(\), in reset.*raised ZeroDivisionError"),
    "state shape": (broken(state=lambda self: np.zeros(3)), "state", r"the state has shape \(3,\)"),
    "state NaN": (
        broken(state=lambda self: np.array([np.inf, 0])),
        "state",
        r"the state became NaN or infinite.*\[0\] of 2; the first is inf",
    ),
    "state frozen": (broken(state=lambda self: np.ones(2, np.float32)), "state", "the same numbers all .* times"),
    # saving and restoring
    "forgets its position": (
        forgets("positions"),
        "restoring",
        "other results: the observation of agent 'a'.* the state",
    ),
    "forgets its steps": (forgets("num_steps"), "restoring", "other results: the truncated flags, in step 7"),
    "forgets its random numbers": (forgets("random"), "restoring", "other results: the observation.* in step 1"),
    "cannot be pickled": (broken(get_state=lambda self: lambda: 0), "restoring", "pickle"),
    "get_state fails": (broken(get_state=raises), "restoring", "ZeroDivisionError"),
}

WARNINGS = {
    "float64": (
        observations_give(lambda env, obs: {"b": obs["b"].astype(np.float64)}),
        "observations",
        "'b' is float64, its space float32",
    ),
    "bounds": (
        observations_give(lambda env, obs: {"b": np.array([0, 11], np.float32)}),
        "observations",
        r"'b' is .* entries \[1\] exceed its bounds",
    ),
    "scale": (
        observations_give(lambda env, obs: {"b": np.array([0, -2e4], np.float32)}),
        "observations",
        r"entries \[1\] of the observation of agent 'b' exceed 10000",
    ),
    "constant": (
        broken(observe=lambda self: {"a": self.positions.copy(), "b": self.positions * np.float32([1, 0])}),
        "observations",
        r"entries \[1\] of the observation of agent 'b' never changed\.",
    ),
    "observations change later": (
        broken(observe=observe_without_copies),
        "observations",
        "in step 1 .*observation of agent 'a' that was returned before changed",
    ),
    "state changes later": (broken(state=state_without_copy), "state", "the state that was returned before changed"),
    "state in float64": (
        broken(state=lambda self: self.positions.astype(np.float64)),
        "state",
        "the state is float64, its space float32",
    ),
    "state out of bounds": (
        broken(state=lambda self: self.positions + 20),
        "state",
        r"the state is .* \[0, 1\] exceed its bounds",
    ),
    "no __all__": (
        flags_give(lambda te, tr: ({"a": False, "b": False}, tr), 1),
        "flags",
        '"__all__" says terminated: None, truncated: False; .* DIMA reads terminated: False, truncated: False',
    ),
    "unset __all__": (
        flags_give(lambda te, tr: (te, {**EVERYONE, "__all__": False})),
        "flags",
        "says terminated: False, truncated: False; .* reads terminated: False, truncated: True",
    ),
    "time limit as the end": (
        flags_give(lambda te, tr: ({**te, "__all__": True}, {**tr, "__all__": False})),
        "flags",
        "says terminated: True, truncated: False; .* reads terminated: False, truncated: True",
    ),
    "both": (
        flags_give(lambda te, tr: ({**EVERYONE, "__all__": True}, tr)),
        "flags",
        "says terminated: True, truncated: True; .* reads terminated: True, truncated: False",
    ),
    "flag of unknown agent": (
        flags_give(lambda te, tr: ({**te, "c": False}, tr), 3),
        "flags",
        r"flags of agents \['c'\]",
    ),
    "info of unknown agent": (infos_give({"c": {}}), "infos", r"infos of agents \['c'\]"),
    "no end": (broken(step=step_never_ends), "episode end", "episode 1 went on for 600 steps without an end"),
    "always the same reward": (rewards_are(lambda rewards: -1), "rewards", r"the reward was -1 in all of \d+ steps"),
    "tiny rewards": (
        rewards_are(lambda reward: 1e-4 * reward),
        "rewards",
        r"deviation of 0\.0001\d*\. .* divided by 0\.00012\.",
    ),
    "huge rewards": (
        rewards_are(lambda reward: 1e4 * reward),
        "rewards",
        r"deviation of \d.*e\+04\. .* divided by \d.*e\+04\.",
    ),
    "rewards far from zero": (
        rewards_are(lambda reward: 1e3 + reward),
        "rewards",
        r"learns them less 1e\+03, divided by 1\.",
    ),
    "seed ignored": (broken(reset=reset_ignores_seed), "seeding", "same actions differ: the observation .*reset"),
    "something left over": (
        broken(step=step_keeps_momentum, get_state=None, set_state=None),
        "seeding",
        "differ: the observation .* in step 1",
    ),
    "always the same": (broken(reset=reset_is_fixed), "seeding", r"starts alike, with seeds \[0, 1, 2, 3\]"),
    "same without a seed": (broken(reset=reset_always_seeds), "seeding", "without a seed starts the same episode"),
    "only get_state": (broken(set_state=None), "restoring", r"only get_state\(\)"),
}


def assert_found(report, severity, check, message):
    matching = [f for f in report if f.severity == severity and f.check == check and re.search(message, f.found)]
    assert len(matching) == 1, str(report)
    assert matching[0].advice


@pytest.mark.parametrize(("env", "check", "message"), ERRORS.values(), ids=list(ERRORS))
def test_every_error_is_found_and_no_other(env, check, message):
    report = check_env(env, steps=60)
    assert_found(report, "error", check, message)
    assert not report.ok and {finding.check for finding in report.errors} == {check}, str(report)


@pytest.mark.parametrize(("env", "check", "message"), WARNINGS.values(), ids=list(WARNINGS))
def test_every_warning_is_found_and_nothing_else(env, check, message):
    report = check_env(env, steps=60)
    assert_found(report, "warning", check, message)
    assert report.ok and {finding.check for finding in report} == {check}, str(report)


def test_a_healthy_environment_has_no_findings():
    for env in (Meet, Meet(), lambda config: Meet()):
        report = check_env(env)
        assert report.ok and len(report) == 0 and list(report) == [], str(report)
        assert report.env_name == "Meet"
        report.raise_if_errors()


def test_all_faults_are_reported_at_once():
    class Hopeless(Meet):
        state_space = None

        def __init__(self, env_config=None):
            super().__init__()
            self.observation_spaces = {"a": WIDE, "b": Dict({"x": Sequence(UNIT)})}
            self.action_spaces = {"a": UNIT, "b": Box(-np.inf, 1, (1,))}

        def step(self, action_dict):
            observations, _, *others = super().step(action_dict)
            return {**observations, "a": np.full(2, np.nan)}, {"a": 1.0, "b": 2.0}, *others

        def close(self):
            raise OSError("cannot be closed")

    report = check_env(Hopeless, steps=60)
    found = [(finding.check, finding.severity) for finding in report]
    assert sorted(check for check, _ in found) == ["close", "observations", "rewards", "spaces", "spaces", "state"]
    assert set(report.errors) == set(report)


def test_the_report_tells_what_to_do():
    report = check_env(Meet, env_config={"team_reward": "mean"}, steps=60)
    assert str(report) == "Meet: DIMA can train on it (errors: 0, warnings: 0)."
    differing = rewards_give({"b": 1e3})
    report = check_env(differing, steps=60)
    assert len(report) == 1 and report[0] is report.errors[0] and report.warnings == ()
    text = str(report)
    assert text.startswith("Broken: DIMA cannot train on it (errors: 1, warnings: 0).\n- error, rewards: in step 3 of")
    assert "What to do: " in text and 'env_config={"team_reward": "sum"} the team' in text
    with pytest.raises(ValueError, match="cannot train on it"):
        report.raise_if_errors()
    for team_reward in ("mean", "sum"):
        assert check_env(differing, steps=60, env_config={"team_reward": team_reward}).ok


def test_env_config_reaches_the_environment_without_the_team_reward():
    given = []

    class Configured(Meet):
        def __init__(self, env_config):
            given.append((dict(env_config), env_config.worker_index))
            super().__init__()

    assert check_env(Configured, env_config={"length": 3, "team_reward": "sum"}, steps=60).ok
    assert given == [({"length": 3}, 0)] * 2  # one of them to be restored


def test_as_many_episodes_and_steps_as_asked_for():
    class Counting(Meet):
        starts, moves = [], 0

        def reset(self, *, seed=None, options=None):
            self.starts.append(seed)
            return super().reset(seed=seed)

    for arguments, episodes in (({"episodes": 7, "steps": 12}, 7), ({"episodes": 1, "steps": 100}, 9)):
        Counting.starts.clear()
        assert check_env(Counting(), seed=40, **arguments).ok
        assert Counting.starts[: episodes + 1] == [*range(40, 40 + episodes), 40]


@pytest.mark.parametrize(
    "env_class", [Meet, flags_give(lambda te, tr: (LEFT, tr), 3), step_gives(raises), rewards_give({})]
)
def test_no_step_is_asked_of_an_environment_without_a_running_episode(env_class):
    """Native simulators crash on one, and take the process with them."""
    moments = []

    class Recording(env_class):
        def reset(self, *, seed=None, options=None):
            moments.append("reset")
            return super().reset(seed=seed)

        def step(self, action_dict):
            moments.append("step")
            results = super().step(action_dict)
            if any(any(flags.values()) for flags in results[2:4]):
                moments.append("end")
            return results

    class Failing(Recording):
        def step(self, action_dict):
            try:
                return super().step(action_dict)
            except Exception:
                moments.append("end")
                raise

    check_env(Failing, steps=60)
    assert ("end", "step") not in set(itertools.pairwise(moments)) and moments.count("end") > 5


def test_wrappers_are_checked_as_they_are_used():
    class Favouring(gymnasium.Wrapper):
        """Rewards agent "b" more, which training would refuse."""

        def step(self, action):
            observations, rewards, *others = self.env.step(action)
            return observations, {**rewards, "b": 5.0}, *others

    assert_found(check_env(lambda config: Favouring(Meet()), steps=60), "error", "rewards", "differ")
    limited = gymnasium.wrappers.TimeLimit(broken(step=step_never_ends)(), 5)
    assert len(check_env(limited, steps=60)) == 0


def test_what_comes_late_is_waited_for_where_nothing_ended():
    def late(change):
        """Meet in which nothing happens before step 150, which ends the episode."""

        def step(self, action_dict):
            self.age = self.age + 1 if self.num_steps else 1
            self.num_steps = min(self.num_steps, 1)
            obs, rewards, terminateds, truncateds, infos = Meet.step(self, action_dict)
            return (
                change(obs, rewards, terminateds, truncateds, infos)
                if self.age >= 150
                else (obs, rewards, terminateds, truncateds, infos)
            )

        return broken(step=step, get_state=None, set_state=None)

    differ = late(lambda obs, rewards, *others: (obs, {**rewards, "b": 5.0}, *others))
    assert_found(check_env(differ, steps=20), "error", "rewards", "step 150 of episode 1: The agents' rewards differ")
    leave = late(lambda obs, rewards, te, *others: (obs, rewards, LEFT, *others))
    assert_found(check_env(leave, steps=20), "error", "agents", "'a', first in step 150 of episode 1")


def test_rewards_that_differ_are_not_called_constant_where_they_are_equal():
    differ = step_gives(lambda env, obs, rewards, *others: (obs, {"a": 0.0, "b": float(env.num_steps > 6)}, *others), 1)
    (finding,) = check_env(differ, steps=60)
    assert "rewards differ" in finding.found


def test_advice_for_a_broken_state_names_the_way_without():
    for state in (raises, lambda self: np.zeros(3)):
        assert "concatenated" in check_env(broken(state=state), steps=20).errors[0].advice
        assert check_env(broken(state=state), steps=20, env_config={"state": "observations"}).ok


def test_constant_rewards_may_yet_differ_between_agents():
    sparse = rewards_are(lambda reward: 0.0)
    (shared,), (combined,) = check_env(sparse), check_env(sparse, env_config={"team_reward": "sum"})
    assert "team_reward" in shared.advice and "team_reward" not in combined.advice


def test_a_sum_of_rewards_that_is_too_large_is_an_error():
    huge = rewards_are(lambda reward: 0.9e15)
    assert check_env(huge, env_config={"team_reward": "mean"}).ok
    assert_found(
        check_env(huge, env_config={"team_reward": "sum"}), "error", "rewards", r"step 1 .*sum .* is 1\.8e\+15"
    )


def test_a_hundred_agents_make_one_finding_of_one_cause():
    agents = [f"agent_{number}" for number in range(100)]

    class Crowd(Meet):
        """A hundred agents that see, and get, what float32 cannot hold; no action space fits."""

        def __init__(self, env_config=None):
            self.possible_agents = self.agents = agents
            MultiAgentEnv.__init__(self)
            self.observation_spaces = dict.fromkeys(agents, WIDE)
            self.action_spaces = dict.fromkeys(agents, Tuple((UNIT, UNIT)))

        def step(self, action_dict):
            _, _, *flags, _ = Meet.step(self, dict.fromkeys(AGENTS, np.zeros(1)))
            flags = [dict.fromkeys([*agents, "__all__"], flag["__all__"]) for flag in flags]
            return self.observe(), dict.fromkeys(agents, 1e39), *flags, {}

        def observe(self):
            return dict.fromkeys(agents, np.full(2, 1e39))

    class Rivals(Crowd):
        """Rewards that differ."""

        def step(self, action_dict):
            observations, rewards, *others = super().step(action_dict)
            return observations, {agent: float(number) for number, agent in enumerate(rewards)}, *others

    assert_found(
        check_env(Rivals, steps=60), "error", "rewards", "differ: 0.0 of agent 'agent_0', 99.0 of agent 'agent_99'"
    )
    report = check_env(Crowd, steps=60)
    assert [(finding.check, finding.severity) for finding in report] == [
        ("spaces", "error"),
        ("observations", "error"),
        ("rewards", "error"),
    ], str(report)
    for finding in report:
        assert "agent 'agent_0'" in finding.found and "agent 'agent_8' and 91 more." in finding.found


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match=r"'men'\. Did you mean 'mean'"):
        check_env(Meet, env_config={"team_reward": "men"})
    with pytest.raises(ValueError, match="at least 1, but are 0 and 5"):
        check_env(Meet, episodes=0, steps=5)
    with pytest.raises(TypeError, match=r"env_config must be a dict .* but is 'x'"):
        check_env(Meet, env_config="x")


def test_advice_names_the_nearest_id_and_the_missing_spaces():
    (unknown,) = check_env("mamujoco_ant_4x3")
    assert "Did you mean 'mamujoco_ant_4x2'" in unknown.found and "register_env" in unknown.advice

    def no_spaces(self, env_config=None):
        Meet.__init__(self)
        del self.observation_spaces, self.action_spaces

    (missing,) = check_env(broken(__init__=no_spaces)).errors
    assert missing.found.startswith("The observation space of agent 'a' is None")
    owners = [f"the {kind} space of agent {agent!r}" for kind in ("observation", "action") for agent in AGENTS]
    assert missing.found.endswith(f" Likewise {', '.join(owners[1:])}.")
    assert "self.observation_spaces and self.action_spaces" in missing.advice


def test_the_environment_is_closed_if_it_was_made_here():
    closed = []
    counting = broken(close=lambda self: closed.append(self))
    check_env(counting(), steps=20)
    assert closed == []
    check_env(counting, steps=20)
    assert len(set(map(id, closed))) == 2  # one of them to be restored


def test_the_spaces_of_the_environment_keep_their_random_numbers():
    env = Meet()
    env.action_spaces["a"].seed(5)
    check_env(env, steps=20)
    assert env.action_spaces["a"].sample() == Box(-1, 1, (1,), np.float32, seed=5).sample()


class ParallelMeet(ParallelEnv):
    """Meet as a PettingZoo environment."""

    metadata = {"name": "parallel_meet"}  # noqa: RUF012
    possible_agents = AGENTS

    def __init__(self):
        self.env = Meet()

    def observation_space(self, agent):
        return self.env.observation_spaces[agent]

    def action_space(self, agent):
        return self.env.action_spaces[agent]

    def reset(self, seed=None, options=None):
        self.agents = list(AGENTS)
        return self.env.reset(seed=seed)[0], {agent: {} for agent in AGENTS}

    def step(self, actions):
        observations, rewards, *flags, _ = self.env.step(actions)
        flags = [{agent: flag[agent] for agent in AGENTS} for flag in flags]
        self.agents = [] if flags[1]["a"] else list(AGENTS)
        return observations, rewards, *flags, {agent: {} for agent in AGENTS}


def test_pettingzoo_environments():
    class WithState(ParallelMeet):
        def state(self):
            return self.env.state()

    for env in (ParallelMeet(), lambda config: ParallelMeet()):
        report = check_env(env, steps=60)
        assert len(report) == 0 and report.env_name == "parallel_meet", str(report)
    assert_found(check_env(WithState(), steps=60), "warning", "state", "no state_space; .* size of the first state, 2")
    WithState.state_space = WIDE
    assert len(check_env(WithState(), steps=60)) == 0


def test_pettingzoos_own_test_finds_what_rllibs_form_hides():
    class NewSpaces(ParallelMeet):
        def action_space(self, agent):
            return Box(-1, 1, (1,), np.float32)

    report = check_env(lambda config: NewSpaces(), steps=60)
    assert_found(report, "warning", "pettingzoo", "action_space should return the exact same space object")
    assert report.ok


def test_ids_and_real_tasks():
    report = check_env("mamujoco_halfcheetah_2x3", episodes=1, steps=1000)
    assert report.ok and report.env_name == "mamujoco_halfcheetah_2x3", str(report)
    report = check_env(lambda config: simple_spread_v3.parallel_env(**config), env_config={"max_cycles": 10})
    assert_found(report, "error", "rewards", "The agents' rewards differ: -.* of agent 'agent_")
    assert report.env_name == "simple_spread_v3"
    report = check_env(
        lambda config: simple_spread_v3.parallel_env(**config),
        env_config={"continuous_actions": True, "team_reward": "mean"},
        steps=100,
    )
    assert report.ok, str(report)
