"""HASAC against closed forms, brute force and a soft actor-critic written down in forty lines."""

import copy
import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.core import (
    DISCRETE,
    LEAVING,
    MASKED,
    MASKED_LEAVING,
    SEVERAL,
    UNEQUAL,
    acted_trajectory,
    layout_of,
    make_trainer,
    random_observations,
    randomize,
    weights,
)  # fmt: skip
from torch.nn.functional import mse_loss

from rllib_dima.core.layout import AgentLayout
from rllib_dima.core.model_free.hasac import HASACTrainer, target_entropies
from rllib_dima.core.model_free.hyperparameters import HASACHyperparameters
from rllib_dima.core.model_free.soft_networks import SquashedActors, TwinCritic
from rllib_dima.core.policy.distributions import MaskedCategorical, MaskedSquashedGaussian
from rllib_dima.core.replay.buffer import ReplayBuffer
from rllib_dima.core.replay.data import MultiStep, Trajectory
from rllib_dima.core.trainer import NonFiniteLossError

SMALL = {
    "actor_hidden_size": 8, "critic_hidden_size": 8, "batch_size": 16, "replay_capacity": 200, "warmup_steps": 0,
    "updates_per_iteration": 3, "n_step": 3, "env_steps_per_iteration": 20,
}  # fmt: skip


def hasac(layout=UNEQUAL, seed=0, **changes):
    return make_trainer(HASACTrainer, layout, HASACHyperparameters(**{**SMALL, **changes}), seed=seed)


def chunk(layout, length, seed=0, **flags):
    torch.manual_seed(seed)
    actors = SquashedActors(layout, HASACHyperparameters(**SMALL))
    plain = acted_trajectory(_Draws(actors), length, seed, **flags)
    return replace(plain, log_probs=None)


class _Draws:
    """Actors of which `acted_trajectory` may ask log-probabilities, which it drops."""

    def __init__(self, actors):
        self.layout, self.executed = actors.layout, actors.executed
        self._actors = actors

    def __call__(self, observations):
        policy = self._actors(observations)
        policy.log_prob = lambda drawn: drawn.flatten(2)[..., 0].float() if drawn.ndim > 2 else drawn.float()
        return policy


def fed(trainer, lengths=(5, 7, 4), **flags):
    trainer.add([chunk(trainer.layout, length, seed, **flags) for seed, length in enumerate(lengths)])
    return trainer


def batch_of(trainer, seed=0, batch_size=16):
    torch.manual_seed(seed)
    return trainer.replay.multi_step(batch_size, trainer.hp.n_step, trainer.hp.gamma)


def alphas(trainer):
    return torch.stack([trainer.temperatures(index) for index in range(trainer.layout.num_agents + 1)])


# Networks and distributions


def test_sizes_are_the_benchmarks():
    hp = HASACHyperparameters.resolve({}, "mamujoco_halfcheetah_2x3")
    layout = AgentLayout(("a", "b"), 17, (19, 19), (3, 3))
    actors, critic = SquashedActors(layout, hp), TwinCritic(layout, hp)
    assert [sum(p.numel() for p in actor.parameters()) for actor in actors.actors] == [72_454] * 2
    assert [sum(p.numel() for p in network.parameters()) for network in critic.trained] == [72_193] * 2
    assert isinstance(actors.actors[0][3], torch.nn.Tanh) and isinstance(actors.actors[0][1], torch.nn.ReLU)
    ant = AgentLayout(tuple("abcd"), 27, (31,) * 4, (2,) * 4)
    assert sum(p.numel() for p in SquashedActors(ant, hp).actors[0].parameters()) == 75_012
    assert sum(p.numel() for p in TwinCritic(ant, hp).trained[0].parameters()) == 75_265


