"""Whole iterations: what they change, what they depend on, and how they resume."""

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from support.core import DISCRETE, REAL_OUTCOMES, SWIFT, UNEQUAL, new_trainer, random_trajectory, tiny

from rllib_dima.core.layout import AgentLayout
from rllib_dima.core.policy.data import PPOBatch
from rllib_dima.core.replay.buffer import ReplayBuffer
from rllib_dima.core.trainer import NonFiniteLossError

EQUAL = AgentLayout(("a", "b", "c"), 3, (2, 2, 2), (1, 1, 1), appends_agent_id=True)
NETWORKS = ("actor", "critic", "world_model")


def trajectories(layout=UNEQUAL):
    return [
        random_trajectory(layout, 12, seed=1, terminated=True),
        random_trajectory(layout, 9, seed=2, truncated=True),
        random_trajectory(layout, 5, seed=3),
    ]


def filled(layout=UNEQUAL, seed=0, hp=None, **arguments):
    trainer = new_trainer(layout, hp or tiny(), seed=seed, **arguments)
    trainer.add(trajectories(layout))
    return trainer


def parameters(trainer):
    return {f"{net}.{name}": p for net in NETWORKS for name, p in getattr(trainer, net).named_parameters()}


def buffers(trainer):
    return {f"{net}.{name}": b for net in NETWORKS for name, b in getattr(trainer, net).named_buffers()}


def numbers(metrics):
    return {part: values for part, values in metrics.items() if part != "time"}


def same(first, second):
    return all(torch.equal(a, second[name]) for name, a in first.items())


@pytest.mark.parametrize("layout", [EQUAL, UNEQUAL, DISCRETE], ids=["equal", "unequal", "discrete"])
def test_one_iteration_changes_every_parameter_and_reports_finite_numbers(layout):
    # Layers that start at zero hide the others' gradients from the first two updates.
    hp = tiny(dynamics_lr=0.01, dynamics_lr_warmup_updates=0, dynamics_updates_per_iteration=4)
    trainer = filled(layout, hp=hp)
    before = copy.deepcopy(parameters(trainer))
    metrics = trainer.train_iteration()
    unchanged = [name for name, p in parameters(trainer).items() if torch.equal(p, before[name])]
    assert not unchanged
    for part, names in {
        "world_model": ["decoder_loss", "dynamics_loss", "reward_loss", "termination_loss", "dynamics_grad_norm"],
        "actor": ["policy_loss", "entropy", "kl", "clip_fraction", "actor_grad_norm"],
        "critic": ["value_loss", "explained_variance", "imagined_reward_mean", "critic_grad_norm"],
    }.items():
        assert all(math.isfinite(metrics[part][name]) for name in names)
    assert trainer.num_iterations == 1 and trainer.num_env_steps == 26


@pytest.mark.parametrize(
    "changes",
    [
        {"conditioning": "joint"}, {"conditioning": "cumulative", "conditioning_order": "random"},
        {"sampler_solver": "heun", "sampler_churn": 1.0}, {"policy_distribution": "beta"}, {"ppo_minibatches": 3},
        {"context_length": 1, "num_autoregressive_steps": 1}, {"context_length": 4, "dynamics_num_levels": 3},
        {"decoder_loss": "absolute", "value_loss": "squared", "normalize_values": False, "value_clip_param": 0.0},
        {"sigma_offset_noise": 0.0, "replay_recency": 2.0, "normalize_advantages": False},
        SWIFT, {**SWIFT, "dynamics_training": "denoising"}, {**SWIFT, **REAL_OUTCOMES, "reward_network": "transformer"},
        {"weigh_by_continuation": True, "ppo_minibatches": 2}, {**SWIFT, "num_autoregressive_steps": 2},
        {**SWIFT, **REAL_OUTCOMES},
    ],
    ids=lambda changes: " ".join(changes),
)  # fmt: skip
def test_every_variant_trains(changes):
    metrics = numbers(filled(hp=tiny(**changes)).train_iteration())
    assert all(math.isfinite(number) for values in metrics.values() for number in values.values())


