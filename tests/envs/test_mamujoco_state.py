"""MAMuJoCo saved and restored: another instance goes on to the last bit."""

import copy
import pickle

import numpy as np
import pytest

from rllib_dima.envs.mamujoco.env import MAMuJoCo

CASES = [
    ("Ant", "4x2", "v4"),
    ("Ant", "2x4d", "v5"),
    ("CoupledHalfCheetah", "1p1", None),
    ("HalfCheetah", "2x3", "v4"),
    ("HalfCheetah", "6x1", "v5"),
    ("Hopper", "3x1", "v4"),
    ("Hopper", "3x1", "v5"),
    ("Humanoid", "9|8", "v4"),
    ("Humanoid", "9|8", "v5"),
    ("HumanoidStandup", "9|8", "v4"),
    ("HumanoidStandup", "9|8", "v5"),
    ("ManySegmentAnt", "2x2", "v5"),
    ("ManySegmentSwimmer", "3x1", "v5"),
    ("Pusher", "3p", "v5"),
    ("Reacher", "2x1", "v4"),
    ("Reacher", "2x1", "v5"),
    ("Swimmer", "2x1", "v4"),
    ("Swimmer", "2x1", "v5"),
    ("Walker2d", "3x2", "v4"),
    ("Walker2d", "2x3", "v5"),
]


def sample(env, rng):
    return {agent: rng.uniform(-1, 1, space.shape).astype(np.float32) for agent, space in env.action_spaces.items()}


def make(case, observations="full"):
    env = MAMuJoCo(*case[:2], version=case[2], observations=observations)
    env.max_episode_steps = min(env.max_episode_steps, 90)  # so that 200 steps see an end of every robot's episode
    return env


def advance(env, rng, num_steps):
    """Results of steps with random actions, and of resets after every end."""
    results = []
    for _ in range(num_steps):
        results.append(env.step(sample(env, rng)))
        if results[-1][2]["__all__"] or results[-1][3]["__all__"]:
            results.append(env.reset())
    return results


