"""MARIE against double loops, closed forms and references of a few lines."""

import math

import pytest
import torch
from support.core import (
    DISCRETE,
    LEAVING,
    MASKED,
    MASKED_LEAVING,
    SEVERAL,
    TINY_MARIE,
    UNEQUAL,
    layout_of,
    make_trainer,
    random_actions,
    random_observations,
    random_trajectory,
    randomize,
)  # fmt: skip
from torch import nn
from torch.nn import functional

from rllib_dima.core.marie import world_model as world_model_module
from rllib_dima.core.marie.action_tokens import ActionTokens
from rllib_dima.core.marie.hl_gauss import HLGauss
from rllib_dima.core.marie.hyperparameters import MARIEHyperparameters
from rllib_dima.core.marie.networks import MARIEActor, MARIECritic
from rllib_dima.core.marie.perceiver import Perceiver
from rllib_dima.core.marie.symlog import symexp, symlog
from rllib_dima.core.marie.tokenizers import make_tokenizer
from rllib_dima.core.marie.trainer import MARIETrainer
from rllib_dima.core.marie.world_model import MARIEWorldModel
from rllib_dima.core.replay.data import Window

LAYOUTS = {
    "continuous": UNEQUAL, "discrete": DISCRETE, "several": SEVERAL, "leaving": LEAVING, "masked": MASKED,
    "masked leaving": MASKED_LEAVING,
}  # fmt: skip
KINDS = ("vq", "fsq", "bins")


def hyperparameters(**changes):
    return MARIEHyperparameters(**{**TINY_MARIE, "tokenizer": "bins", **changes})


def new_model(layout=UNEQUAL, scale=0.5, **changes):
    torch.manual_seed(0)
    model = MARIEWorldModel(layout, hyperparameters(**changes))
    randomize(model.sequence_model, scale=scale)
    return model.eval()


def random_tokens(model, batch=3, steps=4, seed=0):
    """(B, T, N, K) of observations and (B, T, N, F) of actions."""
    layout = model.layout
    tokens = model.tokenizer.encode(random_observations(layout, batch, steps, seed=seed))
    return tokens, model.action_tokens.encode(random_actions(layout, batch, steps, seed=seed))


# tokens


def test_action_bins_are_uniform_and_closed_above():
    layout, bins = layout_of(2, action_size=1), 16
    tokens = ActionTokens(layout, bins)
    actions = torch.linspace(-1, 1, 4001, dtype=torch.float64).float()
    found = tokens.encode(actions.view(-1, 1, 1).expand(-1, 2, 1))[:, 0, 0]
    assert found[0] == 0 and found[-1] == bins - 1 and torch.all(found.diff() >= 0)
    assert tokens.encode(torch.full((1, 2, 1), 3.0)).unique().item() == bins - 1  # clipped
    centres = (found + 0.5) * 2 / bins - 1
    assert torch.all((actions - centres).abs() <= 1 / bins + 1e-6)
    off_edges = ((actions.double() + 1) / 2 * bins) % 1 > 1e-4
    for action, number in zip(actions[off_edges].tolist()[::7], found[off_edges].tolist()[::7], strict=True):
        assert number == math.ceil((action + 1) / 2 * bins) - 1


@pytest.mark.parametrize("layout", [DISCRETE, SEVERAL], ids=["discrete", "several"])
def test_choices_are_tokens_and_padding_always_the_same(layout):
    tokens, actions = ActionTokens(layout, 8), random_actions(layout, 20)
    found = tokens.encode(actions)
    assert found.shape == (20, 3, 3 if layout.is_factored else 1) and found.max() < tokens.num_codes == 4
    blocks = actions.split(list(layout.block_sizes), -1)
    for block, numbers in zip(blocks, found.unbind(-1), strict=True):
        real = block.sum(-1) > 0
        assert torch.equal(functional.one_hot(numbers, block.shape[-1]).float()[real], block[real])
        assert torch.all(numbers[~real] == 0)


def test_symlog_has_an_inverse():
    x = torch.tensor([-1e6, -19.1, -1, -1e-3, 0, 0.5, 7, 1e4])
    assert torch.allclose(symexp(symlog(x)), x, rtol=1e-4)


