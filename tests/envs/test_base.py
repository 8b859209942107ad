"""CooperativeEnv on small environments whose every number is known."""

import pickle

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Sequence, Tuple
from pettingzoo import ParallelEnv
from ray.rllib.env.multi_agent_env import MultiAgentEnv
from ray.rllib.env.wrappers.pettingzoo_env import ParallelPettingZooEnv
from ray.rllib.utils.pre_checks.env import check_multiagent_environments

from rllib_dima.envs.cooperative import RESET_ATTEMPTS, SIMULATION_ERROR, CooperativeEnv
from rllib_dima.envs.outcomes import NonFiniteError, SimulationError, team_flags
from rllib_dima.envs.pettingzoo import PettingZooEnv, to_pettingzoo
from rllib_dima.envs.spaces import LARGEST, BoxAction, ContractError, EnvTypeError, all_finite


class Toy(MultiAgentEnv):
    """Agents "a" (2x2 image, 1 action entry in [0, 10]) and "b" (3 entries, 2 action entries in [-2, 4])."""

    def __init__(self, **results):
        super().__init__()
        self.possible_agents = self.agents = ["b", "a"]
        self.observation_spaces = {"a": Box(0, 255, (2, 2), np.uint8), "b": Box(-1, 1, (3,), np.float64)}
        self.action_spaces = {"a": Box(0, 10, (1, 1), np.float64), "b": Box(-2, 4, (2,), np.float32)}
        self.observations = {"a": np.array([[1, 2], [3, 4]], np.uint8), "b": np.array([0.1, 0.2, 0.3])}
        self.rewards = {"a": 2.0, "b": 2.0}
        self.terminateds, self.truncateds = {"__all__": False}, {"__all__": False}
        self.infos = {"a": {"speed": 1}, "b": {"speed": 2}}
        self.__dict__.update(results)

    def reset(self, *, seed=None, options=None):
        self.reset_arguments = seed, options
        return self.observations, self.infos

    def step(self, action_dict):
        self.actions = action_dict
        return self.observations, self.rewards, self.terminateds, self.truncateds, self.infos

    def render(self):
        return "image"

    def close(self):
        self.is_closed = True


class ToyWithState(Toy):
    state_space = Box(-np.inf, np.inf, (2, 1))
    state_value = np.array([[5.0], [6.0]])

    def state(self):
        return self.state_value


class DiscreteToy(Toy):
    def __init__(self, **results):
        super().__init__(action_spaces={"a": Discrete(2), "b": Discrete(3, start=5)}, **results)


UNIT = Box(-1, 1, (2,))
ZERO = {"a": np.zeros(2), "b": np.zeros(2)}


def started(env, **kwargs):
    wrapped = CooperativeEnv(env, **kwargs)
    wrapped.reset()
    return wrapped


def test_layout_pads_to_the_largest_agent():
    layout = CooperativeEnv(Toy()).layout
    assert layout.agent_ids == ("a", "b")
    assert layout.observation_sizes == (4, 3) and layout.action_sizes == (1, 2)
    assert layout.appends_agent_id and layout.observation_size == 6 and layout.action_size == 2
    assert layout.state_size == 7 and layout.action_kind == "continuous"


def test_spaces_are_the_same_for_all_agents():
    env = CooperativeEnv(Toy())
    assert env.observation_spaces == dict.fromkeys("ab", Box(-np.inf, np.inf, (6,), np.float32))
    assert env.action_spaces == dict.fromkeys("ab", Box(-1, 1, (2,), np.float32))
    assert env.state_space == Box(-np.inf, np.inf, (7,), np.float32)
    assert CooperativeEnv(DiscreteToy()).action_spaces == dict.fromkeys("ab", Discrete(3))


def test_observations_are_padded_and_identified_and_the_state_is_all_of_them():
    observations, infos = CooperativeEnv(Toy()).reset()
    expected = {"a": [1, 2, 3, 4, 1, 0], "b": [0.1, 0.2, 0.3, 0, 0, 1]}
    np.testing.assert_equal(observations, {agent: np.array(row, np.float32) for agent, row in expected.items()})
    state = infos["a"].pop("state")
    np.testing.assert_equal(state, np.array([1, 2, 3, 4, 0.1, 0.2, 0.3], np.float32))
    assert infos == {"a": {"speed": 1}, "b": {"speed": 2}} and state.dtype == np.float32