def test_world_model_updates_reduce_its_losses():
    hp = tiny(decoder_lr=0.01, dynamics_lr=0.01, reward_lr=0.01, dynamics_lr_warmup_updates=0,
              decoder_updates_per_iteration=40, dynamics_updates_per_iteration=40, reward_updates_per_iteration=40,
              num_world_model_warmup_iterations=9)  # fmt: skip
    trainer = filled(hp=hp)
    model, anchors = trainer.world_model.eval(), torch.arange(26)

    def losses():
        torch.manual_seed(0)
        windows = [trainer.replay.windows(anchors, *sides) for sides in ((0, 0), (2, 2), (0, 3))]
        functions = model.state_decoder_loss, model.dynamics_loss, model.reward_termination_loss
        with torch.no_grad():
            return torch.stack([loss(window)[0] for loss, window in zip(functions, windows, strict=True)])

    before = losses()
    trainer.train_iteration()
    assert torch.all(losses() < 0.9 * before)


def test_state_statistics_count_every_real_state_once():
    trainer = new_trainer(UNEQUAL, tiny())
    whole = random_trajectory(UNEQUAL, 20, seed=5)
    for first, last in ((0, 4), (4, 5), (5, 20)):
        chunk = {name: getattr(whole, name)[first:last] for name in ("observations", "actions", "rewards")}
        chunk["states"] = whole.states[first : last + 1]
        trainer.add([type(whole)(**{**vars(whole), **chunk, "is_start": first == 0})])
    trainer.add(trajectories())
    states = np.concatenate([t.states for t in [whole, *trajectories()]]).astype(np.float64)
    normalizer = trainer.world_model.normalizer
    assert normalizer.count == len(states) and trainer.num_env_steps == 20 + 26
    trainer.train_iteration()
    np.testing.assert_allclose(normalizer.mean, states.mean(0), rtol=1e-10)
    np.testing.assert_allclose(normalizer.scale, 1 / np.sqrt(states.var(0) + 1e-8), rtol=1e-6)


def test_the_same_seed_gives_the_same_numbers_and_another_does_not():
    runs = []
    for seed in (3, 3, 4):
        torch.manual_seed(100 + len(runs))  # the caller's random state plays no part
        trainer = filled(seed=seed)
        torch.manual_seed(200 + len(runs))
        runs.append(([numbers(trainer.train_iteration()) for _ in range(2)], parameters(trainer)))
    assert runs[0][0] == runs[1][0] and same(runs[0][1], runs[1][1])
    assert runs[0][0] != runs[2][0] and not same(runs[0][1], runs[2][1])


@pytest.mark.parametrize("layout", [UNEQUAL, DISCRETE], ids=["continuous", "discrete"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"policy_distribution": "beta", "sampler_churn": 1.0, "ppo_minibatches": 2},
        {**SWIFT, "imagination_noise": 1.0},
    ],
)
def test_another_default_dtype_changes_nothing(layout, changes):
    trainer, other = (filled(layout, hp=tiny(**changes)) for _ in range(2))
    expected, experience = numbers(trainer.train_iteration()), trajectories(layout)
    torch.set_default_dtype(torch.float64)
    try:
        built = new_trainer(layout, tiny(**changes))
        built.add(experience)
        for net in NETWORKS:
            getattr(built, net).load_state_dict(getattr(other, net).state_dict())
        assert numbers(built.train_iteration()) == expected
    finally:
        torch.set_default_dtype(torch.float32)
    assert {name: p.dtype for name, p in parameters(built).items()} == dict.fromkeys(parameters(other), torch.float32)


def test_learners_of_another_rank_draw_other_numbers():
    first, second = (numbers(filled(rank=rank).train_iteration()) for rank in (0, 1))
    assert first != second


def test_every_iteration_draws_other_numbers():
    frozen = dict.fromkeys(("decoder_lr", "dynamics_lr", "reward_lr", "actor_lr", "critic_lr"), 0.0)
    trainer = filled(hp=tiny(**frozen))
    first, second = (trainer.train_iteration() for _ in range(2))
    assert first["world_model"]["decoder_loss"] != second["world_model"]["decoder_loss"]
    assert first["actor"]["policy_loss"] != second["actor"]["policy_loss"]


