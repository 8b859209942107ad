"""EDM coefficients, schedule and sampler against closed forms; what a denoising step may see; the training loss."""

import math

import numpy as np
import pytest
import torch
from support.core import DISCRETE, UNEQUAL, random_actions, randomize, tiny

from rllib_dima.core.dima import diffusion
from rllib_dima.core.dima.diffusion import Diffusion, precondition, visible_in_training
from rllib_dima.core.dima.sampler import karras_schedule, visible_in_sampling

CPU = torch.device("cpu")


def new(layout=UNEQUAL, **changes):
    return randomize(Diffusion(layout, tiny(**changes)))


def windows(layout, batch_size, length, seed=0):
    """Random states, actions and next states of B windows."""
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(batch_size, length, layout.state_size, generator=generator)
    next_states = torch.randn(batch_size, length, layout.state_size, generator=generator)
    return states, random_actions(layout, batch_size, length, seed=seed), next_states


# Preconditioning and schedule


def test_coefficients_follow_edms_formulas():
    sigma = torch.tensor([0.002, 0.1, 0.5, 1.0, 5.0, 20.0])
    for s, *coefficients in zip(sigma.tolist(), *precondition(sigma, 0.5), strict=True):
        total = s**2 + 0.25
        expected = [0.25 / total, s * 0.5 / math.sqrt(total), 1 / math.sqrt(total), math.log(s) / 4]
        np.testing.assert_allclose([float(c) for c in coefficients], expected, rtol=1e-5)


def test_coefficients_give_the_network_unit_variance_in_and_out():
    sigma, sigma_data = torch.logspace(-3, 2, 20, dtype=torch.float64), 0.7
    c = precondition(sigma, sigma_data)
    input_variance = c.c_in**2 * (sigma**2 + sigma_data**2)
    target_variance = ((1 - c.c_skip) ** 2 * sigma_data**2 + c.c_skip**2 * sigma**2) / c.c_out**2
    ones = torch.ones_like(sigma)
    assert torch.allclose(input_variance, ones) and torch.allclose(target_variance, ones)
    assert torch.allclose(c.c_skip + (c.c_out / sigma_data) ** 2, ones)


def test_coefficients_at_the_limits():
    small, large = precondition(torch.tensor(1e-8), 0.5), precondition(torch.tensor(1e8), 0.5)
    assert math.isclose(small.c_skip, 1) and small.c_out < 2e-8 and math.isclose(small.c_in, 2)
    assert large.c_skip < 1e-15 and math.isclose(large.c_out, 0.5) and math.isclose(large.c_in, 1e-8, rel_tol=1e-5)


def test_offset_noise_enters_all_four_coefficients():
    sigma = torch.tensor([0.002, 0.4, 5.0])
    ours = new(sigma_offset_noise=0.3).preconditioning(sigma)
    for our, expected in zip(ours, precondition((sigma**2 + 0.09).sqrt(), 0.5), strict=True):
        assert torch.allclose(our, expected)
    for our, expected in zip(new(sigma_offset_noise=0.0).preconditioning(sigma), precondition(sigma, 0.5), strict=True):
        assert torch.allclose(our, expected)


def test_denoiser_combines_skip_and_network():
    model = new()
    noisy, sigma = torch.randn(5, 4), torch.tensor([0.01, 0.2, 0.5, 1.0, 4.0])
    context, encoded = torch.randn(5, 3, 4), torch.randn(5, 8)
    denoised, output = model(noisy, sigma, context, encoded)
    for b in range(5):
        c_skip, c_out, c_in, c_noise = precondition((sigma[b] ** 2 + 0.09).sqrt(), 0.5)
        condition = model.denoiser.condition(model.denoiser.noise_features(c_noise.unsqueeze(0)) + encoded[b : b + 1])
        sequence = torch.cat([context[b], c_in * noisy[b : b + 1]]).unsqueeze(0)
        expected = model.denoiser.unet(sequence, condition)[0, -1]
        assert torch.allclose(output[b], expected, atol=1e-5)
        assert torch.allclose(denoised[b], c_skip * noisy[b] + c_out * expected, atol=1e-5)


def test_schedule_has_the_published_values():
    np.testing.assert_allclose(karras_schedule(4, 2e-3, 5.0, 7.0), [5, 0.845, 0.077, 0.002, 0], atol=5e-4)
    assert karras_schedule(1, 2e-3, 5.0, 7.0) == pytest.approx([5.0, 0.0])
    np.testing.assert_allclose(karras_schedule(5, 1.0, 5.0, 1.0), [5, 4, 3, 2, 1, 0])


