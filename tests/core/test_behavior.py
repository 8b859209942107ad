"""Policies, lambda-returns and PPO losses against definitions, torch.distributions and numerical integration."""

import math

import numpy as np
import pytest
import torch
from support.core import (
    DISCRETE,
    UNEQUAL,
    random_observations,
    randomize,
    tiny,
)
from torch.distributions import Beta, Categorical, Normal
from torch.nn.functional import softplus
from torch.utils._python_dispatch import TorchDispatchMode

from rllib_dima.core.dima.hyperparameters import DIMAHyperparameters
from rllib_dima.core.layout import AgentLayout
from rllib_dima.core.policy.data import PPOBatch, Rollout
from rllib_dima.core.policy.distributions import MaskedBeta, MaskedCategorical, MaskedGaussian
from rllib_dima.core.policy.networks import Actor, Critic
from rllib_dima.core.policy.ppo import ppo_batch
from rllib_dima.core.policy.returns import lambda_returns

MASK = UNEQUAL.action_mask().float()  # [[1, 1], [1, 0]]


class LaunchedOperations(TorchDispatchMode):
    """The names of the operations that run within it, backward passes included."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def actor(layout=UNEQUAL, **changes):
    return randomize(Actor(layout, tiny(**changes)))


def critic(**changes):
    return randomize(Critic(UNEQUAL, tiny(**changes)))


# Distributions


def test_gaussian_equals_torchs_on_real_entries():
    mean, std, actions = torch.randn(6, 2, 2), torch.tensor([0.3, 0.4]), torch.randn(6, 2, 2)
    ours = MaskedGaussian(mean, std, MASK)
    first, second = Normal(mean[:, 0], std), Normal(mean[:, 1, :1], std[:1])
    expected = torch.stack([first.log_prob(actions[:, 0]).sum(-1), second.log_prob(actions[:, 1, :1]).sum(-1)], 1)
    assert torch.allclose(ours.log_prob(actions), expected)
    expected = torch.stack([first.entropy().sum(-1), second.entropy().sum(-1)], 1)
    assert torch.allclose(ours.entropy().expand(6, 2), expected)
    assert torch.equal(ours.deterministic(), mean * MASK)
    torch.manual_seed(0)
    samples = torch.stack([ours.sample() for _ in range(4000)])
    assert not samples[:, :, 1, 1].any()
    assert torch.all((samples.mean(0) - mean * MASK).abs() < 5 * 0.4 / math.sqrt(4000))
    assert torch.all((samples.std(0) - std * MASK).abs() < 0.03)


def test_beta_is_a_density_on_minus_one_to_one_with_that_entropy():
    alpha, beta = torch.tensor([[1.3, 4.0], [2.5, 1.0]]), torch.tensor([[2.0, 1.5], [1.2, 9.0]])
    ours = MaskedBeta(alpha, beta, MASK)
    x = torch.linspace(-1, 1, 20_001, dtype=torch.float64)[1:-1]
    densities = []
    for agent, entry in ((0, 0), (0, 1), (1, 0)):
        only = torch.zeros(2, 2)
        only[agent, entry] = 1
        alone = MaskedBeta(alpha.double(), beta.double(), only)
        actions = torch.zeros(len(x), 2, 2, dtype=torch.float64)
        actions[:, agent, entry] = x
        log_density = alone.log_prob(actions)[:, agent]
        densities.append((log_density, alone.entropy()[agent]))
        assert abs(torch.trapezoid(log_density.exp(), x) - 1) < 1e-3
        assert abs(-torch.trapezoid(log_density.exp() * log_density, x) - alone.entropy()[agent]) < 1e-3
        mean = torch.trapezoid(log_density.exp() * x, x)
        assert abs(mean - ours.deterministic()[agent, entry]) < 1e-3
    assert torch.allclose(ours.entropy()[0], (densities[0][1] + densities[1][1]).float())
    assert torch.allclose(ours.entropy()[1], densities[2][1].float())


def test_beta_and_its_gradients_are_torchs_with_gamma_functions_computed_once():
    actions = torch.rand(50, 2, 2, dtype=torch.float64) * 1.98 - 0.99
    unit, mask = (actions + 1) / 2, torch.ones(2, 2)

    def ours(alpha, beta):
        policy = MaskedBeta(alpha, beta, mask)
        return policy.log_prob(actions), policy.entropy()

    def torchs(alpha, beta):
        policy = Beta(alpha, beta)
        return (policy.log_prob(unit) - math.log(2)).sum(-1), (policy.entropy() + math.log(2)).sum(-1)

    results = []
    for both in (ours, torchs):
        torch.manual_seed(0)
        raw = (torch.rand(2, 50, 2, 2, dtype=torch.float64) * 8).requires_grad_()
        with LaunchedOperations() as launched:
            log_prob, entropy = both(*(1 + raw))
            (log_prob.square().sum() + 3 * entropy.sum()).backward()
        results.append((log_prob, entropy, raw.grad))
        if both is ours:
            assert [launched.names.count(name) for name in ("lgamma", "digamma", "polygamma")] == [1, 1, 1]
    for one, other in zip(*results, strict=True):
        assert torch.allclose(one, other, rtol=1e-10)
    with torch.no_grad(), LaunchedOperations() as launched:
        MaskedBeta(*(1 + raw), mask).log_prob(actions)
    assert "digamma" not in launched.names


@pytest.mark.parametrize("log_std", [1.0, -0.5])
def test_beta_starts_around_zero_with_the_deviation_of_a_gaussian(log_std):
    torch.manual_seed(0)
    new = Actor(UNEQUAL, tiny(policy_distribution="beta", initial_log_std=log_std))
    drawn = new(random_observations(UNEQUAL, 20_000)).sample()[:, 0]  # the agent with two actions
    assert drawn.mean(0).abs().max() < 0.02
    assert torch.allclose(drawn.std(0), torch.full((2,), 0.5 * torch.tensor(log_std).sigmoid().item()), rtol=0.03)


@pytest.mark.parametrize("log_std", [-20.0, -5.0, 1.0, 3.0, 50.0])
def test_betas_first_output_has_the_gaussians_deviation_in_closed_form(log_std):
    new = Actor(UNEQUAL, tiny(policy_distribution="beta", initial_log_std=log_std))
    alpha = 1 + softplus(new.network[-1].bias.double())
    std = 0.5 * torch.tensor(log_std, dtype=torch.float64).sigmoid()
    assert torch.allclose(1 / (2 * alpha + 1), (std**2).expand_as(alpha), rtol=1e-5)


def test_beta_samples_stay_inside_and_have_its_moments():
    torch.manual_seed(0)
    ours = MaskedBeta(torch.full((5000, 2, 2), 2.0), torch.full((5000, 2, 2), 3.0), MASK)
    samples = ours.sample()
    assert samples.abs().max() < 1 and not samples[:, 1, 1].any()
    reference = Beta(2.0, 3.0)
    assert abs(samples[:, 0].mean() - (2 * reference.mean - 1)) < 0.02
    assert abs(samples[:, 0].std() - 2 * reference.stddev) < 0.02
    assert torch.isfinite(ours.log_prob(torch.ones(5000, 2, 2))).all()


def test_categorical_equals_torchs_over_an_agents_own_choices():
    logits, mask = torch.randn(5, 3, 4) * 3, DISCRETE.action_mask().float()
    ours = MaskedCategorical(logits, mask)
    for agent, choices in enumerate(DISCRETE.action_sizes):
        reference = Categorical(logits=logits[:, agent, :choices])
        assert torch.allclose(ours.entropy()[:, agent], reference.entropy(), atol=1e-6)
        assert torch.equal(ours.deterministic()[:, agent], logits[:, agent, :choices].argmax(-1))
        for choice in range(choices):
            actions = torch.full((5, 3), choice)
            assert torch.allclose(ours.log_prob(actions)[:, agent], reference.log_prob(actions[:, 0]), atol=1e-6)


def test_choices_that_an_agent_lacks_are_never_drawn():
    torch.manual_seed(0)
    logits = torch.zeros(20_000, 3, 4)
    logits[..., 2:] = 50.0  # the lacking ones look best
    policy = MaskedCategorical(logits, DISCRETE.action_mask().float())
    samples = policy.sample()
    assert torch.equal(samples.amax(0), torch.tensor([2, 1, 3]))
    assert torch.equal(policy.deterministic().amax(0), torch.tensor([2, 0, 2]))
    assert abs((samples[:, 1] == 0).float().mean() - 0.5) < 0.02
    logits.requires_grad_()
    policy = MaskedCategorical(logits, DISCRETE.action_mask().float())
    (policy.log_prob(samples) + policy.entropy()).sum().backward()
    assert torch.isfinite(logits.grad).all() and not logits.grad[:, 1, 2:].any()


# The actor


@pytest.mark.parametrize(
    ("layout", "kind"),
    [(UNEQUAL, "gaussian"), (UNEQUAL, "beta"), (DISCRETE, "gaussian")],
    ids=["gaussian", "beta", "choice"],
)
def test_policy_is_its_network_read_as_its_distribution(layout, kind):
    model, observations = actor(layout, policy_distribution=kind), random_observations(layout, 6)
    policy, outputs = model(observations), model.network(observations)
    actions = policy.sample()
    for agent, size in enumerate(layout.action_sizes):
        if layout.is_discrete:
            expected = Categorical(logits=outputs[:, agent, :size]).log_prob(actions[:, agent])
        elif kind == "gaussian":
            std = 0.5 * model.log_std[:size].sigmoid()
            expected = Normal(outputs[:, agent, :size], std).log_prob(actions[:, agent, :size]).sum(-1)
        else:
            alpha, beta = softplus(outputs[:, agent, :size]) + 1, softplus(outputs[:, agent, 2 : 2 + size]) + 1
            expected = (Beta(alpha, beta).log_prob((actions[:, agent, :size] + 1) / 2) - math.log(2)).sum(-1)
        assert torch.allclose(policy.log_prob(actions)[:, agent], expected, atol=1e-4)


def test_initial_policy_is_nearly_centred_with_the_papers_deviation():
    torch.manual_seed(0)
    model = Actor(UNEQUAL, tiny(initial_log_std=1.0))
    policy = model(random_observations(UNEQUAL, 50))
    assert policy.deterministic().abs().max() < 0.1
    expected = 0.5 / (1 + math.exp(-1)) * torch.ones(50, 2)
    log_two_pi_e = math.log(2 * math.pi * math.e)
    assert torch.allclose(policy.entropy()[:, 1].expand(50), 0.5 * log_two_pi_e + expected[:, 0].log(), atol=1e-5)


def test_networks_have_the_papers_shape():
    layers = list(Actor(UNEQUAL, tiny()).network)
    kinds = [type(layer).__name__ for layer in layers]
    assert kinds == ["LayerNorm", "Linear", "ReLU", "LayerNorm", "Linear", "ReLU", "LayerNorm", "Linear"]
    hidden = layers[4].weight
    assert torch.allclose(hidden @ hidden.T, 2 * torch.eye(8), atol=1e-5)  # orthogonal with ReLU's gain sqrt(2)
    assert all(not layer.bias.any() for layer in layers if isinstance(layer, torch.nn.Linear))


def test_hidden_layers_are_as_many_as_configured_and_three_make_the_released_codes_actor():
    halfcheetah = AgentLayout(("a", "b"), 17, (17, 17), (3, 3), appends_agent_id=True)
    for layers, parameters in ((1, 3_244), (2, 20_012), (3, 36_780)):
        network = Actor(halfcheetah, DIMAHyperparameters(actor_num_layers=layers))
        assert sum(p.numel() for p in network.parameters()) == parameters
    relus = [layer for layer in Critic(UNEQUAL, tiny(critic_num_layers=4)).network if isinstance(layer, torch.nn.ReLU)]
    assert len(relus) == 4


@pytest.mark.parametrize("layout", [UNEQUAL, DISCRETE], ids=["continuous", "discrete"])
def test_padding_and_other_agents_have_exactly_no_influence_on_a_policy(layout):
    model, observations = actor(layout), random_observations(layout, 6)
    disturbed = torch.where(layout.observation_mask(), observations, torch.tensor(8.0))
    assert not torch.equal(disturbed, observations)
    torch.manual_seed(0)
    actions = model(observations).sample()
    assert torch.equal(model(observations).log_prob(actions), model(disturbed).log_prob(actions))
    assert torch.equal(model(observations).deterministic(), model(disturbed).deterministic())
    other = observations.clone()
    other[:, 0, 0] += 1  # one entry: the layer norm on the input removes what is common to all
    assert torch.equal(model(observations).log_prob(actions)[:, 1:], model(other).log_prob(actions)[:, 1:])
    assert not torch.allclose(model(observations).log_prob(actions)[:, 0], model(other).log_prob(actions)[:, 0])


@pytest.mark.parametrize("layout", [UNEQUAL, DISCRETE], ids=["continuous", "discrete"])
def test_acting_for_a_mixed_batch_equals_acting_for_the_team(layout):
    model, observations = actor(layout), random_observations(layout, 6)
    order = torch.randperm(6 * layout.num_agents, generator=torch.Generator().manual_seed(0))
    mixed = observations.flatten(0, 1)[order]
    of_team = model(observations).deterministic().flatten(0, 1)[order]
    assert torch.allclose(model.act(mixed, deterministic=True), of_team, atol=1e-6)
    torch.manual_seed(0)
    drawn = model.act(mixed, deterministic=False)
    assert not torch.equal(drawn, model.act(mixed, deterministic=False))
    if layout.is_discrete:
        sizes = torch.tensor(layout.action_sizes).repeat(6)[order]
        assert torch.all(drawn < sizes)
    else:
        assert not drawn[layout.agent_index(mixed) == 1, 1].any()


def test_executed_actions_are_clipped_or_one_hot():
    drawn, seen = torch.tensor([[-3.0, 0.2], [0.5, 0]]), random_observations(UNEQUAL)
    assert torch.equal(actor().executed(drawn, seen), torch.tensor([[-1.0, 0.2], [0.5, 0]]))
    executed = actor(DISCRETE).executed(torch.tensor([[2, 0, 3]]), random_observations(DISCRETE, 1))
    assert torch.equal(executed, torch.tensor([[[0.0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1]]]))


# Lambda-returns


def brute_force_returns(rewards, continuations, values, gamma, lambda_):
    """The definition: a mean of n-step returns with weights (1 - l) l^(n - 1), the longest taking the rest."""
    horizon, batch_size = rewards.shape
    returns = np.zeros((horizon, batch_size))
    for b in range(batch_size):
        for t in range(horizon):
            longest = horizon - t
            for n in range(1, longest + 1):
                total, discount = 0.0, 1.0
                for k in range(t, t + n):
                    total += discount * rewards[k, b]
                    discount *= gamma * continuations[k, b]
                total += discount * values[t + n, b]
                weight = (1 - lambda_) * lambda_ ** (n - 1) if n < longest else lambda_ ** (longest - 1)
                returns[t, b] += weight * total
    return returns


@pytest.mark.parametrize(("gamma", "lambda_"), [(0.99, 0.95), (0.9, 0.5), (0.95, 0.0), (0.95, 1.0)])
def test_lambda_returns_equal_the_definition(gamma, lambda_):
    random = np.random.default_rng(0)
    rewards, values = random.normal(size=(6, 5)), random.normal(size=(7, 5))
    continuations = random.uniform(size=(6, 5))
    continuations[:, :2], continuations[3, 1] = 1, 0  # never ends; ends after step 3
    ours = lambda_returns(*(torch.as_tensor(x) for x in (rewards, continuations, values)), gamma, lambda_)
    np.testing.assert_allclose(ours, brute_force_returns(rewards, continuations, values, gamma, lambda_), rtol=1e-10)


def test_nothing_after_a_termination_counts():
    rewards, continuations, values = torch.randn(5, 1), torch.ones(5, 1), torch.randn(6, 1)
    continuations[2] = 0
    returns = lambda_returns(rewards, continuations, values, 0.9, 0.8)
    rewards[3:] += 100
    values[3:] -= 100
    assert torch.equal(lambda_returns(rewards, continuations, values, 0.9, 0.8)[:3], returns[:3])
    assert torch.equal(returns[2], rewards[2])


@pytest.mark.parametrize("shared_rewards", [True, False])
def test_returns_of_agents_that_differ_in_values_and_continuations_are_each_its_own(shared_rewards):
    rewards, continuations, values = torch.randn(5, 4, 3), torch.rand(5, 4, 3), torch.randn(6, 4, 3)
    if shared_rewards:
        rewards = rewards.mean(-1, keepdim=True)
    returns = lambda_returns(rewards, continuations, values, 0.9, 0.8)
    for agent in range(3):
        own = (rewards[..., 0 if shared_rewards else agent], continuations[..., agent], values[..., agent])
        assert torch.equal(returns[..., agent], lambda_returns(*own, 0.9, 0.8))


# PPO


def rollout_of(horizon=5, batch_size=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    random = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    observations = random_observations(UNEQUAL, horizon, batch_size, seed=seed)
    return Rollout(
        random(horizon + 1, batch_size, 4), observations, random(horizon, batch_size, 2, 2),
        random(horizon, batch_size, 2), random(horizon, batch_size), random(horizon, batch_size).sigmoid(),
    )  # fmt: skip


def test_batch_holds_returns_and_standardised_advantages_of_the_same_steps():
    rollout, model, hp = rollout_of(), critic(normalize_values=False), tiny(gamma=0.9, lambda_=0.8)
    batch, metrics = ppo_batch(rollout, model, hp)
    values = model(rollout.states)
    returns = lambda_returns(rollout.rewards, rollout.continuations, values, 0.9, 0.8)
    advantages = returns - values[:-1]
    assert torch.allclose(batch.returns.view(5, 7), returns) and torch.allclose(batch.values.view(5, 7), values[:-1])
    expected = (advantages - advantages.mean()) / (advantages.std(correction=0) + 1e-5)
    assert torch.allclose(batch.advantages.view(5, 7), expected)
    assert abs(batch.advantages.mean()) < 1e-6 and abs(batch.advantages.std(correction=0) - 1) < 1e-4
    assert torch.equal(batch.states.view(5, 7, 4), rollout.states[:-1])
    for name in ("observations", "actions", "log_probs"):
        assert torch.equal(getattr(batch, name).unflatten(0, (5, 7)), getattr(rollout, name))
    assert torch.allclose(metrics["imagined_return_mean"], returns.mean())
    raw, _ = ppo_batch(rollout, model, tiny(gamma=0.9, lambda_=0.8, normalize_advantages=False))
    assert torch.allclose(raw.advantages.view(5, 7), advantages)
    assert not any(column.requires_grad for column in batch.columns())


def test_batch_denormalises_values_before_and_tracks_returns_after():
    rollout, model = rollout_of(), critic(value_normalization_beta=0.5)
    model.value_normalizer.update(torch.tensor([10.0, 20.0]))  # mean 15, deviation 5
    raw = model(rollout.states)
    batch, _ = ppo_batch(rollout, model, tiny())
    returns = lambda_returns(rollout.rewards, rollout.continuations, raw * 5 + 15, 0.99, 0.95)
    assert torch.allclose(batch.returns, returns.flatten(), rtol=1e-4) and torch.equal(batch.values, raw[:-1].flatten())
    mean = (0.25 * 15 + 0.5 * returns.mean()) / 0.75
    assert torch.allclose(model.value_normalizer.statistics()[0], mean, rtol=1e-4)


def test_steps_behind_a_probable_end_count_by_the_probability_that_they_are_reached():
    rollout, hp = rollout_of(), tiny(gamma=0.9, lambda_=0.8)
    plain, _ = ppo_batch(rollout, critic(normalize_values=False), hp)
    batch, _ = ppo_batch(rollout, critic(normalize_values=False), hp, weigh_by_continuation=True)
    reached = [[math.prod(rollout.continuations[:t, b].tolist()) for b in range(7)] for t in range(5)]
    weights = torch.tensor(reached).flatten()
    assert plain.weights is None and torch.allclose(batch.weights, weights)
    raw, _ = ppo_batch(
        rollout, critic(normalize_values=False), tiny(gamma=0.9, lambda_=0.8, normalize_advantages=False)
    )
    mean = (weights * raw.advantages).sum() / weights.sum()
    deviation = ((weights * (raw.advantages - mean).square()).sum() / weights.sum()).sqrt()
    assert torch.allclose(batch.advantages, (raw.advantages - mean) / (deviation + 1e-5), atol=1e-6)


def test_weights_of_one_change_nothing_and_of_zero_leave_a_step_out():
    model, value = actor(entropy_coeff=0.3), critic()
    batch = ppo_input(model)._replace(states=torch.randn(6, 4), returns=torch.randn(6))
    some = torch.tensor([1.0, 1, 0, 1, 0, 1])
    rest = PPOBatch(*(column[some > 0] for column in batch.columns()))
    for network in (model, value):
        loss = network.loss(batch)[0]
        assert torch.allclose(network.loss(batch._replace(weights=torch.ones(6)))[0], loss, atol=1e-6)
        assert torch.allclose(network.loss(batch._replace(weights=some))[0], network.loss(rest)[0], atol=1e-6)


@pytest.mark.parametrize("leave", [False, True])
def test_one_value_per_agent_makes_the_batch_of_all_agents(leave):
    rollout, model, hp = rollout_of(), critic(normalize_values=False), tiny(gamma=0.9, lambda_=0.8)
    rollout = rollout._replace(
        states=torch.randn(6, 7, 2, 4), rewards=torch.randn(5, 7, 1), continuations=torch.rand(5, 7, 2)
    )
    alive = (torch.rand(5, 7, 2) < 0.7).float() if leave else None
    batch, _ = ppo_batch(rollout, model, hp, alive=alive)
    values = model(rollout.states)  # (6, 7, 2)
    returns = lambda_returns(rollout.rewards, rollout.continuations, values, 0.9, 0.8)
    advantages, present = returns - values[:-1], torch.ones(5, 7, 2) if alive is None else alive
    mean, deviation = (advantages[present > 0].mean(), advantages[present > 0].std(correction=0))
    assert batch.advantages.shape == batch.returns.shape == batch.values.shape == (35, 2)
    assert torch.allclose(batch.advantages.view(5, 7, 2), (advantages - mean) / (deviation + 1e-5), atol=1e-5)
    assert torch.allclose(batch.returns.view(5, 7, 2), returns)
    squared = (model(batch.states) - batch.returns).square()
    model.hp = tiny(value_loss="squared", value_clip_param=0.0)
    assert torch.allclose(model.loss(batch)[0], squared.mean(), rtol=1e-5), "those who left have values, too"
    rows = [part.returns for part in batch.minibatches(3)]
    assert torch.equal(torch.cat(rows).sort(0).values, batch.returns.sort(0).values)


def test_equal_advantages_of_agents_are_the_teams_and_unequal_ones_each_agents_own():
    model = actor(entropy_coeff=0.0, clip_param=0.2)
    batch = ppo_input(model)
    same = batch._replace(advantages=batch.advantages.unsqueeze(1).expand(6, 2))
    assert torch.equal(model.loss(batch)[0], model.loss(same)[0])
    own = torch.randn(6, 2)
    ratio = (model(batch.observations).log_prob(batch.actions) - batch.log_probs).exp()
    expected = -torch.minimum(ratio * own, ratio.clamp(0.8, 1.2) * own).mean()
    assert torch.allclose(model.loss(batch._replace(advantages=own))[0], expected, atol=1e-6)


def ppo_input(model, steps=6, spread=0.4):
    """A batch whose old log-probabilities differ from the policy's by random numbers."""
    layout, generator = model.layout, torch.Generator().manual_seed(0)
    observations = random_observations(layout, steps)
    torch.manual_seed(0)
    with torch.no_grad():
        policy = model(observations)
        actions = policy.sample()
        log_probs = policy.log_prob(actions) + spread * torch.randn(steps, layout.num_agents, generator=generator)
    advantages = torch.randn(steps, generator=generator)
    nothing = torch.zeros(steps)
    return PPOBatch(torch.zeros(steps, 4), observations, actions, log_probs, advantages, nothing, nothing)