def test_each_model_draws_its_windows_and_imagination_is_without_dropout(monkeypatch):
    drawn, sample = [], ReplayBuffer.sample

    def spy(replay, batch_size, past=0, future=0):
        drawn.append((batch_size, past, future, trainer.world_model.training))
        return sample(replay, batch_size, past, future)

    monkeypatch.setattr(ReplayBuffer, "sample", spy)
    trainer = filled(hp=tiny(context_length=3, num_autoregressive_steps=2))
    for _ in range(2):
        drawn.clear()
        trainer.train_iteration()
        decoder, dynamics, reward = (8, 0, 0, True), (8, 2, 1, True), (4, 0, 3, True)
        assert drawn == [decoder, dynamics, reward] * 2 + [(6, 2, 0, False)] * 2


def test_no_seed_draws_one():
    assert new_trainer(UNEQUAL, tiny(), seed=None).seed != new_trainer(UNEQUAL, tiny(), seed=None).seed


def test_the_callers_random_state_is_left_alone():
    trainer = filled()
    torch.manual_seed(0)
    before, numpys = torch.get_rng_state(), np.random.get_state()[1].copy()
    trainer.train_iteration()
    assert torch.equal(torch.get_rng_state(), before) and np.array_equal(np.random.get_state()[1], numpys)


@pytest.mark.parametrize(
    "changes",
    [{}, SWIFT, {**SWIFT, **REAL_OUTCOMES}, {**SWIFT, "imagination_noise": 1.0}],
    ids=["paper", "swift", "real outcomes", "noise"],
)
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(changes):
    hp = tiny(**changes, dynamics_lr_warmup_updates=7, num_world_model_warmup_iterations=1)
    run = filled(hp=hp)
    for seed in (5, 6):
        run.add([random_trajectory(UNEQUAL, 5, seed=seed)])
        run.train_iteration()
    saved = copy.deepcopy([getattr(run, net).state_dict() for net in NETWORKS])
    saved_trainer, saved_replay = copy.deepcopy(run.state_dict()), copy.deepcopy(run.replay.state_dict())
    resumed = new_trainer(UNEQUAL, hp, seed=None, network_seed=99)
    for net, state in zip(NETWORKS, saved, strict=True):
        getattr(resumed, net).load_state_dict(state)
    resumed.load_state_dict(saved_trainer)
    resumed.replay.load_state_dict(saved_replay)
    more = random_trajectory(UNEQUAL, 6, seed=7)
    metrics = []
    for trainer in (run, resumed):
        trainer.add([more])
        metrics.append([numbers(trainer.train_iteration()) for _ in range(2)])
    assert metrics[0] == metrics[1]
    assert same(parameters(run), parameters(resumed)) and same(buffers(run), buffers(resumed))
    assert (resumed.num_env_steps, resumed.num_iterations) == (run.num_env_steps, run.num_iterations) == (42, 4)


def restored(saved, seed, rank=0):
    """Metrics of the next iteration of a trainer with that seed that takes over a saved state, and the trainer."""
    trainer = filled(seed=seed, rank=rank)
    for net, state in zip(NETWORKS, saved["nets"], strict=True):
        getattr(trainer, net).load_state_dict(state)
    trainer.load_state_dict(saved["trainer"])
    return numbers(trainer.train_iteration()), trainer


@pytest.mark.parametrize("rank", [0, 1])
def test_a_restored_run_draws_from_its_own_seed_unless_it_has_none(rank, caplog):
    run = filled(seed=7, rank=rank)
    run.train_iteration()
    saved = copy.deepcopy({"nets": [getattr(run, net).state_dict() for net in NETWORKS], "trainer": run.state_dict()})
    straight = numbers(run.train_iteration())
    assert restored(saved, 7, rank)[0] == restored(saved, None, rank)[0] == straight
    assert "seed" not in caplog.text
    first, other = restored(saved, 1, rank), restored(saved, 2, rank)
    assert first[0] != straight != other[0] != first[0] == restored(saved, 1, rank)[0]
    assert caplog.text.count("with seed 7; it goes on with seed 1") == (2 if rank == 0 else 0)
    # The new seed is the one that a checkpoint of the restored run holds.
    assert first[1].state_dict()["seed"] == 1


