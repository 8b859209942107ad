"""Every algorithm on every kind of team: trains, is saved, resumes bit for bit, is exported and evaluates."""

import math
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
import tree
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.env.multi_agent_env import MultiAgentEnv
from support.core import TINY_MAMBA, TINY_MARIE, randomize
from support.team import TINY

import rllib_dima
from rllib_dima import ALGORITHMS, Policy
from rllib_dima.learning.rl_modules import POLICY_ID
from rllib_dima.learning.trajectories import to_trajectory
from rllib_dima.sampling.env_runner import LAYOUT_KEY, TeamEnvRunner

pytestmark = pytest.mark.usefixtures("ray_running")

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

SMALL = {name: value for name, value in TINY.items() if name in ("actor_hidden_size", "critic_hidden_size")}
SETTINGS = {
    "DIMA": TINY,
    "MAMBA": {**TINY_MAMBA, "sample_latents_in_evaluation": False},
    "MAPPO": {**SMALL, "env_steps_per_iteration": 20, "ppo_minibatches": 2},
    "HAPPO": {**SMALL, "env_steps_per_iteration": 20, "ppo_minibatches": 2},
    "HASAC": {
        **SMALL, "env_steps_per_iteration": 20, "warmup_steps": 20, "updates_per_iteration": 3, "batch_size": 16,
        "replay_capacity": 500,
    },
    "MARIE": TINY_MARIE,
}  # fmt: skip
SPACES = {  # of the two agents: entries of observations, and actions
    "continuous": ((3, 3), (Box(-0.4, 0.4, (2,)), Box(-0.4, 0.4, (2,)))),
    "discrete": ((3, 3), (Discrete(3), Discrete(3))),
    "unequal": ((3, 2), (Box(-0.4, 0.4, (2,)), Box(-1, 2, (1,)))),
    "leaving": ((3, 2), (MultiDiscrete([3, 2]), Discrete(3))),  # the left one does from step 5 on, and has masks
}
MASK = np.array([1, 0, 1, 1, 1], np.int8)
JOINT = ("MAMBA",)
"""Whose policy acts for all agents of an environment at once."""
CASES = [(algorithm, kind) for algorithm in ALGORITHMS for kind in SPACES]


class Team(MultiAgentEnv):
    """A team of two that can be saved; an episode takes 7 steps, and its reward depends on all actions.

    Checkpoints are written after 6 steps of an episode, which the left one, if agents leave, does not see.
    """

    def __init__(self, config):
        super().__init__()
        sizes, actions = SPACES[config["kind"]]
        self.agents = self.possible_agents = ["left", "right"]
        self.observation_spaces = {a: Box(-9, 9, (n,), np.float32) for a, n in zip(self.agents, sizes, strict=True)}
        self.action_spaces = dict(zip(self.agents, actions, strict=True))
        self.random = np.random.default_rng()
        self.agents_leave = config["kind"] == "leaving"
        if self.agents_leave:
            masked = {"observation": self.observation_spaces["left"], "action_mask": MultiBinary(5)}
            self.observation_spaces["left"] = Dict(masked)

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            self.random = np.random.default_rng(seed)
        self.steps, self.number = 0, self.random.normal()
        return self._observations(), {}

    def step(self, actions):
        assert set(actions) == set(self._observations())
        assert not self.agents_leave or "left" not in actions or actions["left"][0] != 1, "which is unavailable"
        self.steps += 1
        reward = self.number * float(sum(np.sum(action) for action in actions.values()))
        flags = dict.fromkeys([*self.agents, "__all__"], False), dict.fromkeys(["__all__"], self.steps == 7)
        return self._observations(), dict.fromkeys(self.agents, reward), *flags, {}

    def get_state(self):
        return {"steps": self.steps, "number": self.number, "random": self.random.bit_generator.state}

    def set_state(self, state):
        self.steps, self.number = state["steps"], state["number"]
        self.random.bit_generator.state = state["random"]

    def _observations(self):
        values = np.array([self.steps / 7, self.number, 1.0], np.float32)
        if not self.agents_leave:
            return {agent: values[: space.shape[0]] for agent, space in self.observation_spaces.items()}
        left = {"left": {"observation": values, "action_mask": MASK}} if self.steps < 5 else {}
        return {**left, "right": values[:2]}


