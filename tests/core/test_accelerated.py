"""Accelerated steps against eager ones: the same numbers, fresh randomness, and nothing that waits for the device."""

import copy
import logging
from pathlib import Path

import pytest
import torch
from support.core import DISCRETE, SWIFT, UNEQUAL, new_trainer, random_trajectory, tiny

from rllib_dima.core.dima.hyperparameters import DIMAHyperparameters
from rllib_dima.core.layout import AgentLayout
from rllib_dima.core.training import compile as compile_module
from rllib_dima.core.training.compile import Accelerator, FasterStep, RecordedStep, has_bfloat16

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
CPU, GPU = torch.device("cpu"), torch.device("cuda")
ANT = AgentLayout(tuple("abcd"), 27, (31,) * 4, (2,) * 4)
UPDATES = {f"{part}_updates_per_iteration": 10 for part in ("decoder", "dynamics", "reward")}


def filled(layout=UNEQUAL, hp=None, device="cpu", seed=0):
    trainer = new_trainer(layout, hp, seed=seed, device=device)
    trainer.add([random_trajectory(layout, 40, seed=number, terminated=True) for number in range(3)])
    return trainer


def nano(**changes):
    """Sizes at which a recorded step is worth its while, without dropout, which fused kernels draw differently."""
    sizes = {"decoder_hidden_size": 64, "dynamics_channels": 32, "dynamics_blocks_per_level": 1,
             "dynamics_condition_size": 32, "dynamics_action_size": 32, "reward_embedding_size": 64,
             "dynamics_num_levels": 2, "reward_num_layers": 2, "num_imagined_rollouts": 50, "imagination_horizon": 5,
             "policy_updates_per_iteration": 2, "ppo_epochs": 2, "replay_capacity": 1000, "reward_dropout": 0.0,
             **UPDATES}  # fmt: skip
    return DIMAHyperparameters(**{**sizes, **changes})


def metrics(trainer, iterations):
    """Everything but seconds, by name, of each iteration."""
    reports = [trainer.train_iteration() for _ in range(iterations)]
    parts = ("world_model", "actor", "critic")
    return [{(part, name): value for part in parts for name, value in report[part].items()} for report in reports]


def assert_close(found, expected, relative):
    for number, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        for name, value in theirs.items():
            assert ours[name] == pytest.approx(value, rel=relative, abs=relative), (number, name)


def parameters(trainer):
    networks = (trainer.actor, trainer.critic, trainer.world_model)
    return {
        (index, name): p.detach().clone() for index, net in enumerate(networks) for name, p in net.named_parameters()
    }


def test_graphs_need_a_gpu_and_say_so():
    with pytest.raises(ValueError, match=r"'cuda_graphs' needs a CUDA GPU.*'cpu'.*num_gpus_per_learner"):
        Accelerator("cuda_graphs", CPU, [])
    with pytest.raises(ValueError, match="cuda_graphs"):
        new_trainer(UNEQUAL, tiny(acceleration="cuda_graphs"))


@pytest.mark.parametrize("mode", ["auto", "eager"])
def test_on_a_cpu_steps_are_executed_as_they_are(mode):
    step = lambda: None  # noqa: E731
    assert Accelerator(mode, CPU, []).accelerate("step", step) is step


class TimedVariant:
    """Stands in for a recorded step: replays from the third call on take the given time of a pretended clock."""

    def __init__(self, clock, seconds, error=None):
        self.clock, self.seconds, self.error, self.calls = clock, seconds, error, 0

    @property
    def is_recorded(self):
        return self.calls >= 2

    def forget(self):
        self.calls = -1000

    def __call__(self, x):
        self.calls += 1
        if self.error:
            raise self.error
        self.clock.now += self.seconds if self.calls > 2 else 100.0  # calls before are slow, and must not count
        return x, self


class PretendedClock:
    now = 0.0

    def perf_counter(self):
        return self.now


@pytest.mark.parametrize(("plain", "fused", "better"), [(2.0, 1.0, "compile"), (1.0, 2.0, "cuda_graphs")])
def test_auto_keeps_the_variant_whose_replays_are_faster(monkeypatch, plain, fused, better):
    clock = PretendedClock()
    monkeypatch.setattr(compile_module, "time", clock)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    variants = {"cuda_graphs": TimedVariant(clock, plain), "compile": TimedVariant(clock, fused)}
    step = FasterStep("step", *variants.values())
    outputs = [step(number) for number in range(100)]
    assert step.chosen == better
    assert [number for number, _ in outputs] == list(range(100))  # every call is one step
    trials = 2 + FasterStep.NUM_TIMED_CALLS
    by = [variant for _, variant in outputs]
    assert by == [variants["cuda_graphs"]] * trials + [variants["compile"]] * trials + [variants[better]] * (
        100 - 2 * trials
    )
    assert [v.calls < 0 for v in variants.values()] == [name != better for name in variants]  # the other is dropped