def test_nothing_is_trained_before_enough_steps():
    trainer = filled(hp=tiny(num_steps_before_learning=30))
    before = copy.deepcopy(parameters(trainer))
    assert set(trainer.train_iteration()) == {"time"} and trainer.num_iterations == 0
    assert same(parameters(trainer), before)
    trainer.add([random_trajectory(UNEQUAL, 4, seed=9)])
    assert "actor" in trainer.train_iteration()


def test_the_world_model_is_trained_alone_while_warming_up():
    trainer = filled(hp=tiny(num_world_model_warmup_iterations=2))
    before = copy.deepcopy(parameters(trainer))
    reported = [set(trainer.train_iteration()) - {"time"} for _ in range(2)]
    assert reported == [{"world_model"}] * 2
    changed = {name.split(".")[0] for name, p in parameters(trainer).items() if not torch.equal(p, before[name])}
    assert changed == {"world_model"}
    assert set(trainer.train_iteration()) - {"time"} == {"world_model", "actor", "critic"}


@pytest.mark.parametrize("column", ["rewards", "states", "observations", "actions"])
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e39])
def test_data_that_float32_cannot_hold_is_refused_before_it_is_stored(column, value):
    trainer, poisoned = new_trainer(UNEQUAL, tiny()), random_trajectory(UNEQUAL, 12)
    values = getattr(poisoned, column).astype(np.float64)
    values[3] = value
    poisoned = dataclasses.replace(poisoned, **{column: values})
    with pytest.raises(ValueError, match=f"NaN or infinity .* in its {column}, first in step 3 of 1"):
        trainer.add([random_trajectory(UNEQUAL, 5, seed=1), poisoned])
    assert len(trainer.replay) == trainer.num_env_steps == trainer.world_model.normalizer.count == 0


def test_what_becomes_infinite_in_training_is_named_with_the_extreme_values_behind_it():
    trainer = new_trainer(UNEQUAL, tiny(normalize_observations=False))
    extreme = random_trajectory(UNEQUAL, 12)
    extreme.observations[7, 0, 0] = -1e30
    trainer.add([extreme])
    with pytest.raises(
        NonFiniteLossError, match=r"decoder_loss became inf in training iteration 1 .*observations 1e\+30"
    ):
        trainer.train_iteration()


def imagined(exponent, offset=0.0, iterations=3, **changes):
    """Networks and metrics of a trainer whose rewards are multiples of the same ones."""
    trainer = new_trainer(UNEQUAL, tiny(**changes))
    for chunk in trajectories():
        rewards = ((chunk.rewards + offset) * np.float32(2.0**exponent)).astype(np.float32)
        trainer.add([dataclasses.replace(chunk, rewards=rewards)])
    return trainer, [numbers(trainer.train_iteration()) for _ in range(iterations)]


@pytest.mark.parametrize("exponent", [-40, 17, 60])
@pytest.mark.parametrize("changes", [{}, {"normalize_values": False}, SWIFT], ids=["", "raw values", "swift"])
def test_learning_does_not_depend_on_the_rewards_unit(exponent, changes):
    (first, metrics), (second, scaled) = imagined(-10, **changes), imagined(exponent, **changes)
    assert same(parameters(first), parameters(second))
    for name in ("imagined_reward_mean", "imagined_return_mean", "advantage_std"):
        assert scaled[-1]["critic"][name] == metrics[-1]["critic"][name] * 2.0 ** (exponent + 10) != 0
    assert scaled[-1]["world_model"]["reward_loss"] == metrics[-1]["world_model"]["reward_loss"]
    assert 0.5 <= scaled[-1]["world_model"]["reward_scale"] / 2.0**exponent <= 2


def test_what_was_learnt_stays_when_the_scale_of_rewards_changes():
    trainer, _ = imagined(-12)
    normalizer, values = trainer.world_model.reward_normalizer, trainer.critic.value_normalizer
    start = trainer.replay.windows(torch.arange(5), past=trainer.hp.context_length - 1)

    @torch.no_grad()
    def predicted():
        torch.manual_seed(0)
        step = trainer.world_model.reset(start).step(start.actions[:, -1])
        return step.rewards, values.denormalize(torch.zeros(())) * normalizer.scale

    before, scale = predicted(), normalizer.scale.item()
    trainer._observe(torch.zeros(0, 4), torch.zeros(0, 4), torch.arange(26.0))
    assert normalizer.scale > 100 * scale
    for ours, theirs in zip(predicted(), before, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4)