def test_histograms_are_a_gaussian_over_bins():
    histogram = HLGauss(128, 3.0, 0.75)
    assert math.isclose(histogram.sigma, 0.03516, rel_tol=1e-3)
    targets = torch.linspace(-2.9, 2.9, 777)
    masses = histogram.masses(targets)
    assert torch.allclose(masses.sum(-1), torch.ones(777), atol=1e-6)
    assert torch.all(((masses * histogram.centres).sum(-1) - targets).abs() < 3.2e-4)
    entropy = torch.special.entr(masses).sum(-1)
    assert torch.all((entropy > 1.187) & (entropy < 1.2005))
    fine = torch.linspace(-3, 3, 128 * 200 + 1, dtype=torch.float64)
    density = torch.exp(-0.5 * ((fine - 0.7313) / histogram.sigma) ** 2)
    cells = ((density[1:] + density[:-1]) / 2).view(128, 200).sum(1)
    assert torch.allclose(histogram.masses(torch.tensor(0.7313)).double(), cells / cells.sum(), atol=1e-5)


def test_histograms_beyond_their_range_are_those_of_the_limit():
    histogram = HLGauss(128, 3.0, 0.75)
    beyond, at = histogram.masses(torch.tensor([-5.0, 5.0])), histogram.masses(torch.tensor([-3.0, 3.0]))
    assert torch.equal(beyond, at) and beyond.isfinite().all()
    logits = torch.randn(2, 128)
    targets = torch.tensor([0.2, -1.1])
    error, least = histogram.loss(logits, targets)
    assert torch.all(error > least)
    error, least = histogram.loss(histogram.masses(targets).clamp(min=1e-30).log(), targets)
    assert torch.allclose(error, least, atol=1e-5)
    assert torch.allclose(histogram.mean(histogram.masses(targets).clamp(min=1e-30).log()), targets, atol=3e-4)


# tokenisers


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", LAYOUTS)
def test_padding_has_no_influence_and_ids_and_flags_come_back_exactly(name, kind):
    layout = LAYOUTS[name]
    torch.manual_seed(0)
    tokenizer = make_tokenizer(layout, hyperparameters(tokenizer=kind, tokenizer_num_bins=64)).eval()
    observations = random_observations(layout, 40)
    tokens = tokenizer.encode(observations)
    assert tokens.shape == (40, layout.num_agents, tokenizer.num_tokens) and tokens.max() < tokenizer.num_codes
    disturbed = torch.where(layout.observation_mask(), observations, torch.tensor(7.0))
    assert torch.equal(tokenizer.encode(disturbed), tokens)
    decoded = tokenizer.decode(tokens)
    assert torch.all(decoded[:, ~layout.observation_mask()] == 0)
    assert torch.equal(decoded[..., -layout.num_agents :], observations[..., -layout.num_agents :])
    if kind == "bins":
        first = max(layout.observation_sizes)
        assert torch.equal(decoded[..., first:], observations[..., first:])
        assert (decoded - observations).abs().max() < 0.25


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_single_agents_are_treated_as_in_the_team(kind):
    tokenizer = make_tokenizer(MASKED_LEAVING, hyperparameters(tokenizer=kind)).eval()
    tokenizer.normalizer.update(3 * random_observations(MASKED_LEAVING, 50, seed=1) + 1)
    observations = random_observations(MASKED_LEAVING, 6)
    agents = torch.arange(3).repeat(6)
    assert torch.equal(tokenizer(observations.flatten(0, 1), agents), tokenizer(observations).flatten(0, 1))


def test_bins_are_of_symlog_and_need_no_training():
    tokenizer = make_tokenizer(layout_of(2), hyperparameters(tokenizer_num_bins=30, normalize_observations=False))
    assert not tokenizer.is_trained and tokenizer.num_tokens == 3
    observations = torch.zeros(1, 2, 5)
    observations[0, 0, :3] = torch.tensor([-100.0, math.e - 1.05, 2.9])  # symlog: below -3, just below 1, 1.36
    assert tokenizer.encode(observations)[0, 0].tolist() == [0, 19, 21]
    assert math.isclose(tokenizer(observations)[0, 0, 2], math.exp(-3 + 21.5 * 0.2) - 1, rel_tol=1e-5)


