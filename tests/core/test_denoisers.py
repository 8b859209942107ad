"""The residual MLPs of dynamics and rewards, the change of the state as target, refinement and averaged weights."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from support.core import DISCRETE, UNEQUAL, new_trainer, random_actions, random_trajectory, randomize, tiny

from rllib_dima.core.dima import diffusion
from rllib_dima.core.dima.diffusion import Diffusion
from rllib_dima.core.dima.normalization import ChangeStatistics
from rllib_dima.core.dima.reward_mlp import RewardMLP
from rllib_dima.core.dima.sampler import karras_schedule
from rllib_dima.core.dima.world_model import WorldModel
from rllib_dima.core.replay.data import Window
from rllib_dima.core.residual_mlp import ResidualMLP
from rllib_dima.core.training.averaging import AveragedCopy

MLP = {"dynamics_network": "mlp", "dynamics_width": 16, "dynamics_num_blocks": 2}
REFINED = {**MLP, "dynamics_training": "refinement", "num_denoising_steps": 2, "sigma_offset_noise": 0.0}
VALID = torch.tensor([[True] * 5, [False, True, True, True, True], [False, False, True, True, False]])


def new(layout=UNEQUAL, **changes):
    return randomize(Diffusion(layout, tiny(**{**MLP, **changes})))


def windows(layout, batch_size, length, seed=0):
    generator = torch.Generator().manual_seed(seed)
    states, next_states = (torch.randn(batch_size, length, layout.state_size, generator=generator) for _ in range(2))
    return states, random_actions(layout, batch_size, length, seed=seed), next_states


def test_residual_mlp_is_what_it_says():
    model, x = randomize(ResidualMLP(3, 8, 1, 2)), torch.randn(5, 3)
    block, silu = model.blocks[0], lambda x: x * x.sigmoid()

    def norm(h, layer):
        centred = h - h.mean(-1, True)
        return centred / (centred.square().mean(-1, True) + 1e-5).sqrt() * layer.weight + layer.bias

    h = x @ model.linear_in.weight.T + model.linear_in.bias
    inner = silu(norm(h, block.norm)) @ block.linear1.weight.T + block.linear1.bias
    h = h + silu(inner) @ block.linear2.weight.T + block.linear2.bias
    expected = silu(norm(h, model.norm_out)) @ model.linear_out.weight.T + model.linear_out.bias
    assert torch.allclose(model(x), expected, atol=1e-5)
    assert not ResidualMLP(3, 8, 1, 2)(x).any()  # zero at the start


@pytest.mark.parametrize("layout", [UNEQUAL, DISCRETE])
@pytest.mark.parametrize("settings", [{}, REFINED], ids=["denoising", "refinement"])
def test_hidden_padded_and_invalid_values_have_exactly_no_influence(layout, settings, monkeypatch):
    model, agents = new(layout, **{"conditioning": "joint", **settings}), layout.num_agents
    states, actions, _ = windows(layout, 3, 3)
    valid = VALID[:, :3]
    states = states * valid[..., None]
    only_first = (torch.arange(agents) == 0).expand(model.num_steps, 3, agents)
    monkeypatch.setattr(diffusion, "visible_in_sampling", lambda *_: only_first)

    def sampled(actions):
        torch.manual_seed(1)
        return model.sample(states, actions, valid)

    seen = valid[:, :, None, None] & layout.action_mask()
    seen = seen & ((torch.arange(3) < 2)[:, None, None] | (torch.arange(agents) == 0)[:, None])
    assert torch.equal(sampled(actions), sampled(torch.where(seen, actions, torch.tensor(9.0))))
    changed = actions.clone()
    changed[:, 2, 0] = changed[:, 2, 0].roll(1, -1) + 0.1
    assert not torch.allclose(sampled(actions), sampled(changed), atol=1e-4)


def test_zero_actions_that_are_seen_differ_from_hidden_ones():
    encoder, zeros = new().action_encoder, torch.zeros(1, 3, 2, 2)
    seen, hidden = (encoder(zeros, torch.full((1, 3, 2), value)) for value in (True, False))
    assert seen.shape == (1, encoder.output_size) and seen.sum() == 6 and not hidden.any()


# The change of the state


def test_change_statistics_are_the_deviations_of_normalised_changes():
    random = np.random.default_rng(0)
    changes = torch.tensor(random.normal(3.0, [0.1, 2.0, 0.0], (500, 3)), dtype=torch.float32)
    changes[:, 2] = 0  # an entry that never changes
    state_scale, statistics = torch.tensor([5.0, 0.25, 1.0]), ChangeStatistics(3)
    for part in changes.split(130):
        statistics.update(part, state_scale)
    deviation = changes.double().std(0, correction=0) * state_scale
    assert torch.allclose(1 / statistics.scale, (deviation.square() + 1e-8).sqrt().float(), rtol=1e-4)
    statistics.update(changes[:0], state_scale)
    assert statistics.count == 500


def test_the_change_is_the_target_and_is_added_to_the_present_state():
    model = new(dynamics_target="change", sigma_data=1.0)
    model.changes.scale.copy_(torch.tensor([2.0, 4.0, 1.0, 0.5]))
    states, next_states = torch.randn(6, 4), torch.randn(6, 4)
    data = model.to_data(states, next_states)
    assert torch.allclose(data, (next_states - states) * model.changes.scale)
    assert torch.allclose(model.to_states(states, data), next_states, atol=1e-6)
    context, actions, _ = windows(UNEQUAL, 6, 3)
    with torch.no_grad():
        model.denoiser.mlp.linear_out.weight.zero_()
        model.denoiser.mlp.linear_out.bias.zero_()
        model.forward = lambda noisy, *_: (torch.ones_like(noisy), None)
        sampled = model.sample(context, actions, torch.ones(6, 3, dtype=torch.bool))
    assert torch.allclose(sampled, context[:, -1] + 1 / model.changes.scale, atol=1e-5)


@pytest.mark.parametrize("unroll", [1, 2])
def test_denoising_loss_of_changes_follows_the_fed_back_context(unroll):
    model = new(dynamics_target="change", num_autoregressive_steps=unroll, conditioning="joint")
    model.changes.scale.copy_(torch.tensor([2.0, 4.0, 1.0, 0.5]))
    states, actions, next_states = windows(UNEQUAL, 4, 2 + unroll)
    valid, draws, total = torch.ones(4, 2 + unroll, dtype=torch.bool), [], 0.0
    torch.manual_seed(0)
    ours, _ = model.loss(states, actions, next_states, valid)
    torch.manual_seed(0)
    draws = [(torch.randn(4), torch.randn(4, 4), torch.randn(4, 4)) for _ in range(unroll)]
    context = states[:, :3]
    for step, (log_sigma, unit, offset) in enumerate(draws):
        sigma = (log_sigma * 1.2 - 0.4).exp().clamp(2e-3, 20)
        data = (next_states[:, 2 + step] - context[:, -1]) * model.changes.scale
        noisy = data + unit * sigma[:, None] + 0.3 * offset
        encoded = model.action_encoder(actions[:, step : step + 3], torch.ones(4, 3, 2, dtype=torch.bool))
        denoised, _ = model(noisy, sigma, context, encoded)
        c_out = model.preconditioning(sigma).c_out[:, None]
        total = total + ((denoised - data) / c_out).square().mean() / unroll
        following = context[:, -1] + denoised.detach() / model.changes.scale
        context = torch.cat([context[:, 1:], following[:, None]], dim=1)
    assert torch.allclose(ours, total, rtol=1e-4)


# Refinement


def test_refinement_trains_every_step_where_sampling_uses_it():
    settings = {**REFINED, "conditioning": "sequential", "num_autoregressive_steps": 2, "num_denoising_steps": 3}
    model = new(**settings, sampler_start_noise=0.5)
    states, actions, next_states = windows(UNEQUAL, 3, 4)
    valid = VALID[:, :4]
    torch.manual_seed(0)
    ours, _ = model.loss(states, actions, next_states, valid)
    torch.manual_seed(0)
    sigmas = karras_schedule(3, 2e-3, 5.0, 7.0)
    shown = [1, 0, 0]  # floor(k N / K), descending
    errors, context = torch.zeros(3, 2), (states * valid[..., None])[:, :3]
    for unroll in range(2):
        target, x = next_states[:, 2 + unroll], torch.randn(3, 4) * sigmas[0] * 0.5
        for k in range(3):
            visible = valid[:, unroll : unroll + 3, None].expand(-1, -1, 2).clone()
            visible[:, 2] = torch.arange(2) == shown[k]
            encoded = model.action_encoder(actions[:, unroll : unroll + 3], visible)
            level = torch.full((1,), sigmas[k])
            output = model.network(x / 0.5, level.log() / 4, context, encoded)
            errors[:, unroll] += (output - target / 0.5).square().mean(1) / 3
            x = (0.5 * output + (x - 0.5 * output) * sigmas[k + 1] / sigmas[k]).detach()
        context = torch.cat([context[:, 1:], x[:, None]], dim=1)
    weight = valid[:, 2:].float()
    assert torch.allclose(ours, (errors * weight).sum() / weight.sum(), rtol=1e-4)


def test_refinement_without_start_noise_is_deterministic_and_samples_what_was_trained():
    model = new(**REFINED, sampler_start_noise=0.0, conditioning="cumulative")
    states, actions, _ = windows(UNEQUAL, 4, 3)
    valid = torch.ones(4, 3, dtype=torch.bool)
    first, second = (model.sample(states, actions, valid) for _ in range(2))
    assert torch.equal(first, second)
    own = first.detach()[:, None].expand(-1, 3, -1)  # the last step's error on its own prediction is zero
    with torch.no_grad():
        loss, _ = model.loss(states, actions, own, valid)
    seen = torch.ones(4, 3, 2, dtype=torch.bool)
    seen[:, 2, 0] = False  # descending: the last agent first
    one, _ = model(torch.zeros(4, 4), torch.tensor([5.0]), states, model.action_encoder(actions, seen))
    assert torch.allclose(loss, ((one - first) / 0.5).square().mean() / 2, rtol=1e-4)


# Averaged weights


def test_averaged_copy_follows_the_formula():
    network = torch.nn.Linear(2, 1)
    averaged, expected = AveragedCopy(network, 0.6), network.weight.detach().clone()
    for n in range(1, 20):
        with torch.no_grad():
            network.weight.add_(torch.randn(1, 2))
        averaged.update(network)
        decay = min(0.6, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * network.weight.detach()
        assert torch.allclose(averaged.network.weight, expected, atol=1e-6)
    assert not any(parameter.requires_grad for parameter in averaged.parameters())


def test_imagination_uses_the_averages_and_training_the_weights():
    trainer = new_trainer(UNEQUAL, tiny(**MLP, dynamics_ema_decay=0.9))
    trainer.add([random_trajectory(UNEQUAL, 60)])
    trainer.train_iteration()
    dynamics = trainer.world_model.dynamics
    live, averaged = dynamics.denoiser, dynamics.averaged.network
    assert dynamics.averaged.num_updates == trainer.hp.dynamics_updates_per_iteration
    assert not torch.equal(live.mlp.linear_out.weight, averaged.mlp.linear_out.weight)
    assert dynamics.network is averaged and dynamics.train().network is live
    trained = {id(parameter) for parameter in trainer.optimizers["dynamics"].parameters}
    assert trained == {id(parameter) for parameter in live.parameters()}


# Rewards and endings


@pytest.mark.parametrize(("reads_next", "fraction"), [(False, 0.0), (True, 0.0), (True, 0.5)])
@pytest.mark.parametrize("layout", [UNEQUAL, DISCRETE])
def test_reward_mlp_reads_one_step_alone(layout, reads_next, fraction):
    outcomes = {"reward_reads_next_state": reads_next, "reward_imagined_fraction": fraction}
    hp = tiny(reward_network="mlp", reward_width=8, **outcomes)
    model = randomize(RewardMLP(layout, hp)).eval()
    states, actions, next_states = windows(layout, 3, 5)
    rewards, logits = model(states, actions, next_states)
    assert rewards.shape == logits.shape == (3, 5)
    padded = torch.where(layout.action_mask(), actions, torch.tensor(7.0))
    assert torch.equal(model(states, padded, next_states)[0], rewards)
    for output, before in zip(model(states, actions, next_states + 1), (rewards, logits), strict=True):
        assert torch.equal(output, before) != reads_next
    for t in range(5):
        now = slice(t, t + 1)
        step = model.extend(states[:, now], actions[:, now], next_states[:, now], model.new_cache(3))
        assert torch.allclose(step[0][:, 0], rewards[:, t], atol=1e-6)
        assert torch.allclose(step[1][:, 0], logits[:, t], atol=1e-6)
    model.transform_rewards(torch.tensor(0.5), torch.tensor(2.0))
    changed, same = model(states, actions, next_states)
    assert torch.allclose(changed, 0.5 * rewards + 2, atol=1e-6) and torch.equal(same, logits)


@pytest.mark.parametrize("of", ["states", "next_states"])
def test_reward_mlp_learns_rewards_and_endings_from_single_steps(of):
    """They depend on the present, or on the state after the step, which only a model that reads it can know."""
    settings = {"reward_reads_next_state": of == "next_states"}
    settings |= {"reward_network": "mlp", "reward_width": 32, "reward_lr": 1e-2, "reward_updates_per_iteration": 300}
    settings |= {"reward_batch_size": 64, "num_imagined_rollouts": 80, "dynamics_updates_per_iteration": 1}
    trainer = new_trainer(UNEQUAL, tiny(**settings))
    chunks = [random_trajectory(UNEQUAL, 10, seed=seed, terminated=bool(seed % 2)) for seed in range(12)]
    for number, chunk in enumerate(chunks):
        read = chunk.states[1:] if of == "next_states" else chunk.states[:-1]
        chunk.rewards[:] = read[:, 0] - chunk.actions[:, 1, 0]
        read[-1, 1] = 30.0 * (number % 2)  # tells whether the last step ends the episode
    trainer.add(chunks)
    assert trainer.hp.reward_window == 1
    metrics = trainer.train_iteration()["world_model"]
    model, data = trainer.world_model, trainer.replay.windows(torch.arange(120))
    with torch.no_grad():
        states, next_states = model.normalizer(data.states), model.normalizer(data.next_states)
        rewards, logits = model.reward_termination(states, data.actions, next_states)
    truth = model.reward_normalizer(data.rewards)
    assert 1 - (rewards - truth).var() / truth.var() > 0.9 and metrics["reward_loss"] > 0
    assert torch.equal(logits[:, 0] < 0, data.terminated[:, 0])


@pytest.mark.parametrize("fraction", [0.0, 0.25, 1.0])
def test_a_share_of_what_outcomes_are_learnt_from_is_imagined(fraction, monkeypatch):
    settings = {"reward_network": "mlp", "reward_imagined_fraction": fraction, "num_imagined_rollouts": 40}
    settings |= {"reward_reads_next_state": True, "reward_batch_size": 400, "imagination_horizon": 5}
    trainer = new_trainer(UNEQUAL, tiny(**settings))
    trainer.add([random_trajectory(UNEQUAL, 30, seed=seed, terminated=True) for seed in range(3)])
    model, stored = trainer.world_model, trainer.replay.windows(torch.arange(90))
    monkeypatch.setattr(model.dynamics, "sample", lambda context, actions, valid: torch.full((len(context), 4), 0.25))
    trainer.steps.prepare()
    kept = trainer.steps._outcomes
    assert kept.shape == (2 * 40 * 5, 4 + 2 * 2 + 4 + 2)
    drawn = trainer.steps._loss_and_draw("reward_termination")[1]()
    assert drawn.shape == (400, 14)
    same = torch.isclose(drawn[:, -2:-1], model.reward_normalizer(stored.rewards[:, 0]), atol=1e-6)  # (400, 90)
    assert same.any(1).all()
    rows = same.float().argmax(1)  # which step each one was
    next_states, made_up = model.normalizer(stored.next_states[rows, 0]), torch.full((4,), 0.25 / trainer.hp.sigma_data)
    is_real = torch.isclose(drawn[:, 8:12], next_states, atol=1e-3).all(1)
    assert is_real.float().mean().item() == pytest.approx(1 - fraction, abs=0.1)
    assert torch.allclose(drawn[~is_real, 8:12], made_up, atol=1e-4)
    assert torch.equal(drawn[:, 4:8], (stored.actions * UNEQUAL.action_mask())[rows, 0].flatten(1))
    assert torch.equal(drawn[:, -1] == 0, stored.terminated[rows, 0]) and set(drawn[:, -1].tolist()) == {0.0, 1.0}
    before = kept.clone()
    trainer.steps.prepare()
    assert trainer.steps._outcomes is kept and not torch.equal(before, kept)  # recorded updates read these


def test_outcomes_are_learnt_from_valid_steps_alike():
    """Others, behind an episode's end, make room for them: each comes as often as any other, give or take one."""
    trainer = new_trainer(UNEQUAL, tiny(reward_network="mlp", reward_width=8))
    trainer.add([random_trajectory(UNEQUAL, 20, seed=seed) for seed in range(3)])
    valid = torch.arange(60) % 4 > 0  # 45 of 60
    steps = dataclasses.replace(trainer.replay.windows(torch.arange(60)), valid=valid.unsqueeze(1))
    torch.manual_seed(0)
    outcomes, again = (trainer.world_model.outcomes(steps) for _ in range(2))
    of = outcomes[:, -2:-1] == trainer.world_model.reward_normalizer(steps.rewards).T  # (60, 60)
    counts = of.sum(0)
    assert torch.all(counts[~valid] == 0) and set(counts[valid].tolist()) == {1, 2} and counts.sum() == 60
    twice = (again[:, -2:-1] == trainer.world_model.reward_normalizer(steps.rewards).T).sum(0) == 2
    assert not torch.equal(twice, counts == 2)  # by chance