@pytest.mark.parametrize(
    ("layout", "kind"),
    [(UNEQUAL, "gaussian"), (UNEQUAL, "beta"), (DISCRETE, "gaussian")],
    ids=["gaussian", "beta", "choice"],
)
def test_actor_loss_and_gradient_follow_the_written_formula(layout, kind):
    model = actor(layout, policy_distribution=kind, clip_param=0.2, entropy_coeff=0.03)
    batch = ppo_input(model)
    loss, metrics = model.loss(batch)
    policy, total, entropies, clipped = model(batch.observations), 0.0, 0.0, 0
    log_probs, entropy = policy.log_prob(batch.actions), policy.entropy().expand(6, layout.num_agents)
    for m in range(6):
        for i in range(layout.num_agents):
            ratio, advantage = (log_probs[m, i] - batch.log_probs[m, i]).exp(), batch.advantages[m]
            limited = min(max(ratio, torch.tensor(0.8)), torch.tensor(1.2))
            total = total + min(ratio * advantage, limited * advantage)
            entropies = entropies + entropy[m, i]
            clipped += bool(ratio > 1.2 or ratio < 0.8)
    count = 6 * layout.num_agents
    expected = -total / count - 0.03 * entropies / count
    assert torch.allclose(loss, expected, atol=1e-6)
    assert math.isclose(metrics["clip_fraction"], clipped / count, rel_tol=1e-5) and 0 < clipped < count
    parameters = list(model.parameters())
    for ours, theirs in zip(
        torch.autograd.grad(loss, parameters), torch.autograd.grad(expected, parameters), strict=True
    ):
        assert torch.allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize(
    ("ratio", "advantage", "surrogate", "learns"),
    [
        (1.5, 1.0, 1.1, False),
        (1.5, -1.0, -1.5, True),
        (0.5, 1.0, 0.5, True),
        (0.5, -1.0, -0.9, False),
        (1.05, 2.0, 2.1, True),
    ],
)
def test_surrogate_is_clipped_only_where_it_would_reward_going_further(ratio, advantage, surrogate, learns):
    model = actor(clip_param=0.1, entropy_coeff=0.0)
    batch = ppo_input(model, spread=0.0)
    batch = batch._replace(log_probs=batch.log_probs - math.log(ratio), advantages=torch.full((6,), advantage))
    loss, _ = model.loss(batch)
    assert math.isclose(loss, -surrogate, rel_tol=1e-4)
    loss.backward()
    assert any(parameter.grad.abs().max() > 1e-6 for parameter in model.parameters()) == learns