def test_padding_agrees_with_the_masks_of_the_layout():
    env = CooperativeEnv(Toy(observations={"a": np.full((2, 2), 9, np.uint8), "b": np.full(3, 0.9)}))
    observations, _ = env.reset()
    mask = env.layout.observation_mask().numpy()
    for row, observation in zip(mask, observations.values(), strict=True):
        assert not observation[~row].any()
        assert observation[row][:-2].all()


def test_own_state_is_used_flattened():
    env = ToyWithState(infos={})
    _, infos = CooperativeEnv(env).reset()
    assert list(infos) == ["a"]
    np.testing.assert_equal(infos["a"]["state"], np.array([5, 6], np.float32))


def test_state_is_not_shared_with_the_environment():
    wrapped = CooperativeEnv(ToyWithState(state_value=np.array([[5], [6]], np.float32)))
    _, infos = wrapped.reset()
    infos["a"]["state"][:] = 0
    wrapped.state()[:] = 0
    wrapped.env.state_value[:] = 0
    np.testing.assert_equal(wrapped.state(), np.array([5, 6], np.float32))


class Drifting(ToyWithState):
    """Writes into the same arrays at every step, and returns them."""

    def __init__(self):
        buffers = {"a": np.zeros((2, 2), np.float32), "b": np.zeros(3)}
        super().__init__(observations=buffers, state_value=np.zeros((2, 1), np.float32))

    def step(self, action_dict):
        for array in (*self.observations.values(), self.state_value):
            array += 1
        return super().step(action_dict)


@pytest.mark.parametrize("toy", [Drifting, type("Stateless", (Drifting,), {"state_space": None, "state": None})])
def test_arrays_once_handed_out_never_change(toy):
    env = CooperativeEnv(toy())
    observations, infos = env.reset()
    handed_out, expected = [], []
    for step in range(3):
        handed_out += [*observations.values(), infos["a"]["state"], env.state()]
        expected += [[*[step] * 4, 1, 0], [*[step] * 3, 0, 0, 1], *[[step] * env.layout.state_size] * 2]
        observations, *_, infos = env.step(ZERO)
    for array, values in zip(handed_out, expected, strict=True):
        np.testing.assert_equal(array, np.array(values, np.float32))
        array[:] = np.nan  # what is done to them must not come back either
    assert env.state().tolist() == [3] * env.layout.state_size
    env.step(ZERO)


def test_lists_and_integers_are_numbers_too():
    env = started(Toy(observations={"a": [[1, 2], [3, 4]], "b": [0.1, 0.2, True]}, rewards={"a": 2, "b": np.array(2)}))
    observations, rewards, *_ = env.step({"a": [1, 0], "b": np.array([-7, 0])})
    np.testing.assert_equal(observations["a"], np.array([1, 2, 3, 4, 1, 0], np.float32))
    np.testing.assert_equal(observations["b"], np.array([0.1, 0.2, 1, 0, 0, 1], np.float32))
    assert rewards == {"a": 2.0, "b": 2.0} and type(rewards["a"]) is float
    np.testing.assert_equal(env.env.actions, {"a": np.array([[10.0]]), "b": np.array([-2, 1], np.float32)})


def test_an_environment_that_identifies_agents_gets_no_second_id():
    same = {agent: Box(-1, 1, (3,)) for agent in "ab"}
    rows = {"a": np.array([0.5, 1, 0], np.float32), "b": np.array([0.5, 0, 1], np.float32)}
    env = CooperativeEnv(Toy(observation_spaces=same, observations=rows, observations_identify_agent=True))
    np.testing.assert_equal(env.reset()[0], rows)
    assert not env.layout.appends_agent_id
    unequal = CooperativeEnv(Toy(observations_identify_agent=True))
    assert unequal.layout.appends_agent_id


