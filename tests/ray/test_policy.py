"""The policy alone: from a checkpoint, on observations in plain Python, and exported."""

import json
import os
import pickle
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pyarrow.fs
import pytest
import torch
from ray import tune
from support.core import DISCRETE, LEAVING, MASKED, MASKED_LEAVING, UNEQUAL, random_observations, randomize, tiny

from rllib_dima.checkpoint import CheckpointError, locate, write_manifest
from rllib_dima.core.layout import AgentLayout
from rllib_dima.core.policy.hyperparameters import PolicyHyperparameters
from rllib_dima.core.policy.networks import Actor
from rllib_dima.policy import POLICY_FOLDER, Policy, save_weights

LOCAL = pyarrow.fs.LocalFileSystem()

NUMBERED = AgentLayout((0, ("team", 1, ("deep", 2))), 4, (3, 2), (2, 1), "continuous", True)
NUMPY = AgentLayout((np.int64(3), np.int64(4)), 4, (3, 2), (2, 1), "continuous", True)
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
    expected = policy.actor.acting(rows).deterministic()
    expected = expected if layout.is_discrete else expected.clamp(-1, 1)
    for given in (observations, {agent: row.numpy() for agent, row in zip(layout.agent_ids, rows, strict=True)}):
        actions = policy.act(given)
        assert list(actions) == list(layout.agent_ids)
        np.testing.assert_array_equal(np.stack([actions[a] for a in layout.agent_ids]), expected.detach().numpy())
    alone = policy.act({layout.agent_ids[1]: observations[layout.agent_ids[1]]})
    np.testing.assert_allclose(alone[layout.agent_ids[1]], actions[layout.agent_ids[1]], atol=1e-6)


@pytest.mark.parametrize("layout", [LEAVING, MASKED, MASKED_LEAVING], ids=["leaving", "masked", "both"])
def test_masks_are_taken_beside_an_environments_own_observations_and_into_exports(layout, tmp_path):
    policy, choices = policy_for(layout, scale=2.0), layout.action_mask().numpy()
    own = {agent: row.astype(np.float32) for agent, row in own_observations(layout).items()}
    masks = {agent: np.arange(mask.sum()) % 2 for agent, mask in zip(layout.agent_ids, choices, strict=True)}
    rows = np.zeros((layout.num_agents, layout.observation_size), np.float32)
    for index, agent in enumerate(layout.agent_ids):
        rows[index, : own[agent].size], rows[index, index - layout.num_agents] = own[agent], 1
        if layout.masks_actions:
            rows[index, layout.available_slice][choices[index]] = masks[agent]
        if layout.agents_leave:
            rows[index, layout.alive_index] = 1
    expected = policy.actor.acting(torch.from_numpy(rows)).deterministic()
    expected = (expected if layout.is_discrete else expected.clamp(-1, 1)).detach().numpy()
    given = [policy.act(dict(zip(layout.agent_ids, rows, strict=True))), policy.act(own, action_masks=masks)]
    given.append(policy.act({a: {"observation": own[a], "action_mask": masks[a]} for a in layout.agent_ids}))
    for actions in given:
        np.testing.assert_array_equal(np.stack([actions[agent] for agent in layout.agent_ids]), expected)
    policy.export(tmp_path / "policy.pt2")
    extra = {"layout.json": ""}
    exported = torch.export.load(tmp_path / "policy.pt2", extra_files=extra).module()
    np.testing.assert_allclose(exported(torch.from_numpy(rows)).numpy(), expected, atol=1e-6)
    many = random_observations(layout, 50).flatten(0, 1)  # of agents that have left, too
    assert torch.allclose(exported(many), policy.actor.act(many, deterministic=True).clamp(*_range(layout)), atol=1e-6)
    described = json.loads(extra["layout.json"])
    assert (described["action_mask_at"] is not None) == layout.masks_actions
    assert described["alive_at"] == (layout.observation_size + layout.alive_index if layout.agents_leave else None)


def _range(layout):
    return (0, 99) if layout.is_discrete else (-1, 1)


def test_masks_that_are_missing_or_do_not_fit_are_refused():
    policy, own = policy_for(MASKED), own_observations(MASKED)
    masks = {"a": [1, 1, 1], "b": [1, 0], "c": [0, 0, 1, 1]}
    for wrong, message in (({}, "trained with masks"), ({"b": [0, 0]}, "at least one"), ({"c": [1]}, "4 entries")):
        with pytest.raises(ValueError, match=message):
            policy.act(own, action_masks={**masks, **wrong} if wrong else {})
    with pytest.raises(ValueError, match=r"a dict with .*Flatten it"):
        policy.act({"a": {"x": own["a"], "y": own["a"], "action_mask": masks["a"]}})