@pytest.mark.parametrize("fraction", [0.0, 0.5])
def test_loss_of_single_steps_equals_smooth_l1_plus_cross_entropy_by_hand(fraction):
    hp = tiny(reward_network="mlp", reward_width=8, reward_reads_next_state=True, reward_imagined_fraction=fraction)
    model, (states, actions, next_states) = randomize(RewardMLP(UNEQUAL, hp)), windows(UNEQUAL, 6, 1)
    rewards, terminated = torch.tensor([0.0, 0.3, -4.0, 2.0, -0.1, 9.0]), torch.arange(6) % 3 == 1
    steps = (column.squeeze(1) for column in (states, actions, next_states))
    loss, metrics = model.loss(model.examples(*steps, rewards, terminated))
    with torch.no_grad():
        predicted, logits = (output.squeeze(1).tolist() for output in model(states, actions, next_states))
    reward_loss = termination_loss = 0.0
    for guess, logit, reward, ended in zip(predicted, logits, rewards.tolist(), terminated.tolist(), strict=True):
        error = abs(guess - reward)
        reward_loss += (error**2 / 2 if error < 1 else error - 0.5) / 6
        termination_loss -= math.log(1 / (1 + math.exp(logit if ended else -logit))) / 6
    assert metrics["reward_loss"].item() == pytest.approx(reward_loss, rel=1e-5)
    assert metrics["termination_loss"].item() == pytest.approx(termination_loss, rel=1e-5)
    assert loss.item() == pytest.approx(reward_loss + termination_loss, rel=1e-5)