# What is visible


def agents_of(visible):
    """The one agent of each step and sample: (K, B, N) -> (B, K)."""
    assert torch.all(visible.sum(-1) == 1)
    return visible.int().argmax(-1).T


def test_sequential_orders_reveal_each_agent_for_consecutive_steps():
    descending = agents_of(visible_in_sampling("sequential", "descending", 4, 5, 2, CPU))
    ascending = agents_of(visible_in_sampling("sequential", "ascending", 4, 5, 2, CPU))
    assert descending.tolist() == [[1, 1, 0, 0]] * 5 and ascending.tolist() == [[0, 0, 1, 1]] * 5
    assert agents_of(visible_in_sampling("sequential", "descending", 4, 1, 4, CPU)).tolist() == [[3, 2, 1, 0]]
    assert agents_of(visible_in_sampling("sequential", "ascending", 6, 1, 3, CPU)).tolist() == [[0, 0, 1, 1, 2, 2]]


def test_random_order_permutes_anew_for_every_sample():
    torch.manual_seed(0)
    orders = agents_of(visible_in_sampling("sequential", "random", 4, 3000, 2, CPU))
    assert torch.equal(orders.sort(1).values, torch.tensor([0, 0, 1, 1]).expand(3000, 4))
    distinct, counts = orders.unique(dim=0, return_counts=True)
    assert len(distinct) == 6  # 4! / (2! 2!)
    assert torch.all((counts - 500).abs() < 5 * math.sqrt(500))


@pytest.mark.parametrize(("steps", "agents"), [(4, 2), (3, 3), (2, 3), (5, 3), (1, 4)])
def test_cumulative_step_sees_the_first_agents_of_the_order(steps, agents):
    counts = [math.ceil((j + 1) * agents / steps) for j in range(steps)]
    ascending = visible_in_sampling("cumulative", "ascending", steps, 2, agents, CPU)
    descending = visible_in_sampling("cumulative", "descending", steps, 2, agents, CPU)
    shuffled = visible_in_sampling("cumulative", "random", steps, 200, agents, CPU)
    for step, count in enumerate(counts):
        expected = torch.arange(agents) < count
        assert torch.equal(ascending[step], expected.expand(2, -1))
        assert torch.equal(descending[step], expected.flip(0).expand(2, -1))
        assert torch.all(shuffled[step].sum(-1) == count)
    assert torch.all(shuffled[:-1] <= shuffled[1:])  # nobody is hidden again
    if counts[0] < agents:
        assert len(shuffled[0].unique(dim=0)) == math.comb(agents, counts[0])


def test_joint_sees_everyone():
    assert visible_in_sampling("joint", "random", 3, 2, 4, CPU).all()
    assert visible_in_training("joint", 5, 3, CPU).all()


def test_training_shows_one_uniform_agent():
    torch.manual_seed(0)
    visible = visible_in_training("sequential", 9000, 3, CPU)
    assert torch.all(visible.sum(1) == 1)
    assert torch.all((visible.sum(0) - 3000).abs() < 5 * math.sqrt(2000))


def test_training_cumulatively_shows_a_uniform_subset_of_uniform_size():
    torch.manual_seed(0)
    visible = visible_in_training("cumulative", 9000, 3, CPU)
    sizes = visible.sum(1)
    for size in (1, 2, 3):
        members = visible[sizes == size]
        assert abs(len(members) - 3000) < 5 * math.sqrt(2000)
        assert torch.all((members.float().mean(0) - size / 3).abs() < 5 * 0.5 / math.sqrt(len(members)))


def spy_on_visibility(model):
    """Records what every pooling of action tokens was shown."""
    seen, pool = [], model.action_encoder.pool
    model.action_encoder.pool = lambda tokens, visible: seen.append(visible) or pool(tokens, visible)
    return seen


@pytest.mark.parametrize("order", ["descending", "ascending"])
def test_sampling_shows_all_valid_past_actions_and_one_present_agent_per_step(order):
    model = new(conditioning_order=order)
    seen = spy_on_visibility(model)
    states, actions, _ = windows(UNEQUAL, 3, 3)
    valid = torch.tensor([[True, True, True], [False, True, True], [False, False, True]])
    model.sample(states, actions, valid)
    assert len(seen) == 4
    for step, visible in enumerate(seen):
        assert torch.equal(visible[:, :2], valid[:, :2].unsqueeze(-1).expand(-1, -1, 2))
        agent = [1, 1, 0, 0][step] if order == "descending" else [0, 0, 1, 1][step]
        assert torch.equal(visible[:, 2], (torch.arange(2) == agent).expand(3, -1))