@pytest.mark.parametrize("part", ["actor", "critic"])
def test_parameters_spoilt_by_an_iterations_last_update_are_named(part):
    trainer = filled()
    hp, optimizer = trainer.hp, trainer.optimizers[part]
    step, updates = optimizer.step, []

    def spoil_last(loss):
        updates.append(step(loss))
        if len(updates) == hp.policy_updates_per_iteration * hp.ppo_epochs * hp.ppo_minibatches:
            optimizer.parameters[-1].data.view(-1)[0] = math.nan
        return updates[-1]

    optimizer.step = spoil_last
    with pytest.raises(NonFiniteLossError, match=f"the norm of the parameters of {part} became nan in training iter"):
        trainer.train_iteration()


def test_an_empty_final_chunk_leaves_the_state_statistics_alone():
    trainer, chunk = new_trainer(UNEQUAL, tiny()), random_trajectory(UNEQUAL, 5)
    trainer.add([chunk])
    before = copy.deepcopy(buffers(trainer))
    rest = {name: getattr(chunk, name)[:0] for name in ("observations", "actions", "rewards")}
    rest |= {"states": chunk.states[-1:], "truncated": True, "is_start": False}
    trainer.add([type(chunk)(**{**vars(chunk), **rest})])
    assert same(before, buffers(trainer))


def test_minibatches_of_one_step_train():
    filled(hp=tiny(ppo_minibatches=24)).train_iteration()


def test_a_saved_state_does_not_change_with_further_training():
    trainer = filled()
    trainer.train_iteration()
    saved = trainer.state_dict()
    before = copy.deepcopy(saved)
    trainer.train_iteration()
    for name, state in saved["optimizers"].items():
        for number, moments in state["optimizer"]["state"].items():
            assert same(moments, before["optimizers"][name]["optimizer"]["state"][number])


def test_updates_are_as_many_as_configured():
    hp = tiny(decoder_updates_per_iteration=3, dynamics_updates_per_iteration=4, reward_updates_per_iteration=5,
              policy_updates_per_iteration=2, ppo_epochs=3, ppo_minibatches=2)  # fmt: skip
    trainer = filled(hp=hp)
    trainer.train_iteration()
    counts = {name: optimizer.num_updates for name, optimizer in trainer.optimizers.items()}
    assert counts == {
        "state_decoder": 3,
        "dynamics": 4,
        "reward_termination": 5,
        "actor": 2 * 3 * 2,
        "critic": 2 * 3 * 2,
    }


def test_minibatches_cover_the_batch_once_per_epoch():
    batch = PPOBatch(*(torch.arange(24.0) for _ in range(7)))
    parts = [part for _ in range(2) for part in batch.minibatches(4)]
    assert [len(part.returns) for part in parts] == [6] * 8
    for epoch in (parts[:4], parts[4:]):
        assert torch.equal(torch.cat([part.states for part in epoch]).sort().values, torch.arange(24.0))
    assert all(torch.equal(part.states, part.advantages) for part in parts)
    assert not torch.equal(parts[0].states, parts[4].states)


@pytest.mark.parametrize("parts", [2, 4, 5, 7, 9])
def test_minibatches_are_as_many_as_asked_and_nearly_equal(parts):
    sizes = [len(part.returns) for part in PPOBatch(*(torch.arange(9.0) for _ in range(7))).minibatches(parts)]
    assert len(sizes) == parts and sum(sizes) == 9 and max(sizes) - min(sizes) <= 1


def test_slow_bfloat16_is_said_and_float32_named(monkeypatch, caplog):
    for is_fast in (True, False):
        monkeypatch.setattr("rllib_dima.core.dima.trainer.has_bfloat16", lambda device, is_fast=is_fast: is_fast)
        new_trainer(UNEQUAL, tiny(precision="bfloat16"))
        new_trainer(UNEQUAL, tiny())
        assert caplog.text.count("precision='float32'") == (0 if is_fast else 1)


