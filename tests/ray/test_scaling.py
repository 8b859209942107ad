"""Scaling out: how many steps runners collect, what several learners compute, and clusters of several nodes."""

import contextlib
import json
import logging
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import uuid
from functools import partial

import numpy as np
import pytest
import ray
import torch
import torch.distributed as dist
from ray.cluster_utils import Cluster
from support.core import UNEQUAL, new_trainer, random_trajectory, randomize, tiny
from support.processes import wait_until
from support.team import Team, make_runner, of_learners, team_config, trajectories
from torch.overrides import TorchFunctionMode

from rllib_dima.checkpoint import verify
from rllib_dima.learning import learner as learner_module

pytestmark = pytest.mark.usefixtures("ray_running")

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the functions below are run by remote actors

LENGTH = 7  # of an episode of `Team`


def check_rows(replay, num_workers, num_envs):
    """Every stored step is stored once, and the steps of an episode are linked from its first to its last one."""
    count = len(replay)
    states, next_states = replay.states[:count].numpy(), replay.next_states[:count].numpy()
    steps, numbers, workers = states[:, 0], states[:, 1], states[:, 3]
    assert len({*zip(workers, numbers, steps, strict=True)}) == count
    assert set(workers) == (set(range(1, num_workers + 1)) or {0})
    np.testing.assert_array_equal(next_states[:, 0], steps + 1)
    np.testing.assert_array_equal(next_states[:, [1, 3]], states[:, [1, 3]])
    np.testing.assert_array_equal(replay.observations[:count, 0, :2], states[:, :2])

    previous, following = replay.previous[:count].numpy(), replay.following[:count].numpy()
    linked = np.flatnonzero(following >= 0)
    np.testing.assert_array_equal(states[following[linked]], next_states[linked])
    np.testing.assert_array_equal(previous[following[linked]], linked)
    assert (previous >= 0).sum() == len(linked)
    assert set(steps[previous < 0]) == {0}
    running = (following < 0) & (steps + 1 < LENGTH)
    assert running.sum() <= max(1, num_workers) * num_envs
    assert (following < 0).sum() == (previous < 0).sum() == len({*zip(workers, numbers, strict=True)})


def test_no_two_environments_draw_the_same_random_numbers():
    config = team_config({"length": 2}).env_runners(num_env_runners=2, num_envs_per_env_runner=3)
    runners = [make_runner(config, worker_index=index) for index in (1, 2)]
    chunks = [chunk for runner in runners for _ in range(3) for chunk in trajectories(runner, 12)]
    numbers = [chunk.states[0, 1] for chunk in chunks if chunk.is_start]
    assert len(numbers) > 30 and len(set(numbers)) == len(numbers)


@pytest.mark.parametrize(
    ("num_runners", "num_envs", "steps"),
    [
        (0, 1, 20),
        (0, 5, 15),
        pytest.param(1, 1, 20, marks=pytest.mark.slow),
        pytest.param(1, 4, 20, marks=pytest.mark.slow),
        pytest.param(2, 1, 21, marks=pytest.mark.slow),
        (2, 3, 21),
    ],
)
def test_every_iteration_collects_exactly_the_configured_steps(num_runners, num_envs, steps):
    config = team_config(env_steps_per_iteration=steps)
    config.env_runners(num_env_runners=num_runners, num_envs_per_env_runner=num_envs)
    algo = config.build()
    for iteration in range(1, 7):
        result = algo.train()
        trained = result["learners"]["__all_modules__"]
        assert result["env_runners"]["num_env_steps_sampled"] == steps == trained["num_env_steps_trained"]
        assert result["num_env_steps_sampled_lifetime"] == steps * iteration
        assert len(algo.learner_group._learner.trainer.replay) == steps * iteration
    check_rows(algo.learner_group._learner.trainer.replay, num_runners, num_envs)
    algo.stop()


class Uneven(Team):
    """Episodes of 3 or 4 steps, by environment, so that one environment is reset while the other steps."""

    def __init__(self, config):
        super().__init__(config)
        self.config["length"] = 3 + config.vector_index