def test_outcomes_learnt_on_imagined_states_correct_the_dynamics_errors(monkeypatch):
    """The reward is the state's first entry, which the dynamics predicts too large by two deviations."""
    settings = {"reward_network": "mlp", "reward_width": 32, "reward_lr": 1e-2, "reward_updates_per_iteration": 200}
    sizes = {"reward_batch_size": 64, "num_imagined_rollouts": 60}
    errors = []
    for fraction in (0.0, 1.0):
        trainer = new_trainer(UNEQUAL, tiny(**settings, **sizes, reward_imagined_fraction=fraction, context_length=1))
        chunks = [random_trajectory(UNEQUAL, 10, seed=seed) for seed in range(12)]
        for chunk in chunks:
            chunk.states[1:] = chunk.states[:-1].mean(0) + chunk.actions.sum((1, 2))[:, None] * np.ones(4)
            chunk.rewards[:] = chunk.states[:-1, 0]
        trainer.add(chunks)
        model, data = trainer.world_model, trainer.replay.windows(torch.arange(120), future=1)
        truth = model.normalizer(trainer.replay.next_states[:120])
        actions = trainer.replay.actions[:120]

        def wrong(context, taken, valid, truth=truth, actions=actions, scale=trainer.hp.sigma_data):
            rows = (taken[:, -1:] - actions).abs().sum((2, 3)).argmin(1)
            return (truth[rows] + 2 * (torch.arange(4) == 0)) * scale

        monkeypatch.setattr(model.dynamics, "sample", wrong)
        trainer.train_iteration()
        imagined, valid = model.replayed(data), data.valid[:, 1]
        with torch.no_grad():
            states, next_states = model.normalizer(imagined.states), model.normalizer(imagined.next_states)
            rewards = model.reward_termination(states, imagined.actions, next_states)[0][:, 1]
        errors.append((rewards - model.reward_normalizer(data.rewards[:, 1]))[valid].abs().mean().item())
    assert errors[1] < 0.3 * errors[0]