def config_of(algorithm, kind):
    config = getattr(rllib_dima, f"{algorithm}Config")().environment(Team, env_config={"kind": kind})
    config.training(**SETTINGS[algorithm]).evaluation(evaluation_duration=3)
    return config.debugging(seed=1, log_sys_usage=False).env_runners(num_envs_per_env_runner=2)


def build(algorithm, kind, num_env_runners=0):
    return config_of(algorithm, kind).env_runners(num_env_runners=num_env_runners).build()


def everything(algo):
    """Networks, optimisers and counters."""
    return algo.learner_group.get_state()["learner"]


def arrays(state):
    return tree.map_structure(lambda value: value.numpy() if isinstance(value, torch.Tensor) else value, state)


def assert_resumes(algo, algorithm, folder):
    """Saves the algorithm and compares one iteration more with that of another that is restored."""
    checkpoint = algo.save_to_path(folder / "run")
    algo.train()
    expected, result = arrays(everything(algo)), algo.evaluate()["env_runners"]["episode_return_mean"]
    algo.stop()
    resumed = getattr(rllib_dima, algorithm).from_checkpoint(checkpoint)
    resumed.train()
    found = arrays(everything(resumed))
    for part in ("rl_module", "optimizer"):
        np.testing.assert_equal(found[part], expected[part])
    assert resumed.evaluate()["env_runners"]["episode_return_mean"] == result and math.isfinite(result)
    resumed.stop()
    return checkpoint


@pytest.mark.parametrize(("algorithm", "kind"), CASES)
def test_it_trains_is_saved_resumes_is_exported_and_evaluates(algorithm, kind, tmp_path):
    algo = build(algorithm, kind)
    before = everything(algo)["rl_module"]["shared_policy"]
    for _ in range(2):
        result = algo.train()
    after = everything(algo)["rl_module"]["shared_policy"]
    assert any(not np.array_equal(before[name], after[name]) for name in before)
    assert result["num_env_steps_sampled_lifetime"] >= 40 and math.isfinite(result["episode_return_mean"])
    given = {"left": np.ones(3, np.float32), "right": np.ones(SPACES[kind][0][1], np.float32)}
    if kind == "leaving":
        masks = {"left": MASK, "right": np.array([0, 1, 1])}
        given = {agent: {"observation": own, "action_mask": masks[agent]} for agent, own in given.items()}
    expected = Policy(algo.get_module().net).act(given)
    policy = Policy.from_checkpoint(assert_resumes(algo, algorithm, tmp_path))
    np.testing.assert_equal(policy.act(given), expected)
    policy.export(tmp_path / "policy.pt2")
    exported = torch.export.load(tmp_path / "policy.pt2").module()
    rows = torch.from_numpy(np.stack([policy._padded(agent, own) for agent, own in given.items()]))
    found = exported(rows) if algorithm not in JOINT else of_exported_team(exported, rows, policy)
    np.testing.assert_allclose(found.numpy(), np.stack(list(expected.values())), atol=1e-6)


def of_exported_team(exported, rows, policy):
    """The actions of a joint policy in an episode's first step, in a batch of three teams; then, what follows them."""
    memory = torch.zeros(3, *policy._memory.shape[1:])
    actions, memory = exported(rows.expand(3, -1, -1), memory)
    np.testing.assert_allclose(memory[:1], policy._memory, atol=1e-6)
    given = dict(zip(policy.layout.agent_ids, rows.numpy(), strict=True))
    following = np.stack(list(policy.act(given).values()))
    np.testing.assert_allclose(exported(rows.expand(3, -1, -1), memory)[0][1], following, atol=1e-6)
    policy.reset()
    np.testing.assert_allclose(np.stack(list(policy.act(given).values())), actions[2], atol=1e-6)
    return actions[0]


