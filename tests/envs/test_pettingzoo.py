"""PettingZoo environments both ways, judged by PettingZoo's own tests and by RLlib's."""

import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from mpe2 import simple_reference_v3, simple_speaker_listener_v4, simple_spread_v3, simple_v3
from pettingzoo import ParallelEnv
from pettingzoo.test import parallel_api_test, parallel_seed_test
from pettingzoo.test.state_test import state_test
from pettingzoo.utils import BaseParallelWrapper
from pettingzoo.utils.conversions import aec_to_parallel, parallel_to_aec
from ray.rllib.env.env_context import EnvContext
from ray.rllib.env.multi_agent_env import MultiAgentEnv
from ray.rllib.env.wrappers.pettingzoo_env import ParallelPettingZooEnv
from ray.rllib.env.wrappers.pettingzoo_env import PettingZooEnv as TurnBasedPettingZooEnv
from ray.rllib.utils.pre_checks.env import check_multiagent_environments
from ray.tune import register_env

from rllib_dima import DIMAConfig
from rllib_dima.envs.cooperative import CooperativeEnv
from rllib_dima.envs.creation import as_multi_agent_env
from rllib_dima.envs.mamujoco.env import MAMuJoCo
from rllib_dima.envs.pettingzoo import ParallelTeam, PettingZooEnv, to_pettingzoo
from rllib_dima.sampling.env_runner import make_cooperative_env


class Walk(ParallelEnv):
    """Three agents on a line, for two steps; agents leave as `leaving` says: per step, (terminated, truncated)."""

    metadata = {"name": "walk"}  # noqa: RUF012
    possible_agents = ["walker_2", "walker_10", "walker_1"]  # noqa: RUF012
    leaving = (((), ()), ((), tuple(possible_agents)))
    empties_agents = True

    def observation_space(self, agent):
        return Box(-9, 9, (1,))

    def action_space(self, agent):
        return Box(-2, 2, (1,))

    def reset(self, seed=None, options=None):
        self.reset_arguments = seed, options
        self.agents, self.num_steps = list(self.possible_agents), 0
        self.positions = dict.fromkeys(self.agents, 0.0)
        return self.observe(), None

    def step(self, actions):
        self.actions = actions
        terminated, truncated = self.leaving[self.num_steps]
        self.num_steps += 1
        for agent in self.agents:
            self.positions[agent] += float(actions[agent][0])
        observations, rewards = self.observe(), dict.fromkeys(self.agents, 1.0)
        flags = [{agent: agent in done for agent in self.agents} for done in (terminated, truncated)]
        if self.empties_agents:
            self.agents = [agent for agent in self.agents if agent not in terminated + truncated]
        return observations, rewards, *flags, {agent: {"x": 1} for agent in observations}

    def observe(self):
        return {agent: np.array([self.positions[agent]], np.float32) for agent in self.agents}


class WalkWithState(Walk):
    state_space = Box(-9, 9, (4,))

    def state(self):
        return np.array([*self.positions.values(), self.num_steps], np.float32)


EVERYONE, FIRST, OTHERS = tuple(Walk.possible_agents), ("walker_2",), ("walker_10", "walker_1")
ONES = dict.fromkeys(EVERYONE, np.ones(1, np.float32))


def variant(base=Walk, **members):
    return type("Variant", (base,), members)()


@pytest.mark.parametrize("clips", [True, False])
def test_an_environment_may_refuse_the_clipping_of_actions(clips):
    """Also through the adapter."""
    env = type("Free", (Walk,), {"clip_actions": clips})()
    team = CooperativeEnv(PettingZooEnv(env), team_reward="mean")
    team.reset(seed=0)
    team.step({agent: np.array([3.0], np.float32) for agent in team.agents})
    assert [float(action[0]) for action in env.actions.values()] == [2.0 if clips else 6.0] * 3  # [-1, 1] is [-2, 2]
    assert team.layout.clips_actions == clips


def test_agents_and_spaces_are_those_of_the_environment():
    env = PettingZooEnv(Walk())
    assert env.possible_agents == env.agents == Walk.possible_agents
    assert env.observation_spaces == dict.fromkeys(EVERYONE, Box(-9, 9, (1,)))
    assert env.action_spaces == dict.fromkeys(EVERYONE, Box(-2, 2, (1,)))
    assert env.metadata == {"name": "walk"} and env.render_mode is None
    assert CooperativeEnv(env).agents == ["walker_1", "walker_2", "walker_10"]


