"""MAMBA against closed forms, brute force and perturbations: what may depend on what, and when."""

import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from support.core import (
    DISCRETE,
    LEAVING,
    MASKED_LEAVING,
    SEVERAL,
    TINY_MAMBA,
    UNEQUAL,
    make_trainer,
    random_actions,
    random_observations,
    random_trajectory,
    randomize,
)
from torch.nn import functional

from rllib_dima.core.imagination import imagine
from rllib_dima.core.layout import AgentLayout
from rllib_dima.core.mamba.hyperparameters import MAMBAHyperparameters
from rllib_dima.core.mamba.latents import balanced_kl, kl_divergence, straight_through
from rllib_dima.core.mamba.policy import LatentCritic, MAMBAPolicy
from rllib_dima.core.mamba.representation import Latent
from rllib_dima.core.mamba.trainer import MAMBATrainer
from rllib_dima.core.mamba.world_model import WorldModel
from rllib_dima.core.policy.ppo import ppo_batch
from rllib_dima.core.policy.returns import lambda_returns
from rllib_dima.core.replay.data import Window

TEAMS = {"continuous": UNEQUAL, "discrete": DISCRETE, "several": SEVERAL, "leaving": LEAVING, "both": MASKED_LEAVING}


def small(**changes):
    return MAMBAHyperparameters(**{**TINY_MAMBA, **changes})


def world_model(layout=UNEQUAL, **changes):
    return randomize(WorldModel(layout, small(**changes)).eval(), scale=0.5)


def certain(model):
    """The model with probabilities as stochastic states, so that nothing is random and all has an influence."""
    model.representation.draw = lambda logits, likeliest_alone=False: logits.softmax(-1).flatten(-2)
    return model


def window(layout=UNEQUAL, length=6, batch_size=3, seed=0):
    """Windows in the middle of episodes."""
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(batch_size, length + 1, 4, generator=generator)
    return Window(
        states[:, :-1],
        states[:, 1:],
        random_observations(layout, batch_size, length, seed=seed),
        random_actions(layout, batch_size, length, seed=seed),
        torch.randn(batch_size, length, generator=generator),
        torch.zeros(batch_size, length, dtype=torch.bool),
        torch.ones(batch_size, length, dtype=torch.bool),
    )


def changed(given, name, step):
    """The window with other values of a column at one step."""
    column = getattr(given, name).clone()
    column[:, step] = getattr(window(seed=1), name)[:, step]
    return replace(given, **{name: column})


# Latents


def test_kl_of_one_categorical_of_two_classes_is_that_by_hand():
    logits = torch.tensor([[[0.2, -0.4]], [[1.0, 0.3]]], dtype=torch.float64)  # float32: 4 digits
    posterior, prior = logits.log_softmax(-1)
    q, p = posterior.exp()[0].tolist(), prior.exp()[0].tolist()
    expected = sum(a * (math.log(a) - math.log(b)) for a, b in zip(q, p, strict=True))
    assert math.isclose(kl_divergence(posterior.exp(), prior.exp()), expected, rel_tol=1e-5)
    several = torch.stack([torch.cat([x, x.flip(-1)]) for x in (posterior.exp(), prior.exp())])
    assert math.isclose(kl_divergence(*several), expected, rel_tol=1e-5), "a mean over categoricals, not their sum"


def test_balance_leaves_the_value_and_scales_both_gradients():
    posterior, prior = (torch.randn(5, 3, 4, requires_grad=True) for _ in range(2))
    plain = kl_divergence(posterior.softmax(-1), prior.softmax(-1)).mean()
    of_posterior, of_prior = torch.autograd.grad(plain, (posterior, prior))
    for balance in (0.8, 0.5):
        ours = balanced_kl(posterior, prior, balance).mean()
        assert torch.allclose(ours, plain)
        first, second = torch.autograd.grad(ours, (posterior, prior))
        assert torch.allclose(first, (1 - balance) * of_posterior, atol=1e-7)
        assert torch.allclose(second, balance * of_prior, atol=1e-7)