def test_auto_goes_on_without_fused_kernels_only_where_compiling_is_what_failed(monkeypatch, caplog):
    clock = PretendedClock()
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    failure = torch._dynamo.exc.TorchDynamoException("no compiler")
    step = FasterStep("the update", TimedVariant(clock, 1.0), TimedVariant(clock, 1.0, failure))
    with caplog.at_level(logging.WARNING):
        assert [step(number)[0] for number in range(30)] == list(range(30))
    assert step.chosen == "cuda_graphs" and caplog.text.count("torch.compile failed for the update") == 1
    step = FasterStep("the update", TimedVariant(clock, 1.0), TimedVariant(clock, 1.0, ValueError("out of range")))
    with pytest.raises(ValueError, match="out of range"):
        for number in range(30):
            step(number)


@pytest.mark.slow
def test_compiled_and_eager_updates_agree_on_a_cpu():
    compiled, eager = (metrics(filled(ANT, nano(acceleration=mode)), 5) for mode in ("compile", "eager"))
    assert_close(compiled, eager, 2e-3)


def test_a_processors_bfloat16_is_told_by_its_flags():
    flags = set(Path("/proc/cpuinfo").read_text().split()) if Path("/proc/cpuinfo").exists() else set()
    if "sse2" not in flags:
        pytest.skip("the flags of x86 processors on Linux")
    assert has_bfloat16(torch.device("cpu")) == bool(flags & {"avx512_bf16", "amx_tile"})


def test_bfloat16_and_float32_updates_agree_on_a_cpu():
    reduced, exact = (metrics(filled(ANT, nano(precision=precision)), 2) for precision in ("bfloat16", "float32"))
    assert reduced != exact
    assert_close(reduced, exact, 0.1)


@pytest.mark.parametrize("precision", ["bfloat16", "tf32"])
def test_results_are_float32_whatever_the_matrix_products_are(precision):
    trainer = filled(ANT, nano(precision=precision))
    rollout = trainer.steps.policy["imagine"]()
    assert {column.dtype for column in rollout} == {torch.float32}
    assert (rollout.states.bfloat16().float() != rollout.states).any()  # not rounded to bfloat16 at the end


@gpu
@pytest.mark.parametrize(
    ("layout", "changes"),
    [
        (ANT, {}),
        (ANT, {"reward_dropout": 0.1}),
        (ANT, {"conditioning": "cumulative", "conditioning_order": "random", "ppo_minibatches": 3}),
        (UNEQUAL, {**SWIFT, "weigh_by_continuation": True, "imagination_noise": 1.0}),
        (ANT, {"policy_distribution": "beta", "sampler_churn": 1.0, "replay_recency": 2.0}),
        (ANT, {"replay_device": "cpu"}),
        (UNEQUAL, {"conditioning": "joint", "normalize_values": False}),
        (DISCRETE, {"dynamics_lr_warmup_updates": 7}),
    ],
    ids=str,
)
def test_replayed_and_eager_updates_agree_over_50_updates(layout, changes):
    settings = {"precision": "float32", **changes}
    recorded, eager = (filled(layout, nano(acceleration=m, **settings), GPU) for m in ("cuda_graphs", "eager"))
    assert_close(metrics(recorded, 5), metrics(eager, 5), 1e-3)
    for name, parameter in parameters(eager).items():
        torch.testing.assert_close(parameters(recorded)[name], parameter, rtol=1e-2, atol=1e-3)


@gpu
def test_compiled_and_eager_updates_agree_over_50_updates():
    compiled, eager = (filled(ANT, nano(acceleration=m, precision="float32"), GPU) for m in ("compile", "eager"))
    assert_close(metrics(compiled, 5), metrics(eager, 5), 5e-3)


@gpu
@pytest.mark.parametrize(("precision", "relative"), [("tf32", 0.02), ("bfloat16", 0.1)])
def test_reduced_precision_agrees_with_float32_over_50_updates(precision, relative):
    settings = {"acceleration": "cuda_graphs"}
    reduced, exact = (filled(ANT, nano(precision=p, **settings), GPU) for p in (precision, "float32"))
    assert_close(metrics(reduced, 5), metrics(exact, 5), relative)


@gpu
def test_auto_decides_on_every_step_and_agrees_with_eager(monkeypatch):
    monkeypatch.setattr(FasterStep, "NUM_TIMED_CALLS", 4)
    auto, eager = (filled(ANT, nano(acceleration=m, precision="float32"), GPU) for m in ("auto", "eager"))
    assert_close(metrics(auto, 8), metrics(eager, 8), 1e-2)
    steps = [*auto.steps.policy.values(), *auto.steps._updates.values()]
    assert all(isinstance(step, FasterStep) and step.chosen in ("cuda_graphs", "compile") for step in steps)


@gpu
def test_two_replays_of_imagination_differ_and_the_same_seed_repeats_them():
    trainer = filled(ANT, nano(acceleration="cuda_graphs"), GPU)
    trainer.world_model.eval()
    for _ in range(3):
        trainer.steps.policy["imagine"]()
    assert trainer.steps.policy["imagine"].is_recorded
    first = [column.clone() for column in trainer.steps.policy["imagine"]()]
    assert all(
        not torch.equal(ours, theirs) for ours, theirs in zip(first, trainer.steps.policy["imagine"](), strict=True)
    )
    repeated = []
    for _ in range(2):
        torch.manual_seed(7)
        repeated.append([column.clone() for column in trainer.steps.policy["imagine"]()])
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*repeated, strict=True))