def test_a_step_of_the_vq_tokeniser_is_that_of_a_ten_line_reference():
    layout, hp = layout_of(2), hyperparameters(tokenizer="vq", normalize_observations=False)
    torch.manual_seed(1)
    tokenizer = make_tokenizer(layout, hp).train()
    observations = random_observations(layout, 50)
    quantizer = tokenizer.quantizer._codebook
    sizes, sums, codes = (x.clone() for x in (quantizer.cluster_size[0], quantizer.embed_avg[0], quantizer.embed[0]))
    z = tokenizer.encoder(observations).reshape(-1, 2, 4)
    nearest = (z.unsqueeze(2) - codes).square().sum(-1).argmin(-1)  # (M, K)
    assert torch.equal(tokenizer.encode(observations).view(-1, 2), nearest)
    chosen = codes[nearest]
    passed = z + (chosen - z).detach()
    decoded = tokenizer.decoder(passed.flatten(1)).view(50, 2, 3)
    error = (decoded - observations[..., :3]).abs().mean()
    expected = torch.autograd.grad(error + 10 * functional.mse_loss(z, chosen), list(tokenizer.encoder.parameters()))
    loss, metrics = tokenizer.loss(observations)
    found = torch.autograd.grad(loss, list(tokenizer.encoder.parameters()))
    assert math.isclose(metrics["tokenizer_loss"], error, rel_tol=1e-5)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(found, expected, strict=True))
    one_hot = functional.one_hot(nearest.flatten(), 8).float()
    sizes = 0.8 * sizes + 0.2 * one_hot.sum(0)
    sums = 0.8 * sums + 0.2 * one_hot.T @ z.detach().flatten(0, 1)
    smoothed = (sizes + 1e-5) / (sizes.sum() + 8 * 1e-5) * sizes.sum()
    assert torch.allclose(quantizer.cluster_size[0], sizes, atol=1e-5)
    assert torch.allclose(tokenizer.quantizer.codebook, sums / smoothed.unsqueeze(1), atol=1e-5)


def test_the_sequence_model_leaves_the_codes_alone():
    model = new_model(tokenizer="vq").train()
    before = model.tokenizer.quantizer.codebook.clone()
    model.sequence_loss(window_of(UNEQUAL))
    assert torch.equal(model.tokenizer.quantizer.codebook, before)
    model.tokenizer_loss(window_of(UNEQUAL))
    assert not torch.equal(model.tokenizer.quantizer.codebook, before)


# the Perceiver


def new_perceiver(slot_embedding=False):
    return randomize(Perceiver(2, 5, 8, 1, 2, 4, 0.0, slot_embedding), scale=0.7).eval()


@pytest.mark.parametrize("slots", [False, True])
def test_only_slot_embeddings_tell_an_agents_tokens_apart(slots):
    perceiver, tokens = new_perceiver(slots), torch.randn(4, 2, 5, 8, generator=torch.Generator().manual_seed(0))
    order = torch.tensor([3, 0, 4, 1, 2])
    before, after = perceiver(tokens), perceiver(torch.stack([tokens[:, 0], tokens[:, 1, order]], dim=1))
    assert torch.allclose(before, after, atol=1e-5) is not slots
    for unlike in (before, before.flip(1)):  # which agent said it makes a difference
        assert not torch.allclose(perceiver(tokens.flip(1)), unlike, atol=1e-2)


def test_the_perceiver_equals_torchs_attention_and_a_gated_mlp():
    layer = new_perceiver().cross
    x, context = torch.randn(3, 2, 8), torch.randn(3, 10, 8)
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    weights = {"in_proj_weight": torch.cat([layer.query.weight, layer.key_value.weight])}
    weights |= {"in_proj_bias": torch.cat([layer.query.bias, layer.key_value.bias])}
    weights |= {f"out_proj.{kind}": getattr(layer.attention_out, kind) for kind in ("weight", "bias")}
    attention.load_state_dict(weights)
    normed = layer.norm_context(context)
    expected = x + attention(layer.norm(x), normed, normed)[0]
    hidden, gate = layer.mlp_in(layer.norm_mlp(expected)).chunk(2, -1)
    expected = expected + layer.mlp_out(hidden * functional.gelu(gate))
    assert torch.allclose(layer(x, context), expected, atol=1e-5)


# the sequence model


