"""The policy alone: from a checkpoint, on observations in plain Python, and exported."""

import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pyarrow.fs
import pytest
import torch
from conftest import DISCRETE, UNEQUAL, randomize, tiny

from rllib_dima.checkpoint import CheckpointError, write_manifest
from rllib_dima.core.behavior import Actor
from rllib_dima.core.layout import AgentLayout
from rllib_dima.policy import POLICY_FOLDER, Policy

STANDARDISED = AgentLayout(("agent_0", "agent_1"), 4, (6, 6), (2, 2), "continuous", appends_agent_id=False)


def policy_for(layout, distribution="gaussian", scale=0.3):
    return Policy(randomize(Actor(layout, tiny(policy_distribution=distribution)), scale=scale))


def own_observations(layout, seed=0):
    random = np.random.default_rng(seed)
    return {a: random.normal(size=n) for a, n in zip(layout.agent_ids, layout.observation_sizes, strict=True)}


def padded(layout, observations):
    """(N, O) written down entry by entry."""
    rows = np.zeros((layout.num_agents, layout.observation_size), np.float32)
    for index, agent in enumerate(layout.agent_ids):
        rows[index, : layout.observation_sizes[index]] = observations[agent]
        if layout.appends_agent_id:
            rows[index, layout.observation_size - layout.num_agents + index] = 1
    return rows


@pytest.mark.parametrize("layout", [UNEQUAL, DISCRETE, STANDARDISED], ids=["unequal", "discrete", "standardised"])
@pytest.mark.parametrize("distribution", ["gaussian", "beta"])
def test_acts_as_the_actor_does_on_all_agents_at_once(layout, distribution):
    policy = policy_for(layout, distribution)
    observations = own_observations(layout)
    rows = torch.from_numpy(padded(layout, observations))
    if not layout.appends_agent_id:  # the last entries identify the agent by their largest
        rows[:, -2:] = torch.tensor([[2.0, -1.0], [-1.0, 2.0]])
        observations = {agent: row.numpy() for agent, row in zip(layout.agent_ids, rows, strict=True)}
    expected = policy.actor(rows).deterministic()
    expected = expected if layout.is_discrete else expected.clamp(-1, 1)
    for given in (observations, {agent: row.numpy() for agent, row in zip(layout.agent_ids, rows, strict=True)}):
        actions = policy.act(given)
        assert list(actions) == list(layout.agent_ids)
        np.testing.assert_array_equal(np.stack([actions[a] for a in layout.agent_ids]), expected.detach().numpy())
    alone = policy.act({layout.agent_ids[1]: observations[layout.agent_ids[1]]})
    np.testing.assert_allclose(alone[layout.agent_ids[1]], actions[layout.agent_ids[1]], atol=1e-6)


def test_actions_are_within_bounds_and_random_ones_differ():
    policy = policy_for(UNEQUAL, scale=3.0)
    observations = own_observations(UNEQUAL)
    deterministic = [np.abs(policy.act(observations)["a"]).max() for _ in range(2)]
    assert deterministic == [1.0, 1.0]
    policy = policy_for(UNEQUAL, scale=0.05)
    draws = [policy.act(observations, deterministic=False)["a"] for _ in range(2)]
    assert not np.array_equal(*draws) and all(np.abs(draw).max() <= 1 for draw in draws)


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize(
    ("observations", "message"),
    [
        ({"c": np.zeros(3)}, "Unknown agent 'c'; the policy was trained for .*'a', 'b'"),
        ({}, "given no observations; .*'a', 'b'"),
        (
            {"a": np.zeros(3), "b": [0, np.nan]},
            r"agent 'b' is NaN or infinite in float32, in 1 .* first of them entry 1",
        ),
        ({"a": [0, 1, -np.inf]}, "agent 'a' is NaN or infinite"),
        ({"a": [0, 1e39, 1e39]}, "agent 'a' is NaN or infinite in float32, in 2 "),
        ({"b": np.full(5, np.nan)}, "agent 'b' is NaN or infinite in float32, in 5 "),
        ({"a": np.zeros(4)}, r"agent 'a' has 4 entries, .* trained with 3 \(5 with padding"),
    ],
)
def test_unfitting_observations_are_refused(observations, message):
    with pytest.raises(ValueError, match=message):
        policy_for(UNEQUAL).act(observations)


