"""Agents that leave and come back, actions that are unavailable, and observations and actions of odd spaces."""

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, Graph, MultiBinary, MultiDiscrete, Sequence, Tuple, flatten
from pettingzoo import ParallelEnv
from ray.rllib.env.multi_agent_env import MultiAgentEnv

from rllib_dima.envs import check_env
from rllib_dima.envs.cooperative import CooperativeEnv
from rllib_dima.envs.observations import ObservationReader
from rllib_dima.envs.outcomes import staying, team_flags
from rllib_dima.envs.pettingzoo import PettingZooEnv
from rllib_dima.envs.spaces import ContractError

UNIT = Box(-1, 1, (2,), np.float32)
AGENTS = ["a", "b", "c"]


class Script(MultiAgentEnv):
    """Plays what it is told: step by step who is observed, who is done, and what they are paid."""

    agents_leave = True

    def __init__(self, steps, state=True):
        super().__init__()
        self.possible_agents = self.agents = list(AGENTS)
        self.observation_spaces = dict.fromkeys(AGENTS, UNIT)
        self.action_spaces = dict.fromkeys(AGENTS, Discrete(2))
        self.steps, self.given = steps, []
        if state:
            self.state_space, self.state = Box(-9, 9, (1,), np.float32), lambda: np.array([self.now], np.float32)

    def reset(self, *, seed=None, options=None):
        self.now, self.given = 0, []
        return self._seen(self.steps[0][0]), {}

    def step(self, actions):
        self.given.append(actions)
        self.now += 1
        seen, terminateds, truncateds, rewards = self.steps[self.now]
        return self._seen(seen), rewards, terminateds, truncateds, {}

    def get_state(self):
        return self.now

    def set_state(self, state):
        self.now = state

    def _seen(self, agents):
        return {agent: np.full(2, 0.5, np.float32) for agent in agents}


NONE = {"__all__": False}
STORY = [
    ("abc", None, None, None),
    ("abc", {"b": True, **NONE}, NONE, {"a": 1, "b": 1, "c": 1}),  # b dies and is seen for the last time
    ("a", NONE, NONE, {"a": 2, "c": 2}),  # c is away
    ("abc", NONE, NONE, {"a": 3}),  # both are back
    ("abc", {"c": True, **NONE}, {"a": True, "b": True, "__all__": True}, {"a": 4, "b": 4, "c": 4}),
]


def test_agents_that_leave_stay_in_the_team_without_effect_and_come_back():
    env = CooperativeEnv(Script(STORY))
    layout, zero = env.layout, np.zeros(3, np.float32)
    assert layout.agents_leave and layout.observation_size == 2 + 1 + 3 and layout.state_size == 1 + 3
    observations, infos = env.reset()
    lives, states, rewards, ends = [], [infos["a"]["state"]], [], []
    while not any(ends[-1:]):
        lives.append([observations[agent][2] for agent in AGENTS])
        for agent, own in observations.items():
            assert np.array_equal(own[:3], [0.5, 0.5, 1] if own[2] else zero)
            assert np.array_equal(own[3:], np.eye(3)[AGENTS.index(agent)])
        observations, reward, terminateds, truncateds, infos = env.step(dict.fromkeys(AGENTS, 1))
        assert len(set(reward.values())) == 1
        states.append(infos["a"]["state"])
        rewards.append(reward["a"])
        ends.append(terminateds["__all__"] or truncateds["__all__"])
    assert lives == [[1, 1, 1], [1, 0, 1], [1, 0, 0], [1, 1, 1]]
    assert [sorted(given) for given in env.unwrapped.given] == [list("abc"), ["a", "c"], ["a"], list("abc")]
    assert rewards == [1, 2, 3, 4]
    assert np.array_equal(states[1], [1, 1, 0, 1]) and np.array_equal(states[2], [2, 1, 0, 0])
    assert np.array_equal(states[4], [4, 1, 1, 0]), "at a time limit those are alive who are not terminated"
    assert (terminateds["__all__"], truncateds["__all__"]) == (False, True)