@pytest.mark.parametrize("name", LAYOUTS)
def test_sequences_are_laid_out_as_the_diagram_says(name):
    model = new_model(LAYOUTS[name])
    sequence, (tokens, actions) = model.sequence_model, random_tokens(model, batch=2)
    predicted = sequence(tokens, actions)
    num_tokens = sequence.num_tokens
    for b in range(2):
        for agent in range(model.layout.num_agents):
            rows = []
            for t in range(4):
                seen, done = sequence.token_embedding(tokens[b, t]), sequence.action_embedding(actions[b, t])
                joint = [torch.stack([*seen[i], *done[i]]) for i in range(model.layout.num_agents)]
                summary = sequence.perceiver(torch.stack(joint).unsqueeze(0))[0, agent]
                rows += [*joint[agent], summary]
            out = sequence._transform(torch.stack(rows).unsqueeze(0))[0]
            for t in range(4):
                block = out[t * sequence.block_size : (t + 1) * sequence.block_size]
                for k in range(num_tokens):
                    position = block[-1] if k == num_tokens - 1 else block[k]
                    assert torch.allclose(predicted.tokens[b, t, agent, k], sequence.token_head(position), atol=1e-4)
                assert torch.allclose(predicted.rewards[b, t, agent], sequence.reward_head(block[-1]), atol=1e-4)
                ending = sequence.continuation_head(block[-1])[0]
                assert torch.allclose(predicted.continuations[b, t, agent], ending, atol=1e-4)


VALID = torch.tensor([[True] * 4, [True, True, False, False], [True, False, False, False]])


def window_of(layout, seed=0, fill=None):
    """3 windows of 4 steps, of which not all are valid; `fill` is what stands where they are not."""
    observations, actions = random_observations(layout, 3, 4, seed=seed), random_actions(layout, 3, 4, seed=seed)
    rewards = torch.randn(3, 4, generator=torch.Generator().manual_seed(seed)) * 2
    terminated = torch.zeros(3, 4, dtype=torch.bool)
    terminated[1, 1] = True  # the third one was cut off
    columns = [observations, actions, rewards, terminated]
    if fill is not None:
        columns = [
            torch.where(VALID.view(3, 4, *[1] * (x.ndim - 2)), x, torch.tensor(fill, dtype=x.dtype)) for x in columns
        ]
    states = torch.zeros(3, 4, layout.state_size)
    return Window(states, states, *columns, VALID)


def test_the_loss_is_that_of_a_double_loop():
    model, window = new_model(), window_of(UNEQUAL)
    sequence = model.sequence_model
    tokens, actions = model.tokenizer.encode(window.observations), model.action_tokens.encode(window.actions)
    loss, metrics = model.sequence_loss(window)
    predicted, errors, rewards, endings = sequence(tokens, actions), [], [], []
    for b in range(3):
        for t in range(4):
            for agent in range(2):
                if not VALID[b, t]:
                    continue
                logits = predicted.tokens[b, t, agent].log_softmax(-1)
                errors += [
                    -logits[k, tokens[b, t, agent, k + 1]] for k in range(2) if k + 1 < UNEQUAL.observation_sizes[agent]
                ]
                if t < 3 and VALID[b, t + 1]:
                    errors.append(-logits[2, tokens[b, t + 1, agent, 0]])
                masses = sequence.histogram.masses(symlog(window.rewards[b, t]))
                rewards.append(-(masses * predicted.rewards[b, t, agent].log_softmax(-1)).sum())
                rewards[-1] = rewards[-1], torch.special.entr(masses).sum()
                sign = -1 if window.terminated[b, t] else 1
                endings.append(-functional.logsigmoid(sign * predicted.continuations[b, t, agent]))
    expected = [
        torch.stack(errors).mean(),
        torch.tensor([e - h for e, h in rewards]).mean(),
        torch.stack(endings).mean(),
    ]
    names = ("token_loss", "reward_loss", "termination_loss")
    for name, value in zip(names, expected, strict=True):
        assert math.isclose(metrics[name], value, rel_tol=1e-4), name
    total = expected[0] + torch.stack([e for e, _ in rewards]).mean() + expected[2]
    assert math.isclose(loss, total, rel_tol=1e-4)


def test_what_lies_behind_an_episodes_end_has_exactly_no_influence():
    model = new_model()
    results = []
    for fill in (0, 1):
        loss, _ = model.sequence_loss(window_of(UNEQUAL, fill=fill))
        results.append([loss, *torch.autograd.grad(loss, list(model.sequence_model.parameters()))])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_windows_cut_by_an_ending_are_shorter_windows():
    model, window = new_model(), window_of(UNEQUAL)
    for row, length in ((1, 2), (2, 1)):
        cut = Window(**{name: column[row : row + 1, :length] for name, column in vars(window).items()})
        whole = Window(**{name: column[row : row + 1] for name, column in vars(window).items()})
        assert math.isclose(model.sequence_loss(cut)[0], model.sequence_loss(whole)[0], rel_tol=1e-5)