def test_actions_are_clipped_stripped_and_rescaled():
    env = started(Toy())
    env.step({"a": np.array([0.5, np.float32(99)]), "b": np.array([-1.0, 3.0], np.float32)})
    np.testing.assert_equal(env.env.actions, {"a": np.array([[7.5]]), "b": np.array([-2, 4], np.float32)})
    assert env.env.actions["a"].dtype == np.float64 and env.env.actions["b"].dtype == np.float32


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_actions_in_the_unit_box_are_only_clipped(dtype):
    given = np.array([-1.5, -1, -0.3, 0, 0.7, 1, 2, 99], np.float32)
    action = BoxAction("a", Box(-1, 1, (2, 3), dtype)).to_env(given, 8)
    np.testing.assert_equal(action, np.array([[-1, -1, -0.3], [0, 0.7, 1]], np.float32).astype(dtype))
    assert action.dtype == dtype and not np.shares_memory(action, given)


def test_rescaled_actions_never_pass_the_bounds():
    rng = np.random.default_rng(0)
    low = rng.normal(size=500)
    space = Box(low, low + rng.uniform(0, 3, 500), dtype=np.float64)
    assert ((space.low + space.high) / 2 + (space.high - space.low) / 2 > space.high).any()  # rounding would pass them
    env = started(Toy(action_spaces={"a": space, "b": space}))
    env.step({"a": np.ones(500), "b": -np.ones(500)})
    assert space.contains(env.env.actions["a"]) and space.contains(env.env.actions["b"])
    np.testing.assert_allclose(env.env.actions["a"], space.high, rtol=1e-12, atol=1e-14)


def test_discrete_actions_count_from_the_start_of_the_space():
    env = started(DiscreteToy())
    env.step({"a": 1, "b": np.int64(2)})
    assert env.env.actions == {"a": 1, "b": 7}
    assert env.layout.action_sizes == (2, 3) and env.layout.is_discrete


@pytest.mark.parametrize(
    ("action", "message"),
    [(2, "choices 0 to 1"), (-1, "choices 0 to 1"), (0.5, "single integer"), (np.array([1]), "single integer")],
)
def test_wrong_discrete_actions_are_refused(action, message):
    env = started(DiscreteToy())
    with pytest.raises(ValueError, match=f"agent 'a' .*{message}"):
        env.step({"a": action, "b": 0})
    env.step({"a": 0, "b": 0})


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        ({"a": np.zeros(2)}, r"Missing: \['b'\]"),
        ({**ZERO, "c": np.zeros(2)}, r"unknown: \['c'\]"),
        ({"a": np.zeros(2), "c": np.zeros(2)}, r"Missing: \['b'\]; unknown: \['c'\]"),
        ({**ZERO, "a": np.zeros(1)}, r"'a' has shape \(1,\).*\(2,\)"),
        ({**ZERO, "b": np.array([np.nan, 0])}, "'b' has NaN"),
    ],
)
def test_wrong_actions_are_refused(actions, message):
    env = started(Toy())
    with pytest.raises(ValueError, match=message):
        env.step(actions)


def test_every_agent_gets_the_team_reward():
    assert started(Toy()).step(ZERO)[1] == {"a": 2.0, "b": 2.0}
    rounded = {"a": np.float32(0.1), "b": 0.1}
    assert started(Toy(rewards=rounded)).step(ZERO)[1] == dict.fromkeys("ab", float(np.float32(0.1)))
    different = {"a": 1.0, "b": 4.0}
    assert started(Toy(rewards=different), team_reward="mean").step(ZERO)[1] == {"a": 2.5, "b": 2.5}
    assert started(Toy(rewards=different), team_reward="sum").step(ZERO)[1] == {"a": 5.0, "b": 5.0}
    with pytest.raises(ValueError, match=r"rewards differ: .*\"team_reward\": \"mean\""):
        started(Toy(rewards=different)).step(ZERO)
    with pytest.raises(ValueError, match=r"'men'. Did you mean 'mean'"):
        CooperativeEnv(Toy(), team_reward="men")


NO, YES = {"a": False, "b": False}, {"a": True, "b": True}