def test_the_state_of_observations_tells_who_is_alive():
    env = CooperativeEnv(Script(STORY, state=False))
    env.reset()
    env.step(dict.fromkeys(AGENTS, 0))
    np.testing.assert_array_equal(env.state(), [0.5, 0.5, 1, 0, 0, 0, 0.5, 0.5, 1])


@pytest.mark.parametrize(("team_reward", "expected"), [("mean", 2 / 3), ("sum", 2)])
def test_rewards_of_those_who_left_count_with_zero(team_reward, expected):
    story = [STORY[0], ("ab", NONE, NONE, {"a": 1, "b": 0, "c": 0}), ("ab", NONE, NONE, {"a": 2, "b": 0})]
    env = CooperativeEnv(Script(story), team_reward=team_reward)
    env.reset()
    env.step(dict.fromkeys(AGENTS, 0))
    assert env.step(dict.fromkeys(AGENTS, 0))[1]["a"] == pytest.approx(expected)


def test_without_a_word_nobody_may_leave_and_unknown_agents_never_are():
    for setting, story, message in [
        (False, STORY, "'b'.* are done while the episode goes on.*agents_leave"),
        (False, [STORY[0], ("ab", NONE, NONE, {})], "observations.*Missing: \\['c'\\].*agents_leave"),
        (True, [STORY[0], ("abz", NONE, NONE, {})], "unknown: \\['z'\\]"),
    ]:
        env = CooperativeEnv(Script(story), agents_leave=setting)
        env.reset()
        with pytest.raises(ContractError, match=message):
            env.step(dict.fromkeys(AGENTS, 0))


def test_an_episode_in_which_some_are_gone_is_restored_as_it_was():
    env, other = CooperativeEnv(Script(STORY)), CooperativeEnv(Script(STORY))
    for _ in range(2):
        env.reset()
        env.step(dict.fromkeys(AGENTS, 0))
    other.reset()
    other.set_state(env.get_state())
    for _ in range(3):
        (*results, infos), (*others, other_infos) = (e.step(dict.fromkeys(AGENTS, 1)) for e in (env, other))
        np.testing.assert_equal(results, others)
        np.testing.assert_equal(infos, other_infos)
    assert env.unwrapped.given[1:] == other.unwrapped.given


def test_flags_of_teams_that_some_have_left():
    everyone = {"a": True, "b": True}
    assert team_flags("ab", {"a": True}, {}, True) == (False, False)
    assert team_flags("a", {"a": True}, {}, True) == (True, False)
    assert team_flags("ab", {"a": True}, {"b": True}, True) == (False, True)
    assert team_flags("", {}, {}, True) == (False, False)
    assert team_flags("", {"__all__": False, "c": True}, {}, True) == (False, False)
    assert team_flags("", {"__all__": True}, {}, True) == (True, False)
    assert staying("ab", everyone, {}, True, False) == {"a", "b"}
    assert staying("ab", {"a": True}, {"b": True}, False, True) == {"b"}
    assert staying("ab", {}, {"b": True}, False, False) == {"a"}


class Duel(ParallelEnv):
    """PettingZoo's agents: "a" dies in step 2; then "b" dies in step 4, or time is up."""

    def __init__(self, dies):
        self.metadata, self.dies = {"name": "duel"}, dies
        self.possible_agents = ["a", "b"]

    def observation_space(self, agent):
        return UNIT

    def action_space(self, agent):
        return UNIT

    def reset(self, seed=None, options=None):
        self.agents, self.now = ["a", "b"], 0
        return self._observations(), {}

    def step(self, actions):
        assert set(actions) == set(self.agents)
        self.now += 1
        acted, observations = list(self.agents), self._observations()
        terminated = {a: (a, self.now) == ("a", 2) or (self.now == 4 and self.dies) for a in acted}
        truncated = dict.fromkeys(acted, self.now == 4 and not self.dies)
        self.agents = [a for a in acted if not (terminated[a] or truncated[a])]
        return observations, dict.fromkeys(acted, 1.0), terminated, truncated, {}

    def _observations(self):
        return {agent: np.full(2, 0.1, np.float32) for agent in self.agents}