@pytest.mark.parametrize("empties_agents", [True, False])
@pytest.mark.parametrize(
    ("leaving", "terminated", "truncated"),
    [
        (((), EVERYONE), False, True),
        ((EVERYONE, ()), True, False),
        ((EVERYONE, EVERYONE), True, False),
        ((FIRST, OTHERS), False, True),
        (((), ()), False, False),
        ((FIRST, ()), False, False),
    ],
)
def test_all_is_set_when_no_agent_is_left(leaving, terminated, truncated, empties_agents):
    env = PettingZooEnv(variant(leaving=(leaving,), empties_agents=empties_agents))
    env.reset()
    observations, rewards, terminateds, truncateds, infos = env.step(ONES)
    assert (terminateds.pop("__all__"), truncateds.pop("__all__")) == (terminated, truncated)
    assert terminateds == {agent: agent in leaving[0] for agent in EVERYONE}
    assert truncateds == {agent: agent in leaving[1] for agent in EVERYONE}
    assert set(observations) == set(EVERYONE) and rewards == dict.fromkeys(EVERYONE, 1.0)
    assert infos == {agent: {"x": 1} for agent in EVERYONE}
    assert env.agents == list(EVERYONE)


def test_an_environment_that_empties_its_agents_without_a_flag_has_run_out_of_time():
    env = variant(leaving=(((), EVERYONE),))
    step = env.step

    def step_without_flags(actions):
        observations, rewards, *_, infos = step(actions)
        return observations, rewards, {}, {}, infos

    env.step = step_without_flags
    converted = PettingZooEnv(env)
    converted.reset()
    assert converted.step(ONES)[2:4] == ({"__all__": False}, {"__all__": True})


def test_agents_that_leave_early_are_refused_by_the_wrapper():
    env = CooperativeEnv(PettingZooEnv(variant(leaving=((FIRST, ()),))))
    env.reset()
    with pytest.raises(ValueError, match=r"Agents \['walker_2'\] of .* are done while the episode goes on"):
        env.step(ONES)


def test_a_time_limit_stays_a_truncation():
    env = CooperativeEnv(PettingZooEnv(Walk()))
    for _ in range(2):
        env.reset(seed=0)
        assert env.step(ONES)[2:4] == ({"__all__": False}, {"__all__": False})
        assert env.step(ONES)[2:4] == ({"__all__": False}, {"__all__": True})


def test_everything_else_passes_through():
    walk = variant(render_mode="rgb_array", render=lambda self: "image", close=lambda self: setattr(self, "gone", 1))
    env = PettingZooEnv(walk)
    observations, infos = env.reset(seed=3, options={"x": 1})
    assert walk.reset_arguments == (3, {"x": 1}) and infos == {} and list(observations) == list(EVERYONE)
    env.step(ONES)
    assert walk.actions == ONES and env.render() == "image" and env.render_mode == "rgb_array"
    env.close()
    assert walk.gone


def test_the_state_is_that_of_the_environment():
    env = PettingZooEnv(WalkWithState())
    assert env.state_space == WalkWithState.state_space
    _, infos = (cooperative := CooperativeEnv(env)).reset()
    assert cooperative.layout.state_size == 4
    *_, infos = cooperative.step({**ONES, "walker_10": np.zeros(1), "walker_1": np.array([-0.5])})
    np.testing.assert_equal(infos["walker_1"]["state"], np.array([2, 0, -1, 1], np.float32))  # rescaled to [-2, 2]


def not_implemented(self):
    raise NotImplementedError("there is no state")


@pytest.mark.parametrize(
    "members", [{}, {"state": not_implemented}, {"state": not_implemented, "state_space": Box(0, 1)}]
)
def test_without_a_working_state_there_is_none(members):
    for env in (variant(**members), BaseParallelWrapper(variant(**members))):
        converted = PettingZooEnv(env)
        assert not hasattr(converted, "state") and not hasattr(converted, "state_space")
        assert CooperativeEnv(converted).layout.state_size == 3


def test_a_state_without_a_space_gets_one():
    env = PettingZooEnv(variant(WalkWithState, state_space=None))
    assert env.state_space == Box(-np.inf, np.inf, (4,), np.float32)
    assert PettingZooEnv(WalkWithState()).state_space != env.state_space


def test_errors_of_the_state_are_not_hidden_and_it_can_be_left_out():
    def state(self):
        raise ZeroDivisionError

    with pytest.raises(
        ValueError, match=r"state\(\) of Variant failed: ZeroDivisionError.*\"state\": \"observations\""
    ):
        PettingZooEnv(variant(state=state))
    register_env("walk_without_state", lambda env_config: variant(state=state, state_space=Box(0, 1)))
    config = DIMAConfig().environment("walk_without_state")
    assert make_cooperative_env(config, EnvContext({"state": "observations"}, 0)).layout.state_size == 3
    with pytest.raises(ValueError, match=r"'observation'\. Did you mean 'observations'"):
        make_cooperative_env(config, EnvContext({"state": "observation"}, 0))