@pytest.mark.parametrize(
    ("terminateds", "truncateds", "expected"),
    [
        ({"__all__": False}, {"__all__": False}, (False, False)),
        ({"__all__": True}, {"__all__": False}, (True, False)),
        ({"__all__": False}, {"__all__": True}, (False, True)),
        ({"__all__": True}, {}, (True, False)),
        (YES, NO, (True, False)),
        (NO, YES, (False, True)),
        ({**NO, "__all__": False}, {**YES, "__all__": True}, (False, True)),
        ({**NO, "__all__": True}, {**YES, "__all__": True}, (False, True)),  # "__all__" used as "done"
        ({"a": np.False_, "b": np.False_, "__all__": True}, YES, (False, True)),
        ({**NO, "__all__": True}, NO, (True, False)),
        ({"__all__": True}, YES, (True, False)),
        ({"__all__": True}, {"__all__": True}, (True, False)),  # fell in the last step
        ({"a": True, "b": False}, {"a": False, "b": True}, (False, True)),
        ({"a": True, "b": False, "__all__": True}, NO, (True, False)),
    ],
)
def test_flags_of_the_team(terminateds, truncateds, expected):
    assert team_flags(["a", "b"], terminateds, truncateds) == expected
    *_, terminated, truncated, _ = started(Toy(terminateds=terminateds, truncateds=truncateds)).step(ZERO)
    assert (terminated, truncated) == ({"__all__": expected[0]}, {"__all__": expected[1]})


@pytest.mark.parametrize("key", ["terminateds", "truncateds"])
def test_agents_must_not_leave_before_the_end(key):
    env = started(Toy(**{key: {"a": True, "b": False, "__all__": False}}))
    with pytest.raises(ValueError, match=r"Agents \['a'\] of 2 are done while the episode goes on"):
        env.step(ZERO)


def test_steps_need_a_running_episode():
    env = CooperativeEnv(Toy(truncateds={"__all__": True}))
    for _ in range(2):
        with pytest.raises(RuntimeError, match="call reset"):
            env.step(ZERO)
        env.reset()
        env.step(ZERO)
    with pytest.raises(RuntimeError, match="call reset"):
        CooperativeEnv(Toy()).state()


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ({"observations": {**Toy().observations, "b": np.array([0, np.nan, 0])}}, r"observation of agent 'b' .*\[1\]"),
        ({"observations": {**Toy().observations, "b": np.array([0, 0, 1e300])}}, r"observation of agent 'b' .*\[2\]"),
        ({"observations": {**Toy().observations, "b": np.array([1e30, 0, 0])}}, r"observation of agent 'b' .*\[0\]"),
        ({"rewards": {"a": 1.0, "b": np.inf}}, "reward of agent 'b'"),
        ({"rewards": {"a": -1e39, "b": -1e39}}, "reward of agent 'a' .*larger than 1e\\+15"),
        ({"state_value": np.array([[1e30], [0]])}, r"the state became NaN or infinite, or larger than 1e\+15.*\[0\]"),
        ({"state_value": np.array([[np.nan], [0]])}, "the state became NaN"),
    ],
)
def test_non_finite_numbers_are_named(results, message):
    env = started(ToyWithState())
    env.step(ZERO)
    env.env.__dict__.update(results)
    with pytest.raises(NonFiniteError, match=f"step 2 .*{message}"):
        env.step(ZERO)


def test_results_that_break_the_spaces_are_refused():
    with pytest.raises(ContractError, match=r"step 0 .*'b' has shape \(4,\)"):
        started(Toy(observations={**Toy().observations, "b": np.zeros(4)}))
    with pytest.raises(
        ContractError, match=r"step 0 .*observations must have.*Missing: \['b'\].*all must act at every step"
    ):
        started(Toy(observations={"a": np.zeros((2, 2))}))
    with pytest.raises(
        ContractError, match=r"step 1 .*rewards must have.*Missing: \['b'\].*all must act at every step"
    ):
        started(Toy(rewards={"a": 1.0})).step(ZERO)