@pytest.mark.parametrize("dies", [True, False])
def test_pettingzoos_agents_leave_one_by_one_and_the_last_says_how_it_ended(dies):
    env = CooperativeEnv(PettingZooEnv(Duel(dies)), agents_leave=True)
    env.reset()
    lives, ends = [], []
    for _ in range(4):
        observations, _, terminateds, truncateds, _ = env.step(dict.fromkeys("ab", np.zeros(2, np.float32)))
        lives.append([observations[agent][2] for agent in "ab"])
        ends.append((terminateds["__all__"], truncateds["__all__"]))
    assert lives == [[1, 1], [0, 1], [0, 1], [0, 1]]
    assert ends == [(False, False)] * 3 + [(dies, not dies)]


# Masks


class Masked(MultiAgentEnv):
    """Two agents of which "a" has 3 choices and "b" 2; choice 1 is available in odd steps only, 2 never."""

    FORM = "observation"

    def __init__(self, config=None):
        super().__init__()
        self.possible_agents = self.agents = ["a", "b"]
        self.action_spaces = {"a": Discrete(3, start=5), "b": Discrete(2)}
        seen = {"a": UNIT, "b": Dict({"x": UNIT, "y": Discrete(2)})}
        if self.FORM in ("observation", "observations"):
            sizes = {"a": MultiBinary(3), "b": Box(0, 1, (2,), np.int8)}
            seen = {agent: Dict({self.FORM: space, "action_mask": sizes[agent]}) for agent, space in seen.items()}
        self.observation_spaces = seen

    def masks(self):
        return {"a": np.array([1, self.now % 2, 0], np.int8), "b": np.array([1, self.now % 2], np.int8)}

    def reset(self, *, seed=None, options=None):
        self.now = 0
        return self._results()

    def step(self, actions):
        for agent, action in actions.items():
            assert self.masks()[agent][action - self.action_spaces[agent].start], "this is unavailable"
        self.now += 1
        observations, infos = self._results()
        reward = float(actions["b"])
        return observations, {"a": reward, "b": reward}, NONE, {"__all__": self.now == 6}, infos

    def _results(self):
        own = {"a": np.full(2, 0.5, np.float32), "b": {"x": np.zeros(2, np.float32), "y": self.now % 2}}
        if self.FORM in ("observation", "observations"):
            own = {agent: {self.FORM: value, "action_mask": self.masks()[agent]} for agent, value in own.items()}
        infos = {agent: {"action_mask": mask} for agent, mask in self.masks().items()}
        return own, infos if self.FORM == "infos" else {}


class InObservations(Masked):
    FORM = "observations"


class InInfos(Masked):
    FORM, action_masks = "infos", "infos"


class ByMethod(Masked):
    FORM = "method"

    def get_avail_actions(self):
        return list(self.masks().values())


@pytest.mark.parametrize("env_class", [Masked, InObservations, InInfos, ByMethod])
def test_every_form_of_mask_is_read_and_padded(env_class):
    env = CooperativeEnv(env_class())
    layout = env.layout
    assert layout.masks_actions and layout.observation_sizes == (2, 4) and layout.observation_size == 4 + 3 + 2
    observations, infos = env.reset()
    assert np.array_equal(observations["a"], [0.5, 0.5, 0, 0, 1, 0, 0, 1, 0])
    assert np.array_equal(observations["b"], [0, 0, 1, 0, 1, 0, 0, 0, 1])
    assert np.array_equal(infos["a"]["state"], [0.5, 0.5, 1, 0, 0, 0, 0, 1, 0, 1, 0])
    observations = env.step({"a": 0, "b": 0})[0]
    assert np.array_equal(observations["a"][4:7], [1, 1, 0]) and np.array_equal(observations["b"][4:7], [1, 1, 0])
    report = check_env(env_class)
    assert report.ok, str(report)
    assert [note.check for note in report.notes] == ["actions"] and "unavailable" in report.notes[0].found