def test_an_environment_without_any_state_is_not_reset():
    walk = Walk()
    PettingZooEnv(walk)
    assert not hasattr(walk, "reset_arguments")


def test_conversion_of_whatever_is_given():
    walk = WalkWithState()
    assert as_multi_agent_env(walk).par_env is walk
    hidden = ParallelPettingZooEnv(walk)
    converted = as_multi_agent_env(hidden)
    assert type(converted) is PettingZooEnv and converted.par_env is walk
    assert CooperativeEnv(converted).layout.state_size == 4  # RLlib's own has none
    assert CooperativeEnv(hidden).layout.state_size == 3
    assert as_multi_agent_env(converted) is converted
    assert converted.unwrapped is hidden and as_multi_agent_env(walk).unwrapped is walk
    for inner in (hidden, converted):
        team = as_multi_agent_env(wrapper := gymnasium.Wrapper(inner))
        assert team.env is wrapper and team.unwrapped is inner.unwrapped
        assert CooperativeEnv(team).layout.state_size == 4


def test_a_subclass_of_rllibs_wrapper_is_used():
    class Shaped(ParallelPettingZooEnv):
        def step(self, action_dict):
            observations, rewards, *others = super().step(action_dict)
            return observations, dict.fromkeys(rewards, 5.0), *others

    env = CooperativeEnv(as_multi_agent_env(Shaped(WalkWithState())))
    env.reset()
    assert env.step(ONES)[1] == dict.fromkeys(env.agents, 5.0) and env.layout.state_size == 4


def test_pettingzoos_own_wrappers_are_used():
    class Shaped(BaseParallelWrapper):
        def step(self, actions):
            observations, rewards, *others = super().step(actions)
            return observations, dict.fromkeys(rewards, 5.0), *others

    env = CooperativeEnv(as_multi_agent_env(Shaped(Shaped(walk := WalkWithState()))))
    env.reset()
    assert env.step(ONES)[1] == dict.fromkeys(env.agents, 5.0)
    assert env.unwrapped is walk and env.get_wrapper_attr("num_steps") == 1
    env.set_wrapper_attr("num_steps", 0)
    assert walk.num_steps == 0


class ConfiguredWalk(WalkWithState):
    def __init__(self, env_config):
        self.env_config = dict(env_config)


@pytest.mark.parametrize("env", ["walk", "walk_of_rllib", ConfiguredWalk])
def test_a_configuration_may_name_a_pettingzoo_environment(env):
    register_env("walk", ConfiguredWalk)  # here, as Ray forgets names when a test before this one shuts it down
    register_env("walk_of_rllib", lambda env_config: ParallelPettingZooEnv(ConfiguredWalk(env_config)))
    config = DIMAConfig().environment(env)
    made = make_cooperative_env(config, EnvContext({"length": 3, "team_reward": "sum"}, worker_index=0))
    assert made.env.par_env.env_config == {"length": 3} and made.layout.state_size == 4
    made.reset(seed=0)
    assert made.step(ONES)[1] == dict.fromkeys(made.agents, 3.0)


def test_what_cannot_be_converted_is_refused():
    turn_based = simple_spread_v3.env()
    for env in (turn_based, TurnBasedPettingZooEnv(simple_spread_v3.env())):
        with pytest.raises(TypeError, match=r"simple_spread_v3 is a turn-based .*conversions\.aec_to_parallel"):
            as_multi_agent_env(env)
    with pytest.raises(TypeError, match="turn-based"):
        PettingZooEnv(turn_based)
    assert as_multi_agent_env(aec_to_parallel(turn_based)).possible_agents == ["agent_0", "agent_1", "agent_2"]
    with pytest.raises(TypeError, match=r"single-agent gymnasium\.Env"):
        as_multi_agent_env(gymnasium.make("CartPole-v1"))
    with pytest.raises(TypeError, match="was given a int"):
        as_multi_agent_env(3)
    with pytest.raises(TypeError, match="once only"):
        as_multi_agent_env(CooperativeEnv(PettingZooEnv(Walk())))
    with pytest.raises(TypeError, match=r"needs a pettingzoo\.ParallelEnv, but was given a PettingZooEnv"):
        PettingZooEnv(PettingZooEnv(Walk()))
    with pytest.raises(TypeError, match="needs an RLlib MultiAgentEnv, but was given a Walk"):
        to_pettingzoo(Walk())