def test_density_of_the_squashed_gaussian():
    def log_prob(drawn, mean=0.0, log_std=0.0):
        shape = (*drawn.shape, 1)
        policy = MaskedSquashedGaussian(torch.full(shape, mean), torch.full(shape, log_std), torch.ones(1))
        return policy.log_prob_before_tanh(drawn.unsqueeze(-1))

    assert log_prob(torch.tensor([0.5])).item() == pytest.approx(-0.8037095, abs=1e-6)
    actions = torch.linspace(-1, 1, 200_001, dtype=torch.float64)[1:-1]
    for mean, log_std in ((0.0, 0.0), (0.7, -0.5)):
        assert torch.trapezoid(log_prob(actions.atanh(), mean, log_std).exp(), actions) == pytest.approx(1, abs=2e-3)
    assert log_prob(torch.tensor([20.0, -20.0])).isfinite().all()


def test_padded_entries_have_no_part():
    policy = MaskedSquashedGaussian(torch.zeros(5, 2), torch.zeros(5, 2), torch.tensor([1.0, 0.0]))
    actions, log_probs = policy.reparameterised()
    assert not actions[:, 1].any()
    drawn = actions[:, :1].atanh()
    alone = MaskedSquashedGaussian(torch.zeros(5, 1), torch.zeros(5, 1), torch.ones(1))
    assert torch.allclose(alone.log_prob_before_tanh(drawn), log_probs, atol=1e-4)


def test_discrete_draws_are_one_hot_and_as_likely_as_they_should_be():
    torch.manual_seed(0)
    logits = torch.tensor([0.3, -1.0, 0.8, 2.0], requires_grad=True)
    policy = MaskedCategorical(logits.expand(20_000, 4), torch.tensor([1.0, 1.0, 1.0, 0.0]))
    actions, log_probs = policy.reparameterised()
    assert set(actions.detach().unique().tolist()) <= {0.0, 1.0} or torch.allclose(
        actions.detach(), actions.detach().round(), atol=1e-6
    )
    chances = logits.detach()[:3].softmax(0)
    assert torch.allclose(actions.detach().mean(0)[:3], chances, atol=0.02) and not actions[:, 3].detach().any()
    assert torch.allclose(log_probs, (chances * chances.log()).sum())
    assert torch.autograd.grad(log_probs[0], logits)[0].abs().sum() > 0


def test_draws_are_uniform_until_the_warm_up_is_over():
    for layout in (UNEQUAL, DISCRETE):
        trainer = fed(hasac(layout, warmup_steps=16, updates_per_iteration=1))
        actors, observations = trainer.actor, torch.from_numpy(chunk(layout, 600).observations).flatten(0, 1)
        assert actors.explores_uniformly
        torch.manual_seed(0)
        drawn, agents = actors.act(observations, deterministic=False), layout.num_agents
        if layout.is_discrete:
            for agent, size in enumerate(layout.action_sizes):
                counts = torch.bincount(drawn[agent::agents], minlength=4)
                assert not counts[size:].any() and (counts[:size] - 600 / size).abs().max() < 60
        else:
            assert not drawn[1::2, 1].any()
            entries = drawn[::2].flatten()
            assert abs(entries.mean()) < 0.06 and abs(entries.var() - 1 / 3) < 0.03
        before = weights(actors)
        assert set(trainer.train_iteration()) == {"time"} and torch.equal(weights(actors), before)
        assert not actors.explores_uniformly  # what is collected next is the policy's
        trainer.add([chunk(layout, 4, seed=9)])
        assert "actor" in trainer.train_iteration()


# Replay: stretches of n steps


def numbered(start, length, layout=UNEQUAL, **flags):
    """Steps that all tell their number in all columns, from `start` on."""
    times = np.arange(start, start + length + 1, dtype=np.float32)
    mask = layout.observation_mask().numpy()
    observations = times[:, None, None] * mask  # (T + 1, N, O)
    actions = times[:-1, None, None] * layout.action_mask().numpy()
    states = np.repeat(times[:, None], layout.state_size, 1)
    columns = (states, observations[:-1], actions, times[:-1])
    return Trajectory(flags.pop("episode_id", "e"), *columns, last_observations=observations[-1], **flags)


