"""Imagination beside what happened: with exact dynamics, with symmetric models, and where episodes end early."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.core import DISCRETE, SWIFT, UNEQUAL, layout_of, random_trajectory, randomize, tiny
from torch import nn

from rllib_dima.analysis import (
    compare,
    diversity,
    draw_segments,
    model_sensitivity,
    open_loop_errors,
    persistence,
    replay,
    sampled_with,
    simulator_sensitivity,
    termination_calibration,
)
from rllib_dima.analysis.comparison import caveats, standard_variants
from rllib_dima.analysis.diversity import rank_correlation
from rllib_dima.analysis.plain_mlp import PlainDynamics, replaced_dynamics, train_baseline
from rllib_dima.analysis.segments import segments_at
from rllib_dima.core.dima.hyperparameters import DIMAHyperparameters
from rllib_dima.core.dima.open_loop import open_loop_report
from rllib_dima.core.dima.world_model import WorldModel
from rllib_dima.core.replay.buffer import ReplayBuffer
from rllib_dima.envs.cooperative import SIMULATION_ERROR

LAYOUT = UNEQUAL
N, A, S, WIDTH = LAYOUT.num_agents, LAYOUT.action_size, LAYOUT.state_size, LAYOUT.observation_size
rng = np.random.default_rng(3)
DECAY = np.diag([0.9, 0.5, -0.3, 0.7]).astype(np.float32)
PUSH = (rng.normal(size=(N, A, S)) * LAYOUT.action_mask().numpy()[..., None]).astype(np.float32)
SHOW = (rng.normal(size=(S, N, WIDTH)) * LAYOUT.observation_mask().numpy()).astype(np.float32)


class Team:
    """A linear environment with saved states: s' = DECAY s + sum over agents of PUSH a, reward the sum of s."""

    layout = LAYOUT

    def get_state(self):
        return getattr(self, "now", np.zeros(S, np.float32))

    def set_state(self, state):
        self.now = state

    def step(self, action_dict):
        actions = np.stack(list(action_dict.values()))
        reward, self.now = self.now.sum(), DECAY @ self.now + np.einsum("na,nas->s", actions, PUSH)
        return {}, reward, {}, {}, {LAYOUT.agent_ids[0]: {"state": self.now}}


def play(length, seed=0, **flags):
    """A trajectory of `Team` under random actions."""
    plain, env = random_trajectory(LAYOUT, length, seed), Team()
    env.now = plain.states[0]
    states, rewards = [env.now], []
    for joint in plain.actions:
        rewards.append(env.step(dict(zip(LAYOUT.agent_ids, joint, strict=True)))[1])
        states.append(env.now)
    states = np.stack(states)
    observations = np.einsum("ts,sno->tno", states, SHOW)
    columns = {"states": states, "observations": observations[:-1], "last_observations": observations[-1]}
    return replace(plain, **columns, rewards=np.array(rewards, np.float32), **flags)


class ExactDynamics(nn.Module):
    def __init__(self, model, noise=0.0):
        super().__init__()
        self.normalizer, self.scale, self.noise = model.normalizer, model.hp.sigma_data, noise

    def sample(self, context, actions, valid):
        states = self.normalizer.denormalize(context[:, -1] / self.scale)
        moved = states @ torch.from_numpy(DECAY).T + torch.einsum("bna,nas->bs", actions[:, -1], torch.from_numpy(PUSH))
        following = self.normalizer(moved)
        return (following + self.noise * following.abs() * torch.randn_like(following)) * self.scale