def test_training_shows_all_valid_past_actions_and_one_present_agent():
    model = new(num_autoregressive_steps=2)
    seen = spy_on_visibility(model)
    states, actions, next_states = windows(UNEQUAL, 3, 4)
    valid = torch.tensor([[True] * 4, [False, True, True, True], [False, False, True, False]])
    model.loss(states, actions, next_states, valid)
    assert len(seen) == 1 and len(seen[0]) == 2 * 3  # both predictions at once
    for step, visible in enumerate(seen[0].split(3)):
        assert torch.equal(visible[:, :2], valid[:, step : step + 2].unsqueeze(-1).expand(-1, -1, 2))
        assert torch.all(visible[:, 2].sum(-1) == 1)


def sampled(model, states, actions, valid=None):
    torch.manual_seed(1)
    return model.sample(states, actions, torch.ones(states.shape[:2], dtype=torch.bool) if valid is None else valid)


def test_sampled_state_depends_exactly_on_what_is_visible(monkeypatch):
    model = new(noise_sigma_max=1.0)
    states, actions, _ = windows(UNEQUAL, 4, 3)
    only_first = torch.tensor([True, False]).expand(model.num_steps, 4, 2)
    monkeypatch.setattr(diffusion, "visible_in_sampling", lambda *_: only_first)
    reference = sampled(model, states, actions)
    hidden, shown, past = actions.clone(), actions.clone(), actions.clone()
    hidden[:, 2, 1] += 5
    shown[:, 2, 0] += 5
    past[:, 0, 1, 0] += 5
    assert torch.equal(sampled(model, states, hidden), reference)
    assert not torch.allclose(sampled(model, states, shown), reference, atol=1e-3)
    assert not torch.allclose(sampled(model, states, past), reference, atol=1e-3)


def test_every_agent_moves_the_sampled_state():
    model = new(DISCRETE)
    states, actions, _ = windows(DISCRETE, 4, 3)
    reference = sampled(model, states, actions)
    for agent in range(3):
        changed = actions.clone()
        changed[:, 2, agent] = changed[:, 2, agent].roll(1, -1)
        assert not torch.equal(sampled(model, states, changed), reference)


def test_padding_before_the_start_and_padded_entries_have_exactly_no_influence_on_a_sample():
    model = new()
    states, actions, _ = windows(UNEQUAL, 3, 3)
    valid = torch.tensor([[True, True, True], [False, True, True], [False, False, True]])
    states = states * valid.unsqueeze(-1)
    disturbed = torch.where(valid[:, :, None, None] & UNEQUAL.action_mask(), actions, torch.tensor(9.0))
    assert torch.equal(sampled(model, states, actions, valid), sampled(model, states, disturbed, valid))


# The sampler on data whose best denoiser is known


MEAN, STD = 0.8, 0.5


def gaussian_sampler(**changes):
    """A model whose denoiser is the posterior mean of data from Normal(MEAN, STD^2)."""
    model = new(context_length=1, conditioning="joint", **changes)
    posterior = lambda x, sigma, *_: ((STD**2 * x + sigma**2 * MEAN) / (STD**2 + sigma**2), None)  # noqa: E731
    model.forward = posterior
    return model


def draw(model, batch_size):
    actions = torch.zeros(batch_size, 1, 2, 2)
    torch.manual_seed(0)
    with torch.no_grad():
        return model.sample(torch.zeros(batch_size, 1, 4), actions, torch.ones(batch_size, 1, dtype=torch.bool))


def exact_solution(batch_size):
    """Where the probability-flow ODE takes the sampler's own starting points."""
    torch.manual_seed(0)
    start = torch.randn(batch_size, 4) * 5
    return MEAN + (start - MEAN) * STD / math.sqrt(STD**2 + 25)


def sampling_error(solver, steps):
    model = gaussian_sampler(sampler_solver=solver, num_denoising_steps=steps)
    return (draw(model, 500) - exact_solution(500)).abs().mean().item()


def test_euler_converges_to_the_exact_solution_in_first_order():
    errors = [sampling_error("euler", steps) for steps in (20, 40, 80, 320)]
    assert errors[-1] < 0.01
    assert 1.6 < errors[0] / errors[1] < 2.5 and 1.6 < errors[1] / errors[2] < 2.5