def test_stretches_equal_brute_force_on_a_wrapped_ring():
    random, buffer = np.random.default_rng(0), ReplayBuffer(UNEQUAL, 60, keeps_next_observations=True)
    stored, running = [], [[f"episode {env}", 1000 * env, True] for env in range(3)]  # id, next number, whether new
    for part in range(40):
        env, length = random.integers(3), int(random.integers(1, 6))
        episode, first, is_start = running[env]
        end = random.choice(["on", "terminated", "truncated"], p=[0.6, 0.2, 0.2])
        flags = {} if end == "on" else {end: True}
        buffer.add(numbered(first, length, is_start=is_start, episode_id=episode, **flags))
        stored += [(episode, first + i, end if i == length - 1 else "on") for i in range(length)]
        new = [f"episode {part + 3}", 1000 * (part + 3), True]
        running[env] = [episode, first + length, False] if end == "on" else new
    stored = stored[-60:]
    by_number = {(episode, number): end for episode, number, end in stored}
    torch.manual_seed(0)
    batch = buffer.multi_step(500, 4, 0.9)
    starts = {number: episode for episode, number, _ in stored}
    for row in range(500):
        number = int(batch.states[row, 0])
        episode, m, total = starts[number], 0, 0.0
        while m < 4 and (episode, number + m) in by_number:
            total += 0.9**m * (number + m)
            m += 1
            if by_number[episode, number + m - 1] != "on":
                break
        assert batch.returns[row].item() == pytest.approx(total, rel=1e-5)
        assert batch.discounts[row].item() == pytest.approx(0.9**m)
        after = number + m
        for column in (
            batch.next_states[row, 0],
            batch.next_observations[row, 0, 0],
            batch.next_observations[row, 1, 0],
        ):
            assert int(column) == after
        assert int(batch.observations[row, 1, 0]) == int(batch.actions[row, 0, 0]) == number
        assert bool(batch.terminated[row]) == (by_number[episode, after - 1] == "terminated")


def test_the_return_of_ones_and_the_end_of_an_episode():
    buffer = ReplayBuffer(UNEQUAL, 20, keeps_next_observations=True)
    buffer.add(replace(numbered(0, 9, terminated=True), rewards=np.ones(9, np.float32)))
    torch.manual_seed(0)
    batch = buffer.multi_step(300, 5, 0.99)
    for number, total, discount in ((0, 4.900995, 0.950990), (7, 1.99, 0.9801)):
        rows = batch.states[:, 0] == number
        assert rows.any()
        assert torch.allclose(batch.returns[rows], torch.tensor(total), atol=1e-5)
        assert torch.allclose(batch.discounts[rows], torch.tensor(discount), atol=1e-5)
    assert torch.equal(batch.terminated, batch.states[:, 0] >= 4)


def test_a_saved_buffer_has_the_next_observations_too():
    first, second = (ReplayBuffer(UNEQUAL, 20, keeps_next_observations=True) for _ in range(2))
    first.add(numbered(0, 9))
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.next_observations[:9], second.next_observations[:9])
    plain, twice = (ReplayBuffer.bytes_needed(UNEQUAL, 20, keeps) for keeps in (False, True))
    assert twice - plain == 4 * 20 * 2 * UNEQUAL.observation_size


# Rounds


def test_targets_follow_the_soft_bellman_equation():
    trainer = fed(hasac(auto_alpha=False, alpha=0.3), terminated=True)
    randomize(trainer.critic, scale=1.0)
    batch = batch_of(trainer)
    assert batch.terminated.any() and not batch.terminated.all()
    torch.manual_seed(5)
    actions, log_probs = trainer.actor(batch.next_observations).reparameterised()
    inputs = torch.cat([batch.next_states, actions[:, 0], actions[:, 1, :1]], 1)  # agent b has one entry
    lower = torch.minimum(*(network(inputs).squeeze(1) for network in trainer.critic.targets))
    expected = batch.returns + batch.discounts * (lower - 0.3 * log_probs.sum(1)) * ~batch.terminated
    torch.manual_seed(5)
    targets = trainer._critic_targets(batch)
    assert torch.allclose(targets, expected, atol=1e-5)
    assert torch.equal(targets[batch.terminated], batch.returns[batch.terminated])
    without = hasac(auto_alpha=False, alpha=0.0)
    without.actor, without.critic = trainer.actor, trainer.critic
    torch.manual_seed(5)
    expected = batch.returns + batch.discounts * lower * ~batch.terminated
    assert torch.allclose(without._critic_targets(batch), expected, atol=1e-5)