def test_predictions_are_causal_and_agents_meet_in_the_summary_alone():
    model = new_model()
    sequence, (tokens, actions) = model.sequence_model, random_tokens(model)
    before = sequence(tokens, actions)
    changed = tokens.clone()
    changed[:, 2, 0, 1] = (changed[:, 2, 0, 1] + 1) % 8
    after = sequence(changed, actions)
    for name in before._fields:
        old, new = getattr(before, name), getattr(after, name)
        assert torch.equal(new[:, :2], old[:, :2]), name
        assert not torch.equal(new[:, 2:, 0], old[:, 2:, 0]) and not torch.equal(new[:, 2:, 1], old[:, 2:, 1])
    moved = after.tokens != before.tokens  # (B, T, N, K, V); index k < K - 1 stands before the summary
    assert not moved[:, 2, 0, 0].any() and moved[:, 2, 0, 1:].any()
    assert not moved[:, 2, 1, :-1].any() and moved[:, 2, 1, -1].any()
    held = sequence._sum_up(tokens, actions)
    sequence._sum_up = lambda *_: held
    assert torch.equal(sequence(changed, actions).tokens[:, :, 1], before.tokens[:, :, 1])


@pytest.mark.parametrize("name", ["continuous", "several"])
def test_imagining_token_by_token_equals_the_whole_sequence(name, monkeypatch):
    model = new_model(LAYOUTS[name])
    sequence, (tokens, actions) = model.sequence_model, random_tokens(model)
    layout = model.layout
    observations = model.tokenizer.decode(tokens)
    expected, logits = sequence(tokens, actions), []
    script = iter([tokens[:, t, :, k] for t in range(1, 4) for k in range(sequence.num_tokens)])
    monkeypatch.setattr(world_model_module, "gumbel_max", lambda drawn: logits.append(drawn) or next(script))
    simulation = model.begin(observations[:, 0])
    for t in range(3):
        step = simulation.step(random_actions(layout, 3, 4)[:, t])
        assert simulation._cache.length == sequence.num_tokens + (t + 1) * sequence.block_size - 1  # one is unread
        for k in range(sequence.num_tokens):
            at = expected.tokens[:, t, :, -1] if k == 0 else expected.tokens[:, t + 1, :, k - 1]
            assert torch.allclose(logits[t * sequence.num_tokens + k], at, atol=1e-4)
        assert torch.allclose(step.rewards, sequence.expected_rewards(expected.rewards[:, t]), atol=1e-4)
        assert torch.allclose(step.continuations, expected.continuations[:, t].sigmoid(), atol=1e-4)
        assert torch.equal(step.observations, observations[:, t + 1])
    with pytest.raises(ValueError, match="holds 4 steps"):
        simulation.step(random_actions(layout, 3))


@pytest.mark.parametrize("name", ["continuous", "masked leaving"])
def test_padded_entries_are_the_same_token_in_imagination_as_in_reality(name):
    model = new_model(LAYOUTS[name])
    layout, padded = model.layout, model.sequence_model.token_mask == 0
    assert padded.any() and model.has_padding
    observations = random_observations(layout, 6)
    real = model.tokenizer.encode(observations)[:, padded]
    simulation = model.begin(observations)
    for t in range(3):
        simulation.step(random_actions(layout, 6, 4)[:, t])
        assert torch.equal(simulation._tokens[:, padded], real), "what the sequence model reads"
    assert not new_model(layout_of(2)).has_padding and not new_model(tokenizer="vq").has_padding


def test_a_window_of_one_token_and_one_step_teaches_no_token():
    model = new_model(layout_of(2, observation_size=1))
    tokens, actions = random_tokens(model, steps=1)
    nothing = torch.zeros(3, 1)
    loss, metrics = model.sequence_model.loss(tokens, actions, nothing, nothing > 0, nothing == 0)
    assert loss.isfinite() and metrics["token_loss"] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_tokenisers_compute_in_float32_whatever_the_default(kind):
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        tokenizer = make_tokenizer(UNEQUAL, hyperparameters(tokenizer=kind))
        observations = random_observations(UNEQUAL, 4).float()
        loss, _ = tokenizer.loss(observations)
        assert loss.dtype == tokenizer(observations).dtype == torch.float32
    finally:
        torch.set_default_dtype(before)


def test_the_loss_begins_at_that_of_knowing_nothing():
    layout = layout_of(2, observation_size=8)
    torch.manual_seed(0)
    hp = hyperparameters(tokenizer_num_bins=64, reward_bins=128, model_embedding_size=64, model_num_layers=3)
    model = MARIEWorldModel(layout, hp)
    loss, _ = model.sequence_loss(window_of(layout))
    expected = math.log(64) + math.log(128) + math.log(2)
    assert abs(loss / expected - 1) < 0.02