def test_masks_of_several_choices_may_be_tuples_and_each_choice_needs_something():
    choices = ((2, 3), (2, 3))
    layout = AgentLayout(
        ("a", "b"),
        2,
        (2, 2),
        (5, 5),
        "multi_discrete",
        appends_agent_id=True,
        action_choices=choices,
        masks_actions=True,
    )
    policy, own = policy_for(layout, scale=2.0), {agent: np.ones(2, np.float32) for agent in "ab"}
    joined = {"a": [0, 1, 0, 0, 1], "b": [1, 0, 0, 1, 0]}
    apart = {agent: (np.array(mask[:2]), np.array(mask[2:])) for agent, mask in joined.items()}
    actions = policy.act(own, action_masks=apart)
    assert {agent: action.tolist() for agent, action in actions.items()} == {"a": [1, 2], "b": [0, 1]}
    assert all(np.array_equal(policy.act(own, action_masks=joined)[agent], actions[agent]) for agent in "ab")
    with pytest.raises(ValueError, match="of each of the 2 choices"):
        policy.act(own, action_masks={**joined, "b": [1, 1, 0, 0, 0]})


def test_actions_are_within_bounds_and_random_ones_differ():
    policy = policy_for(UNEQUAL, scale=3.0)
    observations = own_observations(UNEQUAL)
    deterministic = [np.abs(policy.act(observations)["a"]).max() for _ in range(2)]
    assert deterministic == [1.0, 1.0]
    policy = policy_for(UNEQUAL, scale=0.05)
    draws = [policy.act(observations, deterministic=False)["a"] for _ in range(2)]
    assert not np.array_equal(*draws) and all(np.abs(draw).max() <= 1 for draw in draws)


def test_actions_are_those_drawn_where_the_environment_does_not_clip(tmp_path):
    policy = policy_for(replace(UNEQUAL, clips_actions=False), scale=3.0)
    observations = own_observations(UNEQUAL)
    free, bounded = policy.act(observations)["a"], policy_for(UNEQUAL, scale=3.0).act(observations)["a"]
    assert np.abs(free).max() > 1
    np.testing.assert_array_equal(free.clip(-1, 1), bounded)
    policy.export(tmp_path / "policy.pt2")
    padded = torch.from_numpy(policy._padded("a", observations["a"], None)).unsqueeze(0)
    exported = torch.export.load(tmp_path / "policy.pt2").module()(padded)[0].numpy()
    np.testing.assert_allclose(exported[: len(free)], free, rtol=1e-5)


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


def test_exported_files_need_only_torch_and_act_the_same(tmp_path):
    layouts, expected = [UNEQUAL, DISCRETE, NUMBERED], []
    for number, layout in enumerate(layouts):
        policy, observations = policy_for(layout), own_observations(layout)
        policy.export(tmp_path / f"{number}.pt2")
        rows = padded(layout, observations)
        np.save(tmp_path / f"{number}_one.npy", rows[:1])  # other sizes than the example's
        np.save(tmp_path / f"{number}_many.npy", np.concatenate([rows, rows, rows]))
        expected.append(np.stack(list(policy.act(observations).values())))
    code = (
        "import sys, numpy, torch\n"
        "for number in range(int(sys.argv[1])):\n"
        "    extra = {'layout.json': ''}\n"
        "    policy = torch.export.load(f'{number}.pt2', extra_files=extra).module()\n"
        "    for file in (f'{number}_one.npy', f'{number}_many.npy'):\n"
        "        actions = policy(torch.from_numpy(numpy.load(file)))\n"
        "        assert not actions.requires_grad\n"
        "        numpy.save(file, actions.numpy())\n"
        "    print(extra['layout.json'])\n"
        "assert 'rllib_dima' not in sys.modules and 'ray' not in sys.modules\n"
    )
    command = [sys.executable, "-c", code, str(len(layouts))]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    described = [json.loads(line) for line in done.stdout.splitlines()]
    for number, (layout, actions) in enumerate(zip(layouts, expected, strict=True)):
        np.testing.assert_allclose(np.load(tmp_path / f"{number}_one.npy"), actions[:1], atol=1e-6)
        np.testing.assert_allclose(np.load(tmp_path / f"{number}_many.npy"), np.concatenate([actions] * 3), atol=1e-6)
        assert described[number]["agents"] == json.loads(json.dumps(layout.agent_ids, default=int))
        assert described[number]["action_sizes"] == list(layout.action_sizes)