def test_heun_converges_in_second_order_and_beats_euler():
    errors = [sampling_error("heun", steps) for steps in (10, 20, 40)]
    assert errors[-1] < 2e-3
    assert errors[0] / errors[1] > 3 and errors[1] / errors[2] > 3
    assert sampling_error("heun", 20) < 0.2 * sampling_error("euler", 20)


def test_one_euler_step_returns_the_denoised_start():
    torch.manual_seed(0)
    start = torch.randn(50, 4) * 5
    expected = (STD**2 * start + 25 * MEAN) / (STD**2 + 25)
    assert torch.allclose(draw(gaussian_sampler(num_denoising_steps=1), 50), expected, atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [{"sampler_solver": "euler"}, {"sampler_solver": "heun"}, {"sampler_solver": "heun", "sampler_churn": 30.0}],
)
def test_samples_have_the_datas_mean_and_deviation(settings):
    samples = draw(gaussian_sampler(num_denoising_steps=150, **settings), 3000)
    assert abs(samples.mean() - MEAN * (1 - 0.0995 * ("sampler_churn" not in settings))) < 0.02
    assert abs(samples.std() / STD - 1) < 0.03


def test_churn_adds_as_much_noise_as_it_raises_the_noise_level():
    model = gaussian_sampler(num_denoising_steps=10, sampler_churn=2.0, sampler_churn_noise=1.5)
    model.forward = lambda x, sigma, *_: (x * 0, sigma)  # then a step from sigma to s multiplies x by s / sigma
    x = torch.full((50_000, 1), 2.0)
    torch.manual_seed(0)
    moved = model._solver_step(x, 3.0, 1.0, x, x)
    raised = 3.0 * 1.2
    assert abs(moved.mean() - 2 / raised) < 0.02
    assert abs(moved.std() / (1.5 * math.sqrt(raised**2 - 9) / raised) - 1) < 0.02
    model.hp = tiny(num_denoising_steps=10, sampler_churn=100.0)  # limited to a factor of sqrt(2)
    assert abs(model._solver_step(x, 3.0, 1.0, x, x).mean() - 2 / (3 * math.sqrt(2))) < 0.02


def test_sampler_evaluates_the_denoiser_at_the_schedules_levels():
    model, levels = gaussian_sampler(num_denoising_steps=4), []
    denoise = model.forward
    model.forward = lambda x, sigma, *rest: levels.append(sigma.item()) or denoise(x, sigma, *rest)
    draw(model, 2)
    np.testing.assert_allclose(levels, karras_schedule(4, 2e-3, 5.0, 7.0)[:4], rtol=1e-5)


# The training loss


def second_implementation(model, states, actions, next_states, valid):
    """Eq. 9, one sample at a time: mean over valid predictions of |D - target|^2 / (c_out^2 S)."""
    hp, (batch_size, width), total, count = model.hp, valid.shape, 0.0, 0
    length = hp.context_length
    draws = []
    for _ in range(width - length + 1):
        present = visible_in_training(hp.conditioning, batch_size, model.num_agents, CPU)
        draws.append((present, torch.randn(batch_size), torch.randn(batch_size, 4), torch.randn(batch_size, 4)))
    for b in range(batch_size):
        context = [states[b, t] if valid[b, t] else torch.zeros(4) for t in range(length)]
        for step, (present, log_sigma, unit, offset) in enumerate(draws):
            sigma = math.exp(log_sigma[b] * hp.noise_log_std + hp.noise_log_mean)
            sigma = min(max(sigma, hp.noise_sigma_min), hp.noise_sigma_max)
            target = next_states[b, step + length - 1]
            noisy = target + sigma * unit[b] + hp.sigma_offset_noise * offset[b]
            c_skip, c_out, c_in, c_noise = precondition(torch.tensor(sigma**2 + hp.sigma_offset_noise**2).sqrt(), 0.5)
            visible = valid[b, step : step + length, None].expand(-1, model.num_agents).clone()
            visible[-1] = present[b]
            encoded = model.action_encoder(actions[b : b + 1, step : step + length], visible.unsqueeze(0))
            output = model.network(c_in * noisy[None], c_noise[None], torch.stack(context)[None], encoded)[0]
            denoised = c_skip * noisy + c_out * output
            if valid[b, step + length - 1]:
                total = total + (denoised - target).square().mean() / c_out**2
                count += 1
            context = [*context[1:], denoised.detach()]
    return total / count


VALID = torch.tensor(
    [[True] * 5, [False, True, True, True, True], [False, False, True, True, False], [True, True, True, False, False]]
)