def forty_lines_of_sac(trainer, batch, optimisers):
    """A round of twin-Q SAC of one agent: critics, actor, temperature, targets."""
    hp, actor = trainer.hp, trainer.actor.actors[0]
    (q, targets), log_alpha = (trainer.critic.trained, trainer.critic.targets), trainer.temperatures.log_alphas[0]

    def draw(observations):
        mean, log_std = actor(observations).chunk(2, -1)
        std = log_std.clamp(-20, 2).exp()
        u = mean + std * torch.randn_like(mean)
        action = u.tanh()  # here, as sums of gradients depend on the order to the last bit
        correction = 2 * (math.log(2) - u - torch.nn.functional.softplus(-2 * u))
        log_prob = torch.distributions.Normal(mean, std).log_prob(u)
        return action, (log_prob - correction).sum(-1)

    def value(networks, states, actions):
        return [network(torch.cat([states, actions], 1)).squeeze(1) for network in networks]

    def step(name, loss):
        optimisers[name].zero_grad()
        loss.backward()
        optimisers[name].step()

    with torch.no_grad():
        actions, log_probs = draw(batch.next_observations[:, 0])
        following = torch.minimum(*value(targets, batch.next_states, actions)) - log_alpha.exp() * log_probs
        y = batch.returns + batch.discounts * (~batch.terminated).float() * following
    first, second = value(q, batch.states, batch.actions[:, 0])
    step("critic", mse_loss(first, y) + mse_loss(second, y))
    draw(batch.observations[:, 0])  # which a single agent needs not
    actions, log_probs = draw(batch.observations[:, 0])
    lower = torch.minimum(*value(q, batch.states, actions))
    step("actor", (log_alpha.detach().exp() * log_probs - lower).mean())
    step("alpha", -(log_alpha * (log_probs.detach() - 2.0).mean()))
    draw(batch.observations[:, 0])
    with torch.no_grad():
        for target, trained in zip(targets.parameters(), q.parameters(), strict=True):
            target.lerp_(trained, hp.polyak)


def test_of_one_agent_it_is_a_plain_soft_actor_critic_bit_for_bit():
    trainer, plain = fed(hasac(layout_of(1))), fed(hasac(layout_of(1)))
    adam = {
        "critic": (plain.critic.trained.parameters(), plain.hp.critic_lr),
        "actor": (plain.actor.parameters(), plain.hp.actor_lr),
        "alpha": ([plain.temperatures.log_alphas[0]], plain.hp.alpha_lr),
    }
    optimisers = {name: torch.optim.Adam(p, lr=lr, eps=1e-8, fused=True) for name, (p, lr) in adam.items()}
    for seed in range(5):
        batch = batch_of(trainer, seed)
        torch.manual_seed(100 + seed)
        trainer._round(batch, [0])
        torch.manual_seed(100 + seed)
        forty_lines_of_sac(plain, batch, optimisers)
        for name in ("actor", "critic"):
            assert torch.equal(weights(getattr(trainer, name)), weights(getattr(plain, name))), name
        agents, critics = trainer.temperatures.log_alphas
        assert torch.equal(agents, critics) and torch.equal(agents, plain.temperatures.log_alphas[0])


def test_temperatures_of_two_agents_differ_and_first_move_by_the_learning_rate():
    trainer = fed(hasac())
    trainer._round(batch_of(trainer), [0, 1])
    assert torch.allclose(alphas(trainer).log().abs(), torch.full((3,), 3e-4), rtol=1e-3)
    assert targets(UNEQUAL).tolist() == [[-2.0, -1.0]] * 3
    for seed in range(20):
        trainer._round(batch_of(trainer, seed), [1, 0])
    assert len(set(alphas(trainer).tolist())) == 3


def targets(layout, observations=None):
    observations = random_observations(layout, 3) if observations is None else observations
    return target_entropies(layout, layout.action_mask().float(), observations)