def test_rewards_can_be_learnt_by_smooth_l1():
    model, window = new_model(reward_loss="smooth_l1"), window_of(UNEQUAL)
    predicted = model.sequence_model(*(random_tokens(model)))
    assert predicted.rewards.shape == (3, 4, 2, 1)
    tokens, actions = model.tokenizer.encode(window.observations), model.action_tokens.encode(window.actions)
    rewards = model.sequence_model(tokens, actions).rewards.squeeze(-1)
    error = functional.smooth_l1_loss(rewards, window.rewards.unsqueeze(2).expand(-1, -1, 2), reduction="none")
    assert math.isclose(model.sequence_loss(window)[1]["reward_loss"], error[VALID].mean(), rel_tol=1e-4)


def played(batch):
    """3 steps of two agents with four states each: forward if the other acts, else back to 0.

    The first entry tells whether a state is odd, the second one which it is.
    """
    joints, choices = [torch.randint(4, (batch, 2))], torch.randint(2, (batch, 3, 2))
    for t in range(2):
        joints.append((joints[-1] + 1) % 4 * choices[:, t].flip(-1))
    joint = torch.stack(joints, dim=1)  # (B, 3, 2)
    entries = symexp(torch.tensor([-2.25, -0.75, 0.75, 2.25]))[torch.stack([joint % 2 * 3, joint], dim=-1)]
    observations = torch.cat([entries, torch.eye(2).expand(batch, 3, 2, 2)], dim=-1)
    rewards, no = (joint[..., 0] == 0) + choices[..., 0].float(), torch.zeros(batch, 3, dtype=torch.bool)
    states = torch.zeros(batch, 3, 4)
    return Window(states, states, observations, functional.one_hot(choices, 2).float(), rewards, no, ~no)


def test_a_deterministic_automaton_is_learnt_and_imagined_exactly():
    hp = hyperparameters(
        tokenizer_num_bins=4, model_embedding_size=32, embedding_std=0.5, perceiver_num_layers=0,
        perceiver_head_size=16, slot_embedding=True, reward_bins=32, normalize_observations=False,
        imagination_horizon=3,
    )  # fmt: skip
    torch.manual_seed(0)
    model = MARIEWorldModel(layout_of(2, observation_size=2, kind="discrete"), hp)
    optimizer = torch.optim.AdamW(model.sequence_model.parameters(), 5e-3)
    for step in range(600):
        optimizer.param_groups[0]["lr"] = 5e-3 if step < 450 else 1e-3
        loss, _ = model.sequence_loss(played(16))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    window = played(100)
    # Only which state it is at first is left to chance, after its first entry: one of five tokens that are predicted.
    assert abs(model.sequence_loss(window)[1]["token_loss"] - math.log(2) / 5) < 0.02
    simulation = model.begin(window.observations[:, 0])
    for t in range(2):
        step = simulation.step(window.actions[:, t])
        assert torch.allclose(step.rewards, window.rewards[:, t, None].expand(-1, 2), atol=0.15)
        exact = ((step.observations - window.observations[:, t + 1]).abs() < 1e-4).flatten(1).all(1)
        assert exact.float().mean() > 0.95 and step.continuations.min() > 0.99


# actor, critic, trainer


@pytest.mark.parametrize("kind", KINDS)
def test_the_actor_acts_on_what_it_is_trained_on(kind):
    torch.manual_seed(0)
    actor = MARIEActor(UNEQUAL, hyperparameters(tokenizer=kind)).eval()
    observations = random_observations(UNEQUAL, 7)
    found = actor.acting(observations).deterministic()
    assert torch.equal(found, actor(actor.tokenizer(observations)).deterministic())
    rows, agents = observations.flatten(0, 1), torch.arange(2).repeat(7)
    assert torch.allclose(actor.acting(rows, agents).deterministic(), found.flatten(0, 1), atol=1e-6)
    assert torch.equal(actor.act(rows, deterministic=True), actor.acting(rows, agents).deterministic())
    torch.manual_seed(1)
    drawn = actor.act(rows, deterministic=False)
    torch.manual_seed(1)
    assert torch.equal(drawn, actor(actor.tokenizer(rows, agents), agents).sample())