# How useful the dynamics are


def test_fresh_steps_are_predicted_before_they_are_learnt_from(monkeypatch):
    trainer = new_trainer(UNEQUAL, tiny(**MLP, dynamics_target="change"))
    trainer.add([random_trajectory(UNEQUAL, 30, episode_id="e")])
    assert "open_loop_error_1" not in trainer.train_iteration()["world_model"]  # nothing was learnt before they came
    seen = []
    chunk = random_trajectory(UNEQUAL, 7, seed=5, episode_id="e", is_start=False)
    chunk.states[0] = 0.0
    model = trainer.world_model
    sample = model.dynamics.sample
    monkeypatch.setattr(model.dynamics, "sample", lambda *inputs: seen.append(inputs) or 0.5 + sample(*inputs) * 0)
    trainer.add([chunk])
    context, actions, valid = seen[0]
    assert torch.equal(actions[:, -1].flip(0), torch.as_tensor(chunk.actions)) and valid.all()
    z = model.normalizer(torch.as_tensor(chunk.states))
    assert torch.allclose(context[:, -1].flip(0), z[:-1] * 0.5, atol=1e-6)
    unexplained = model.state_decoder.unexplained_variance(z[:-1], torch.as_tensor(chunk.observations)).item()
    metrics = trainer.train_iteration()["world_model"]
    assert metrics["decoder_unexplained_variance"] == pytest.approx(unexplained, rel=1e-4)
    assert metrics["open_loop_error_1"] == pytest.approx((1.0 - z[1:]).abs().mean().item(), rel=1e-5)
    assert metrics["persistence_error_1"] == pytest.approx((z[:-1] - z[1:]).abs().mean().item(), rel=1e-5)
    assert "open_loop_error_1" not in trainer.train_iteration()["world_model"]