def test_draws_are_one_hot_with_the_probabilities_gradient():
    logits, weights = torch.randn(50, 3, 4, requires_grad=True), torch.randn(50, 3, 4)
    drawn = straight_through(logits)
    assert set(drawn.unique().tolist()) == {0.0, 1.0} and torch.equal(drawn.sum(-1), torch.ones(50, 3))
    ours, expected = (torch.autograd.grad((weights * x).sum(), logits)[0] for x in (drawn, logits.softmax(-1)))
    assert torch.allclose(ours, expected, atol=1e-7)
    many = straight_through(torch.tensor([[0.2, 0.5, 0.3]]).log().expand(20_000, 1, 3)).mean(0)
    assert torch.allclose(many, torch.tensor([[0.2, 0.5, 0.3]]), atol=0.02)


# World model


def predictions(model, given):
    """What the model says of every step 1..T of a window: observation, last action, reward and continuation."""
    torch.manual_seed(0)
    track = model.track(given, num_before=1)
    told = model.decoder(track.latent.features)
    reward, continuation = model._outcomes(track.latent.z, track.next_h)
    return model.observation(told), model.information(told), reward, continuation


@torch.no_grad()
def test_rewards_know_the_present_action_and_reconstructions_the_one_before():
    model, given, step = certain(world_model()), window(), 3  # row 3, the third of which something is said
    before = predictions(model, given)

    def reach(column, row):
        """The first of the steps of which something else is said: observation, action, reward, continuation."""
        after = predictions(model, changed(given, column, row))
        differs = [(a != b).flatten(2).any(-1).any(0) for a, b in zip(before, after, strict=True)]
        return [1 + int(steps.int().argmax()) for steps in differs]

    assert reach("actions", step) == [step + 1, step + 1, step, step]
    assert reach("observations", step) == [step, step, step, step]
    assert reach("actions", 0) == [1, 1, 1, 1], "the first row gives its action"
    assert not any(torch.equal(a, b) for a, b in zip(before, predictions(model, window(seed=2)), strict=True))
    torch.testing.assert_close(before, predictions(model, changed(given, "observations", 0)), rtol=0, atol=0)


@torch.no_grad()
def test_the_cell_follows_its_gate_equations_and_reads_what_was_communicated_alone():
    model = world_model().representation
    actions, h, z = random_actions(UNEQUAL, 5), torch.randn(5, 2, 6), torch.rand(5, 2, 12)
    heard = model.communication(torch.relu(torch.cat([actions, z], -1) @ model.message.weight.T + model.message.bias))
    gates, own = heard @ model.cell.weight_ih.T + model.cell.bias_ih, h @ model.cell.weight_hh.T + model.cell.bias_hh
    (reset, update, new), (own_reset, own_update, own_new) = gates.chunk(3, -1), own.chunk(3, -1)
    reset, update = (reset + own_reset).sigmoid(), (update + own_update).sigmoid()
    expected = (1 - update) * (new + reset * own_new).tanh() + update * h
    assert torch.allclose(model.advance(Latent(h, z), actions), expected, atol=1e-5)
    one, other = model.advance(Latent(h, z), actions), actions.clone()
    other[:, 1] = -other[:, 1]
    assert not torch.allclose(model.advance(Latent(h, z), other)[:, 0], one[:, 0], atol=1e-3), "agents hear each other"


@torch.no_grad()
def test_a_rollout_goes_on_where_the_real_steps_are_left_and_its_rewards_are_averaged_over_agents():
    model, given = certain(world_model()), window()
    simulation, track = model.reset(given), model.track(given)
    assert torch.equal(simulation.states, Latent(track.latent.h[:, -1], track.latent.z[:, -1]).features)
    assert torch.equal(simulation.observations, given.observations[:, -1])
    step = simulation.step(given.actions[:, -1])
    assert torch.allclose(step.states[..., -6:], track.next_h[:, -1], atol=1e-6), "h follows the real one"
    reward, continuation = (x.squeeze(-1)[:, -1] for x in model._outcomes(track.latent.z, track.next_h))
    assert torch.allclose(step.rewards, reward.mean(1, keepdim=True), atol=1e-6)
    assert torch.allclose(step.continuations, continuation.sigmoid(), atol=1e-6)
    prior = model.representation.classes(model.prior(track.next_h[:, -1]))
    assert torch.allclose(step.states[..., :-6], prior.softmax(-1).flatten(-2), atol=1e-6)
    assert torch.equal(step.observations, model.decode(Latent(step.states[..., -6:], step.states[..., :-6])))