@pytest.mark.parametrize(
    "layout",
    [DISCRETE, SEVERAL, LEAVING, MASKED, MASKED_LEAVING],
    ids=["one choice", "several", "leaving", "masked", "masked leaving"],
)
def test_target_entropies_are_a_share_of_what_usable_choices_allow(layout):
    """With masks the share of all choices may be out of reach, and temperatures would rise for ever."""
    observations = random_observations(layout, 40)
    found, alive = targets(layout, observations), layout.alive(observations)
    usable = layout.usable(layout.action_mask().float().expand(40, -1, -1), observations)
    for row, agent in itertools.product(range(40), range(layout.num_agents)):
        blocks = usable[row, agent].split(list(layout.block_sizes)) if layout.is_discrete else []
        largest = sum(math.log(max(1, int(block.sum()))) for block in blocks)
        expected = 0.98 * largest if layout.is_discrete else -float(usable[row, agent].sum())
        assert found[row, agent].item() == pytest.approx(expected, abs=1e-6)
        assert alive is None or alive[row, agent] or found[row, agent] == 0
    if layout.masks_actions:
        assert len(found.unique()) > 2, "rows differ"


def test_a_run_restored_without_its_replay_waits_as_long_as_a_new_one():
    trainer = hasac(warmup_steps=30)
    trainer.num_env_steps = 1000
    for seed, is_over in enumerate((False, False, True)):
        trainer.add([chunk(trainer.layout, 12, seed)])
        assert ("critic" in trainer.train_iteration()) == is_over


class Bandit(TwinCritic):
    """Q = -(a_1 + a_2 - c)^2 without anything to learn; remembers the joint actions that it was asked about."""

    def forward(self, states, actions, targets=False):
        self.asked = [*getattr(self, "asked", []), actions]
        return -(actions[:, :, 0].sum(1) - 0.6).square().expand(2, -1)


def bandit_trainer(**changes):
    trainer = hasac(layout_of(2, action_size=1), auto_alpha=False, alpha=0.0, **changes)
    trainer.critic.__class__ = Bandit
    return fed(trainer)


def entropies_wanted(trainer, batch):
    return target_entropies(trainer.layout, trainer._action_mask, batch.observations)


def test_later_agents_answer_to_the_updated_actions_of_earlier_ones():
    trainer = bandit_trainer(actor_lr=0.05)
    batch, before = batch_of(trainer), copy.deepcopy(trainer.actor)
    torch.manual_seed(7)
    trainer._update_actors(batch, [0, 1], entropies_wanted(trainer, batch))
    asked_by_first, asked_by_second = trainer.critic.asked

    def drawn(actors, agent, noise):
        mean, log_std = actors.actors[agent](batch.observations[:, agent]).chunk(2, -1)
        return (mean + log_std.clamp(-20, 2).exp() * noise).tanh()

    torch.manual_seed(7)
    at_first, of_step, after_step = torch.randn(16, 2, 1), torch.randn(16, 1), torch.randn(16, 1)
    assert torch.allclose(asked_by_first[:, 0], drawn(before, 0, of_step), atol=1e-6)
    assert torch.allclose(asked_by_first[:, 1], drawn(before, 1, at_first[:, 1]), atol=1e-6)
    assert torch.allclose(asked_by_second[:, 0], drawn(trainer.actor, 0, after_step), atol=1e-6)
    assert not torch.allclose(drawn(before, 0, after_step), drawn(trainer.actor, 0, after_step), atol=1e-3)


def test_no_gradient_reaches_other_agents_or_the_critics(monkeypatch):
    trainer, seen = fed(hasac()), {}
    step = trainer._step

    def watched(name, loss):
        for parameter in (*trainer.actor.parameters(), *trainer.critic.parameters()):
            parameter.grad = None
        norm = step(name, loss)
        networks = {**{f"actor_{i}": a for i, a in enumerate(trainer.actor.actors)}, "critic": trainer.critic}
        seen[name] = {key for key, net in networks.items() if any(p.grad is not None for p in net.parameters())}
        return norm

    monkeypatch.setattr(trainer, "_step", watched)
    trainer._round(batch_of(trainer), [1, 0])
    assert seen == {"critic": {"critic"}, "actor_0": {"actor_0"}, "actor_1": {"actor_1"}, "temperature": set()}