def test_places_of_exports(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    policy, elsewhere = policy_for(UNEQUAL), pyarrow.fs.SubTreeFileSystem(str(tmp_path), LOCAL)
    for place in ("~/a.pt2", f"file://{tmp_path}/b.pt2"):
        policy.export(place)
    policy.export("c.pt2", filesystem=elsewhere)
    assert sorted(os.listdir(tmp_path)) == ["a.pt2", "b.pt2", "c.pt2"]


def test_export_names_what_is_wrong_with_its_target(tmp_path):
    policy = policy_for(UNEQUAL)
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*missing\. Create it"):
        policy.export(tmp_path / "missing" / "policy.pt2")
    with pytest.raises(ValueError, match=r"which is a folder: give a file, as .*/policy\.pt2"):
        policy.export(str(tmp_path))
    with pytest.raises(ValueError, match=r"no longer TorchScript\. Give a name that ends in \.pt2"):
        policy.export(tmp_path / "policy.pt")
    assert os.listdir(tmp_path) == []


def save_policy(folder, actor):
    """The part of a checkpoint that holds a policy."""
    module = folder / POLICY_FOLDER
    module.mkdir(parents=True)
    save_weights(locate(module), actor, {name: tensor.numpy() for name, tensor in actor.state_dict().items()})
    write_manifest(folder, "DIMA")


@pytest.mark.parametrize(
    "layout", [UNEQUAL, DISCRETE, NUMBERED, NUMPY], ids=["continuous", "discrete", "numbered", "numpy"]
)
def test_policy_survives_a_checkpoint_without_anything_being_unpickled(layout, tmp_path, monkeypatch):
    saved = policy_for(layout)
    save_policy(tmp_path / "run", saved.actor)
    (tmp_path / "run" / POLICY_FOLDER / "module_state.pkl").write_bytes(b"")  # RLlib's, of which nothing is needed
    write_manifest(tmp_path / "run", "DIMA")

    def refuse(*args, **kwargs):
        raise AssertionError("something was unpickled")

    for module, name in ((pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (torch, "load")):
        monkeypatch.setattr(module, name, refuse)
    elsewhere = pyarrow.fs.SubTreeFileSystem(str(tmp_path), LOCAL)
    ways = [tmp_path / "run", f"file://{tmp_path}/run/", tune.Checkpoint("run", elsewhere)]
    for policy in (*map(Policy.from_checkpoint, ways), Policy.from_checkpoint("run", elsewhere)):
        assert policy.layout == layout
        for name in PolicyHyperparameters.names():
            assert getattr(policy.actor.hp, name) == getattr(saved.actor.hp, name)
        assert all(map(np.array_equal, policy.actor.state_dict().values(), saved.actor.state_dict().values()))
        actions, expected = (p.act(own_observations(layout)) for p in (policy, saved))
        assert list(actions) == list(layout.agent_ids)
        np.testing.assert_equal(actions, expected)


@pytest.mark.parametrize("agent", [None, 1.5, frozenset("a"), ("a", None), b"a"])
def test_agents_that_would_not_survive_json_are_refused_before_training(agent):
    with pytest.raises(ValueError, match="id must be a string, a whole number or a tuple of these"):
        AgentLayout((agent, "b"), 4, (3, 2), (2, 1))


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


def _with_an_object(folder):
    np.savez(folder / "weights.npz", **{"log_std": np.array([print], dtype=object)})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_with_an_object, "no policy that can be read: .*allow_pickle=False"),
        (lambda folder: (folder / "weights.npz").write_bytes(b"PK\3\4"), "no policy that can be read"),
        (lambda folder: np.savez(folder / "weights.npz", log_std=np.zeros(9)), "no policy that can be read"),
        (lambda folder: (folder / "weights.npz").unlink(), "no policy that can be read"),
        (lambda folder: (folder / "policy.json").unlink(), "describes no policy"),
        *(
            (lambda folder, text=text: (folder / "policy.json").write_text(text), "describes no policy")
            for text in "[3{"
        ),
        (lambda folder: (folder / "policy.json").write_text('{"layout": {"x": 1}}'), "describes no policy"),
    ],
)
def test_crafted_policy_is_refused(tmp_path, damage, message):
    save_policy(tmp_path, policy_for(UNEQUAL).actor)
    damage(tmp_path / POLICY_FOLDER)
    write_manifest(tmp_path, "DIMA")
    with pytest.raises(CheckpointError, match=message):
        Policy.from_checkpoint(tmp_path)


def test_missing_policy_is_explained(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint folder"):
        Policy.from_checkpoint(tmp_path / "none")
    (tmp_path / "class_and_ctor_args.pkl").write_bytes(pickle.dumps({"class": dict}))
    with pytest.raises(CheckpointError, match="is incomplete"):
        Policy.from_checkpoint(tmp_path)
    write_manifest(tmp_path, "DIMA")
    with pytest.raises(CheckpointError, match=r"holds no policy: .*shared_policy is missing"):
        Policy.from_checkpoint(tmp_path)