def test_flags_are_acted_on_as_they_are():
    torch.manual_seed(0)
    actor = MARIEActor(MASKED_LEAVING, hyperparameters(tokenizer="vq")).eval()  # which decodes them wrongly
    observations = random_observations(MASKED_LEAVING, 50)
    usable = MASKED_LEAVING.usable(MASKED_LEAVING.action_mask().float(), observations)
    first = max(MASKED_LEAVING.observation_sizes)
    assert torch.equal(actor.seen(observations)[..., first:], observations[..., first:])
    for _ in range(3):
        choices = actor(actor.seen(observations)).sample().unbind(-1)
        for choice, own in zip(choices, usable.split(list(MASKED_LEAVING.block_sizes), -1), strict=True):
            available = own.gather(-1, choice.unsqueeze(-1)).squeeze(-1) > 0
            assert torch.all(available | (own.sum(-1) == 0) & (choice == 0))


def test_every_agent_has_a_value_of_its_own_that_depends_on_all_observations():
    critic = randomize(MARIECritic(UNEQUAL, hyperparameters()))
    observations = random_observations(UNEQUAL, 5, 3)
    values = critic(observations)
    assert values.shape == (5, 3, 2)
    changed = observations.clone()
    changed[..., 0, 0] += 1
    assert torch.all(((critic(changed) - values).abs() > 1e-7).flatten(0, 1).any(0))


def trained(layout=UNEQUAL, iterations=2, **changes):
    trainer = make_trainer(MARIETrainer, layout, hyperparameters(**changes))
    for number in range(iterations):
        trainer.add([random_trajectory(layout, 30, seed=number)])
        trainer.train_iteration()
    return trainer


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", LAYOUTS)
def test_every_kind_of_team_trains_with_every_tokeniser(name, kind):
    changes = {"tokenizer_lr": 0.01, "tokenizer_updates_per_iteration": 30}  # so that agents are imagined alive
    trainer = trained(LAYOUTS[name], iterations=0, tokenizer=kind, **changes)
    parts = {"actor": trainer.actor.network, "critic": trainer.critic, "model": trainer.world_model.sequence_model}
    if kind != "bins":
        parts["tokenizer"] = trainer.world_model.tokenizer
    before = {part: nn.utils.parameters_to_vector(net.parameters()).clone() for part, net in parts.items()}
    trainer.add([random_trajectory(LAYOUTS[name], 30)])
    trainer.train_iteration()
    if MASKED_LEAVING is LAYOUTS[name] and kind != "bins":
        del parts["actor"]  # an autoencoder this small hardly lets anyone imagine a choice
    for part, net in parts.items():
        assert not torch.equal(nn.utils.parameters_to_vector(net.parameters()), before[part]), part
    for own, models in zip(
        trainer.actor.tokenizer.state_dict().values(), trainer.world_model.tokenizer.state_dict().values(), strict=True
    ):
        assert torch.equal(own, models)


def test_parts_wait_for_those_that_they_build_on():
    trainer = make_trainer(
        MARIETrainer, UNEQUAL,
        hyperparameters(
            tokenizer="vq", num_steps_before_learning=40, num_tokenizer_warmup_iterations=1,
            num_world_model_warmup_iterations=2,
        ),
    )  # fmt: skip
    found = []
    for number in range(5):
        trainer.add([random_trajectory(UNEQUAL, 30, seed=number)])
        metrics = trainer.train_iteration()
        found.append([name for name in ("tokenizer_loss", "token_loss") if name in metrics.get("world_model", {})])
        found[-1] += [name for name in ("actor", "critic") if name in metrics]
    both = ["tokenizer_loss", "token_loss"]
    assert found == [[], ["tokenizer_loss"], both, both, [*both, "actor", "critic"]]


def test_rollouts_begin_with_reconstructions_and_hold_one_step_less_than_the_horizon():
    trainer = trained(tokenizer="fsq", num_imagined_rollouts=10, rollouts_at_once=4)
    rollout = trainer._imagine()
    assert rollout.states.shape == (4, 10, 2, 5) and rollout.observations.shape == (3, 10, 2, 5)
    assert rollout.rewards.shape == rollout.continuations.shape == rollout.log_probs.shape == (3, 10, 2)
    tokenizer = trainer.world_model.tokenizer
    stored = tokenizer(trainer.replay.observations[: len(trainer.replay)])
    for start in rollout.observations[0]:
        assert torch.isclose(stored, start, atol=1e-5).flatten(1).all(1).any()  # other batches round otherwise
    assert torch.allclose(rollout.states[:-1], tokenizer.normalizer(rollout.observations))