class ExactDecoder(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.normalizer = model.normalizer

    def forward(self, states):
        return torch.einsum("bs,sno->bno", self.normalizer.denormalize(states), torch.from_numpy(SHOW))


class ExactOutcome(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = [model]

    def new_cache(self, batch_size):
        return None

    def extend(self, states, actions, next_states, cache):
        model = self.model[0]
        reward = model.normalizer.denormalize(states).sum(-1)
        return model.reward_normalizer(reward), torch.full_like(reward, 20.0)


def exact_model(noise=0.0):
    """A world model whose three parts are the environment itself."""
    torch.manual_seed(0)
    model = WorldModel(LAYOUT, tiny(context_length=3)).eval()
    model.normalizer.update(torch.from_numpy(play(50, seed=9).states))
    model.dynamics = ExactDynamics(model, noise)
    model.state_decoder, model.reward_termination = ExactDecoder(model), ExactOutcome(model)
    return model


def numbers_of(errors):
    return [errors.states, errors.observations, errors.rewards, errors.cumulative_observation]


def test_exact_dynamics_have_no_error_at_any_step_and_persistence_has_its_own():
    model, episodes = exact_model(), [play(20, 1), play(7, 2)]
    segments, mask = draw_segments(episodes, 12, 3, 6), LAYOUT.observation_mask()
    errors = open_loop_errors(model, segments, replay(model, segments), mask)
    assert errors.states.shape == (6, S) and errors.observations.shape == (6, N, WIDTH)
    for values in numbers_of(errors):
        np.testing.assert_allclose(values, 0, atol=2e-5)
    held = open_loop_errors(model, segments, persistence(model, segments), mask)
    i, step = segments.places[0]
    alone = segments_at(episodes, [(i, step)], 3, 1)
    change = np.diff(episodes[i].states[step : step + 2], axis=0) * model.normalizer.scale.numpy()
    of_one = open_loop_errors(model, alone, persistence(model, alone), mask)
    np.testing.assert_allclose(of_one.states, np.abs(change), rtol=1e-3, atol=1e-5)
    assert held.state_by_step.min() > 0.01


def test_what_training_reports_is_zero_of_exact_dynamics_and_else_what_a_replay_finds():
    episodes, buffer = [play(20, 1, truncated=True), play(7, 2, truncated=True)], ReplayBuffer(LAYOUT, 50)
    for episode in episodes:
        buffer.add(episode)
    window = buffer.windows(torch.arange(27), past=2, future=5)
    exact, halved = exact_model(), exact_model()
    halved.dynamics.sample = lambda *inputs: ExactDynamics.sample(halved.dynamics, *inputs) / 2
    report = open_loop_report(exact, window, num_env_steps=27)
    np.testing.assert_allclose(report.errors, 0, atol=2e-5)
    segments = segments_at(episodes, [(0, t) for t in range(20)] + [(1, t) for t in range(7)], 3, 6)
    found, mask = open_loop_report(halved, window, num_env_steps=27), LAYOUT.observation_mask()
    by_replay = open_loop_errors(halved, segments, replay(halved, segments), mask)
    np.testing.assert_allclose(found.errors, by_replay.states, rtol=1e-5)
    held = open_loop_errors(halved, segments, persistence(halved, segments), mask)
    np.testing.assert_allclose(found.persistence, held.states, rtol=1e-5)
    expected = {"open_loop_error_5": found.errors[4].mean(), "persistence_error_5": held.state_by_step[4]}
    expected |= {"open_loop_end_rate": 0.0, "real_end_rate": 0.0}
    assert found.metrics() == pytest.approx(expected) and found.errors.shape == (6, S)


def test_a_plain_mlp_begins_as_nothing_changes_and_learns_what_the_data_hold():
    torch.manual_seed(0)
    model = WorldModel(LAYOUT, tiny(context_length=3, dynamics_lr=1e-2, dynamics_batch_size=64)).eval()
    episodes, buffer = [play(60, seed, truncated=True) for seed in range(6)], ReplayBuffer(LAYOUT, 400)
    mask = LAYOUT.observation_mask()
    for episode in episodes:
        buffer.add(episode)
    model.normalizer.update(torch.from_numpy(np.concatenate([episode.states for episode in episodes])))
    own, weights = model.dynamics, {name: value.clone() for name, value in model.state_dict().items()}
    segments = draw_segments([play(20, 9)], 12, 3, 4)
    unborn = PlainDynamics(LAYOUT, model.hp, model)
    assert sum(p.numel() for p in unborn.module.parameters()) == pytest.approx(
        sum(p.numel() for p in own.parameters()), rel=0.1
    )
    for parameter in unborn.module.parameters():
        nn.init.zeros_(parameter)
    before = torch.get_rng_state()
    learnt = train_baseline(model, buffer, updates=300)
    assert torch.equal(before, torch.get_rng_state())
    errors = []
    for dynamics in (unborn, learnt):
        with replaced_dynamics(model, dynamics):
            errors.append(open_loop_errors(model, segments, replay(model, segments), mask).states)
    held = open_loop_errors(model, segments, persistence(model, segments), mask)
    np.testing.assert_allclose(errors[0], held.states, rtol=1e-5)
    assert errors[1].mean() < 0.3 * held.states.mean()
    assert model.dynamics is own and all(torch.equal(weights[name], v) for name, v in model.state_dict().items())


def test_errors_are_those_counted_one_by_one():
    model, episodes = exact_model(noise=0.5), [play(20, 1, terminated=True), play(5, 2)]
    segments, mask = draw_segments(episodes, 25, 3, 6), LAYOUT.observation_mask()
    imagined = replay(model, segments)
    errors = open_loop_errors(model, segments, imagined, mask)
    for step in range(6):
        own, seen = [], []
        for b, (i, t) in enumerate(segments.places):
            if t + step < len(episodes[i]):
                z = model.normalizer(torch.from_numpy(episodes[i].states[t + step + 1]))
                own.append((imagined.states[b, step] - z).abs().numpy())
                after = [*episodes[i].observations[1:], episodes[i].last_observations][t + step]
                seen.append(np.abs(imagined.observations[b, step].numpy() - after))
        assert errors.counts[step] == len(own)
        np.testing.assert_allclose(errors.states[step], np.mean(own, axis=0), rtol=1e-4)
        by_hand = np.mean([np.mean(seen, axis=0)[n][mask[n].numpy()].mean() for n in range(N)])
        assert errors.observation_by_step[step] == pytest.approx(by_hand, rel=1e-4)
    assert errors.cumulative_observation[-1] == pytest.approx(errors.observation_by_step.sum())


def test_nothing_is_nan_where_all_episodes_are_shorter_than_the_horizon():
    model, episodes = exact_model(), [play(3, 1, terminated=True), replace(play(2, 2), last_observations=None)]
    segments = draw_segments(episodes, 100, 3, 8)
    imagined = replay(model, segments)
    errors = open_loop_errors(model, segments, imagined, LAYOUT.observation_mask())
    assert errors.counts.tolist() == [5, 3, 1] and len(errors.observations) == 3
    assert segments.observed.sum() == segments.valid.sum() - 2  # what follows the last step of one is unknown
    spread = diversity(model, segments, repeats=2)
    calibration = termination_calibration(segments, imagined)
    for values in (*numbers_of(errors), spread.spread, spread.error, calibration.predicted, calibration.observed):
        assert np.isfinite(values).all()
    assert calibration.counts.sum() == 9  # valid steps
    assert calibration.base_brier == pytest.approx(3 / 9 * 6 / 9) and calibration.brier == pytest.approx(3 / 9)


def test_chunks_begin_where_their_context_is_known():
    chunk = replace(play(6), is_start=False)
    assert sorted(draw_segments([chunk], 100, 3, 2).places) == [(0, step) for step in (2, 3, 4, 5)]
    first = segments_at([play(6)], [(0, 1)], 3, 2)
    assert first.start.valid.tolist() == [[False, True, True]]
    np.testing.assert_array_equal(first.start.states[0, 1:].numpy(), play(6).states[:2])
    with pytest.raises(ValueError, match="context of 3 steps"):
        draw_segments([replace(play(2), is_start=False)], 5, 3, 2)


def test_sensitivity_is_the_derivative_in_the_model_and_in_the_simulator():
    model, episodes = exact_model(), [play(12, 1)]
    start = draw_segments(episodes, 6, 3, 1)
    scale = model.normalizer.scale.numpy()
    truth = np.broadcast_to(PUSH * scale, (6, N, A, S))
    derived = model_sensitivity(model, LAYOUT, start.start)
    np.testing.assert_allclose(derived.derivatives, truth, rtol=2e-3, atol=2e-4)
    snapshots, actions = start.start.states[:, -1].numpy(), start.start.actions[:, -1].numpy()
    simulated = simulator_sensitivity(Team(), snapshots, actions, scale)
    np.testing.assert_allclose(simulated.derivatives, truth, rtol=2e-3, atol=2e-4)
    np.testing.assert_allclose(simulated.by_agent, np.sqrt(np.square(PUSH * scale).sum((1, 2))), rtol=1e-3)
    assert simulated.shares.sum() == pytest.approx(1)
    with pytest.raises(ValueError, match="continuous"):
        model_sensitivity(model, DISCRETE, start.start)


def test_a_start_from_which_the_simulator_breaks_down_is_left_out_and_counted():
    """A broken step returns the state before it, whose difference would look like a derivative."""

    class Fragile(Team):
        def step(self, action_dict):
            if (self.now == broken).all() and list(action_dict.values())[1][0] > actions[2, 1, 0]:
                return {}, 0.0, {}, {}, {LAYOUT.agent_ids[0]: {"state": self.now, SIMULATION_ERROR: "unstable"}}
            return super().step(action_dict)

    start = draw_segments([play(12, 1)], 6, 3, 1).start
    snapshots, actions = start.states[:, -1].numpy(), start.actions[:, -1].numpy()
    broken, scale = snapshots[2], np.ones(S)
    found = simulator_sensitivity(Fragile(), snapshots, actions, scale)
    assert found.left_out == (2,) and found.num_starts == 5
    np.testing.assert_allclose(found.derivatives, np.broadcast_to(PUSH, (5, N, A, S)), rtol=2e-3, atol=2e-4)
    none = simulator_sensitivity(Fragile(), snapshots[2:3], actions[2:3], scale)
    assert none.left_out == (0,) and none.num_starts == 0


def test_a_model_whose_numbers_overflow_has_no_derivative_there():
    class Overflowing(ExactDynamics):
        def sample(self, *args):
            return super().sample(*args).index_fill(0, torch.tensor([4]), torch.nan)

    model = exact_model()
    model.dynamics = Overflowing(model)
    found = model_sensitivity(model, LAYOUT, draw_segments([play(12, 1)], 6, 3, 1).start)
    assert found.left_out == (4,) and np.isfinite(found.shares).all()


def test_endings_that_are_no_numbers_are_left_out_of_their_calibration():
    segments = draw_segments([play(12, 1)], 6, 3, 4)
    imagined = replay(exact_model(), segments)
    spoilt = replace(imagined, continuations=imagined.continuations.index_fill(0, torch.tensor([2]), torch.nan))
    rest = [i for i in range(6) if i != 2]
    found = termination_calibration(segments, spoilt)
    assert found.counts.sum() == segments.valid[rest].sum() and np.isfinite(found.brier)
    none = replace(imagined, continuations=torch.full_like(imagined.continuations, torch.nan))
    assert math.isnan(termination_calibration(segments, none).brier)


def test_the_plain_mlp_reads_nothing_of_steps_before_an_episode():
    layout = LAYOUT
    model = WorldModel(layout, tiny(context_length=3)).eval()
    plain = PlainDynamics(layout, model.hp, model)
    randomize(plain.module)
    context, actions = torch.randn(4, 3, S), torch.randn(4, 3, N, A)
    valid = torch.tensor([[False, True, True]] * 4)
    other = actions.clone()
    other[:, 0] += 1
    masked = context * valid[..., None]
    assert torch.equal(plain.sample(masked, actions, valid), plain.sample(masked, other, valid))
    buffer = ReplayBuffer(layout, 100)
    buffer.add(play(12, 1))
    window = buffer.windows(torch.arange(12), 2, 0)
    changed = replace(window, actions=window.actions + (~window.valid)[..., None, None].float())
    assert not window.valid.all() and torch.equal(plain.loss(window), plain.loss(changed))


@pytest.mark.parametrize("mode", ["sequential", "cumulative", "joint"])
def test_an_order_that_must_not_matter_does_not(mode):
    """Equal agents with equal actions, whom the model cannot tell apart."""
    layout = layout_of(2)
    model = randomize(WorldModel(layout, tiny(conditioning=mode)), scale=0.3).eval()
    with torch.no_grad():
        model.dynamics.action_encoder.agent_embedding.zero_()
    episode = random_trajectory(layout, 12)
    actions = np.repeat(episode.actions[:, :1], 2, axis=1)
    segments = draw_segments([replace(episode, actions=actions)], 8, model.hp.context_length, 4)
    variants = {order: {"conditioning_order": order} for order in ("ascending", "descending")}
    results = compare(model, segments, layout.observation_mask(), variants)
    one, other = (results[order].errors.states for order in variants)
    np.testing.assert_array_equal(one, other)
    different = replace(segments, actions=torch.from_numpy(episode.actions[None, :4].repeat(8, axis=0)))
    results = compare(model, different, layout.observation_mask(), variants)
    one, other = (results[order].errors.states for order in variants)
    assert np.array_equal(one, other) == (mode == "joint")


def test_a_sampler_is_exchanged_for_as_long_as_asked():
    layout = layout_of(2)
    model = randomize(WorldModel(layout, tiny())).eval()
    hp = model.dynamics.hp
    with sampled_with(model, num_denoising_steps=7, sampler_solver="heun"):
        assert (model.dynamics.num_steps, model.dynamics.hp.sampler_solver) == (7, "heun")
    assert model.dynamics.hp is hp and model.dynamics.num_steps == 4
    with pytest.raises(ValueError, match="num_denoising_steps"), sampled_with(model, num_denosing_steps=3):
        pass
    with pytest.raises(ValueError, match="agents"), sampled_with(model, num_denoising_steps=1):
        pass
    assert model.dynamics.hp is hp


def test_a_comparison_says_where_it_tells_nothing():
    swift, paper = DIMAHyperparameters(**SWIFT), DIMAHyperparameters()
    assert caveats(paper, 2, {"conditioning_order": "ascending", "num_denoising_steps": 4}) == ()
    assert "refinement" in caveats(swift, 2, {"num_denoising_steps": 2})[0]
    assert "one agent" in caveats(paper, 2, {"conditioning": "joint"})[0]
    assert caveats(DIMAHyperparameters(conditioning="cumulative"), 2, {"conditioning": "joint"}) == ()
    assert "no effect" in caveats(swift, 2, {"conditioning_order": "ascending"})[0]
    assert caveats(swift, 2, {"conditioning": swift.conditioning}) == ()
    assert "too steep" in caveats(paper, 2, {"sampler_solver": "heun"})[0]
    assert "descending, K = 4" not in standard_variants(paper, 2)  # which is how it was trained
    one_step = replace(swift, conditioning="joint", num_denoising_steps=1)
    ways = standard_variants(one_step, 2)
    assert "heun" not in ways and list(ways.values()).count({"num_denoising_steps": 2}) == 0  # joint, K = 2 says it
    assert ways["joint, K = 2"] == {"conditioning": "joint", "num_denoising_steps": 2}
    for changes in standard_variants(swift, 3).values():
        replace(swift, **changes).denoising_steps(3)  # none is refused


def test_spread_goes_with_error_where_noise_makes_the_error():
    segments = draw_segments([play(60, 1)], 40, 3, 2)
    honest = diversity(exact_model(noise=0.3), segments, repeats=30)
    assert honest.correlation[0] > 0.5 and honest.spread.min() > 0.01
    certain = diversity(exact_model(), segments, repeats=3)
    assert certain.spread.max() < 1e-6 and certain.correlation == (None, None)
    with pytest.raises(ValueError, match="2 repeats"):
        diversity(exact_model(), segments, repeats=1)


def test_ranks_of_ties():
    assert rank_correlation(np.array([1.0, 2.0, 2.0, 9.0]), np.array([0.0, 5.0, 5.0, 6.0])) == pytest.approx(1)
    assert rank_correlation(np.array([1.0, 2.0, 3.0]), np.array([3.0, 2.0, 2.5])) == pytest.approx(-0.5)
    assert rank_correlation(np.array([1.0, 1.0, 1.0]), np.array([3.0, 2.0, 2.5])) is None