@pytest.mark.parametrize("kind", SPACES)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_runners_record_what_on_policy_trainers_learn_from(algorithm, kind):
    config = config_of(algorithm, kind)
    runner = TeamEnvRunner(config=config, worker_index=0)
    actor = runner.module[POLICY_ID].net
    for _ in range(2):  # the second time chunks begin in mid-episode
        episodes = runner.sample(num_timesteps=20)
    layout = runner.get_spaces()[LAYOUT_KEY]
    for episode in episodes:
        found = to_trajectory(episode, layout)
        drawn, observations = torch.from_numpy(found.drawn_actions), torch.from_numpy(found.observations)
        drawn = drawn.long() if layout.is_discrete else drawn
        np.testing.assert_array_equal(found.actions, actor.executed(drawn, observations))
        assert found.last_observations.shape == found.observations.shape[1:]
        if not config.trainer_class.ON_POLICY:
            assert found.log_probs is None
            continue
        with torch.no_grad():
            expected = actor(observations).log_prob(drawn)
        np.testing.assert_allclose(found.log_probs, expected, atol=1e-5)
    assert sum(map(len, episodes)) == 20
    runner.stop()


class Uneven(Team):
    """Teams of one runner end their episodes at different times."""

    def __init__(self, config):
        super().__init__(config)
        self.length = 3 + config.vector_index

    def step(self, actions):
        observations, rewards, terminateds, _, infos = super().step(actions)
        return observations, rewards, terminateds, {"__all__": self.steps == self.length}, infos


def columns(episodes):
    """What episodes hold of every agent."""
    agents = [agent for episode in episodes for _, agent in sorted(episode.agent_episodes.items())]
    return [
        {
            "steps": (agent.agent_id, agent.t_started, agent.is_done),
            "arrays": [agent.observations.data, agent.actions.data, agent.rewards.data],
            "outputs": {name: values.data for name, values in agent.extra_model_outputs.items()},
        }
        for agent in agents
    ]


@pytest.mark.parametrize("kind", SPACES)
def test_connectors_of_one_piece_do_what_rllibs_do(kind, monkeypatch):
    config = config_of("MAPPO", kind).environment(Uneven).env_runners(num_envs_per_env_runner=3)
    own = TeamEnvRunner(config=config, worker_index=0)
    for name in ("build_env_to_module_connector", "build_module_to_env_connector"):
        monkeypatch.setattr(type(config), name, getattr(AlgorithmConfig, name))
    rllibs = TeamEnvRunner(config=config, worker_index=0)
    rllibs.module.set_state(own.module.get_state())
    assert own.get_spaces()[POLICY_ID] == rllibs.get_spaces()[POLICY_ID]
    for asked in ({"num_timesteps": 20}, {"num_timesteps": 20}, {"num_episodes": 5, "explore": False}):
        found, expected = (runner.sample(**asked) for runner in (own, rllibs))
        assert len(found) > 3
        np.testing.assert_equal(columns(found), columns(expected))
    for runner in (own, rllibs):
        runner.stop()


@pytest.mark.parametrize("kind", ["unequal", "leaving"])
def test_a_joint_policy_remembers_its_own_episode_alone_and_episodes_do_not_hold_it(kind):
    config = config_of("MAMBA", kind).environment(Uneven).env_runners(num_envs_per_env_runner=3)
    runner = TeamEnvRunner(config=config, worker_index=0)
    net = randomize(runner.module[POLICY_ID].net)
    runner.sample(num_timesteps=12)  # leaves episodes running
    episodes, layout, policy = (
        runner.sample(num_episodes=6, explore=False),
        runner.get_spaces()[LAYOUT_KEY],
        Policy(net),
    )
    forgetful = False
    for episode in episodes:
        found = to_trajectory(episode, layout)
        for step, (seen, drawn) in enumerate(zip(found.observations, found.drawn_actions, strict=True)):
            if step == 0:
                policy.reset()
            given = dict(zip(layout.agent_ids, seen, strict=True))
            actions = np.stack(list(policy.act(given).values()))
            np.testing.assert_allclose(actions, drawn if layout.is_discrete else drawn.clip(-1, 1), atol=1e-5)
            forgetful |= step > 0 and not np.allclose(
                np.stack(list(Policy(net).act(given).values())), actions, atol=1e-3
            )
        assert all(not agent.extra_model_outputs for agent in episode.agent_episodes.values())
    assert forgetful and len({len(episode) for episode in episodes}) == 3
    runner.stop()