def test_masks_that_cannot_be_are_refused():
    class Nothing(InInfos):
        def masks(self):
            return {**super().masks(), "b": np.zeros(2, np.int8)}

    class Short(InInfos):
        def masks(self):
            return {**super().masks(), "a": np.ones(2, np.int8)}

    class Unsaid(InInfos):
        action_masks = None

    class Continuous(InObservations):
        def __init__(self, config=None):
            super().__init__()
            self.action_spaces = dict.fromkeys(self.agents, UNIT)

    for env_class, message in [
        (Nothing, "agent 'b' \\(from infos\\) leaves it nothing to do"),
        (Short, "agent 'a' \\(from infos\\) is of shape \\(2,\\), but must have 3 entries"),
        (Unsaid, "action_mask.*nothing says that actions are masked.*action_masks"),
        (Continuous, "masks actions.*continuous"),
    ]:
        with pytest.raises(ContractError, match=message):
            CooperativeEnv(env_class()).reset()
        report = check_env(env_class)
        assert not report.ok and any(finding.check in ("actions", "spaces") for finding in report.errors), str(report)


# Spaces


NESTED = Dict({"x": Tuple((Discrete(3, start=1), Box(-1, 1, (2, 2), np.float32))), "y": MultiDiscrete([2, 3])})


@pytest.mark.parametrize("space", [NESTED, MultiBinary((2, 2)), Discrete(4), Tuple((UNIT, Dict({"z": UNIT})))])
def test_observations_are_flattened_as_gymnasium_does(space):
    space.seed(0)
    reader = ObservationReader("a", space)
    for _ in range(5):
        value = space.sample()
        np.testing.assert_array_equal(reader.read(value), flatten(space, value))
        assert reader.size == flatten(space, value).size


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (Box(0, 255, (84, 84, 3), np.uint8), "holds an image.*vector_state"),
        (Dict({"screen": Box(0, 255, (3, 64, 64), np.uint8), "x": UNIT}), "holds an image"),
        (Box(0, 255, (32, 32), np.uint8), "holds an image"),
        (Sequence(UNIT), "no fixed number of entries"),
        (Graph(UNIT, None), "no fixed number of entries"),
        (Tuple(()), "without any entry"),
    ],
)
def test_images_and_spaces_of_no_fixed_size_are_refused(space, message):
    with pytest.raises(ContractError, match=message):
        ObservationReader("a", space)


def test_bytes_that_are_no_image_are_numbers():
    assert ObservationReader("a", Box(0, 255, (128,), np.uint8)).size == 128
    assert ObservationReader("a", Box(0, 9, (5, 5, 3), np.uint8)).size == 75


def test_an_observation_that_does_not_fit_its_space_is_named():
    for value in ({"x": (1, np.zeros((2, 2)))}, {"x": 3, "y": 4}, {"x": (9, np.zeros((2, 2))), "y": [0, 0]}):
        with pytest.raises(ContractError, match="observation of agent 'a'"):
            ObservationReader("a", NESTED).read(value)


class Mixed(MultiAgentEnv):
    """Agents whose choices differ in kind."""

    def __init__(self, config=None):
        super().__init__()
        self.possible_agents = self.agents = ["a", "b", "c"]
        self.observation_spaces = {"a": UNIT, "b": NESTED, "c": MultiBinary(3)}
        self.action_spaces = {
            "a": MultiDiscrete([[3, 2], [2, 2]], start=[[1, 0], [0, 5]]),
            "b": Discrete(4, start=2),
            "c": MultiBinary(2),
        }
        self.taken = []

    def reset(self, *, seed=None, options=None):
        self.now = 0
        for number, space in enumerate(self.observation_spaces.values()):
            space.seed(None if seed is None else seed + number)
        return self._sampled(), {}

    def step(self, actions):
        assert all(self.action_spaces[agent].contains(action) for agent, action in actions.items()), actions
        self.taken.append(actions)
        self.now += 1
        reward = float(actions["b"] + actions["c"].sum())
        return self._sampled(), dict.fromkeys(self.agents, reward), NONE, {"__all__": self.now == 7}, {}

    def _sampled(self):
        return {agent: space.sample() for agent, space in self.observation_spaces.items()}


