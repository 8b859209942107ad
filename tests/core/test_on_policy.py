"""MAPPO and HAPPO against closed forms, brute force and a PPO written down in forty lines."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.core import DISCRETE, UNEQUAL, acted_trajectory, layout_of, make_trainer, randomize, weights
from torch.nn.functional import huber_loss

from rllib_dima.core.layout import AgentLayout
from rllib_dima.core.model_free.advantages import generalised_returns, on_policy_batch
from rllib_dima.core.model_free.happo import HAPPOTrainer
from rllib_dima.core.model_free.hyperparameters import HAPPOHyperparameters, MAPPOHyperparameters
from rllib_dima.core.model_free.mappo import MAPPOTrainer
from rllib_dima.core.model_free.on_policy import OnPolicyCritic, surrogate_loss
from rllib_dima.core.policy.data import PPOBatch
from rllib_dima.core.policy.distributions import MaskedCategorical, MaskedGaussian
from rllib_dima.core.policy.networks import Actor, AgentActors
from rllib_dima.core.policy.value_normalizer import ValueNormalizer
from rllib_dima.core.replay.data import Trajectory
from rllib_dima.core.trainer import NonFiniteLossError

SMALL = {"actor_hidden_size": 8, "critic_hidden_size": 8, "ppo_epochs": 3}
HALFCHEETAH = AgentLayout(("agent_0", "agent_1"), 17, (19, 19), (3, 3))


def mappo(layout=UNEQUAL, **changes):
    return make_trainer(MAPPOTrainer, layout, MAPPOHyperparameters(**{**SMALL, **changes}))


def happo(layout=UNEQUAL, **changes):
    return make_trainer(HAPPOTrainer, layout, HAPPOHyperparameters(**{**SMALL, **changes}))


def fed(trainer, lengths=(5, 7, 4), **flags):
    """The trainer with experience of its own policy, which it has not learnt from."""
    trainer.add([acted_trajectory(trainer.actor, length, seed, **flags) for seed, length in enumerate(lengths)])
    return trainer


def batch_of(trainer):
    return on_policy_batch(trainer._fresh, trainer.critic, trainer.hp, trainer.device)[0]


# Constants


def test_sizes_initial_policy_and_initial_weights_are_the_benchmarks():
    hp = MAPPOHyperparameters.resolve({}, "mamujoco_halfcheetah_2x3")
    torch.manual_seed(0)
    actor, critic = Actor(HALFCHEETAH, hp), OnPolicyCritic(HALFCHEETAH, hp)
    assert [sum(p.numel() for p in net.parameters()) for net in (actor, critic)] == [36_780, 36_259]
    policy = actor(torch.randn(50, 2, 19))
    assert policy._normal.scale[0, 0, 0].item() == pytest.approx(0.5 / (1 + math.exp(-1)))
    assert policy.entropy().flatten()[0].item() == pytest.approx(3 * 0.4125297, abs=1e-5)
    mean = policy.deterministic()
    assert policy.log_prob(mean)[0, 0].item() == pytest.approx(3 * 0.0874703, abs=1e-5)
    assert 1e-3 < mean.abs().mean() < 3e-2
    first = actor.network[1].weight.detach()  # (128, 19)
    assert torch.allclose(first.T @ first, 2 * torch.eye(19), atol=1e-5)
    assert not any(layer.bias.any() for layer in actor.network if isinstance(layer, torch.nn.Linear))


@pytest.mark.parametrize(
    ("task", "sizes", "expected"),  # agents, state, observation, action
    [
        ("mamujoco_ant_4x2", (4, 27, 31, 2), (38_210, 37_559)),
        ("mamujoco_ant_4x2", (4, 111, 115, 2), (49_130, 48_479)),
        ("bidexhands_pen", (2, 417, 218, 26), (196_328, 241_219)),
    ],
)
def test_sizes_on_other_tasks(task, sizes, expected):
    agents, state, observation, action = sizes
    layout = AgentLayout(tuple("abcd"[:agents]), state, (observation,) * agents, (action,) * agents)
    hp = MAPPOHyperparameters.resolve({}, task)
    assert [sum(p.numel() for p in net(layout, hp).parameters()) for net in (Actor, OnPolicyCritic)] == list(expected)


def test_value_normalizer_starts_at_a_tenth_and_averages():
    normalizer = ValueNormalizer(0.99999, initial_std=0.1)
    assert normalizer.denormalize(torch.tensor(1.0)).item() == pytest.approx(0.1)
    normalizer.update(torch.tensor([1.0, 2.0, 3.0]))
    mean, std = normalizer.statistics()
    assert (mean.item(), std.item() ** 2) == pytest.approx((2, 2 / 3), abs=1e-5)
    assert normalizer.denormalize(torch.tensor(1.0)).item() == pytest.approx(2.816497, abs=1e-5)
    normalizer.update(torch.tensor([11.0, 12.0, 13.0]))
    mean, std = normalizer.statistics()
    assert (mean.item(), std.item() ** 2) == pytest.approx((7.00003, 25.6667), abs=1e-3)
    constant = ValueNormalizer(0.99999, initial_std=0.1)
    constant.update(torch.full((9,), 5.0))
    assert constant.statistics()[1].item() ** 2 == pytest.approx(0.01)


def steps(rewards, **flags):
    return Trajectory("e", np.zeros((len(rewards) + 1, 1)), None, None, np.array(rewards, np.float32), **flags)


@pytest.mark.parametrize(
    ("flags", "mode", "first_two"),
    [
        ({"terminated": True}, "no_advantage", (1.960300, 1.0)),
        ({"truncated": True}, "no_advantage", (1.396, 0.4)),
        ({"truncated": True}, "termination", (1.960300, 1.0)),
        ({"truncated": True}, "bootstrap", (1 + 0.99 * (0.05 * 0.4 + 0.95 * 1.297), 1.297)),
        *(
            ({"truncated": True, "broke_down": True}, mode, (1 + 0.99 * (0.05 * 0.4 + 0.95 * 1.297), 1.297))
            for mode in ("no_advantage", "termination", "bootstrap")
        ),
    ],
)
def test_returns_at_the_end_of_an_episode(flags, mode, first_two):
    values = np.array([0.5, 0.4, 0.3])
    returns = generalised_returns(steps([1, 1], **flags), values, 0.99, 0.95, mode)
    np.testing.assert_allclose(returns, first_two, atol=1e-6)
    after = generalised_returns(steps([1, 1]), np.array([0.3, 0.2, 0.1]), 0.99, 0.95, mode)
    np.testing.assert_allclose(after, [2.043510, 1.099], atol=1e-6)
    whole = generalised_returns(steps([1] * 4), np.array([0.5, 0.4, 0.3, 0.2, 0.1]), 0.99, 0.95, mode)
    np.testing.assert_allclose(whole, [3.781833, 2.936771, 2.043510, 1.099], atol=1e-6)


@pytest.mark.parametrize(("mode", "last"), [("no_advantage", 0.0), ("bootstrap", 1.0), ("termination", 1.0)])
def test_the_advantage_at_a_time_limit(mode, last):
    trainer = mappo(time_limits=mode, normalize_advantages=False)
    with torch.no_grad():
        trainer.critic.network[-1].weight.zero_()  # V = 0
    chunk = acted_trajectory(trainer.actor, 5, truncated=True)
    trainer.add([replace(chunk, rewards=np.ones(5, np.float32))])
    assert batch_of(trainer).advantages[-1].item() == pytest.approx(last)


def test_the_critics_loss_takes_the_worse_of_clipped_and_unclipped():
    critic = randomize(OnPolicyCritic(UNEQUAL, MAPPOHyperparameters(**SMALL, normalize_values=False)))
    critic.forward = lambda states: states[:, 0]
    rows = dict.fromkeys(("observations", "actions", "log_probs", "advantages"), torch.empty(1))
    for value, loss, gradient in ((1.0, 1.62, 0.0), (-1.0, 4.5, -3.0)):
        states = torch.tensor([[value]], requires_grad=True)
        batch = PPOBatch(states=states, returns=torch.tensor([2.0]), values=torch.zeros(1), **rows)
        found, _ = critic.loss(batch)
        found.backward()
        assert (found.item(), states.grad.item()) == pytest.approx((loss, gradient))
    for error in (12.0, -12.0):
        assert critic._error(torch.zeros(1), torch.tensor([error])).item() == pytest.approx(70)


@pytest.mark.parametrize(("steps_to_zero", "iteration", "factor"), [(1_000_000, 249, 0.004), (10_000_000, 249, 0.9004)])
def test_learning_rates_fall_linearly(steps_to_zero, iteration, factor):
    hp = MAPPOHyperparameters(lr_decay_steps=steps_to_zero)
    assert hp.learning_rate_factor(iteration) == pytest.approx(factor)
    assert hp.learning_rate_factor(0) == 1 and hp.learning_rate_factor(10**9) == 0


def test_the_optimisers_use_the_decayed_rates_also_after_restoring():
    trainer = mappo(lr_decay_steps=8000, env_steps_per_iteration=4000)
    rates = []
    for _ in range(3):
        fed(trainer).train_iteration()
        rates.append(trainer.optimizers["actor"]._optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([5e-4, 2.5e-4, 0])
    resumed = mappo(lr_decay_steps=40_000, env_steps_per_iteration=4000)
    resumed.load_state_dict(trainer.state_dict())
    fed(resumed).train_iteration()
    assert resumed.optimizers["critic"]._optimizer.param_groups[0]["lr"] == pytest.approx(5e-4 * 0.7)


# The surrogate


def gaussian_case(rows=6, agents=2, seed=0):
    torch.manual_seed(seed)
    mean = torch.randn(rows, agents, 3, requires_grad=True)
    policy = MaskedGaussian(mean, torch.full((3,), 0.4), torch.ones(agents, 3))
    return mean, policy, policy.sample().detach(), torch.randn(rows, agents)


def test_the_first_full_batch_has_ratio_one_and_the_policy_gradient():
    mean, policy, actions, advantages = gaussian_case()
    advantages = advantages - advantages.mean()
    hp, log_probs = MAPPOHyperparameters(entropy_coeff=0.0), policy.log_prob(actions).detach()
    loss, metrics = surrogate_loss(policy, actions, log_probs, advantages, torch.ones_like(advantages), hp)
    (gradient,) = torch.autograd.grad(loss, mean, retain_graph=True)
    expected = torch.autograd.grad(-(advantages * policy.log_prob(actions)).mean(), mean)[0]
    assert abs(loss.item()) < 1e-6 and metrics["clip_fraction"] == 0
    assert torch.allclose(gradient, expected, atol=1e-7)


@pytest.mark.parametrize(
    ("ratio", "advantage", "surrogate", "slope"),
    [(1.5, 1.0, 1.2, 0.0), (0.5, 1.0, 0.5, 1.0), (1.5, -1.0, -1.5, -1.0), (0.5, -1.0, -0.8, 0.0)],
)
def test_the_surrogate_is_clipped_where_the_policy_has_gone_far_enough(ratio, advantage, surrogate, slope):
    logits = torch.tensor([0.3, -0.3], requires_grad=True)
    policy = MaskedCategorical(logits.expand(1, 1, 2), torch.ones(1, 2))
    log_prob = policy.log_prob(torch.zeros(1, 1, dtype=torch.int64))
    old, one = log_prob.detach() - math.log(ratio), torch.ones(1, 1)
    hp = MAPPOHyperparameters(entropy_coeff=0.0, clip_param=0.2)
    loss, metrics = surrogate_loss(policy, torch.zeros(1, 1, dtype=torch.int64), old, advantage * one, one, hp)
    (gradient,) = torch.autograd.grad(loss, logits, retain_graph=True)
    (of_log_prob,) = torch.autograd.grad(log_prob.sum(), logits)
    assert loss.item() == pytest.approx(-surrogate) and metrics["clip_fraction"] == 1
    assert torch.allclose(gradient, -slope * ratio * of_log_prob, atol=1e-6)


def test_minibatches_hold_every_step_once_in_another_order_for_every_agent():
    parts = list(mappo(ppo_minibatches=3)._minibatches(100, 2))
    assert [len(part) for part in parts] == [34, 33, 33]
    rows = torch.cat(parts)
    assert all(rows[:, agent].sort().values.tolist() == list(range(100)) for agent in range(2))
    assert not torch.equal(rows[:, 0], rows[:, 1]) and not torch.equal(rows[:, 0], torch.arange(100))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_loss_does_not_depend_on_the_order_of_rows_and_the_mean_not_on_their_number(reduction):
    _, policy, actions, advantages = gaussian_case()
    hp = MAPPOHyperparameters(entropy_coeff=0.3, entropy_reduction=reduction)
    log_probs = policy.log_prob(actions).detach() + 0.1 * torch.randn(6, 2)

    def loss(rows):
        chosen = MaskedGaussian(policy._normal.loc[rows], torch.full((3,), 0.4), torch.ones(2, 3))
        ones = torch.ones(len(rows), 2)
        return surrogate_loss(chosen, actions[rows], log_probs[rows], advantages[rows], ones, hp)[0].item()

    once, shuffled, twice = list(range(6)), [3, 1, 5, 0, 4, 2], [*range(6), *range(6)]
    assert loss(shuffled) == pytest.approx(loss(once))
    entropy = 3 * 0.5 * math.log(2 * math.pi * math.e * 0.16)
    more = 12 * 0.3 * entropy if reduction == "sum" else 0.0  # of 12 more actions
    assert loss(twice) == pytest.approx(loss(once) - more, abs=1e-5)


def test_other_shapes_are_refused():
    _, policy, actions, advantages = gaussian_case()
    with pytest.raises(AssertionError, match="would broadcast"):
        surrogate_loss(policy, actions, policy.log_prob(actions), advantages, torch.ones(6, 1), MAPPOHyperparameters())


def gradient_of_agent(agent, old, new_of_others, advantages):
    """Of an agent's logits, the gradient of its surrogate over all joint actions, each as likely as before.

    Args:
        agent: whose.
        old: logits by agent.
        new_of_others: logits by agent of those updated before.
        advantages: one axis per agent.
    """
    joint = torch.cartesian_prod(*(torch.arange(size) for size in advantages.shape))  # (rows, agents)
    log_old = torch.stack([logits.log_softmax(0)[joint[:, i]] for i, logits in enumerate(old)], 1)
    log_factor = sum(
        (new.log_softmax(0)[joint[:, i]] - log_old[:, i] for i, new in new_of_others.items()), torch.zeros(len(joint))
    )
    weights_ = log_old.sum(1).exp() * len(joint)  # the surrogate is a mean over rows
    logits = old[agent].clone().requires_grad_()
    policy = MaskedCategorical(logits.expand(len(joint), 1, -1), torch.ones(1, len(logits)))
    factors, hp = (weights_ * log_factor.exp()).unsqueeze(1), MAPPOHyperparameters(entropy_coeff=0.0)
    rows = (joint[:, [agent]], log_old[:, [agent]], advantages.flatten().unsqueeze(1), factors)
    return torch.autograd.grad(-surrogate_loss(policy, *rows, hp)[0], logits)[0]


def test_the_compound_ratio_weighs_advantages_as_the_new_policies_of_those_before_do():
    torch.manual_seed(0)
    old, new = [torch.randn(3, dtype=torch.float64) for _ in range(2)], torch.randn(3, dtype=torch.float64)
    advantages = torch.randn(3, 3, dtype=torch.float64)
    again = old[1].clone().requires_grad_()
    exact = (new.softmax(0)[:, None] * again.softmax(0) * advantages).sum()
    (expected,) = torch.autograd.grad(exact, again)
    assert torch.allclose(gradient_of_agent(1, old, {0: new}, advantages), expected, atol=1e-12)


@pytest.mark.parametrize(("sequential", "reward"), [(False, -1), (True, 2)])
def test_sequential_updates_solve_a_game_that_simultaneous_ones_spoil(sequential, reward):
    rewards, logits = torch.tensor([[0.0, 2.0], [2.0, -1.0]]), torch.tensor([0.8, 0.2]).log()
    chosen, new = [], {}
    for agent in range(2):
        gradient = gradient_of_agent(agent, [logits, logits], new if sequential else {}, rewards - 0.6)
        chosen.append(int((gradient / logits.exp()).argmax()))  # the greedy step: to the action of most advantage
        new = {agent: torch.full((2,), -1e4).index_fill(0, torch.tensor(chosen[-1]), 0.0)}
    assert rewards[tuple(chosen)] == reward


@pytest.mark.parametrize("trainer_class", [MAPPOTrainer, HAPPOTrainer])
def test_a_discrete_team_finds_different_roles(trainer_class):
    """The same game, learnt: the trainer collects, and the updates find one of the two ways to win."""
    layout = layout_of(2, observation_size=1, action_size=2, kind="discrete")
    kinds = {MAPPOTrainer: MAPPOHyperparameters, HAPPOTrainer: HAPPOHyperparameters}
    hp = kinds[trainer_class](**{**SMALL, "actor_lr": 3e-2, "critic_lr": 3e-2, "entropy_coeff": 0.0})
    trainer, rewards = make_trainer(trainer_class, layout, hp), np.array([[0.0, 2.0], [2.0, -1.0]], np.float32)
    observations = np.tile(np.hstack([np.ones((2, 1)), np.eye(2)]), (32, 1, 1)).astype(np.float32)
    for seed in range(40):
        chunk = acted_trajectory(trainer.actor, 1, seed)
        torch.manual_seed(seed)
        with torch.no_grad():
            policy = trainer.actor(torch.from_numpy(observations))
            drawn = policy.sample()
            log_probs = policy.log_prob(drawn).numpy()
        episodes = [
            replace(
                chunk, episode_id=str(row), states=np.ones((2, 4), np.float32), observations=observations[[row]],
                drawn_actions=drawn[[row]].numpy(), log_probs=log_probs[[row]], terminated=True,
                rewards=rewards[tuple(drawn[row])].reshape(1),
            )
            for row in range(32)
        ]  # fmt: skip
        trainer.add(episodes)
        trainer.train_iteration()
    chosen = trainer.actor(torch.from_numpy(observations[0])).deterministic()
    assert rewards[tuple(chosen)] == 2


# One algorithm against another


def forty_lines_of_ppo(actor, critic, trajectory, hp):
    """One iteration of PPO with the two networks, in place."""
    observations, actions = torch.from_numpy(trajectory.observations), torch.from_numpy(trajectory.drawn_actions)
    states, old = torch.from_numpy(trajectory.states), torch.from_numpy(trajectory.log_probs)[:, 0]
    mean = square = weight = 0.0
    with torch.no_grad():
        raw = critic.network(states)[:, 0]
    values, gae, returns = 0.1 * raw.double(), 0.0, []
    for t in reversed(range(len(old))):
        gae = trajectory.rewards[t] + hp.gamma * values[t + 1] - values[t] + hp.gamma * hp.lambda_ * gae
        returns.insert(0, gae + values[t])
    returns = torch.stack(returns)
    advantages = returns - values[:-1]
    advantages = ((advantages - advantages.mean()) / (advantages.std(correction=0) + 1e-5)).float()
    optimiser = torch.optim.Adam(actor.parameters(), lr=hp.actor_lr, eps=hp.adam_epsilon)
    for _ in range(hp.ppo_epochs):
        policy = torch.distributions.Normal(actor.network(observations[:, 0]), 0.5 * actor.log_std.sigmoid())
        ratio = (policy.log_prob(actions[:, 0]).sum(-1) - old).exp()
        clipped = ratio.clamp(1 - hp.clip_param, 1 + hp.clip_param)
        loss = -torch.minimum(ratio * advantages, clipped * advantages).mean()
        loss = loss - hp.entropy_coeff * policy.entropy().sum(-1).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(actor.parameters(), hp.actor_grad_clip)
        optimiser.step()
    optimiser = torch.optim.Adam(critic.parameters(), lr=hp.critic_lr, eps=hp.adam_epsilon)
    for _ in range(hp.ppo_epochs):
        for moment, add in (("mean", returns.float()), ("square", returns.float() ** 2), ("weight", torch.ones(1))):
            mean, square, weight = (
                (1 - 1e-5) * old_value + 1e-5 * add.double().mean().item() if moment == name else old_value
                for name, old_value in (("mean", mean), ("square", square), ("weight", weight))
            )
        std = math.sqrt(max(square / weight - (mean / weight) ** 2, 0.01))
        targets = ((returns - mean / weight) / std).float()
        value = critic.network(states[:-1])[:, 0]
        clipped = raw[:-1] + (value - raw[:-1]).clamp(-hp.value_clip_param, hp.value_clip_param)
        errors = [huber_loss(v, targets, reduction="none", delta=10.0) for v in (value, clipped)]
        optimiser.zero_grad()
        torch.maximum(*errors).mean().backward()
        torch.nn.utils.clip_grad_norm_(critic.parameters(), hp.critic_grad_clip)
        optimiser.step()


def test_of_one_agent_both_equal_a_ppo_of_forty_lines():
    layout = layout_of(1)
    first, second, plain = mappo(layout), happo(layout), mappo(layout)
    second.actor.actors[0].load_state_dict(first.actor.state_dict())
    second.critic.load_state_dict(first.critic.state_dict())
    trajectory = acted_trajectory(first.actor, 30)
    for trainer in (first, second):
        trainer.add([trajectory])
        trainer.train_iteration()
    assert torch.equal(weights(first.actor), weights(second.actor))  # bit for bit
    assert torch.equal(weights(first.critic), weights(second.critic))
    forty_lines_of_ppo(plain.actor, plain.critic, trajectory, plain.hp)
    assert torch.allclose(weights(first.actor), weights(plain.actor), atol=1e-6)
    assert torch.allclose(weights(first.critic), weights(plain.critic), atol=1e-6)


@pytest.mark.parametrize("minibatches", [2, 3])
def test_of_one_agent_both_are_equal_with_minibatches(minibatches):
    layout = layout_of(1)
    first, second = mappo(layout, ppo_minibatches=minibatches), happo(layout, ppo_minibatches=minibatches)
    second.actor.actors[0].load_state_dict(first.actor.state_dict())
    second.critic.load_state_dict(first.critic.state_dict())
    trajectory = acted_trajectory(first.actor, 30)
    for trainer in (first, second):
        trainer.add([trajectory])
        trainer.train_iteration()
    assert torch.equal(weights(first.actor), weights(second.actor))


@pytest.mark.parametrize("layout", [UNEQUAL, DISCRETE], ids=["unequal", "discrete"])
def test_the_compound_ratio_is_that_of_all_agents_before(layout, monkeypatch):
    trainer = fed(happo(layout, actor_lr=3e-2))
    batch, given = batch_of(trainer), []
    monkeypatch.setattr(
        trainer, "_train_actor",
        lambda name, rows, agents, factors: (given.append((agents[0], factors)),
                                             HAPPOTrainer._train_actor(trainer, name, rows, agents, factors))[1],
    )  # fmt: skip
    before = trainer.actor(batch.observations).log_prob(batch.actions).detach()
    trainer._update_actors(batch)
    after = trainer.actor(batch.observations).log_prob(batch.actions).detach()
    assert sorted(agent for agent, _ in given) == list(range(layout.num_agents))
    done = []
    for agent, factors in given:
        expected = (after - before)[:, done].sum(1).exp()
        assert factors.grad_fn is None and torch.allclose(factors, expected, atol=1e-5)
        done.append(agent)
    assert torch.equal(given[0][1], torch.ones(len(before))) and not torch.allclose(given[1][1], torch.ones(1))


def test_without_learning_rate_the_ratio_stays_one_and_it_equals_mappo_of_own_actors(monkeypatch):
    still = fed(happo(actor_lr=0.0))
    batch = batch_of(still)
    for agent in range(2):
        assert torch.equal((still._log_probs(agent, batch) - still._log_probs(agent, batch)).exp(), torch.ones(16))
    sequential, simultaneous = happo(fixed_order=True), mappo(share_parameters=False)
    assert torch.equal(weights(sequential.actor), weights(simultaneous.actor))
    monkeypatch.setattr(HAPPOTrainer, "_log_probs", lambda self, agent, batch: torch.zeros_like(batch.advantages))
    for trainer in (sequential, simultaneous):
        fed(trainer).train_iteration()
    assert torch.equal(weights(sequential.actor), weights(simultaneous.actor))


def test_orders_are_uniform_or_fixed():
    trainer, counts = happo(layout_of(3)), {}
    for trainer.num_iterations in range(6000):
        order = tuple(trainer._order())
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 6 and sum((count - 1000) ** 2 / 1000 for count in counts.values()) < 20.5
    assert happo(layout_of(3), fixed_order=True)._order() == [0, 1, 2]


def test_learners_without_a_seed_update_agents_in_the_same_order():
    hp = HAPPOHyperparameters(**SMALL)
    first, second = (make_trainer(HAPPOTrainer, layout_of(6), hp, seed=None, rank=rank) for rank in (0, 1))
    other = make_trainer(HAPPOTrainer, layout_of(6), hp, seed=None, network_seed=1)
    orders = [
        [trainer._agent_orders(trainer.actor).permutation(6).tolist() for _ in range(3)]
        for trainer in (first, second, other)
    ]
    assert first.seed != second.seed and orders[0] == orders[1] != orders[2]


@pytest.mark.parametrize("make", [(MAPPOTrainer, MAPPOHyperparameters), (HAPPOTrainer, HAPPOHyperparameters)])
def test_learners_without_a_seed_draw_the_same_minibatches_and_new_ones_every_iteration(make):
    trainer_class, hp_class = make
    hp = hp_class(**SMALL, ppo_minibatches=4)
    pair = [make_trainer(trainer_class, UNEQUAL, hp, seed=None, rank=rank) for rank in (0, 1)]
    assert pair[0].seed != pair[1].seed
    for trainer in pair:
        fed(trainer).train_iteration()
    for name, network in pair[0]._trained().items():
        assert torch.equal(weights(network), weights(pair[1]._trained()[name]))
    numbers = []
    for trainer, iteration in ((pair[0], 1), (pair[1], 1), (pair[1], 2)):
        trainer.num_iterations = iteration
        with trainer.random_numbers(0):
            numbers.append(torch.rand(()).item())
    assert numbers[0] == numbers[1] != numbers[2]


@pytest.mark.parametrize("size", [1, 2, 3])
def test_critics_of_small_states_tell_all_of_them_apart(size):
    critic = OnPolicyCritic(AgentLayout(("a", "b"), size, (2, 2), (1, 1)), MAPPOHyperparameters(**SMALL))
    randomize(critic)
    states = torch.rand(100, size, generator=torch.Generator().manual_seed(0))
    values = critic(states)
    assert len((20 * values / values.std()).round().unique()) > 20


def test_relabelling_agents_networks_and_order_relabels_the_result(monkeypatch):
    layout = layout_of(3, action_size=2)
    plain, relabelled, order = happo(layout), happo(layout), [2, 0, 1]
    for agent in range(3):
        relabelled.actor.actors[agent].load_state_dict(plain.actor.actors[order[agent]].state_dict())
    trajectory = acted_trajectory(plain.actor, 20)
    columns = ("observations", "drawn_actions", "log_probs", "actions", "last_observations")
    moved = {
        name: np.take(getattr(trajectory, name), order, axis=-1 if name == "log_probs" else -2) for name in columns
    }
    plain.add([trajectory])
    relabelled.add([replace(trajectory, **moved)])
    monkeypatch.setattr(plain, "_order", lambda: [order[1], order[2], order[0]])
    monkeypatch.setattr(relabelled, "_order", lambda: [1, 2, 0])
    plain.train_iteration(), relabelled.train_iteration()
    for agent in range(3):
        expected = weights(plain.actor.actors[order[agent]])
        assert torch.allclose(weights(relabelled.actor.actors[agent]), expected, atol=1e-6)


def test_the_critic_never_sees_agents():
    first, second = mappo(), mappo()
    trajectory = acted_trajectory(first.actor, 12)
    first.add([trajectory])
    second.add([replace(trajectory, observations=np.zeros_like(trajectory.observations))])
    first.train_iteration(), second.train_iteration()
    assert torch.equal(weights(first.critic), weights(second.critic))
    assert not torch.equal(weights(first.actor), weights(second.actor))


# Networks of one per agent


@pytest.mark.parametrize("layout", [UNEQUAL, DISCRETE], ids=["unequal", "discrete"])
def test_every_agent_acts_with_its_own_network_alone(layout):
    actors = randomize(AgentActors(layout, HAPPOHyperparameters(**SMALL)))
    trajectory = acted_trajectory(actors, 6)
    observations, drawn = torch.from_numpy(trajectory.observations), torch.from_numpy(trajectory.drawn_actions)
    together = actors(observations)
    for agent, actor in enumerate(actors.actors):
        index = torch.full((6,), agent)
        alone = actor(observations[:, agent], index)
        picked = actors(observations[:, agent], index)
        for policy in (alone, picked):
            assert torch.allclose(policy.log_prob(drawn[:, agent]), together.log_prob(drawn)[:, agent], atol=1e-6)
        assert torch.allclose(alone.deterministic().float(), together.deterministic()[:, agent].float(), atol=1e-6)


def test_draws_and_their_log_probabilities_belong_together():
    actors = randomize(AgentActors(UNEQUAL, HAPPOHyperparameters(**SMALL)))
    rows = torch.from_numpy(acted_trajectory(actors, 4).observations).flatten(0, 1)
    torch.manual_seed(3)
    actions, log_probs = actors.draw(rows)
    torch.manual_seed(3)
    assert torch.equal(actors.act(rows, deterministic=False), actions)
    assert torch.allclose(actors(rows, torch.tensor([0, 1] * 4)).log_prob(actions), log_probs)


# The trainer


@pytest.mark.parametrize("make", [mappo, happo])
@pytest.mark.parametrize("layout", [UNEQUAL, DISCRETE], ids=["unequal", "discrete"])
def test_everything_trains_and_a_restored_trainer_goes_on_bit_for_bit(make, layout):
    trainer, changes = make(layout, ppo_minibatches=2), {"ppo_minibatches": 2}
    before = {name: weights(network) for name, network in trainer._trained().items()}
    report = fed(trainer).train_iteration()
    assert {"policy_loss", "entropy", "kl", "clip_fraction", "actor_grad_norm"} == set(report["actor"])
    assert {"value_loss", "explained_variance", "return_mean"} <= set(report["critic"])
    assert all(not torch.equal(before[name], weights(net)) for name, net in trainer._trained().items())
    resumed = make(layout, **changes)
    resumed.load_state_dict(trainer.state_dict())
    resumed.actor.load_state_dict(trainer.actor.state_dict())
    resumed.critic.load_state_dict(trainer.critic.state_dict())
    for both in (trainer, resumed):
        fed(both).train_iteration()
    for name, network in trainer._trained().items():
        assert torch.equal(weights(network), weights(resumed._trained()[name]))
    assert trainer.num_env_steps == 32 and trainer.num_iterations == 2


def test_an_iteration_without_steps_learns_nothing():
    trainer = mappo()
    assert set(trainer.train_iteration()) == {"time"} and trainer.num_iterations == 0


def test_steps_without_log_probabilities_are_refused():
    trainer = mappo()
    with pytest.raises(ValueError, match="lacks the actions as they were drawn"):
        trainer.add([replace(acted_trajectory(trainer.actor, 3), log_probs=None)])


def test_a_loss_that_becomes_nan_is_named():
    trainer = fed(mappo(actor_lr=1e30))
    with pytest.raises(NonFiniteLossError, match="actor"):
        trainer.train_iteration()


def test_a_million_steps_are_250_iterations():
    for task in ("halfcheetah_2x3", "ant_4x2", "walker2d_2x3"):
        assert 1_000_000 / MAPPOHyperparameters.resolve({}, f"mamujoco_{task}").env_steps_per_iteration == 250


@pytest.mark.parametrize("kind", [MAPPOHyperparameters, HAPPOHyperparameters])
def test_every_family_and_preset_is_valid_and_the_general_file_can_be_chosen(kind):
    for family in (None, *kind.FAMILIES):
        for size in kind.MODEL_SIZES:
            kind.resolve({}, family, size)
        hp = kind.resolve({}, family, recipe="untuned")
        assert (hp.clip_param, hp.ppo_epochs, hp.actor_num_layers, hp.entropy_coeff) == (0.2, 5, 2, 0.01)
    tuned = kind.resolve({}, "mamujoco_walker2d_2x3")
    assert (tuned.clip_param, tuned.ppo_minibatches, tuned.actor_lr, tuned.lr_decay_steps) == (0.05, 2, 1e-3, 10**7)