def test_optimizers_have_their_own_settings():
    hp = tiny(decoder_lr=1e-5, dynamics_lr=2e-5, reward_lr=3e-5, actor_lr=4e-5, critic_lr=5e-5, adam_epsilon=1e-3,
              decoder_grad_clip=1.0, dynamics_grad_clip=2.0, reward_grad_clip=3.0, actor_grad_clip=4.0,
              critic_grad_clip=5.0, dynamics_lr_warmup_updates=11)  # fmt: skip
    trainer = filled(hp=hp)
    settings = {name: (o.lr, o.grad_clip, o.warmup_updates) for name, o in trainer.optimizers.items()}
    assert settings == {
        "state_decoder": (1e-5, 1.0, 0), "dynamics": (2e-5, 2.0, 11), "reward_termination": (3e-5, 3.0, 0),
        "actor": (4e-5, 4.0, 0), "critic": (5e-5, 5.0, 0),
    }  # fmt: skip
    inner = {name: o._optimizer for name, o in trainer.optimizers.items()}
    assert type(inner["dynamics"]) is torch.optim.AdamW and type(inner["actor"]) is torch.optim.Adam
    assert inner["actor"].defaults["eps"] == inner["critic"].defaults["eps"] == 1e-3


def test_embeddings_norms_and_biases_of_the_world_model_do_not_decay():
    trainer = filled()
    for name in ("state_decoder", "dynamics", "reward_termination"):
        inner = trainer.optimizers[name]._optimizer
        decayed = {id(p) for group in inner.param_groups if group["weight_decay"] for p in group["params"]}
        for path, parameter in trainer.world_model.named_parameters():
            if id(parameter) in {id(p) for p in trainer.optimizers[name].parameters}:
                is_matrix = path.endswith("weight") and "norm" not in path and parameter.ndim == 2
                assert (id(parameter) in decayed) == is_matrix, path


def test_learning_rates_can_be_changed_and_zero_freezes():
    trainer = filled()
    frozen = dict.fromkeys(("decoder_lr", "dynamics_lr", "reward_lr", "actor_lr", "critic_lr"), 0.0)
    trainer.set_learning_rates(tiny(**frozen))
    before = copy.deepcopy(parameters(trainer))
    trainer.train_iteration()
    assert same(parameters(trainer), before)
    trainer.set_learning_rates(tiny(**frozen | {"actor_lr": 0.1}))
    trainer.train_iteration()
    changed = {name.split(".")[0] for name, p in parameters(trainer).items() if not torch.equal(p, before[name])}
    assert changed == {"actor"}


def test_averaging_sees_the_gradients_of_every_optimizer():
    seen = []
    trainer = filled(average_gradients=lambda parameters: seen.append(len(parameters)))
    trainer.train_iteration()
    sizes = {name: len(o.parameters) for name, o in trainer.optimizers.items()}
    assert seen[:6] == [sizes["state_decoder"], sizes["dynamics"], sizes["reward_termination"]] * 2
    assert sorted(seen[6:]) == sorted([sizes["actor"]] * 4 + [sizes["critic"]] * 4)
    assert sum(sizes.values()) == len(parameters(trainer))


def test_a_restored_trainer_forgets_what_the_one_that_failed_had_measured():
    trainer = filled()
    trainer.train_iteration()
    networks = trainer.actor, trainer.critic, trainer.world_model
    saved = copy.deepcopy([trainer.state_dict(), *(network.state_dict() for network in networks)])
    with torch.no_grad():
        next(trainer.world_model.dynamics.parameters()).fill_(float("nan"))
    trainer.add([random_trajectory(UNEQUAL, 5, seed=8)])
    with pytest.raises(NonFiniteLossError):
        trainer.train_iteration()
    trainer.load_state_dict(saved[0])
    for network, state in zip(networks, saved[1:], strict=True):
        network.load_state_dict(state)
    trainer.add([random_trajectory(UNEQUAL, 5, seed=9)])
    metrics = trainer.train_iteration()["world_model"]
    assert math.isfinite(metrics["open_loop_error_1"])