def test_agents_with_several_choices_each_get_their_own():
    env = CooperativeEnv(Mixed())
    layout = env.layout
    assert layout.action_choices == ((3, 2, 2, 2), (4,), (2, 2)) and layout.block_sizes == (4, 2, 2, 2)
    assert env.action_spaces["a"] == MultiDiscrete([4, 2, 2, 2])
    env.reset(seed=0)
    env.step({"a": np.array([2, 1, 0, 1]), "b": np.array([3, 0, 0, 0]), "c": np.array([1, 0, 0, 0])})
    taken = env.unwrapped.taken[0]
    np.testing.assert_array_equal(taken["a"], [[3, 1], [0, 6]])
    assert taken["b"] == 5
    np.testing.assert_array_equal(taken["c"], [1, 0])
    with pytest.raises(ValueError, match="agent 'a' is \\[3, 0, 0, 0\\], but its numbers of choices are"):
        env.step({"a": np.array([3, 0, 0, 0]), "b": np.zeros(4, int), "c": np.zeros(4, int)})
    assert check_env(Mixed).ok, str(check_env(Mixed))


# What check_env says


class Leaving(Script):
    agents_leave = None

    def __init__(self, config=None):
        alive = [("abc", None, None, None), *[("abc", NONE, NONE, dict.fromkeys("abc", float(n))) for n in range(9)]]
        last = ("ac", NONE, {"__all__": True}, {"a": 1.0, "c": 1.0})
        super().__init__([*alive, ("ac", NONE, NONE, dict.fromkeys("abc", 1.0)), last])


def test_check_env_finds_that_agents_leave_and_tells_what_happens():
    (error,) = check_env(Leaving).errors
    assert error.check == "agents" and "'b'" in error.found and "agents_leave" in error.advice
    report = check_env(Leaving, env_config={"agents_leave": True})
    assert report.ok and [note.check for note in report.notes] == ["agents"], str(report)
    report = check_env(Mixed, env_config={"agents_leave": True})
    assert any("none did" in warning.found for warning in report.warnings)


class Paid(MultiAgentEnv):
    """Three agents whose rewards a function of a generator draws."""

    draw = staticmethod(lambda random: random.normal(size=3))

    def __init__(self, config=None):
        super().__init__()
        self.possible_agents = self.agents = list(AGENTS)
        self.observation_spaces = self.action_spaces = dict.fromkeys(AGENTS, UNIT)
        self.random = np.random.default_rng()

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            self.random = np.random.default_rng(seed)
        self.now = 0
        return self._seen(), {}

    def step(self, actions):
        self.now += 1
        rewards = dict(zip(AGENTS, map(float, self.draw(self.random)), strict=True))
        return self._seen(), rewards, NONE, {"__all__": self.now == 50}, {}

    def _seen(self):
        return {agent: self.random.uniform(-1, 1, 2).astype(np.float32) for agent in AGENTS}


@pytest.mark.parametrize(
    ("draw", "kind", "words"),
    [
        (lambda random: random.normal(size=3), "own", '"sum"} the team'),
        (lambda random: random.normal() + 0.1 * random.normal(size=3), "own", '"mean"} the team'),
        (lambda random: np.eye(3)[random.integers(3)] * (random.random() < 0.1), "own", '"sum"} the team'),
        (lambda random: random.normal() * np.array([1, -0.5, -0.5]), "against", "nothing to learn"),
        (lambda random: random.normal() * np.array([1, -1, 0]) + 0.1 * random.normal(size=3), "against", "sacrifice"),
    ],
    ids=["own parts", "nearly the same", "rare finds", "zero-sum", "against each other"],
)
def test_check_env_says_which_team_reward_fits_or_why_none_does(draw, kind, words):
    env_class = type("Drawn", (Paid,), {"draw": staticmethod(draw)})
    (error,) = check_env(env_class).errors
    assert error.check == "rewards" and words in error.advice, str(error)
    combined = check_env(env_class, env_config={"team_reward": "sum"})
    assert combined.ok == (kind == "own"), str(combined)