@torch.no_grad()
def test_a_window_begins_with_nothing_known_and_ends_where_its_episode_does():
    model, whole = certain(world_model()), window()
    valid = whole.valid.clone()
    valid[:, 0], valid[:, 4:] = False, False  # an episode of steps 1 to 3
    cut = replace(whole, valid=valid)
    for column in ("observations", "actions", "rewards"):
        for step in (0, 4, 5):
            assert torch.equal(model.loss(cut)[0], model.loss(changed(cut, column, step))[0])
    short = Window(*(getattr(cut, field.name)[:, :4] for field in fields(Window)))
    assert torch.allclose(model.loss(cut)[0], model.loss(short)[0], atol=1e-6)
    alone = Window(*(getattr(whole, field.name)[:, 1:4] for field in fields(Window)))
    found, expected = model.track(cut, num_before=1), model.track(alone)
    for ours, theirs in zip((*found.latent, found.next_h), (*expected.latent, expected.next_h), strict=True):
        assert torch.allclose(ours[:, :3], theirs, atol=1e-6), (
            "the first action is zero, the last h is not that of zeros"
        )
    late = Window(*(getattr(whole, field.name).roll(2, 1) for field in fields(Window)))
    late.valid[:, :2] = False
    whole_cut = Window(*(getattr(whole, field.name)[:, :4] for field in fields(Window)))
    simulated, expected = model.reset(late), model.reset(whole_cut)
    assert torch.allclose(simulated.states, expected.states, atol=1e-6), "contexts begin late"


@pytest.mark.parametrize("layout", TEAMS.values(), ids=TEAMS)
def test_losses_are_those_written_down(layout):
    model, given = certain(world_model(layout)), window(layout)
    given.terminated[0, -1] = True
    with torch.no_grad():
        loss, metrics = model.loss(given)
        decoded, predicted, reward, continuation = predictions(model, given)
    decoded, reward, continuation = decoded.double(), reward.squeeze(-1).double(), continuation.squeeze(-1).double()
    first, flags = max(layout.observation_sizes), layout.num_flags
    expected = dict.fromkeys(("reconstruction_loss", "reward_loss", "continuation_loss", "information_loss"), 0.0)
    count = 3 * 5 * layout.num_agents
    for b in range(3):
        for t in range(5):
            for i in range(layout.num_agents):
                for o in range(layout.observation_size):
                    if layout.observation_mask()[i, o]:
                        truth, said = given.observations[b, t + 1, i, o].double(), decoded[b, t, i, o]
                        if first <= o < first + flags:
                            error = functional.softplus(said) - truth * said
                        else:
                            error = functional.smooth_l1_loss(said, truth)
                        expected["reconstruction_loss"] += error / count
                error = functional.smooth_l1_loss(reward[b, t, i], given.rewards[b, t + 1].double())
                expected["reward_loss"] += error / count
                sign = -1 if given.terminated[b, t + 1] else 1
                expected["continuation_loss"] += functional.softplus(-sign * continuation[b, t, i]) / count
                told = information(layout, i, predicted[b, t, i].double(), given.actions[b, t, i].double())
                expected["information_loss"] += told / count
    for name, value in expected.items():
        assert math.isclose(metrics[name], value, rel_tol=1e-4), name
    parts = sum(float(metrics[name]) for name in (*expected, "kl_loss"))
    assert math.isclose(loss, parts, rel_tol=1e-5) and metrics["kl_loss"] > 0
    weighted = world_model(layout, reward_weight=2.0, continuation_weight=3.0, information_weight=4.0)
    more = sum(weight * float(metrics[f"{name}_loss"]) for name, weight in MORE.items())
    with torch.no_grad():
        assert math.isclose(certain(weighted).loss(given)[0], parts + more, rel_tol=1e-5)


MORE = {"reward": 1, "continuation": 2, "information": 3}


def information(layout, agent, predicted, action):
    """Half a squared error of real entries, or minus the log-probabilities of what was chosen among real choices."""
    real = layout.action_mask()[agent]
    if not layout.is_discrete:
        return 0.5 * (predicted - action)[real].square().sum()
    total, start = 0.0, 0
    for width in layout.block_sizes:
        block = slice(start, start + width)
        own = real[block]
        if action[block].any():
            total -= predicted[block][own].log_softmax(-1)[int(action[block][own].argmax())]
        start += width
    return total