@pytest.mark.parametrize("algorithm", ["MAPPO", "HAPPO"])
def test_collecting_ahead_is_refused_where_only_the_present_policys_steps_count(algorithm):
    config = config_of(algorithm, "continuous").env_runners(num_env_runners=1, sample_async=True)
    with pytest.raises(ValueError, match=f"but {algorithm} learns from the present policy's steps alone"):
        config.validate()
    config = config_of(algorithm, "continuous").env_runners(explore=False)
    with pytest.raises(ValueError, match=f"explore=False.*but {algorithm} learns from drawn ones"):
        config.validate()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_advice_names_hyperparameters_of_its_own(algorithm):
    names = {name: set(getattr(rllib_dima, f"{name}Config").hyperparameter_class.names()) for name in ALGORITHMS}
    foreign = set.union(*names.values()) - names[algorithm]
    for setting, advice in getattr(rllib_dima, f"{algorithm}Config").alternatives.items():
        assert not foreign & set(re.findall(r"\w+", advice)), setting


def test_tasks_have_their_tuned_values():
    def values(algorithm, env):
        hp = getattr(rllib_dima, f"{algorithm}Config")().environment(env).hyperparameters()
        return hp.actor_lr, hp.gamma

    assert values("MAPPO", "mamujoco_walker2d_2x3") == (1e-3, 0.99)
    assert values("HAPPO", "bidexhands_pen") == (5e-4, 0.95)
    assert values("HASAC", "mamujoco_ant_4x2") == (1e-3, 0.99)
    assert values("HASAC", "bidexhands_door_open_outward") == values("HASAC", Team) == (5e-4, 0.99)


@pytest.mark.parametrize("algorithm", [name for name in ALGORITHMS if name != "DIMA"])
def test_its_page_names_the_metrics_that_it_reports(algorithm):
    page = (Path(__file__).parents[2] / "docs/algorithms" / f"{algorithm.lower()}.md").read_text()
    algo = build(algorithm, "continuous")
    algo.train()
    reported = {
        f"learners/{module}/{name}"
        for module, metrics in algo.train()["learners"].items()
        for name in metrics
        if not name.startswith(("num_", "weights_seq_no"))
    }
    algo.stop()
    assert reported == set(re.findall(r"`(learners/[^`]+)` \| ", page))


def learnt(learner):
    """All that training depends on but the replay."""
    state, modules = learner.trainer.state_dict(), learner.module.get_state()
    return {"modules": modules, "optimizers": arrays(state["optimizers"]), "iterations": state["num_iterations"]}


@pytest.mark.parametrize(
    ("algorithm", "seed"), [("MAMBA", None), ("MAPPO", 1), ("HAPPO", None), ("HASAC", None), ("MARIE", None)]
)
def test_two_learners_stay_equal_bit_for_bit_and_are_restored(algorithm, seed, tmp_path):
    """Seeded ones on policy also learn what one learner does; without seeds they draw different minibatches."""
    algo = config_of(algorithm, "unequal").debugging(seed=seed).learners(num_learners=2).build()
    start = algo.get_weights()
    for _ in range(3):
        algo.train()
    first, second = (result.get() for result in algo.learner_group.foreach_learner(learnt))
    np.testing.assert_equal(second, first)
    assert first["iterations"] == (2 if algorithm == "HASAC" else 3)
    changed = tree.map_structure(lambda one, two: bool((one != two).any()), start, algo.get_weights())
    assert all(any(tree.flatten(names)) for names in changed.values())
    checkpoint = algo.save_to_path(tmp_path / "run")
    algo.train()
    algo.restore_from_path(checkpoint)
    for result in algo.learner_group.foreach_learner(learnt):
        np.testing.assert_equal(result.get(), first)
    algo.stop()
    if seed is not None:
        alone = config_of(algorithm, "unequal").debugging(seed=seed).build()
        for _ in range(3):
            alone.train()
        np.testing.assert_equal(learnt(alone.learner_group._learner), first)
        alone.stop()


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_remote_runner_delivers_the_same_kind_of_steps(algorithm, tmp_path):
    algo = build(algorithm, "unequal", num_env_runners=1)
    for _ in range(2):
        assert math.isfinite(algo.train()["episode_return_mean"])
    assert_resumes(algo, algorithm, tmp_path)