def test_environments_that_end_at_different_times_bring_a_surplus_that_the_next_iteration_makes_up_for(tmp_path):
    algo = team_config().environment(Uneven).env_runners(num_envs_per_env_runner=2).build()
    for iteration in range(1, 7):
        result = algo.train()
        steps = result["num_env_steps_sampled_lifetime"]
        assert 20 * iteration <= steps <= 20 * iteration + 1
        assert steps == len(algo.learner_group._learner.trainer.replay)
        if iteration == 1:
            assert steps == 21
            algo.restore_from_path(algo.save_to_path(tmp_path))
    algo.stop()


def shorten_episodes(*, env, env_index, **kwargs):
    """What an RLlib user's callback does: it writes to the user's environment."""
    env.envs[env_index].unwrapped.config["length"] = 4


def set_and_get(env_runner, number):
    """What an RLlib user's function for every runner does."""
    env_runner.env.envs[0].unwrapped.number_of_user = number
    return env_runner.env.get_attr("number_of_user"), env_runner.env.envs[0].unwrapped.config["length"]


def test_callbacks_and_foreach_env_runner_reach_the_users_environment_which_a_function_made():
    config = team_config().environment(lambda env_config: Team(env_config))
    algo = config.env_runners(num_env_runners=1).callbacks(on_episode_start=shorten_episodes).build()
    assert algo.train()["env_runners"]["episode_len_mean"] == 4
    for number in (1, 2):  # the remote runner must be alive the second time
        told = algo.env_runner_group.foreach_env_runner(partial(set_and_get, number=number), local_env_runner=False)
        assert told == [((number,), 4)]
    algo.stop()


class SharedDraws(TorchFunctionMode):
    """Learner `rank` of `world` draws random numbers for the batches of all of them, and keeps its own rows.

    With equal seeds, `world` learners of batch size B so draw together what one learner of `world` * B draws:
    the windows of the replay buffer, the noise of the diffusion, the visible agents and the imagined actions.
    """

    def __init__(self, rank, world):
        super().__init__()
        self.rank, self.world = rank, world

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.randn_like:
            return self._own_rows(torch.randn, args[0].shape)
        if func is torch.randint:
            return self._own_rows(partial(func, *args[:2], **kwargs), args[2])
        if func in (torch.rand, torch.randn):
            return self._own_rows(partial(func, **kwargs), args)
        return func(*args, **kwargs)

    def _own_rows(self, draw, size):
        rows, *others = size
        return draw((rows * self.world, *others))[self.rank * rows : (self.rank + 1) * rows]


BATCHES = {"decoder_batch_size": 12, "dynamics_batch_size": 12, "reward_batch_size": 8, "num_imagined_rollouts": 10}
FROZEN = {f"{name}_lr": 0.0 for name in ("decoder", "dynamics", "reward", "actor", "critic")}


