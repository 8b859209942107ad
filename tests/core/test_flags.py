"""Agents that have left, and actions that are unavailable: no influence, and no probability, at all."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.core import (
    LEAVING,
    MASKED,
    MASKED_LEAVING,
    SEVERAL,
    SWIFT,
    acted_trajectory,
    make_trainer,
    new_trainer,
    random_observations,
    random_trajectory,
    randomize,
    tiny,
)
from torch.distributions import Categorical

from rllib_dima.core.flags import Flags
from rllib_dima.core.imagination import imagine
from rllib_dima.core.model_free.happo import HAPPOTrainer
from rllib_dima.core.model_free.hasac import HASACTrainer
from rllib_dima.core.model_free.hyperparameters import HAPPOHyperparameters, HASACHyperparameters, MAPPOHyperparameters
from rllib_dima.core.model_free.mappo import MAPPOTrainer
from rllib_dima.core.model_free.on_policy import surrogate_loss
from rllib_dima.core.policy.data import PPOBatch
from rllib_dima.core.policy.distributions import MaskedMultiCategorical
from rllib_dima.core.policy.networks import Actor, AgentActors
from rllib_dima.core.policy.observation_normalizer import ObservationNormalizer
from rllib_dima.core.policy.ppo import standardised
from rllib_dima.core.replay.data import executed_actions

SMALL = {"actor_hidden_size": 8, "critic_hidden_size": 8}
FLAGGED = pytest.mark.parametrize("layout", [LEAVING, MASKED, MASKED_LEAVING], ids=["leaving", "masked", "both"])
LEFT = pytest.mark.parametrize("layout", [LEAVING, MASKED_LEAVING], ids=["continuous", "several choices"])


def weights_of(trainer):
    optimizers = trainer.optimizers.values()
    return torch.cat([p.detach().flatten() for optimizer in optimizers for p in optimizer.parameters])


def haunted(layout, observations, seed=9):
    """Observations in which agents that have left show random numbers, as no environment of ours would."""
    alive = layout.alive(torch.as_tensor(observations)).unsqueeze(-1) > 0
    noise = torch.randn(observations.shape, generator=torch.Generator().manual_seed(seed))
    disturbed = torch.where(alive, torch.as_tensor(observations), noise)
    start = max(layout.observation_sizes) + layout.num_flags - 1  # the alive flag, and the id behind it
    disturbed[..., start:] = torch.as_tensor(observations)[..., start:]
    return disturbed if isinstance(observations, torch.Tensor) else disturbed.numpy()


# Layout


def test_flags_stand_between_an_agents_entries_and_its_id():
    layout = MASKED_LEAVING
    assert layout.block_sizes == (4, 2, 3) and layout.action_size == 9 and layout.drawn_shape == (3,)
    assert layout.action_mask().int().tolist() == [
        [1, 1, 1, 0, 1, 1, 0, 0, 0], [1, 1, 1, 1, 0, 0, 0, 0, 0], [1, 1, 0, 0, 1, 1, 1, 1, 1],
    ]  # fmt: skip
    assert layout.observation_size == 3 + 9 + 1 + 3 and layout.num_flags == 10
    mask = layout.observation_mask()
    assert torch.equal(mask[:, 3:12], layout.action_mask()) and mask[:, 12:].all() and mask[0, :3].sum() == 2
    seen = random_observations(layout, 5)
    assert torch.equal(layout.alive(seen), seen[..., 12])
    assert torch.equal(layout.usable(layout.action_mask().float(), seen), seen[..., 3:12])
    assert SEVERAL.alive(seen) is None and SEVERAL.num_flags == 0


def test_actions_are_one_hot_by_choice_and_nothing_for_who_lacks_a_choice_or_has_left():
    drawn = np.array([[2, 1, 0], [3, 0, 0], [1, 0, 2]])
    expected = np.array([[0, 0, 1, 0, 0, 1, 0, 0, 0], [0, 0, 0, 1, 0, 0, 0, 0, 0], [0, 1, 0, 0, 1, 0, 0, 0, 1]])
    observations = random_observations(MASKED_LEAVING, 40).numpy()
    alive = MASKED_LEAVING.alive(torch.as_tensor(observations)).numpy()
    assert set(alive.flatten()) == {0, 1}
    executed = executed_actions(np.broadcast_to(drawn, (40, 3, 3)), observations, MASKED_LEAVING)
    np.testing.assert_array_equal(executed, expected * alive[..., None])


# Distributions


def test_several_choices_equal_the_enumeration_of_all_combinations():
    torch.manual_seed(0)
    sizes = (3, 2, 4)
    logits, mask = torch.randn(9) * 2, torch.tensor([1.0, 0, 1, 1, 1, 0, 1, 1, 1])
    logits.requires_grad_()
    policy = MaskedMultiCategorical(logits, mask, sizes)
    blocks = list(zip(logits.split(sizes), mask.split(sizes), strict=True))
    single = [Categorical(logits=own.masked_fill(has == 0, -1e9)) for own, has in blocks]
    combinations = torch.tensor(list(itertools.product(*map(range, sizes))))
    expected = torch.stack([part.probs[combinations[:, i]] for i, part in enumerate(single)]).prod(0)
    expanded = MaskedMultiCategorical(logits.expand(24, 9), mask.expand(24, 9), sizes)
    probabilities = expanded.log_prob(combinations).exp()
    assert torch.allclose(probabilities, expected, atol=1e-7)
    assert probabilities.sum().item() == pytest.approx(1, abs=1e-6)
    assert not probabilities[(combinations[:, 0] == 1) | (combinations[:, 2] == 0)].any(), "exactly zero"
    possible = expected[expected > 0]
    entropy = -(possible * possible.log()).sum()
    assert policy.entropy().item() == pytest.approx(entropy.item(), abs=1e-5)
    (gradient,) = torch.autograd.grad(policy.entropy(), logits, retain_graph=True)
    (true_gradient,) = torch.autograd.grad(entropy, logits)
    assert torch.allclose(gradient, true_gradient, atol=1e-5)
    assert torch.equal(policy.deterministic(), combinations[expected.argmax()])
    many = MaskedMultiCategorical(logits.detach().expand(20_000, 9), mask.expand(20_000, 9), sizes)
    counts = torch.zeros(sizes).index_put_(tuple(many.sample().T), torch.ones(20_000), accumulate=True).flatten()
    assert torch.all((counts / 20_000 - expected).abs() < 5 * (expected / 20_000).sqrt() + 1e-9)
    draws, negative_entropy = policy.reparameterised()
    assert torch.allclose(draws, torch.cat([torch.eye(part.numel())[part.argmax()] for part in draws.split(sizes)]))
    assert negative_entropy.item() == pytest.approx(-entropy.item(), abs=1e-5)


@FLAGGED
@pytest.mark.parametrize("network", [Actor, AgentActors])
def test_unavailable_actions_are_never_taken_and_those_who_left_do_nothing_for_certain(layout, network):
    model = randomize(network(layout, tiny(normalize_observations=network is Actor)), scale=2.0)
    observations = random_observations(layout, 300)
    usable, alive = layout.usable(layout.action_mask().float(), observations), layout.alive(observations)
    policy = model(observations)
    torch.manual_seed(0)
    for actions in (policy.sample(), policy.deterministic()):
        executed = model.executed(actions, observations)
        assert not executed[usable == 0].any()
        if layout.is_discrete:
            blocks = executed.split(list(layout.block_sizes), -1)
            able = [part.any(-1) for part in usable.split(list(layout.block_sizes), -1)]
            assert all(torch.equal(block.sum(-1) == 1, has) for block, has in zip(blocks, able, strict=True))
    if layout is MASKED:
        for choice in range(4):
            probability = policy.log_prob(torch.full((300, 3), choice)).exp()
            assert torch.equal(probability == 0, usable[..., choice] == 0), "exactly zero, or not"
    if alive is not None:
        gone = alive == 0
        actions, entropy = policy.sample(), policy.entropy().expand(alive.shape)
        assert not (actions[gone].any() or policy.log_prob(actions)[gone].any() or entropy[gone].any())
        model.zero_grad()
        (policy.log_prob(actions)[gone].sum() + entropy[gone].sum()).backward()
        assert not any(p.grad.any() for p in model.parameters() if p.grad is not None)
    mixed = model.act(observations.flatten(0, 1), deterministic=True)
    assert torch.allclose(mixed, policy.deterministic().flatten(0, 1), atol=1e-4)


# Losses and statistics, against brute force


@LEFT
def test_ppo_is_that_of_the_living_alone(layout):
    torch.manual_seed(1)
    model, observations = randomize(Actor(layout, tiny(entropy_coeff=0.1))), random_observations(layout, 40)
    alive = layout.alive(observations)
    with torch.no_grad():
        actions = model(observations).sample()
        log_probs = model(observations).log_prob(actions) + torch.randn(40, 2 if layout is LEAVING else 3) * 0.1 * alive
    weights, advantages = torch.rand(40), torch.randn(40)
    batch = PPOBatch(torch.zeros(40, 4), observations, actions, log_probs, advantages, advantages, advantages, weights)
    batch = batch._replace(alive=alive)
    scaled = standardised(batch)
    rows = [(m, n) for m in range(40) for n in range(layout.num_agents) if alive[m, n]]
    copies, copied = advantages[[m for m, _ in rows]], weights[[m for m, _ in rows]]
    mean = (copies * copied).sum() / copied.sum()
    deviation = ((copies - mean).square() * copied).sum() / copied.sum()
    assert torch.allclose(scaled.advantages, (advantages - mean) / (deviation.sqrt() + 1e-5), atol=1e-5)
    loss, metrics = model.loss(scaled)
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    expected = clip = 0.0
    for m, n in rows:  # a step of one agent after the other
        policy = model(observations[m, n].unsqueeze(0), torch.tensor([n]))
        ratio = (policy.log_prob(actions[m, n].unsqueeze(0)) - log_probs[m, n]).exp()
        surrogate = torch.minimum(ratio * scaled.advantages[m], ratio.clamp(0.9, 1.1) * scaled.advantages[m])
        expected = expected - weights[m] * (surrogate + 0.1 * policy.entropy()).sum() / copied.sum()
        clip += float((ratio - 1).abs() > 0.1) / len(rows)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    assert metrics["clip_fraction"].item() == pytest.approx(clip, abs=1e-6)
    for ours, theirs in zip(gradients, torch.autograd.grad(expected, list(model.parameters())), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


@LEFT
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_on_policy_surrogate_is_that_of_the_living_alone(layout, reduction):
    torch.manual_seed(2)
    hp = MAPPOHyperparameters(**SMALL, entropy_coeff=0.1, entropy_reduction=reduction)
    model, observations = randomize(Actor(layout, hp)), random_observations(layout, 30)
    alive = layout.alive(observations)
    with torch.no_grad():
        actions = model(observations).sample()
        log_probs = model(observations).log_prob(actions) + 0.3 * torch.randn(alive.shape) * alive
    advantages, factors = torch.randn(alive.shape), torch.rand(alive.shape)
    columns = actions, log_probs, advantages, factors
    loss, metrics = surrogate_loss(model(observations), *columns, hp, alive)
    rows, agents = (alive > 0).nonzero(as_tuple=True)
    living = (column[rows, agents] for column in columns)
    expected, expected_metrics = surrogate_loss(model(observations[rows, agents], agents), *living, hp)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert {k: v.item() for k, v in metrics.items()} == pytest.approx(
        {k: v.item() for k, v in expected_metrics.items()}, rel=1e-4, abs=1e-6
    )
    ours, theirs = (torch.autograd.grad(value, list(model.parameters())) for value in (loss, expected))
    assert all(torch.allclose(*pair, atol=1e-5) for pair in zip(ours, theirs, strict=True))


@LEFT
def test_statistics_of_observations_are_of_living_agents(layout):
    normalizer, parts = ObservationNormalizer(layout), [random_observations(layout, 60, seed=seed) for seed in (0, 1)]
    for part in parts:
        normalizer.update(part)
    everything = torch.cat(parts)
    for agent, size in enumerate(layout.observation_sizes):
        own = everything[:, agent, :size][layout.alive(everything)[:, agent] > 0]
        assert torch.allclose(normalizer.shift[agent, :size], own.mean(0), atol=1e-5)
        assert torch.allclose(normalizer.scale[agent, :size], 1 / own.std(0, correction=0), atol=1e-4)
    assert torch.equal(normalizer(everything)[..., normalizer.size :], everything[..., normalizer.size :])
    assert torch.equal(normalizer.denormalize(everything)[..., normalizer.size :], everything[..., normalizer.size :])


@LEFT
@pytest.mark.parametrize("recipe", [{}, SWIFT], ids=["paper", "swift"])
def test_dima_learns_nothing_from_what_agents_that_left_show(layout, recipe):
    hp = tiny(**recipe, weigh_by_continuation=bool(recipe), ppo_minibatches=2)
    found = []
    for shown in (lambda layout, x: x, haunted):
        trainer = new_trainer(layout, hp)
        for seed in range(2):
            chunk = random_trajectory(layout, 30, seed)
            trainer.add([replace(chunk, observations=shown(layout, chunk.observations))])
            metrics = trainer.train_iteration()
        found.append((weights_of(trainer), {part: metrics[part] for part in ("world_model", "actor", "critic")}))
    assert torch.equal(found[0][0], found[1][0]) and found[0][1] == found[1][1]


@LEFT
@pytest.mark.parametrize("algorithm", ["mappo", "mappo of networks of their own", "happo"])
def test_on_policy_learns_nothing_from_what_agents_that_left_show(layout, algorithm):
    found = []
    for shown in (lambda layout, x: x, haunted):
        if algorithm == "happo":
            trainer = make_trainer(HAPPOTrainer, layout, HAPPOHyperparameters(**SMALL, ppo_minibatches=2))
        else:
            hp = MAPPOHyperparameters(**SMALL, share_parameters=algorithm == "mappo")
            trainer = make_trainer(MAPPOTrainer, layout, hp)
        for seed in range(2):
            chunk = acted_trajectory(trainer.actor, 20, seed)
            trainer.add([replace(chunk, observations=shown(layout, chunk.observations))])
        metrics = trainer.train_iteration()
        found.append((weights_of(trainer), metrics["actor"], metrics["critic"]))
    assert torch.equal(found[0][0], found[1][0]) and found[0][1:] == found[1][1:]


@LEFT
def test_hasac_learns_nothing_from_what_agents_that_left_show(layout):
    found = []
    for shown in (lambda layout, x: x, haunted):
        hp = HASACHyperparameters(**SMALL, warmup_steps=0, updates_per_iteration=3, batch_size=16)
        trainer = make_trainer(HASACTrainer, layout, hp)
        chunk = random_trajectory(layout, 30, last_observations=random_observations(layout, seed=3).numpy())
        seen = {name: shown(layout, getattr(chunk, name)) for name in ("observations", "last_observations")}
        trainer.add([replace(chunk, **seen)])
        trainer.train_iteration()
        found.append(weights_of(trainer))
    assert found[0].isfinite().all() and torch.equal(*found)


# The state decoder


def test_flags_are_read_as_an_environment_would_set_them():
    decoded = torch.randn(500, 3, MASKED_LEAVING.observation_size, generator=torch.Generator().manual_seed(0))
    flags, logits = Flags(MASKED_LEAVING).set(decoded), decoded[..., 3:12]
    alive = decoded[..., 12] > 0
    assert torch.equal(flags[..., 12] == 1, alive) and not flags[~alive][:, :13].any()
    assert torch.equal(flags[..., 13:], decoded[..., 13:])
    for agent, choices in enumerate(((3, 2), (4,), (2, 2, 3))):
        start = 0
        for size, width in zip(choices, MASKED_LEAVING.block_sizes, strict=False):
            own = logits[:, agent, start : start + size]
            expected = own > 0
            expected[~expected.any(-1), own.argmax(-1)[~expected.any(-1)]] = True
            found = flags[:, agent, 3 + start : 3 + start + width]
            assert torch.equal(found[:, :size] == 1, expected & alive[:, agent, None]) and not found[:, size:].any()
            start += width
    missing = Flags(MASKED).set(torch.full((1, 3, MASKED.observation_size), -5.0))
    assert missing[..., MASKED.available_slice].any(-1).all()


@FLAGGED
def test_decoder_loss_is_of_the_living_and_their_flags(layout):
    trainer = new_trainer(layout, tiny(normalize_observations=False))
    decoder, observations = trainer.world_model.state_decoder, random_observations(layout, 20)
    decoded, first = decoder._decode(torch.ones(20, 4)), max(layout.observation_sizes)
    loss, metrics = decoder.loss(torch.ones(20, 4), observations)
    alive = layout.alive(observations)
    values, masks, wrong, lives = [], [], [], []
    read, mask = decoder(torch.ones(20, 4)), layout.observation_mask()
    for m, n in itertools.product(range(20), range(layout.num_agents)):
        for entry in range(layout.observation_size):
            true, found = observations[m, n, entry].item(), decoded[m, n, entry].item()
            is_flag = first <= entry < first + layout.num_flags
            chance = 1 / (1 + np.exp(-found)) if is_flag else 0
            if layout.agents_leave and entry == layout.observation_size + layout.alive_index:
                lives.append(-np.log(chance if true else 1 - chance))
            elif mask[n, entry] and (alive is None or alive[m, n]):
                if is_flag:
                    masks.append(-np.log(chance if true else 1 - chance))
                    wrong.append(read[m, n, entry].item() != true)
                else:
                    values.append((true - found) ** 2)
    expected = np.mean(values) + sum(np.mean(part) for part in (masks, lives) if part)
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    assert metrics["decoder_loss"].item() == pytest.approx(np.mean(values), rel=1e-4)
    assert ("mask_error" in metrics) == layout.masks_actions and ("alive_error" in metrics) == layout.agents_leave
    if layout.masks_actions:
        assert metrics["mask_error"].item() == pytest.approx(np.mean(wrong), abs=1e-6)


@FLAGGED
def test_decoder_learns_flags_that_the_state_tells(layout):
    settings = {"decoder_updates_per_iteration": 300, "decoder_lr": 1e-2, "decoder_batch_size": 64}
    trainer = new_trainer(layout, tiny(**settings, decoder_num_tokens=8))
    chunk = random_trajectory(layout, 120)
    for n in range(layout.num_agents):
        if layout.masks_actions:
            chunk.observations[:, n, layout.available_slice][:, 1] = chunk.states[:-1, n] > 2
        if layout.agents_leave:
            chunk.observations[:, n, layout.alive_index] = chunk.states[:-1, n] > 2
    trainer.add([chunk])
    metrics = trainer.train_iteration()["world_model"]
    assert metrics.get("alive_error", 0) < 0.2 and metrics.get("mask_error", 0) < 0.3


# Imagination


@FLAGGED
def test_imagined_agents_never_take_what_is_unavailable_and_come_back(layout):
    trainer = new_trainer(layout, tiny(num_imagined_rollouts=64))
    trainer.add([random_trajectory(layout, 40)])
    randomize(trainer.world_model.state_decoder, scale=1.0)
    randomize(trainer.actor, scale=1.0)
    start = trainer.replay.sample(64, past=2)
    executed = []
    model = trainer.world_model.eval()
    step = model.reset(start).__class__.step

    class Watched(model.reset(start).__class__):
        def step(self, actions):
            executed.append(actions)
            return step(self, actions)

    model.reset = lambda begin: Watched(model, begin)
    rollout = imagine(model.reset(start), trainer.actor, 4)
    usable = layout.usable(layout.action_mask().float(), rollout.observations)
    assert not torch.stack(executed)[usable == 0].any()
    alive = layout.alive(rollout.observations)
    if layout.masks_actions:
        living = torch.ones(4, 64, layout.num_agents) if alive is None else alive
        assert usable[..., : layout.block_sizes[0]].any(-1).logical_or(living == 0).all()
        assert set(usable[1:].unique().tolist()) == {0, 1}
    if alive is not None:
        assert ((alive[1:-1] == 0) & (alive[2:] == 1)).any(), "some come back"
        assert not rollout.log_probs[alive == 0].any()