@pytest.mark.parametrize("better", [False, True])
def test_dynamics_no_better_than_nothing_changes_are_warned_of_once(better, monkeypatch, caplog):
    trainer = new_trainer(UNEQUAL, tiny(**MLP))
    errors = {"open_loop_error_1": torch.tensor(0.9 if better else 1.1), "persistence_error_1": torch.tensor(1.0)}
    monkeypatch.setattr(trainer.world_model, "measure", lambda window: errors)
    for seed in range(13):
        trainer.add([random_trajectory(UNEQUAL, 20, seed=seed)])
        trainer.train_iteration()
    warnings = [record.message for record in caplog.records if "no better than if nothing changed" in record.message]
    assert len(warnings) == (0 if better else 1)


@pytest.mark.parametrize("training", ["denoising", "refinement"])
def test_pseudo_huber_error_is_squared_when_small_and_linear_when_large(training):
    model, delta = new(dynamics_huber_delta=0.5, dynamics_training=training), 0.5
    small, large = torch.full((2, 4), 1e-2), torch.full((2, 4), 1e3)
    assert torch.allclose(model._penalty(small), small[:, 0] ** 2, rtol=1e-3)
    assert torch.allclose(model._penalty(large), 2 * delta * large[:, 0] - 2 * delta**2, rtol=1e-3)
    states, actions, next_states = windows(UNEQUAL, 4, 5)
    huber, squared = new(dynamics_huber_delta=1e4, dynamics_training=training), new(dynamics_training=training)
    losses = []
    for one in (huber, squared):
        torch.manual_seed(0)
        losses.append(
            one.double().loss(states.double(), actions.double(), next_states.double(), torch.ones(4, 5) > 0)[0]
        )
    assert torch.allclose(*losses, rtol=1e-4)