def test_information_teaches_the_posterior_and_the_encoder_but_not_the_prior():
    model = world_model()
    loss = model.loss(window())[1]["information_loss"]
    assert not loss.requires_grad
    track = model.track(window(), num_before=1)
    model._information(model.decoder(track.latent.features), window().actions[:, :-1]).mean().backward()
    reached = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    modules = {name.split(".")[0] if "representation" not in name else name.split(".")[1] for name in reached}
    assert modules == {"information", "decoder", "encoder", "posterior", "message", "communication", "cell"}


def test_action_information_is_least_where_states_tell_the_action():
    model, given = world_model(), window()
    model.information = torch.nn.Identity()
    exact = functional.pad(given.actions[:, :-1], (0, 6))[..., :2]
    assert model._information(exact, given.actions[:, :-1]).abs().max() == 0
    assert (model._information(exact + 0.1, given.actions[:, :-1]) > 0).all()


# Acting


@torch.no_grad()
@pytest.mark.parametrize("layout", TEAMS.values(), ids=TEAMS)
def test_acting_step_by_step_observes_the_sequence(layout):
    model, policy = world_model(layout), MAMBAPolicy(layout, small()).eval()
    policy.follow(model.representation)
    certain(model)
    certain(policy)
    given, memory, actions = window(layout), torch.zeros(3, layout.num_agents, policy.memory_size), []
    for step in range(6):
        drawn, memory = policy.act_jointly(given.observations[:, step], memory, deterministic=False)
        actions.append(policy.executed(drawn, given.observations[:, step]))
    track = model.track(replace(given, actions=torch.stack(actions, dim=1)))
    h, z, last = memory.split([6, 12, layout.action_size], -1)
    assert torch.allclose(h, track.latent.h[:, -1], atol=1e-6)
    assert torch.allclose(z, track.latent.z[:, -1], atol=1e-6)
    assert torch.equal(last, actions[-1])
    order = torch.tensor([2, 0, 1])
    once, again = (policy.act_jointly(given.observations[o, 0], memory[o], True) for o in (slice(None), order))
    for ours, theirs in zip(once, again, strict=True):
        assert torch.allclose(ours[order].double(), theirs.double(), atol=1e-6), "teams do not see each other"


@torch.no_grad()
def test_stochastic_states_are_drawn_in_evaluation_too_unless_told_not_to():
    given, shape = random_observations(UNEQUAL, 40), (40, 2, 20)
    for samples in (True, False):
        policy = randomize(MAMBAPolicy(UNEQUAL, small(sample_latents_in_evaluation=samples)))
        first, second = (policy.act_jointly(given, torch.zeros(shape), True) for _ in range(2))
        assert torch.equal(first[1], second[1]) != samples
        drawn = [policy.act_jointly(given, torch.zeros(shape), False)[0] for _ in range(2)]
        assert not torch.equal(*drawn)


@torch.no_grad()
def test_padding_has_no_influence_on_acting():
    policy = certain(randomize(MAMBAPolicy(UNEQUAL, small())))
    given, memory = random_observations(UNEQUAL, 4), torch.zeros(4, 2, 20)
    disturbed = torch.where(UNEQUAL.observation_mask(), given, torch.tensor(8.0))
    for ours, theirs in zip(*(policy.act_jointly(x, memory, True) for x in (given, disturbed)), strict=True):
        assert torch.equal(ours, theirs)


def test_units_of_observations_do_not_matter_where_they_are_normalised():
    """With the same networks and random numbers, losses are the same and what is imagined has the units."""
    found = []
    for scale, shift in ((1.0, 0.0), (100.0, 7.0)):
        trainer, plain = make_trainer(MAMBATrainer, UNEQUAL, small(normalize_observations=True)), UNEQUAL
        trajectory = random_trajectory(plain, 40)
        observations = trajectory.observations.copy()
        observations[..., :3] = (scale * observations + shift)[..., :3] * plain.observation_mask()[:, :3].numpy()
        trainer.add([replace(trajectory, observations=observations)])
        losses = trainer.train_iteration()["world_model"]
        torch.manual_seed(0)
        simulation = trainer.begin_rollouts()
        with torch.no_grad():
            own = simulation.step(random_actions(plain, 12)).observations[..., :2]
            acted = trainer.policy.act_jointly(torch.as_tensor(observations[:5]), torch.zeros(5, 2, 20), True)[1]
        found.append(
            (torch.tensor([losses["model_loss"], losses["reconstruction_loss"]]), (own - shift) / scale, acted)
        )
    for first, second in zip(*found, strict=True):
        assert torch.allclose(first, second, atol=2e-3)