@pytest.mark.parametrize("unroll", [1, 3])
@pytest.mark.parametrize("conditioning", ["sequential", "joint", "cumulative"])
def test_loss_and_gradient_equal_a_second_implementation(unroll, conditioning):
    model = new(num_autoregressive_steps=unroll, conditioning=conditioning, noise_sigma_max=1.5, noise_sigma_min=0.3)
    states, actions, next_states = windows(UNEQUAL, 4, 2 + unroll)
    valid = VALID[:, : 2 + unroll]
    torch.manual_seed(0)
    ours, metrics = model.loss(states, actions, next_states, valid)
    torch.manual_seed(0)
    theirs = second_implementation(model, states, actions, next_states, valid)
    assert torch.allclose(ours, theirs, rtol=1e-4) and torch.equal(metrics["dynamics_loss"], ours.detach())
    parameters = list(model.parameters())
    for our, their in zip(torch.autograd.grad(ours, parameters), torch.autograd.grad(theirs, parameters), strict=True):
        assert torch.allclose(our, their, rtol=1e-3, atol=1e-4)


def test_training_noise_is_log_normal_and_clipped():
    model, levels = new(noise_log_mean=-0.4, noise_log_std=1.2), []
    denoise = model.forward
    model.forward = lambda x, sigma, *rest: levels.append((x, sigma)) or denoise(x, sigma, *rest)
    torch.manual_seed(0)
    target = torch.full((4000, 4), 3.0)
    with torch.no_grad():
        states, actions, _ = windows(UNEQUAL, 4000, 3)
        next_states = target.unsqueeze(1).expand(-1, 3, -1)
        model.loss(states, actions, next_states, torch.ones(4000, 3, dtype=torch.bool))
    noisy, sigma = levels[0]
    assert abs(sigma.log().mean() + 0.4) < 0.1 and abs(sigma.log().std() - 1.2) < 0.07
    assert sigma.min() >= 2e-3 and sigma.max() <= 20
    standardised = (noisy - 3) / (sigma**2 + 0.09).sqrt().unsqueeze(1)
    assert abs(standardised.mean()) < 0.05 and abs(standardised.std() - 1) < 0.03


def test_invalid_rows_have_exactly_no_influence_on_the_loss():
    model = new()
    states, actions, next_states = windows(UNEQUAL, 4, 5)

    def loss(states, actions, next_states):
        torch.manual_seed(0)
        return model.loss(states, actions, next_states, VALID)[0]

    disturbed = [
        torch.where(VALID.view(4, 5, *[1] * (x.ndim - 2)), x, torch.tensor(50.0))
        for x in (states, actions, next_states)
    ]
    disturbed[1] = torch.where(UNEQUAL.action_mask(), disturbed[1], torch.tensor(50.0))
    assert torch.equal(loss(states, actions, next_states), loss(*disturbed))
    changed = states.clone()
    changed[1, 1] += 1  # valid, so it must count
    assert not torch.equal(loss(states, actions, next_states), loss(changed, actions, next_states))


def test_the_first_context_is_zero_where_padded_and_predictions_follow():
    model, contexts, predictions = new(), [], []
    denoise = model.forward

    def spy(noisy, sigma, context, actions):
        contexts.append(context)
        denoised, output = denoise(noisy, sigma, context, actions)
        predictions.append(denoised)
        return denoised, output

    model.forward = spy
    states, actions, next_states = windows(UNEQUAL, 4, 5)
    model.loss(states, actions, next_states, VALID)
    assert torch.equal(contexts[0], states[:, :3] * VALID[:, :3, None])
    *_, trained = contexts
    contexts = trained.split(4)  # those that gradients are computed with, after a pass without gradients
    assert [len(prediction) for prediction in predictions] == [4, 4, 12] and not predictions[0].requires_grad
    assert torch.allclose(predictions[2][:8], torch.cat(predictions[:2]), atol=1e-6)
    assert torch.equal(contexts[1][:, :2], contexts[0][:, 1:]) and torch.equal(contexts[1][:, 2], predictions[0])
    assert torch.equal(contexts[2][:, 1], predictions[0]) and torch.equal(contexts[2][:, 2], predictions[1])
    assert not any(context.requires_grad for context in contexts)  # each prediction is fed back detached


def test_sequential_conditioning_refuses_too_few_steps():
    with pytest.raises(ValueError, match=r"num_denoising_steps \(2\) is smaller than the number of agents \(3\)"):
        new(DISCRETE, num_denoising_steps=2)
    assert new(DISCRETE, num_denoising_steps=2, conditioning="cumulative").num_steps == 2