# The whole recipe


@pytest.mark.parametrize("layout", [UNEQUAL, DISCRETE])
def test_a_world_model_of_mlps_imagines_what_its_parts_say(layout):
    rewards = {"reward_network": "mlp", "reward_width": 8, "reward_reads_next_state": True}
    hp = tiny(**REFINED, **rewards, dynamics_target="change", conditioning="joint")
    model = randomize(WorldModel(layout, hp)).eval()
    states, actions, next_states = windows(layout, 5, 3)
    observations = torch.randn(5, 3, layout.num_agents, layout.observation_size)
    flags, valid = torch.zeros(5, 3, dtype=torch.bool), torch.ones(5, 3, dtype=torch.bool)
    start = Window(states, next_states, observations, actions, torch.zeros(5, 3), flags, valid)
    with torch.no_grad():
        torch.manual_seed(0)
        step = model.reset(start).step(actions[:, -1])
        torch.manual_seed(0)
        expected = model.dynamics.sample(states * 0.5, actions, valid) / 0.5
        rewards, logits = model.reward_termination(states[:, -1:], actions[:, -1:], expected.unsqueeze(1))
    assert torch.allclose(step.states, expected) and torch.allclose(step.rewards, rewards[:, 0])
    assert torch.allclose(step.continuations, logits[:, 0].sigmoid())
    assert torch.allclose(step.observations, model.state_decoder(expected))