@pytest.mark.parametrize("layout", [UNEQUAL, DISCRETE], ids=["continuous", "discrete"])
def test_exported_file_needs_only_torch_and_acts_the_same(layout, tmp_path):
    policy, observations = policy_for(layout), own_observations(layout)
    policy.export(tmp_path / "policy.pt")
    rows = padded(layout, observations)
    np.save(tmp_path / "rows.npy", np.concatenate([rows, rows, rows]))  # another batch size than the example's
    code = (
        "import sys, numpy, torch; extra = {'layout.json': ''}\n"
        "script = torch.jit.load(sys.argv[1], _extra_files=extra)\n"
        "actions = script(torch.from_numpy(numpy.load(sys.argv[2])))\n"
        "assert not actions.requires_grad and 'rllib_dima' not in sys.modules and 'ray' not in sys.modules\n"
        "numpy.save(sys.argv[3], actions.numpy()); print(extra['layout.json'].decode())"
    )
    files = [str(tmp_path / name) for name in ("policy.pt", "rows.npy", "actions.npy")]
    done = subprocess.run([sys.executable, "-c", code, *files], capture_output=True, text=True, check=True)
    expected = np.stack(list(policy.act(observations).values()))
    np.testing.assert_allclose(np.load(files[2]), np.concatenate([expected] * 3), atol=1e-6)
    described = json.loads(done.stdout)
    assert described["agents"] == list(layout.agent_ids) and described["action_sizes"] == list(layout.action_sizes)


def test_export_names_what_is_wrong_with_its_target(tmp_path):
    policy = policy_for(UNEQUAL)
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*missing\. Create it"):
        policy.export(tmp_path / "missing" / "policy.pt")
    with pytest.raises(ValueError, match=r"which is a folder: give a file, as .*/policy\.pt"):
        policy.export(str(tmp_path))
    assert os.listdir(tmp_path) == []


def save_policy(folder, actor):
    """The part of a checkpoint that holds a policy."""
    module = folder / POLICY_FOLDER
    module.mkdir(parents=True)
    settings = {"model_config": {"layout": actor.layout, "hyperparameters": actor.hp}}
    (module / "class_and_ctor_args.pkl").write_bytes(pickle.dumps({"ctor_args_and_kwargs": ((), settings)}))
    state = {f"net.{name}": tensor.numpy() for name, tensor in actor.state_dict().items()}
    (module / "module_state.pkl").write_bytes(pickle.dumps(state))
    write_manifest(folder.as_posix(), pyarrow.fs.LocalFileSystem())


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_policy_that_is_not_finite_is_refused(tmp_path, value):
    actor = policy_for(UNEQUAL).actor
    save_policy(tmp_path / "whole", actor)
    assert torch.equal(Policy.from_checkpoint(tmp_path / "whole").actor.log_std, actor.log_std)
    with torch.no_grad():
        actor.log_std[0] = value
    save_policy(tmp_path / "diverged", actor)
    with pytest.raises(CheckpointError, match=r"diverged holds NaN or infinite values \(log_std\).*earlier checkpoint"):
        Policy.from_checkpoint(tmp_path / "diverged")


def test_missing_policy_is_explained(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint folder"):
        Policy.from_checkpoint(tmp_path / "none")
    (tmp_path / "class_and_ctor_args.pkl").write_bytes(pickle.dumps({"class": dict}))
    with pytest.raises(CheckpointError, match="a checkpoint of dict, not of DIMA"):
        Policy.from_checkpoint(tmp_path)
    assert POLICY_FOLDER.endswith("shared_policy")