# Settings


def test_sizes_that_do_not_go_together_are_refused_with_what_to_do():
    for name, settings in {
        "communication_heads": {"model_hidden_size": 10, "communication_heads": 4},
        "critic_num_heads": {"critic_hidden_size": 10, "critic_num_heads": 4},
        "window_length": {"replay_capacity": 21, "window_length": 22},
        "ppo_minibatches": {"num_imagined_windows": 1, "imagination_horizon": 1, "ppo_minibatches": 5},
    }.items():
        with pytest.raises(ValueError, match=name):
            small(**settings)


@pytest.mark.parametrize("size", MAMBAHyperparameters.MODEL_SIZES)
def test_presets_are_valid_and_the_published_size_has_the_published_networks(size):
    for family in (None, *MAMBAHyperparameters.FAMILIES):
        hp = MAMBAHyperparameters.resolve({}, family, size)
        assert hp.num_imagined_rollouts == {"paper": 720, "nano": 288}[size]
    layout = AgentLayout(("a", "b"), 4, (19, 19), (3, 3))  # as HalfCheetah-2x3
    model, critic = WorldModel(layout, hp), LatentCritic(layout, hp)
    counts = [round(sum(p.numel() for p in network.parameters()) / 1e6, 2) for network in (model, critic)]
    assert counts == {"paper": [4.16, 0.79], "nano": [0.37, 0.05]}[size]


# Behaviour learning


def trained(layout=UNEQUAL, **changes):
    trainer = make_trainer(MAMBATrainer, layout, small(**changes))
    trainer.add([random_trajectory(layout, 40)])
    return trainer


@pytest.mark.parametrize("layout", TEAMS.values(), ids=TEAMS)
def test_an_iteration_changes_every_network_and_the_policy_takes_over_the_representation(layout):
    trainer = trained(layout)
    networks = {"world_model": trainer.world_model, "actor": trainer.actor, "critic": trainer.critic}
    before = {name: torch.nn.utils.parameters_to_vector(x.parameters()).clone() for name, x in networks.items()}
    metrics = trainer.train_iteration()
    for name, network in networks.items():
        assert not torch.equal(torch.nn.utils.parameters_to_vector(network.parameters()), before[name])
    ours, theirs = (x.representation.state_dict() for x in (trainer.policy, trainer.world_model))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert {name: o.num_updates for name, o in trainer.optimizers.items()} == {
        "world_model": 3, "actor": 2 * 2 * 2, "critic": 2 * 2 * 2,
    }  # fmt: skip
    assert set(metrics) == {"world_model", "actor", "critic", "time"}


def test_nothing_is_learnt_before_enough_steps():
    trainer = trained(num_steps_before_learning=41)
    assert set(trainer.train_iteration()) == {"time"} and trainer.num_iterations == 0


@torch.no_grad()
def test_rollouts_begin_at_steps_that_happened_each_as_often_as_another():
    trainer = make_trainer(MAMBATrainer, UNEQUAL, small(num_imagined_windows=40, window_length=8))
    for seed in range(8):  # episodes of 3 steps: windows of up to 8 are mostly not valid
        trajectory = random_trajectory(UNEQUAL, 3, seed, terminated=True)
        trainer.add([replace(trajectory, observations=trajectory.observations * 0 + seed)])
    simulation = trainer.begin_rollouts()
    assert simulation.states.shape == (40 * 6, 2, 18)
    seen = simulation.observations[:, 0, 0]
    counts = torch.stack([(simulation.states == state).all(-1).all(-1).sum() for state in simulation.states])
    assert set(seen.tolist()) <= set(range(8)) and counts.min() >= 2
    assert not (simulation.states[..., -6:] == 0).all(-1).any(), "none begins after an end"