@pytest.mark.parametrize(
    ("late", "message"),
    [
        ({"rewards": {"a": 1.0, "b": 2.0}}, 'rewards differ.*"team_reward": "mean"'),
        ({"terminateds": {"a": True, "b": False, "__all__": False}}, r"\['a'\] of .*agents_leave"),
        ({"observations": {"a": Toy().observations["a"]}}, r"Missing: \['b'\].*agents_leave"),
    ],
)
def test_what_breaks_late_names_its_step_and_what_to_do(late, message):
    env = started(Toy())
    for _ in range(6):
        env.step(ZERO)
    env.env.__dict__.update(late)
    with pytest.raises(ContractError, match=f"In step 7 of the episode.*{message}"):
        env.step(ZERO)


@pytest.mark.parametrize("reward", [np.ones(1), np.ones(2), [1.0], [[1], [1, 2]], None, "1.0"])
def test_a_reward_that_is_no_number_is_refused_with_its_agent(reward):
    with pytest.raises(ContractError, match=r"step 1 .*The reward of agent 'b' is .*must be one number"):
        started(Toy(rewards={"a": 1.0, "b": reward})).step(ZERO)


def test_the_largest_numbers_that_pass_stay_finite_where_they_are_squared_and_summed():
    largest = np.full(4, LARGEST, np.float32)
    observations = {"a": largest.reshape(2, 2), "b": -largest[:3]}
    env = started(Toy(observations=observations, rewards=dict.fromkeys("ab", -1e15)))
    observations, rewards, *_ = env.step(ZERO)
    assert observations["a"][0] == np.float32(1e15) and rewards["a"] == -1e15
    assert np.isfinite(np.float32(1e8) * np.float32(LARGEST) ** 2)


def test_the_sum_of_rewards_has_the_same_bound():
    rewards = dict.fromkeys("ab", 0.9e15)
    assert started(Toy(rewards=rewards), team_reward="mean").step(ZERO)[1] == rewards
    with pytest.raises(NonFiniteError, match=r"step 1 .*the sum of the agents' rewards"):
        started(Toy(rewards=rewards), team_reward="sum").step(ZERO)


def test_a_state_in_the_environments_own_infos_is_kept():
    infos = {"a": {"state": "moving", "speed": 1}, "b": {"state": "resting"}}
    _, given = CooperativeEnv(env := Toy(infos=infos)).reset()
    np.testing.assert_equal(given["a"].pop("state")[:4], [1, 2, 3, 4])
    assert given == {"a": {"env_state": "moving", "speed": 1}, "b": {"state": "resting"}}
    assert env.infos["a"]["state"] == "moving"
    infos["a"]["env_state"] = 1
    with pytest.raises(ContractError, match='"state" and "env_state"'):
        CooperativeEnv(Toy(infos=infos)).reset()


class BrokenState(ToyWithState):
    def state(self):
        return {}["x"]


@pytest.mark.parametrize(
    "toy", [ToyWithState(), BrokenState(), Toy(state_space=Discrete(2)), ToyWithState(state_space=UNIT)]
)
def test_the_environments_own_state_can_be_left_out(toy):
    env = CooperativeEnv(toy, state="observations")
    np.testing.assert_equal(env.reset()[1]["a"]["state"], CooperativeEnv(Toy()).reset()[1]["a"]["state"])
    assert env.layout.state_size == 7
    if type(toy) is not ToyWithState or toy.state_space is UNIT:
        with pytest.raises(ContractError, match=r'env_config=\{"state": "observations"\}'):
            CooperativeEnv(toy).reset()


def test_an_unknown_source_of_the_state_is_refused():
    with pytest.raises(ValueError, match=r"'observation'\. Did you mean 'observations'"):
        CooperativeEnv(Toy(), state="observation")