def numbers(value):
    """Every number of nested results, one after the other."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return np.concatenate([numbers(entry) for entry in value]) if value else np.zeros(0)
    return np.ravel(np.asarray(value, np.float64))


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
def test_a_fresh_instance_goes_on_exactly(case):
    observations = "local" if CASES.index(case) % 2 else "full"
    env = make(case, observations)
    env.reset(seed=3)
    advance(env, np.random.default_rng(0), 30)
    saved = pickle.loads(pickle.dumps(env.get_state()))
    other = make(case, observations)
    other.set_state(saved)
    np.testing.assert_equal(other.get_state(), saved)
    np.testing.assert_array_equal(other.state(), env.state())
    shown = [one._read(one.env._get_obs()) for one in (env, other)]  # from MuJoCo's data as they are now
    np.testing.assert_array_equal(numbers(shown[0]), numbers(shown[1]))
    expected, results = (advance(one, np.random.default_rng(1), 200) for one in (env, other))
    assert len(expected) > 200  # an episode ended
    np.testing.assert_array_equal(numbers(results), numbers(expected))
    np.testing.assert_equal(other.get_state(), env.get_state())


@pytest.mark.parametrize("case", [("Ant", "2x4", "v4"), ("Humanoid", "9|8", "v5"), ("Pusher", "3p", "v5")], ids=str)
def test_an_instance_goes_back_exactly(case):
    env = make(case)
    env.reset(seed=3)
    advance(env, np.random.default_rng(0), 40)
    saved = env.get_state()
    kept = copy.deepcopy(saved)
    expected = advance(env, np.random.default_rng(1), 60)
    np.testing.assert_equal(saved, kept)  # what was saved does not change with the simulation
    env.set_state(saved)
    np.testing.assert_array_equal(numbers(advance(env, np.random.default_rng(1), 60)), numbers(expected))
    np.testing.assert_equal(saved, kept)


def test_saving_changes_nothing():
    env, other = MAMuJoCo("Ant", "2x4"), MAMuJoCo("Ant", "2x4")
    env.reset(seed=0), other.reset(seed=0)
    for seed in range(20):
        env.get_state()
        actions = sample(env, np.random.default_rng(seed))
        np.testing.assert_equal(env.step(actions), other.step(actions))


def test_a_state_before_the_first_episode_keeps_the_seed():
    env, other = MAMuJoCo("Walker2d", "2x3", seed=7), MAMuJoCo("Walker2d", "2x3", seed=8)
    other.set_state(env.get_state())
    with pytest.raises(RuntimeError, match="call reset"):
        other.state()
    np.testing.assert_equal([other.reset(), other.reset()], [env.reset(), env.reset()])
    env, other = MAMuJoCo("Walker2d", "2x3"), MAMuJoCo("Walker2d", "2x3")  # even where it is not known
    other.set_state(env.get_state())
    np.testing.assert_equal(other.reset(), env.reset())


def test_a_state_after_the_end_needs_a_reset():
    env, other = MAMuJoCo("Reacher", "2x1"), MAMuJoCo("Reacher", "2x1")
    env.reset(seed=0), other.reset(seed=1)
    still = {agent: np.zeros(1, np.float32) for agent in env.agents}
    for _ in range(50):
        env.step(still)
    other.set_state(env.get_state())
    np.testing.assert_array_equal(other.state(), env.state())
    with pytest.raises(RuntimeError, match="call reset"):
        other.step(still)
    np.testing.assert_equal(other.reset(), env.reset())


def test_a_state_cures_an_unstable_simulation(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo writes a log file
    env = MAMuJoCo("HalfCheetah", "2x3")
    env.reset(seed=0)
    saved, still = env.get_state(), {agent: np.zeros(3, np.float32) for agent in env.agents}
    expected = env.step(still)
    env.env.data.qvel[:] = 1e11
    with pytest.raises(RuntimeError, match="BADQVEL"):
        env.step(still)
    env.set_state(saved)
    np.testing.assert_equal(env.step(still), expected)


@pytest.mark.parametrize(
    "through", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))], ids=["copy", "pickle"]
)
@pytest.mark.parametrize("case", [("ManySegmentAnt", "2x1", "v5"), ("Swimmer", "2x1", "v4")], ids=str)
def test_copies_go_on_exactly(case, through):
    env = MAMuJoCo(*case[:2], version=case[2], partition="joints", observations="local", agent_obsk=0)
    env.reset(seed=0)
    advance(env, np.random.default_rng(0), 10)
    other = through(env)
    assert other.observation_spaces == env.observation_spaces and other.render_mode is None
    np.testing.assert_equal(*(advance(one, np.random.default_rng(1), 10) for one in (env, other)))


@pytest.mark.parametrize(
    "settings",
    [
        {"agent_conf": "4x2"},
        {"partition": "joints"},
        {"observations": "local"},
        {"observations": "local", "agent_obsk": 0},
        {"version": "v5"},
        {"scenario": "Walker2d", "agent_conf": "2x3"},
    ],
    ids=str,
)
def test_states_of_other_environments_are_refused(settings):
    other = MAMuJoCo(**{"scenario": "Ant", "agent_conf": "2x4", **settings})
    other.reset(seed=1)
    env = MAMuJoCo("Ant", "2x4")
    env.reset(seed=0)
    before = env.get_state()
    with pytest.raises(ValueError, match="another environment"):
        env.set_state(other.get_state())
    np.testing.assert_equal(env.get_state(), before)


def test_things_that_are_no_states_are_refused():
    env = MAMuJoCo("Ant", "2x4")
    env.reset(seed=0)
    before = env.get_state()
    wrong_size = copy.deepcopy(before)
    wrong_size["simulator"]["integration"] = np.zeros(3)
    incomplete = copy.deepcopy(before)
    del incomplete["simulator"]["lagging"]["xpos"]
    for state in (None, {}, {**before, "more": 1}, wrong_size, incomplete, {**before, "simulator": None}):
        with pytest.raises(ValueError, match=r"get_state|does not fit"):
            env.set_state(state)
    np.testing.assert_equal(env.get_state(), before)