@torch.no_grad()
def test_returns_differ_between_agents_through_values_and_continuations_only():
    trainer = trained()
    trainer.world_model.eval()
    rollout = imagine(trainer.begin_rollouts(), trainer.actor, 4)
    assert rollout.rewards.shape == (4, 12, 1) and rollout.continuations.shape == (4, 12, 2)
    batch, _ = ppo_batch(rollout, trainer.critic, trainer.hp)
    values = trainer.critic(rollout.states)
    assert values.shape == (5, 12, 2) and batch.returns.shape == (48, 2)
    for agent in range(2):
        own = lambda_returns(rollout.rewards[..., 0], rollout.continuations[..., agent], values[..., agent], 0.99, 0.95)
        assert torch.allclose(batch.returns[:, agent].view(4, 12), own, atol=1e-5)
    same = rollout._replace(continuations=rollout.continuations[..., :1].expand(4, 12, 2))
    trainer.critic.network[-1][-1].weight.zero_()
    equal, _ = ppo_batch(same, trainer.critic, trainer.hp)
    assert torch.equal(equal.returns[:, 0], equal.returns[:, 1])


@torch.no_grad()
def test_a_critic_values_each_agent_by_the_states_of_all():
    critic, features = randomize(LatentCritic(UNEQUAL, small())), torch.randn(7, 2, 18)
    other = features.clone()
    other[:, 1] += 1
    assert critic(features).shape == (7, 2)
    assert not torch.allclose(critic(features)[:, 0], critic(other)[:, 0], atol=1e-4)


def test_the_entropy_bonus_fades_with_every_pass():
    trainer = trained(entropy_decay=0.5, entropy_coeff=0.2)
    trainer.train_iteration()
    # 2 batches of 2 passes of 2 minibatches: the last pass began after 6 of 8
    assert math.isclose(trainer.actor.entropy_coeff, 0.2 * 0.5**6, rel_tol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("layout", [LEAVING, MASKED_LEAVING], ids=["leaving", "both"])
def test_imagined_agents_do_what_they_can(layout):
    trainer = trained(layout)
    randomize(trainer.world_model, scale=1.0)
    trainer.world_model.eval()
    rollout = imagine(trainer.begin_rollouts(), trainer.actor, 4)
    of_latents = trainer.actor.layout
    alive = of_latents.alive(rollout.observations)
    assert set(alive.unique().tolist()) == {0, 1} and not rollout.log_probs[alive == 0].any()
    executed = trainer.actor.executed(rollout.actions, rollout.observations)
    assert not executed[alive == 0].any()
    usable = of_latents.usable(layout.action_mask().float(), rollout.observations)
    if not layout.is_discrete:
        assert not executed[usable == 0].any()
        return
    choices = executed.split(list(layout.block_sizes), -1)
    for chosen, can in zip(choices, usable.split(list(layout.block_sizes), -1), strict=True):
        assert not chosen[(can == 0) & can.any(-1, keepdim=True)].any()


def test_every_agent_learns_a_reward_that_one_of_them_alone_decides_and_that_one_to_get_it():
    trainer = make_trainer(MAMBATrainer, UNEQUAL, small(**GAME))
    random = np.random.default_rng(0)
    for seed in range(30):
        trajectory = random_trajectory(UNEQUAL, 20, seed)
        observations = trajectory.observations.copy()
        actions = random.uniform(-1, 1, (20, 2, 2)).astype(np.float32) * UNEQUAL.action_mask().numpy()
        observations[..., :3] = 0
        trainer.add([replace(trajectory, observations=observations, actions=actions, rewards=actions[:, 1, 0])])
    first = trainer.train_iteration()["world_model"]["reward_loss"]
    for _ in range(2):
        last = trainer.train_iteration()["world_model"]["reward_loss"]
    assert last < 0.3 * first
    with torch.no_grad():
        simulation = trainer.begin_rollouts()
        action = trainer.actor(simulation.actor_inputs).deterministic()[:, 1, 0]
    assert action.mean() > 0.5 and torch.quantile(action, 0.1) > 0.2


GAME = {
    "replay_capacity": 600,
    "model_hidden_size": 16,
    "deterministic_size": 16,
    "model_updates_per_iteration": 40,
    "model_batch_size": 16,
    "policy_updates_per_iteration": 4,
    "model_lr": 5e-3,
    "actor_lr": 5e-3,
    "critic_lr": 5e-3,
}