def test_two_agents_learn_that_their_sum_counts():
    trainer = bandit_trainer(actor_lr=1e-2)
    for seed in range(150):
        batch = batch_of(trainer, seed)
        trainer._update_actors(batch, [0, 1] if seed % 2 else [1, 0], entropies_wanted(trainer, batch))
    observations = batch_of(trainer).observations
    assert torch.allclose(trainer.actor(observations).deterministic().sum((1, 2)), torch.tensor(0.6), atol=0.1)


def test_targets_follow_slowly():
    critic = randomize(TwinCritic(UNEQUAL, HASACHyperparameters(**SMALL)))
    with torch.no_grad():
        for parameter in critic.targets.parameters():
            parameter.zero_()
    far = (weights(critic.trained) - weights(critic.targets)).norm()
    for _ in range(100):
        critic.follow(0.005)
    assert ((weights(critic.trained) - weights(critic.targets)).norm() / far).item() == pytest.approx(0.6058, abs=1e-3)


def test_the_critics_see_standardised_states_where_they_should():
    states, actions = 50 + 3 * torch.randn(6, 4), torch.zeros(6, 2, 2)
    plain, standardised = (
        randomize(TwinCritic(UNEQUAL, HASACHyperparameters(**SMALL, standardize_states=on))) for on in (False, True)
    )
    expected = (states - states.mean(1, keepdim=True)) / states.std(1, correction=0, keepdim=True)
    assert torch.allclose(standardised(states, actions), plain(expected, actions), atol=1e-4)


# The trainer


@pytest.mark.parametrize("layout", [UNEQUAL, DISCRETE], ids=["unequal", "discrete"])
@pytest.mark.parametrize("auto_alpha", [True, False])
def test_everything_trains_and_a_restored_trainer_goes_on_bit_for_bit(layout, auto_alpha):
    trainer, resumed = (hasac(layout, auto_alpha=auto_alpha) for _ in range(2))
    before = {name: weights(network) for name, network in trainer._trained().items()}
    report = fed(trainer).train_iteration()
    assert set(report) == {"actor", "critic", "temperature", "time"}
    assert all(not torch.equal(before[name], weights(net)) for name, net in trainer._trained().items())
    resumed.load_state_dict(trainer.state_dict())
    resumed.replay.load_state_dict(trainer.replay.state_dict())
    for name in ("actor", "critic", "temperatures"):
        getattr(resumed, name).load_state_dict(getattr(trainer, name).state_dict())
    for both in (trainer, resumed):
        both.add([chunk(layout, 6, seed=11)])
        both.train_iteration()
    for name, network in trainer._trained().items():
        assert torch.equal(weights(network), weights(resumed._trained()[name])), name


def test_time_limits_can_count_as_terminations():
    for time_limits in ("bootstrap", "termination"):
        trainer = fed(hasac(time_limits=time_limits), lengths=(5,), truncated=True)
        assert trainer.replay.terminated[:5].tolist() == [False] * 4 + [time_limits == "termination"]


def test_a_loss_that_becomes_nan_is_named():
    with pytest.raises(NonFiniteLossError, match=r"critic|actor"):
        fed(hasac(critic_lr=1e30)).train_iteration()


def test_a_million_steps_are_50000_rounds_after_the_warm_up():
    hp = HASACHyperparameters.resolve({}, "mamujoco_ant_2x4")
    steps = 1_010_000
    assert (steps - hp.warmup_steps) / hp.env_steps_per_iteration * hp.updates_per_iteration == 50_000
    assert (hp.batch_size, hp.n_step, hp.auto_alpha, hp.alpha, hp.critic_lr) == (2200, 5, False, 0.2, 3e-4)
    for family in (None, *HASACHyperparameters.FAMILIES):
        for size in HASACHyperparameters.MODEL_SIZES:
            HASACHyperparameters.resolve({}, family, size)


def test_a_buffer_smaller_than_an_iteration_is_refused():
    with pytest.raises(ValueError, match=r"replay_capacity \(19\) must be at least 20"):
        HASACHyperparameters(**{**SMALL, "replay_capacity": 19})


def test_the_batch_is_a_multi_step():
    trainer = fed(hasac())
    assert isinstance(batch_of(trainer), MultiStep) and len(batch_of(trainer).returns) == 16