@gpu
def test_a_learning_rate_of_zero_stops_recorded_updates():
    trainer = filled(ANT, nano(acceleration="cuda_graphs"), GPU)
    trainer.train_iteration()
    before = parameters(trainer)
    names = ("decoder_lr", "dynamics_lr", "reward_lr", "actor_lr", "critic_lr")
    trainer.set_learning_rates(nano(**dict.fromkeys(names, 0.0)))
    trainer.train_iteration()
    assert all(torch.equal(parameters(trainer)[name], value) for name, value in before.items())
    trainer.set_learning_rates(nano())
    trainer.train_iteration()
    assert not any(torch.equal(parameters(trainer)[name], value) for name, value in before.items())


@gpu
def test_a_checkpoint_is_restored_into_recorded_steps():
    trainer = filled(ANT, nano(acceleration="cuda_graphs", precision="float32"), GPU)
    trainer.train_iteration()
    networks = [copy.deepcopy(net.state_dict()) for net in (trainer.actor, trainer.critic, trainer.world_model)]
    saved = trainer.state_dict()
    expected = metrics(trainer, 2)
    for net, state in zip((trainer.actor, trainer.critic, trainer.world_model), networks, strict=True):
        net.load_state_dict(state)
    trainer.load_state_dict(saved)
    assert_close(metrics(trainer, 2), expected, 1e-4)


@gpu
@pytest.mark.parametrize(("made_on", "used_on"), [(CPU, GPU), (GPU, CPU)])
def test_optimizers_move_between_cpu_and_gpu(made_on, used_on):
    hp = nano(acceleration="eager")
    source, target = filled(ANT, hp, made_on), filled(ANT, hp, used_on)
    source.train_iteration()
    target.load_state_dict(source.state_dict())
    for name, optimizer in target.optimizers.items():
        group = optimizer._optimizer.param_groups[0]
        assert group["capturable"] == (used_on is GPU) and float(group["lr"]) == pytest.approx(optimizer._present_lr)
        assert optimizer.num_updates == source.optimizers[name].num_updates
    target.train_iteration()


@gpu
def test_new_transitions_reach_recorded_steps():
    hp = nano(acceleration="cuda_graphs", **dict.fromkeys(("decoder_lr", "dynamics_lr", "reward_lr"), 0.0))
    trainer = filled(ANT, hp, GPU)
    before = metrics(trainer, 2)[-1]["world_model", "reward_loss"]
    for number in range(20):
        extreme = random_trajectory(ANT, 40, seed=100 + number, terminated=True)
        extreme.rewards[:] = 1000.0
        trainer.add([extreme])
    assert metrics(trainer, 1)[0]["world_model", "reward_loss"] > 100 * before


@gpu
def test_inputs_of_another_shape_are_recorded_anew():
    step = RecordedStep(lambda x: x * 2)
    for size in (3, 5, 3):
        for number in range(5):
            x = torch.full((size,), float(number), device=GPU)
            assert torch.equal(step(x), x * 2)
        assert step.is_recorded


@gpu
def test_an_iteration_waits_for_the_device_only_to_read_its_metrics():
    hp = nano(acceleration="cuda_graphs", ppo_minibatches=2)
    trainer = filled(ANT, hp, GPU)
    metrics(trainer, 2)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        trainer.train_world_model()
        trainer._train_policy()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@gpu
def test_auto_goes_on_without_a_compiler(monkeypatch, caplog):
    def fails():
        if torch.compiler.is_compiling() or torch._dynamo.eval_frame._stance.stance != "force_eager":
            raise torch._dynamo.exc.TorchDynamoException("no compiler")
        return torch.ones(2, device=GPU)

    step = Accelerator("auto", GPU, []).accelerate("failing", fails)
    with caplog.at_level(logging.WARNING):
        outputs = [step() for _ in range(30)]
    assert step.chosen == "cuda_graphs" and all(torch.equal(out, torch.ones(2, device=GPU)) for out in outputs)
    assert "torch.compile failed for failing" in caplog.text


@gpu
@pytest.mark.parametrize(
    ("changes", "arguments", "reason"),
    [
        ({"replay_device": "cpu"}, {}, "replay lives in host memory"),
        ({}, {"average_gradients": lambda parameters: None}, "several learners exchange gradients"),
    ],
)
def test_updates_that_cannot_be_recorded_are_announced_and_agree_with_eager(changes, arguments, reason, caplog):
    found = []
    for mode in ("cuda_graphs", "eager"):
        hp = nano(acceleration=mode, precision="float32", **changes)
        with caplog.at_level(logging.WARNING):
            trainer = new_trainer(ANT, hp, device=GPU, **arguments)
        trainer.add([random_trajectory(ANT, 40, seed=number, terminated=True) for number in range(3)])
        found.append(metrics(trainer, 3))
    assert caplog.text.count(reason) == 1
    assert_close(*found, 1e-3)