@pytest.mark.parametrize(
    ("spaces", "message"),
    [
        ({"action_spaces": {"a": UNIT, "b": Discrete(3)}}, "same kind of actions.*'a': 'continuous', 'b': 'discrete'"),
        ({"action_spaces": {"a": UNIT, "b": Box(-np.inf, 1, (2,))}}, "agent 'b'.*finite bounds"),
        ({"action_spaces": {"a": Box(0, 5, (2,), np.int64), "b": UNIT}}, "agent 'a'.*int64.*float"),
        ({"action_spaces": {"a": MultiDiscrete([2, 2]), "b": UNIT}}, "same kind of actions.*'a': 'multi_discrete'"),
        ({"action_spaces": {"a": UNIT, "b": Tuple([UNIT, UNIT])}}, "agent 'b'.*Tuple.*Flatten"),
        (
            {"observation_spaces": {"a": UNIT, "b": Dict({"x": Sequence(UNIT)})}},
            "observation space of agent 'b' is Dict.*pad",
        ),
        ({"observation_spaces": {"a": UNIT, "b": Box(-1, 1, (0,))}}, "without any entry"),
        ({"possible_agents": ["a"]}, "at least 2 agents"),
        ({"possible_agents": []}, "set self.possible_agents"),
        ({"state_space": UNIT}, r"state_space but no state\(\)"),
        ({"state": lambda: 0}, r"state\(\) but no state_space"),
        ({"state_space": Discrete(2), "state": lambda: 0}, "state_space is Discrete"),
    ],
)
def test_unsupported_environments_are_refused(spaces, message):
    with pytest.raises(ValueError, match=message):
        CooperativeEnv(Toy(**spaces))


def test_what_is_no_multi_agent_environment_is_refused():
    with pytest.raises(TypeError, match=r"single-agent gymnasium\.Env"):
        CooperativeEnv(gymnasium.make("CartPole-v1"))
    for env in (object(), Walk()):
        with pytest.raises(TypeError, match=r"given a \w+\. Convert a parallel PettingZoo .*envs\.as_multi_agent_env"):
            CooperativeEnv(env)
    with pytest.raises(TypeError, match="once only"):
        CooperativeEnv(CooperativeEnv(Toy()))


def test_agents_are_in_natural_order_of_their_names():
    names = ["b_1", "a_10", "a_9", "a_1"]
    spaces = {"observation_spaces": dict.fromkeys(names, UNIT), "action_spaces": dict.fromkeys(names, UNIT)}
    assert CooperativeEnv(Toy(possible_agents=names, **spaces)).possible_agents == ["a_1", "a_9", "a_10", "b_1"]


def test_everything_else_passes_through():
    env = CooperativeEnv(Toy(render_mode="rgb_array"))
    env.reset(seed=4, options={"x": 1})
    assert env.env.reset_arguments == (4, {"x": 1})
    assert env.render() == "image" and env.render_mode == "rgb_array"
    env.close()
    assert env.env.is_closed


@pytest.mark.parametrize("toy", [Toy, ToyWithState])
def test_rllib_accepts_the_wrapped_environment(toy):
    check_multiagent_environments(CooperativeEnv(toy()))


class Walk(ParallelEnv):
    """Three agents that walk on a line for two steps, and then leave, as PettingZoo's agents do."""

    metadata = {"name": "walk"}  # noqa: RUF012
    possible_agents = ["walker_2", "walker_10", "walker_1"]  # noqa: RUF012

    def observation_space(self, agent):
        return Box(-9, 9, (1,))

    def action_space(self, agent):
        return Box(-2, 2, (1,))

    def reset(self, seed=None, options=None):
        self.agents, self.positions = list(self.possible_agents), np.zeros((3, 1), np.float32)
        self.num_steps = 0
        return dict(zip(self.agents, self.positions.copy(), strict=True)), {agent: {} for agent in self.agents}

    def step(self, actions):
        self.num_steps += 1
        self.positions += [actions[agent] for agent in self.agents]
        flags = dict.fromkeys(self.agents, False), dict.fromkeys(self.agents, self.num_steps == 2)
        observations = dict(zip(self.agents, self.positions.copy(), strict=True))
        self.agents = [] if self.num_steps == 2 else self.agents
        return observations, dict.fromkeys(observations, 1.0), *flags, {agent: {} for agent in observations}