def test_entropy_bonus_is_weighted_by_its_coefficient():
    batch = ppo_input(actor())
    without, metrics = actor(entropy_coeff=0.0).loss(batch)
    with_bonus, _ = actor(entropy_coeff=0.5).loss(batch)
    assert torch.allclose(without - with_bonus, 0.5 * metrics["entropy"])
    first, second = actor()(batch.observations).entropy().expand(6, 2).unbind(1)
    assert torch.allclose(metrics["entropy"], (first.mean() + second.mean()) / 2)


def test_padding_has_exactly_no_influence_on_the_actor_loss():
    model = actor()
    batch = ppo_input(model)
    disturbed = batch._replace(
        observations=torch.where(UNEQUAL.observation_mask(), batch.observations, torch.tensor(8.0)),
        actions=torch.where(UNEQUAL.action_mask(), batch.actions, torch.tensor(8.0)),
    )
    assert torch.equal(model.loss(batch)[0], model.loss(disturbed)[0])
    gradients = [torch.autograd.grad(model.loss(b)[0], list(model.parameters())) for b in (batch, disturbed)]
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("value_loss", ["huber", "squared"])
@pytest.mark.parametrize("limit", [0.0, 0.1])
@pytest.mark.parametrize("normalize", [True, False])
def test_critic_loss_follows_the_written_formula(value_loss, limit, normalize):
    model = critic(value_loss=value_loss, value_clip_param=limit, normalize_values=normalize, value_huber_delta=0.5)
    model.value_normalizer.update(torch.tensor([2.0, 8.0]))  # mean 5, deviation 3
    states, returns, old = torch.randn(9, 4), torch.randn(9) * 4, torch.randn(9) * 0.3
    nothing = torch.zeros(9)
    loss, metrics = model.loss(PPOBatch(states, nothing, nothing, nothing, nothing, returns, old))
    values = model(states).detach().double().numpy()
    targets = (returns.double().numpy() - 5) / 3 if normalize else returns.double().numpy()

    def error(prediction):
        difference = abs(prediction - targets)
        if value_loss == "squared":
            return difference**2
        return np.where(difference <= 0.5, difference**2 / 2, 0.5 * (difference - 0.25))

    expected = error(values)
    if limit:
        expected = np.maximum(expected, error(old.numpy() + np.clip(values - old.numpy(), -limit, limit)))
    assert math.isclose(loss, expected.mean(), rel_tol=1e-5)
    explained = 1 - np.var(targets - values) / np.var(targets)
    assert math.isclose(metrics["explained_variance"], explained, rel_tol=1e-4, abs_tol=1e-5)


def test_clipped_critic_stops_where_it_has_gone_far_enough():
    model = critic(value_clip_param=0.1, normalize_values=False)
    states, nothing = torch.randn(1, 4), torch.zeros(1)
    value = model(states).detach()
    toward = PPOBatch(states, nothing, nothing, nothing, nothing, value + 1, value - 0.5)  # already moved 0.5 up
    away = toward._replace(values=value + 0.5)
    moved, free = (torch.autograd.grad(model.loss(batch)[0], model.network[-1].bias)[0] for batch in (toward, away))
    assert moved == 0 and free < 0