def cheetah():
    return MAMuJoCo("HalfCheetah", "2x3")


def spread(**kwargs):
    return PettingZooEnv(simple_spread_v3.parallel_env(max_cycles=20, **kwargs))


ENVS = {
    "cheetah": cheetah,
    "spread, continuous": lambda: spread(continuous_actions=True),
    "spread, discrete": spread,
    "reference": lambda: PettingZooEnv(simple_reference_v3.parallel_env(max_cycles=20)),
    "speaker listener": lambda: PettingZooEnv(simple_speaker_listener_v4.parallel_env(max_cycles=20)),
    "unequal boxes": lambda: PettingZooEnv(
        simple_speaker_listener_v4.parallel_env(max_cycles=20, continuous_actions=True)
    ),
}
# An agent with fewer choices than others cannot do all that the shared Discrete space offers, so that a test which
# samples that space does not apply.
COOPERATIVE = {name: make for name, make in ENVS.items() if name != "speaker listener"}
CASES = {
    **ENVS,
    **{f"{name}, wrapped": lambda make=make: CooperativeEnv(make(), "mean") for name, make in COOPERATIVE.items()},
}


@pytest.mark.parametrize("make", CASES.values(), ids=list(CASES))
def test_pettingzoo_accepts_what_to_pettingzoo_makes(make):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "Environment's m.* state space value is")
        warnings.filterwarnings("ignore", "State numpy array is all zeros")
        parallel_api_test(to_pettingzoo(make()), num_cycles=45)
        state_test(parallel_to_aec(to_pettingzoo(make())), to_pettingzoo(make()), num_cycles=30)
    parallel_seed_test(lambda: to_pettingzoo(make()), num_cycles=30)


@pytest.mark.parametrize("make", CASES.values(), ids=list(CASES))
def test_rllib_accepts_every_form(make):
    check_multiagent_environments(make())
    check_multiagent_environments(PettingZooEnv(to_pettingzoo(make())))


def play(env, steps, seed=0):
    """All results of an episode of random actions."""
    results = [env.reset(seed=seed)]
    for index, space in enumerate(env.action_spaces.values()):
        space.seed(seed + index)
    for _ in range(steps):
        results.append(env.step({agent: space.sample() for agent, space in env.action_spaces.items()}))
        if results[-1][2]["__all__"] or results[-1][3]["__all__"]:
            return results
    return results


@pytest.mark.parametrize("make", [cheetah, ENVS["unequal boxes"], lambda: CooperativeEnv(spread(), "mean")])
def test_there_and_back_nothing_changes(make):
    env = make()
    direct = play(env if isinstance(env, CooperativeEnv) else CooperativeEnv(env, "mean"), 40)
    around = play(CooperativeEnv(PettingZooEnv(to_pettingzoo(make())), "mean"), 40)
    for one, other in zip(direct, around, strict=True):
        assert one[1:-1] == other[1:-1]  # rewards and flags
        np.testing.assert_equal(other[0], one[0])
        np.testing.assert_equal(*({agent: info for agent, info in infos[-1].items() if info} for infos in (one, other)))


def test_spread_is_the_same_as_in_pettingzoo():
    """Positions, rewards and the time limit against the environment itself, driven beside it."""
    env = CooperativeEnv(spread(continuous_actions=True), "mean")
    plain = simple_spread_v3.parallel_env(max_cycles=20, continuous_actions=True)
    rng, (observations, infos) = np.random.default_rng(0), env.reset(seed=5)
    expected, _ = plain.reset(seed=5)
    for step in range(1, 21):
        unit = {agent: rng.uniform(-1, 1, 5).astype(np.float32) for agent in env.agents}
        observations, rewards, terminateds, truncateds, infos = env.step(unit)
        expected, own_rewards, *_ = plain.step({agent: (action + 1) / 2 for agent, action in unit.items()})
        np.testing.assert_allclose(infos["agent_0"]["state"], plain.state(), atol=1e-5)
        for index, agent in enumerate(env.agents):
            np.testing.assert_allclose(observations[agent], [*expected[agent], *np.eye(3)[index]], atol=1e-5)
        np.testing.assert_allclose(rewards["agent_1"], np.mean(list(own_rewards.values())), atol=1e-5)
        assert (terminateds["__all__"], truncateds["__all__"]) == (False, step == 20)