def test_time_limit_of_a_pettingzoo_environment_stays_a_truncation():
    env = CooperativeEnv(ParallelPettingZooEnv(Walk()))
    assert env.layout.agent_ids == ("walker_1", "walker_2", "walker_10")
    for _ in range(2):
        env.reset(seed=0)
        actions = {"walker_1": np.ones(1), "walker_2": np.zeros(1), "walker_10": -np.ones(1) / 4}
        assert env.step(actions)[2:4] == ({"__all__": False}, {"__all__": False})
        *_, terminateds, truncateds, infos = env.step(actions)
        assert (terminateds, truncateds) == ({"__all__": False}, {"__all__": True})
        np.testing.assert_equal(infos["walker_1"]["state"], np.array([4, 0, -1], np.float32))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_all_finite_agrees_with_looking_at_every_entry(dtype):
    rng = np.random.default_rng(0)
    for _ in range(200):
        values = (rng.normal(size=rng.integers(0, 5, 2)) * (np.finfo(dtype).max / 9)).astype(dtype)  # squares overflow
        if rng.random() < 0.5 and values.size:
            values.flat[rng.integers(values.size)] = rng.choice([np.nan, np.inf, -np.inf])
        assert all_finite(values) == bool(np.isfinite(values).all())
    assert all_finite(3.0) and all_finite(np.int64(3)) and not all_finite(float("nan"))


def test_errors_have_two_halves_and_can_be_pickled():
    for kind, parents in ((ContractError, ValueError), (EnvTypeError, (ValueError, TypeError))):
        error = pickle.loads(pickle.dumps(kind("It is broken.", "Repair it.")))
        assert isinstance(error, parents) and type(error) is kind
        assert str(error) == "It is broken. Repair it." and (error.found, error.advice) == (
            "It is broken.",
            "Repair it.",
        )


class Counting(ToyWithState):
    """A state that counts steps and adds up actions; ends after five steps."""

    def reset(self, *, seed=None, options=None):
        self.total, self.num_steps = np.full((2, 1), float(seed or 0)), 0
        return super().reset(seed=seed)

    def step(self, action_dict):
        self.total, self.num_steps = self.total + action_dict["b"].reshape(2, 1), self.num_steps + 1
        self.truncateds = {"__all__": self.num_steps == 5}
        return super().step(action_dict)

    def state(self):
        return self.total

    def get_state(self):
        return {"total": self.total.copy(), "num_steps": self.num_steps}

    def set_state(self, state):
        self.total, self.num_steps = state["total"].copy(), state["num_steps"]


def test_a_restored_environment_goes_on_where_the_other_was():
    rng = np.random.default_rng(0)
    actions = [{"a": rng.uniform(-1, 1, 2), "b": rng.uniform(-1, 1, 2)} for _ in range(5)]
    env = CooperativeEnv(Counting())
    env.reset(seed=3)
    states, results = [env.get_state()], []
    for action in actions:
        results.append(env.step(action))
        states.append(env.get_state())
    for num_steps, state in enumerate(states):
        fresh = CooperativeEnv(Counting())
        fresh.set_state(pickle.loads(pickle.dumps(state)))
        np.testing.assert_equal(fresh.state(), np.float32(fresh.env.total).reshape(-1))
        for action, expected in zip(actions[num_steps:], results[num_steps:], strict=True):
            np.testing.assert_equal(fresh.step(action), expected)
        with pytest.raises(RuntimeError, match="call reset"):
            fresh.step(actions[0])
        np.testing.assert_equal(fresh.get_state(), states[-1])


def test_what_is_saved_does_not_change_any_more():
    env = started(Counting())
    saved, expected = env.get_state(), pickle.dumps(env.get_state())
    env.step(ZERO)
    restored = CooperativeEnv(Counting())
    restored.set_state(saved)
    restored.step({"a": np.ones(2), "b": np.ones(2)})
    np.testing.assert_equal(saved, pickle.loads(expected))


def test_the_step_count_in_messages_is_restored():
    env = started(Counting())
    for _ in range(3):
        env.step(ZERO)
    restored = CooperativeEnv(Counting())
    restored.set_state(env.get_state())
    restored.env.rewards = {"a": np.nan, "b": 0.0}
    with pytest.raises(NonFiniteError, match="In step 4 of the episode"):
        restored.step(ZERO)