def gradients(rank, world, average_gradients, episode_lengths, endless=False, **changes):
    """Trains one learner of `world` for an iteration without moving its networks.

    With `endless` the last stored step is followed by the first, so that no window is cut at the end of an episode.

    Returns:
        By network, for each of its updates, the learner's own gradient and the averaged one.
    """
    batches = {name: size // world for name, size in BATCHES.items()}
    trainer = new_trainer(UNEQUAL, tiny(reward_dropout=0.0, **FROZEN, **batches, **changes))
    for network in (trainer.actor, trainer.critic, trainer.world_model):
        randomize(network)
    trainer.add([random_trajectory(UNEQUAL, length, seed=length) for length in episode_lengths])
    if endless:
        _close_circle(trainer.replay)
    seen = {name: [] for name in trainer.optimizers}
    for name, optimizer in trainer.optimizers.items():
        optimizer._average_gradients = partial(_average_and_record, seen[name], average_gradients)
    with SharedDraws(rank, world):
        trainer.train_iteration()
    return seen


def _close_circle(replay):
    rows = torch.arange(len(replay))
    replay.following[rows], replay.previous[rows] = rows.roll(-1), rows.roll(1)


def _average_and_record(seen, average_gradients, parameters):
    own = _flat(parameters)
    average_gradients(parameters)
    seen.append((own, _flat(parameters)))


def _flat(parameters):
    return torch.cat([parameter.grad.flatten() for parameter in parameters]).numpy()


@pytest.fixture(scope="module")
def two_learners():
    """Two learners without a seed, which would make them equal from the start."""
    algo = team_config().debugging(seed=None).learners(num_learners=2).build()
    yield algo
    algo.stop()


def compare_gradients(algo, episode_lengths, **changes):
    """Largest difference of the averaged gradients from one learner's with the same samples, by network.

    In units of the largest entry of that gradient. Also checks that both learners step along the mean of their own.
    """
    arguments = {"episode_lengths": episode_lengths, **changes}
    first, second = of_learners(
        algo, lambda learner: gradients(dist.get_rank(), 2, learner_module._average_gradients, **arguments)
    )
    alone = gradients(0, 1, lambda parameters: None, **arguments)
    differences = {}
    for name, updates in alone.items():
        assert len(updates) == len(first[name]) == len(second[name]) >= 2
        for (own, averaged), (other_own, other_averaged) in zip(first[name], second[name], strict=True):
            np.testing.assert_array_equal(averaged, other_averaged)
            np.testing.assert_array_equal(averaged, (own + other_own) / 2)
            assert not np.array_equal(own, other_own)
        pairs = [(one, two) for (one, _), (_, two) in zip(updates, first[name], strict=True)]
        differences[name] = max(np.abs(one - two).max() / np.abs(one).max() for one, two in pairs)
    return differences


def test_two_learners_step_along_the_gradient_of_one_learner_with_all_their_samples(two_learners):
    plain_means = {"endless": True, "normalize_advantages": False, "normalize_values": False}
    differences = compare_gradients(two_learners, [50], **plain_means)
    assert set(differences) == {"state_decoder", "dynamics", "reward_termination", "actor", "critic"}
    assert max(differences.values()) < 2e-6, differences


def test_masked_means_and_standardisation_are_each_learners_own(two_learners):
    """Learners divide by their own number of valid steps, and use statistics of their own imagined batch."""
    differences = compare_gradients(two_learners, [1, 2, 3, 9, 20])
    assert differences["state_decoder"] < 2e-6, differences
    assert all(1e-5 < differences[name] < 0.5 for name in ("dynamics", "reward_termination", "actor", "critic")), (
        differences
    )


def everything(learner):
    """All that training depends on, by name."""
    modules = {f"{m}/{n}": v for m, part in learner.module.get_state().items() for n, v in part.items()}
    state = learner.trainer.state_dict()
    moments = {
        f"{name}/{index}/{key}": value.numpy()
        for name, optimizer in state["optimizers"].items()
        for index, entry in optimizer["optimizer"]["state"].items()
        for key, value in entry.items()
    }
    replay = {
        f"replay/{name}": column.numpy() for name, column in learner.trainer.replay.state_dict()["columns"].items()
    }
    return {**modules, **moments, **replay, "iterations": state["num_iterations"], "steps": state["num_env_steps"]}


def test_two_learners_stay_equal_bit_for_bit_while_they_draw_different_samples(two_learners):
    for _ in range(10):
        two_learners.train()
    first, second = of_learners(two_learners, everything)
    assert first["iterations"] == 10 and first["steps"] == 200 and len(first) > 300
    np.testing.assert_equal(second, first)
    for name in ("world_model/net.normalizer.mean", "critic/net.value_normalizer.mean"):
        assert first[name].any()
    draws = of_learners(two_learners, _next_draw)
    assert not np.array_equal(*draws)


def _next_draw(learner):
    with learner.trainer.random_numbers(learner.trainer.rank):
        return learner.trainer.replay.sample(16).states.numpy()


def node_id(_):
    return ray.get_runtime_context().get_node_id()


def train_on_two_nodes():
    """A cluster of two nodes with addresses of their own: one learner on each, and both runners on the second."""
    one_learner = {"learner": 1}
    head = {"num_cpus": 1, "resources": one_learner, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    cluster.add_node(num_cpus=3, resources={"runner": 2, **one_learner}, node_ip_address="127.0.0.2")
    ray.init(address=cluster.address, logging_level=logging.ERROR)
    config = team_config().learners(num_learners=2, custom_resources_per_learner=one_learner)
    config.env_runners(num_env_runners=2, custom_resources_per_env_runner={"runner": 1})
    algo = config.build()
    results = [algo.train() for _ in range(3)]
    first, second = of_learners(algo, everything)
    with tempfile.TemporaryDirectory() as folder:
        algo.save_to_path(folder)
        verify(folder)
        algo.train()
        algo.restore_from_path(folder)
    found = {
        "steps": [result["num_env_steps_sampled_lifetime"] for result in results],
        "driver": node_id(algo),
        "learners": of_learners(algo, node_id),
        "runners": algo.env_runner_group.foreach_env_runner(node_id, local_env_runner=False),
        "learners_are_equal": all(np.array_equal(first[name], second[name]) for name in first),
        "restored": all(
            np.array_equal(now[name], first[name]) for now in of_learners(algo, everything) for name in first
        ),
    }
    algo.stop()
    ray.shutdown()
    cluster.shutdown()
    return found


def train_in_the_cluster_of_the_surroundings():
    """What a user's program does; nothing in it knows of a cluster."""
    algo = team_config().env_runners(num_env_runners=1).build()
    results = [algo.train() for _ in range(2)]
    return {
        "steps": [result["num_env_steps_sampled_lifetime"] for result in results],
        "cluster": ray.get_runtime_context().gcs_address,
        "nodes": len(ray.nodes()),
        "runners": len(algo.env_runner_group.foreach_env_runner(node_id, local_env_runner=False)),
    }


@pytest.fixture
def surroundings():
    """Variables of processes that start or join a cluster of their own, out of the sight of every other one."""
    with tempfile.TemporaryDirectory(prefix="r", ignore_cleanup_errors=True) as folder:  # sockets need short paths
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": uuid.uuid4().hex}
        others = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        yield {**others, **token, "RAY_TMPDIR": folder, "RAY_USAGE_STATS_ENABLED": "0"}


def in_new_process(function, env):
    """Runs a function of this file in a process of its own; what it returned."""
    run = subprocess.run([sys.executable, __file__, function.__name__], env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.slow
def test_cluster_of_two_nodes_trains_with_a_learner_on_each(surroundings):
    found = in_new_process(train_on_two_nodes, surroundings)
    assert found["steps"] == [20, 40, 60] and found["learners_are_equal"] and found["restored"]
    assert found["driver"] in found["learners"] and len(set(found["learners"])) == 2
    assert len(found["runners"]) == 2 and found["driver"] not in found["runners"]


@contextlib.contextmanager
def started_node(env, *arguments):
    """`ray start --block`, as docs/scaling.md has it, and its end."""
    ray_command = str(pathlib.Path(sys.executable).with_name("ray"))
    ports = ["--min-worker-port=0", "--max-worker-port=0", "--dashboard-agent-listen-port=0"]
    command = [ray_command, "start", "--block", *ports, *arguments]
    with tempfile.TemporaryFile("w+") as output:
        node = subprocess.Popen(command, env={**env, "PYTHONUNBUFFERED": "1"}, stdout=output, stderr=subprocess.STDOUT)
        try:
            wait_until(lambda: "Ray runtime started" in said(output) or node.poll() is not None)
            assert node.poll() is None, said(output)
            yield
        finally:
            node.terminate()
            node.wait(timeout=60)


def said(output):
    output.seek(0)
    return output.read()


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


@pytest.mark.slow
def test_program_joins_a_cluster_that_was_started_on_the_command_line(surroundings):
    port = free_port()
    head = [
        "--head",
        f"--port={port}",
        "--include-dashboard=false",
        "--num-cpus=0",
    ]  # only the other node can run a runner
    other = [f"--address=127.0.0.1:{port}", "--num-cpus=1"]
    with started_node(surroundings, *head), started_node(surroundings, *other):
        env = {**surroundings, "RAY_ADDRESS": f"127.0.0.1:{port}"}
        found = in_new_process(train_in_the_cluster_of_the_surroundings, env)
    assert found["steps"] == [20, 40] and found["cluster"].endswith(f":{port}")
    assert (found["nodes"], found["runners"]) == (2, 1)


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]]()))
