"""Teams in gymnasium's wrappers, teams behind Tuple and Dict spaces, and how callbacks reach the user's environment."""

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces, wrappers
from gymnasium.spaces import Box, Discrete
from ray.rllib.env.multi_agent_env import MultiAgentEnv

from rllib_dima.envs import CooperativeEnv, as_multi_agent_env, check_env
from rllib_dima.envs.spaces import ContractError, EnvTypeError
from rllib_dima.sampling.team_vector import TeamVector

AGENTS = ["left", "right"]
ZERO = dict.fromkeys(AGENTS, np.zeros(1, np.float32))
SPACE = Box(-9, 9, (2,), np.float32)


class Team(MultiAgentEnv):
    """Agents that see (steps, 1); the state is (10 * steps,). It never ends by itself."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 7}  # noqa: RUF012
    render_mode = "rgb_array"
    state_space = Box(-np.inf, np.inf, (1,))

    def __init__(self, config=None):
        super().__init__()
        self.agents = self.possible_agents = list(AGENTS)
        self.observation_spaces = dict.fromkeys(AGENTS, SPACE)
        self.action_spaces = dict.fromkeys(AGENTS, Box(-1, 1, (1,), np.float32))
        self.terminates_at, self.difficulty, self._private = 99, 1, "hidden"
        self.steps = 0

    def reset(self, *, seed=None, options=None):
        self.steps = 0
        return self._observations(), {}

    def step(self, action_dict):
        self.steps += 1
        terminateds = {"__all__": self.steps == self.terminates_at}
        return self._observations(), dict.fromkeys(AGENTS, 1.0), terminateds, {"__all__": False}, {}

    def state(self):
        return np.array([10.0 * self.steps], np.float32)

    def set_difficulty(self, difficulty):
        self.difficulty = difficulty
        return f"difficulty {difficulty}"

    def render(self):
        return "image"

    def render_states(self, states, start):
        return [(state.tolist(), start) for state in states]

    def get_state(self):
        return {"steps": self.steps}

    def set_state(self, state):
        self.steps = state["steps"]

    def _observations(self):
        return {agent: np.array([self.steps, 1], np.float32) for agent in AGENTS}


class Scaled(gymnasium.ObservationWrapper):
    def observation(self, observation):
        return {agent: values / 2 for agent, values in observation.items()}


class Shaped(gymnasium.RewardWrapper):
    def reward(self, reward):
        return {agent: 5 * value for agent, value in reward.items()}


class Longer(gymnasium.ObservationWrapper):
    """Adds an entry, and says so in one of the ways of RLlib and gymnasium."""

    def __init__(self, env, how):
        super().__init__(env)
        longer = Box(-9, 9, (3,), np.float32)
        if how == "spaces":
            self.observation_spaces = dict.fromkeys(AGENTS, longer)
        elif how == "method":
            self.get_observation_space = lambda agent: longer
        else:
            self.observation_space = longer if how == "one" else spaces.Dict(dict.fromkeys(AGENTS, longer))

    def observation(self, observation):
        return {agent: np.append(values, 7).astype(np.float32) for agent, values in observation.items()}


class WithState(gymnasium.Wrapper):
    state_space = Box(-1, 1, (2,))

    def state(self):
        return np.ones(2)


def cooperative(env, **settings):
    return CooperativeEnv(as_multi_agent_env(env), **settings)


def play(env, actions=None):
    """(observations, rewards, flags, states) of an episode, of at most 20 steps."""
    observations, infos = env.reset(seed=0)
    seen, states = [observations], [infos[env.agents[0]]["state"].tolist()]
    rewards, flags = [], (False, False)
    for _ in range(20):
        observations, reward, terminated, truncated, infos = env.step(actions or dict.fromkeys(env.agents, np.zeros(1)))
        seen.append(observations)
        rewards.append(reward[env.agents[0]])
        states.append(infos[env.agents[0]]["state"].tolist())
        flags = terminated["__all__"], truncated["__all__"]
        if any(flags):
            break
    return seen, rewards, flags, states


@pytest.mark.parametrize(
    "wrap",
    [
        lambda env: wrappers.TimeLimit(env, 5),
        lambda env: wrappers.TimeLimit(wrappers.OrderEnforcing(env), 5),
        lambda env: wrappers.OrderEnforcing(Shaped(Scaled(wrappers.TimeLimit(env, 5)))),
        lambda env: wrappers.TimeLimit(wrappers.TimeLimit(env, 9), 5),
    ],
)
def test_a_time_limit_truncates(wrap):
    env = cooperative(wrap(Team()))
    for _ in range(2):
        _, rewards, flags, states = play(env)
        assert len(rewards) == 5 and flags == (False, True) and states[-1] == [50]


def test_an_end_in_the_last_step_of_a_time_limit_is_the_tasks():
    env = cooperative(wrappers.TimeLimit(team := Team(), 5))
    team.terminates_at = 5
    assert play(env)[2] == (True, False)


def test_wrappers_change_observations_and_rewards_and_not_the_state():
    seen, rewards, _, states = play(cooperative(Shaped(Scaled(Team()))))
    assert [row["left"][:2].tolist() for row in seen[:3]] == [[0, 0.5], [0.5, 0.5], [1, 0.5]]
    assert rewards == [5.0] * 20 and states[:3] == [[0], [10], [20]]
    transformed = wrappers.TransformReward(Team(), lambda rewards: dict.fromkeys(rewards, 3.0))
    assert play(cooperative(transformed))[1] == [3.0] * 20


@pytest.mark.parametrize("how", ["spaces", "method", "dict", "one"])
def test_spaces_are_those_of_the_outermost_layer_that_has_any(how):
    env = cooperative(Shaped(Longer(Scaled(Team()), how)))
    assert env.layout.observation_sizes == (3, 3)
    assert env.reset()[0]["left"].tolist() == [0, 0.5, 7, 1, 0]


def test_state_metadata_and_spec_are_those_of_the_outermost_layer():
    env = cooperative(Shaped(WithState(Team())))
    assert env.reset()[1]["left"]["state"].tolist() == [1, 1]
    assert env.metadata["render_fps"] == 7 and env.render_mode == "rgb_array" and env.render() == "image"
    without = cooperative(wrappers.TimeLimit(Team(), 3), state="observations")
    assert without.reset()[1]["left"]["state"].tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize(
    "wrap",
    [
        wrappers.RecordEpisodeStatistics,
        wrappers.Autoreset,
        wrappers.NormalizeReward,
        lambda env: wrappers.ClipReward(env, 0, 1),
        lambda env: wrappers.TimeLimit(wrappers.DelayObservation(env, 2), 5),
        lambda env: Scaled(type("Mine", (wrappers.RecordEpisodeStatistics,), {})(env)),
    ],
)
def test_wrappers_for_single_agents_are_refused_by_name(wrap):
    team = Team()
    team.observation_space = SPACE
    name = {wrappers.TimeLimit: "DelayObservation", Scaled: "Mine"}.get(type(env := wrap(team)), type(env).__name__)
    with pytest.raises(EnvTypeError, match=f"The wrapper {name} of gymnasium is made for single agents.*Leave it out"):
        as_multi_agent_env(env)


def test_a_time_limit_is_saved_in_mid_episode():
    env, fresh = (cooperative(wrappers.TimeLimit(wrappers.OrderEnforcing(Team()), 5)) for _ in range(2))
    env.reset()
    for _ in range(3):
        env.step(ZERO)
    fresh.set_state(env.get_state())
    assert not fresh.step(ZERO)[3]["__all__"] and fresh.step(ZERO)[3]["__all__"] and fresh.unwrapped.steps == 5
    for other in (Scaled(Team()), wrappers.TimeLimit(Scaled(Team()), 5)):
        assert not cooperative(other).can_restore  # who knows what it remembers


def test_states_are_drawn_through_wrappers_and_with_what_the_team_itself_had_saved():
    states = np.array([[10.0], [20.0]], np.float32)
    for env in (Team(), wrappers.TimeLimit(wrappers.OrderEnforcing(Team()), 5)):
        env = cooperative(env)
        env.reset()
        env.step(ZERO)
        drawn = list(env.render_states(states, env.get_state()))
        assert drawn == [([10.0], {"steps": 1}), ([20.0], {"steps": 1})]
    other = cooperative(wrappers.TimeLimit(Scaled(Team()), 5))
    assert list(other.render_states(states[:1], None)) == [([10.0], None)]
    blind = cooperative(Grid(list))
    assert not blind.can_render_states
    with pytest.raises(NotImplementedError, match="render_states"):
        blind.render_states(states, None)


def test_a_team_that_is_a_wrapper_itself_is_taken_as_it_is():
    class Joint(gymnasium.Env):
        """Returns dicts by agent, as multigrid does, but is no MultiAgentEnv."""

        observation_space = spaces.Dict({0: SPACE, 1: SPACE})
        action_space = spaces.Dict({0: Discrete(2), 1: Discrete(2)})

        def reset(self, *, seed=None, options=None):
            return {0: np.zeros(2, np.float32), 1: np.ones(2, np.float32)}, {}

        def step(self, actions):
            return *self.reset()[:1], {0: 1.0, 1: 1.0}, {0: False, 1: False}, {0: True, 1: True}, {}

    class Both(gymnasium.Wrapper, MultiAgentEnv):
        def __init__(self, env):
            gymnasium.Wrapper.__init__(self, env)
            MultiAgentEnv.__init__(self)

        def step(self, actions):
            observations, rewards, terminateds, truncateds, infos = super().step(actions)
            return observations, rewards, terminateds | {"__all__": False}, truncateds | {"__all__": True}, infos

    both = Both(Joint())
    assert as_multi_agent_env(both) is both
    for env in (cooperative(both), cooperative(wrappers.TimeLimit(both, 5)), cooperative(Joint())):
        assert env.agents == [0, 1] and type(env.unwrapped) is Joint
        env.reset()
        assert env.step({0: 0, 1: 1})[2:4] == ({"__all__": False}, {"__all__": True})


class Grid(gymnasium.Env):
    """Two agents in Tuple spaces, as in lbforaging and rware; what it returns is `form`ed."""

    def __init__(self, form, reward=lambda values: list(values), flag=lambda values: bool(values[0]), info=None):
        self.observation_space = spaces.Tuple([SPACE, Box(-9, 9, (3,), np.float32)])
        self.action_space = spaces.Tuple([Discrete(3), Discrete(4)])
        self.form, self.reward, self.flag, self.info = form, reward, flag, info or {}

    def reset(self, *, seed=None, options=None):
        self.steps = 0
        return self.form([np.zeros(2, np.float32), np.ones(3, np.float32)]), self.info

    def step(self, actions):
        self.actions, self.steps = actions, self.steps + 1
        flags = self.flag([self.steps == 3] * 2), self.flag([False] * 2)
        return *self.reset_observations(), self.reward([1.0, 2.0]), *flags, self.info

    def reset_observations(self):
        return (self.form([np.full(2, self.steps, np.float32), np.ones(3, np.float32)]),)


BY_AGENT = {
    "list": list,
    "tuple": tuple,
    "dict": lambda values: {f"agent_{index}": value for index, value in enumerate(values)},
}


@pytest.mark.parametrize("form", BY_AGENT.values(), ids=list(BY_AGENT))
@pytest.mark.parametrize("reward", [*BY_AGENT.values(), np.array], ids=[*BY_AGENT, "array"])
@pytest.mark.parametrize("flag", [*BY_AGENT.values(), np.array, lambda v: v[0]], ids=[*BY_AGENT, "array", "one"])
def test_tuple_teams_may_return_every_form(form, reward, flag):
    grid = Grid(form, reward, flag)
    env = cooperative(grid, team_reward="sum")
    assert env.agents == ["agent_0", "agent_1"] and env.layout.action_sizes == (3, 4)
    seen, rewards, flags, states = play(env, {"agent_1": 3, "agent_0": 2})
    assert grid.actions == (2, 3) and rewards == [3.0] * 3 and flags == (True, False)
    assert states[-1] == [3, 3, 1, 1, 1] and seen[1]["agent_0"].tolist() == [1, 1, 0, 1, 0]


def test_flags_of_nobody_or_of_some_end_nothing():
    nobody = cooperative(Grid(list, reward=sum, flag=lambda values: {}))
    nobody.reset()
    for _ in range(5):
        assert nobody.step({"agent_0": 0, "agent_1": 0})[2:4] == ({"__all__": False}, {"__all__": False})
    one = cooperative(Grid(list, reward=sum, flag=lambda values: {"agent_0": values[0]}), agents_leave=True)
    one.reset()
    assert [one.step({"agent_0": 0, "agent_1": 0})[2]["__all__"] for _ in range(3)] == [False] * 3


def test_one_reward_is_everyones_and_an_info_of_all_is_the_first_agents():
    env = cooperative(wrappers.TimeLimit(Grid(list, reward=sum, info={"speed": 1}), 2))
    assert env.reset()[1]["agent_0"]["speed"] == 1
    *_, rewards, flags, _ = play(env, {"agent_0": 0, "agent_1": 0})[:4]
    _, rewards, flags, _ = play(env, {"agent_0": 0, "agent_1": 0})
    assert rewards == [3.0] * 2 and flags == (False, True)
    by_agent = cooperative(Grid(list, reward=sum, info={"agent_1": {"speed": 1}}))
    assert by_agent.reset()[1]["agent_1"] == {"speed": 1}


def test_agents_that_leave_a_tuple_are_missed():
    env = cooperative(grid := Grid(list, reward=sum))
    env.reset()
    grid.reset_observations = lambda: ([np.zeros(2, np.float32)],)
    with pytest.raises(ContractError, match=r"In step 1 .*1 results for the 2 agents .*agents_leave"):
        env.step({"agent_0": 0, "agent_1": 0})


def test_check_env_takes_tuple_teams():
    report = check_env(lambda config: Grid(list), env_config={"team_reward": "mean"}, steps=5)
    assert report.ok and report.env_name == "Grid"
    assert not check_env(lambda config: gymnasium.make("CartPole-v1"), steps=5).ok


class OldSpace:
    """Stands for a space of the gym package, which is told by its module."""

    __module__ = "gym.spaces.box"


OldSpace.__name__ = "Box"


def test_spaces_of_the_old_gym_package_are_named():
    team = Team()
    team.observation_spaces = dict.fromkeys(AGENTS, OldSpace())
    with pytest.raises(ContractError, match=r"of agent 'left' is a Box of the old gym package.*gymnasium\.spaces\.Box"):
        CooperativeEnv(team)
    grid = Grid(list)
    grid.action_space = OldSpace()
    with pytest.raises(ContractError, match="action space of Grid is a Box of the old gym package"):
        as_multi_agent_env(grid)
    with pytest.raises(EnvTypeError, match="is an environment of the old gym package"):
        as_multi_agent_env(type("Old", (OldSpace,), {})())


WRAPPED = {
    "plain": Team,
    "wrapped": lambda: Shaped(wrappers.TimeLimit(Scaled(Team()), 5)),
}


@pytest.mark.parametrize("make", WRAPPED.values(), ids=list(WRAPPED))
def test_callbacks_reach_the_users_environment(make):
    vector = TeamVector([cooperative(make()) for _ in range(2)])
    user = vector.envs[0].unwrapped
    assert type(user) is Team and user.observation_spaces["left"] == SPACE
    user.difficulty = 3
    assert vector.get_attr("difficulty") == (3, 1) and vector.get_attr("_private") == ("hidden",) * 2
    assert vector.call("set_difficulty", 4) == ("difficulty 4",) * 2
    assert [team.unwrapped.difficulty for team in vector.envs] == [4, 4]
    vector.set_attr("difficulty", [5, 6])
    vector.set_attr("new", 7)
    assert [(team.unwrapped.difficulty, team.unwrapped.new) for team in vector.envs] == [(5, 7), (6, 7)]
    with pytest.raises(AttributeError, match="'Team' object has no attribute 'nonsense'"):
        vector.get_attr("nonsense")
    assert not vector.envs[0].has_wrapper_attr("nonsense")
    assert not vector.envs[0].set_wrapper_attr("nonsense", 1, force=False)


def test_what_a_wrapper_of_the_users_has_is_reached_before_the_environments():
    class Harder(gymnasium.Wrapper):
        difficulty = 9

    env = cooperative(wrappers.OrderEnforcing(harder := Harder(Team())))
    assert env.get_wrapper_attr("difficulty") == 9
    env.set_wrapper_attr("difficulty", 10)
    assert harder.difficulty == 10 and env.unwrapped.difficulty == 1