class Fragile(Counting):
    """Breaks down in the third step, and in as many resets as it is told."""

    num_broken_resets = 0

    def reset(self, *, seed=None, options=None):
        self.seeds = [*getattr(self, "seeds", []), seed]
        if len(self.seeds) <= self.num_broken_resets:
            raise SimulationError("the hand fell through the table")
        return super().reset(seed=seed)

    def step(self, action_dict):
        results = super().step(action_dict)
        self.observations["a"] = self.observations["a"] + 1
        if self.num_steps == 3:
            raise SimulationError("the door exploded")
        return results

    def get_state(self):
        return {"total": self.total, "num_steps": self.num_steps, "image": self.observations["a"]}

    def set_state(self, state):
        self.total, self.num_steps, self.observations["a"] = state["total"], state["num_steps"], state["image"]


@pytest.mark.parametrize("is_restored", [False, True])
@pytest.mark.parametrize("convert", [lambda env: env, lambda env: PettingZooEnv(to_pettingzoo(env))])
def test_a_breakdown_truncates_the_episode_with_the_moment_before_once_more(is_restored, convert):
    env = started(convert(Fragile()))
    one = {"a": np.ones(2), "b": np.ones(2)}
    env.step(one)
    before, *_, infos_before = env.step(one)
    if is_restored:
        saved, env = pickle.dumps(env.get_state()), CooperativeEnv(convert(Fragile()))
        env.set_state(pickle.loads(saved))
    observations, rewards, terminateds, truncateds, infos = env.step(one)
    np.testing.assert_equal(observations, before)
    np.testing.assert_array_equal(infos["a"]["state"], infos_before["a"]["state"])
    np.testing.assert_array_equal(env.state(), infos_before["a"]["state"])
    assert infos["a"][SIMULATION_ERROR] == "the door exploded"
    assert (terminateds, truncateds, rewards) == ({"__all__": False}, {"__all__": True}, {"a": 0.0, "b": 0.0})
    with pytest.raises(RuntimeError, match="call reset"):
        env.step(one)
    env.reset()
    assert env.step(one)[3] == {"__all__": False}


def test_a_reset_in_which_the_simulator_breaks_down_is_repeated_without_the_seed():
    env = Fragile(num_broken_resets=RESET_ATTEMPTS - 1)
    CooperativeEnv(env).reset(seed=3)
    assert env.seeds == [3] + [None] * (RESET_ATTEMPTS - 1)
    env = Fragile(num_broken_resets=RESET_ATTEMPTS)
    with pytest.raises(SimulationError, match=f"{RESET_ATTEMPTS} resets in a row: the hand fell"):
        CooperativeEnv(env).reset(seed=3)


def test_an_environment_that_was_never_reset_is_restored_as_that():
    env = CooperativeEnv(type("Plain", (Toy,), {"get_state": lambda self: {}, "set_state": lambda self, state: None})())
    restored = CooperativeEnv(env.env)
    restored.reset()
    restored.set_state(env.get_state())
    with pytest.raises(RuntimeError, match="call reset"):
        restored.state()
    with pytest.raises(RuntimeError, match="call reset"):
        restored.step(ZERO)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: {**state, "agents": ["a", "c"]}, r"another environment, .*'agents': \['a', 'c'\]"),
        (lambda state: {**state, "state": np.zeros(3)}, r"state': \(3,\)}, but this one is .* \(2,\)}"),
        (lambda state: {"env": state["env"]}, r"needs what get_state\(\) returned, .*but was given \['env'\]"),
        (lambda state: 3, "but was given int"),
    ],
)
def test_states_of_other_environments_are_refused(change, message):
    env = started(Counting())
    env.step({"a": np.ones(2), "b": np.ones(2)})
    before = env.get_state()
    with pytest.raises(ValueError, match=message):
        env.set_state(change(started(Counting()).get_state()))
    np.testing.assert_equal(env.get_state(), before)


@pytest.mark.parametrize("members", [{}, {"get_state": lambda self: {}}, {"set_state": lambda self, state: None}])
def test_saving_needs_both_methods_of_the_environment(members):
    env = started(type("Partly", (Toy,), members)())
    assert not env.can_restore and CooperativeEnv(Counting()).can_restore
    for use in (env.get_state, lambda: env.set_state({})):
        with pytest.raises(NotImplementedError, match=r"Partly cannot be saved .*both get_state\(\).*set_state"):
            use()