class Pair(MultiAgentEnv):
    """Flags and infos as they are set; no state."""

    def __init__(self):
        self.possible_agents = self.agents = ["a", "b"]
        super().__init__()
        self.observation_spaces = dict.fromkeys("ab", Box(-1, 1, (2,)))
        self.action_spaces = dict.fromkeys("ab", Discrete(2))
        self.flags, self.infos = ({"__all__": False}, {"__all__": False}), {"b": {"x": 1}}

    def reset(self, *, seed=None, options=None):
        self.reset_arguments = seed, options
        return dict.fromkeys("ab", np.zeros(2, np.float32)), self.infos

    def step(self, action_dict):
        self.actions = action_dict
        return dict.fromkeys("ab", np.ones(2, np.float32)), dict.fromkeys("ab", 1.0), *self.flags, self.infos


def test_a_team_in_pettingzoo():
    env = to_pettingzoo(pair := Pair())
    assert isinstance(env, ParallelTeam) and str(env) == "Pair"
    assert env.possible_agents == ["a", "b"] and env.agents == []
    _, infos = env.reset(seed=3, options={"y": 2})
    assert env.agents == ["a", "b"] and infos == {"a": {}, "b": {"x": 1}} and pair.reset_arguments == (3, {"y": 2})
    no, yes = {"a": False, "b": False}, {"a": True, "b": True}
    assert env.step({"a": 0, "b": 1})[2:] == (no, no, {"a": {}, "b": {"x": 1}}) and pair.actions == {"a": 0, "b": 1}
    for flags, expected in [(({"__all__": True}, {}), (yes, no)), (({"__all__": False}, yes), (no, yes))]:
        env.reset()
        pair.flags = flags
        assert env.step({"a": 0, "b": 1})[2:4] == expected
        assert env.agents == []
        with pytest.raises(RuntimeError, match="call reset"):
            env.step({})
    pair.flags = ({"a": True, "b": False}, {})
    env.reset()
    with pytest.raises(ValueError, match="are done while the episode goes on"):
        env.step({"a": 0, "b": 1})


def test_a_team_without_a_state_has_none_in_pettingzoo():
    env = to_pettingzoo(Pair())
    env.reset()
    assert not hasattr(env, "state_space")
    with pytest.raises(NotImplementedError):
        env.state()
    assert to_pettingzoo(CooperativeEnv(Pair())).state_space == Box(-np.inf, np.inf, (4,), np.float32)


def test_only_an_environment_that_can_is_saved_and_restored():
    for make, can_restore in ((cheetah, hasattr(MAMuJoCo, "get_state")), (spread, False), (Pair, False)):
        forms = [CooperativeEnv(make()), to_pettingzoo(make()), PettingZooEnv(to_pettingzoo(CooperativeEnv(make())))]
        assert [form.can_restore for form in forms] == [can_restore] * 3


class Counter(Pair):
    """A state that is a number of steps."""

    steps = 0

    def step(self, action_dict):
        self.steps += 1
        return super().step(action_dict)

    def get_state(self):
        return {"steps": self.steps}

    def set_state(self, state):
        self.steps = state["steps"]


def test_saving_and_restoring_through_all_forms():
    env, fresh = (CooperativeEnv(PettingZooEnv(to_pettingzoo(Counter()))) for _ in range(2))
    env.reset()
    for _ in range(3):
        env.step({"a": 0, "b": 1})
    fresh.set_state(env.get_state())
    assert fresh.env.par_env.env.steps == 3 and fresh.env.par_env.agents == ["a", "b"]
    fresh.step({"a": 0, "b": 1})
    assert (env.env.par_env.env.steps, fresh.env.par_env.env.steps) == (3, 4)


def test_states_are_drawn_through_pettingzoo_and_back():
    class Drawer(Counter):
        def render_states(self, states, start):
            return [(state.tolist(), start) for state in states]

    env = CooperativeEnv(PettingZooEnv(to_pettingzoo(Drawer())))
    env.reset()
    env.step({"a": 0, "b": 1})
    states = np.array([[10.0], [20.0]], np.float32)
    assert list(env.render_states(states, env.get_state())) == [([10.0], {"steps": 1}), ([20.0], {"steps": 1})]
    assert list(env.env.par_env.render_states(states[:1], None)) == [([10.0], None)]
    assert not to_pettingzoo(Pair()).can_render_states


def test_a_single_agent_is_too_few():
    with pytest.raises(ValueError, match=r"at least 2 agents, but possible_agents of PettingZooEnv is \['agent_0'\]"):
        CooperativeEnv(PettingZooEnv(simple_v3.parallel_env()))