def test_returns_and_advantages_are_each_agents_own():
    trainer = trained()
    rollout = trainer._imagine()
    rollout = rollout._replace(continuations=torch.where(torch.rand(3, 6, 2) < 0.3, 0.0, rollout.continuations))
    raw = trainer.critic(rollout.states)
    values, hp = trainer.critic.value_normalizer.denormalize(raw), trainer.hp
    batch = trainer._evaluated(*rollout)
    returns = batch.returns.view(3, 6, 2)
    for agent in range(2):
        for b in range(6):
            tail = values[3, b, agent]
            for t in (2, 1, 0):
                follows = (1 - hp.lambda_) * values[t + 1, b, agent] + hp.lambda_ * tail
                tail = rollout.rewards[t, b, agent] + hp.gamma * rollout.continuations[t, b, agent] * follows
                assert math.isclose(returns[t, b, agent], tail, rel_tol=1e-4, abs_tol=1e-5)
    assert batch.advantages.shape == (18, 2) and abs(batch.advantages.mean()) < 1e-5
    assert abs(batch.advantages.std(correction=0) - 1) < 1e-3
    loss, metrics = trainer.actor.loss(batch)  # nothing was updated yet: the ratio is 1
    assert math.isclose(loss, -hp.entropy_coeff * metrics["entropy"], abs_tol=1e-6) and metrics["kl"].abs() < 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_trainer_goes_on_bit_for_bit(kind):
    def go_on(trainer):
        trainer.add([random_trajectory(UNEQUAL, 30, seed=9)])
        trainer.train_iteration()
        networks = (trainer.actor, trainer.critic, trainer.world_model)
        return [tensor for network in networks for tensor in network.state_dict().values()]

    first = trained(tokenizer=kind)
    second = make_trainer(MARIETrainer, UNEQUAL, first.hp, seed=0, network_seed=5)
    for name in ("actor", "critic", "world_model"):
        getattr(second, name).load_state_dict(getattr(first, name).state_dict())
    second.replay.load_state_dict(first.replay.state_dict())
    second.load_state_dict(first.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(go_on(first), go_on(second), strict=True))


def test_sizes_of_the_release():
    hp = MARIEHyperparameters.resolve({}, "mamujoco")
    layout = layout_of(2, observation_size=17, action_size=3)  # HalfCheetah-2x3, whose observations have 19 entries
    model = MARIEWorldModel(layout, hp)
    count = lambda module: sum(p.numel() for p in module.parameters())  # noqa: E731
    sequence = model.sequence_model
    assert (sequence.block_size, sequence.max_tokens) == (20, 300)
    # of 0.667M, 7.90M, 3.95M, 0.197M, 0.164M, 0.132M, 0.273M, 0.153M
    assert abs(count(model.tokenizer) - 667_000) < 3000
    assert abs(sum(map(count, sequence.blocks)) + count(sequence.norm_out) - 7_900_000) < 5000
    assert abs(count(sequence.perceiver) - 3_950_000) < 10_000
    heads = (sequence.token_head, sequence.reward_head, sequence.continuation_head)
    assert [round(count(head), -3) for head in heads] == [197_000, 164_000, 132_000]
    tables = count(sequence.token_embedding) + count(sequence.action_embedding) + sequence.position_embedding.numel()
    assert round(tables, -3) == 273_000
    assert abs(count(MARIEActor(layout, hp).network) - 37_000) < 1500
    assert abs(count(MARIECritic(layout, hp)) - 153_000) < 3000


@pytest.mark.parametrize("size", MARIEHyperparameters.MODEL_SIZES)
def test_every_preset_is_valid(size):
    for family in (None, *MARIEHyperparameters.FAMILIES):
        MARIEHyperparameters.resolve({}, family, size)
    assert MARIEHyperparameters.resolve({}, "bidexhands").gamma == 0.95


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_num_heads": 3}, r"model_embedding_size \(256\) must be a multiple of model_num_heads \(3\)"),
        ({"critic_hidden_size": 9}, r"critic_hidden_size \(9\) must be a multiple of critic_num_heads \(8\)"),
        ({"replay_capacity": 199}, r"replay_capacity \(199\) must be at least 200"),
        ({"ppo_minibatches": 8401}, "exceeds the 8400 steps of an imagined batch"),
    ],
)
def test_what_does_not_fit_together_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        MARIEHyperparameters.resolve(changes)
