"""The causal transformer: against torch's own, cached against uncached, and its loss by hand."""

import math

import pytest
import torch
from support.core import DISCRETE, UNEQUAL, random_actions, randomize, tiny

from rllib_dima.core.dima.reward_termination import RewardTermination
from rllib_dima.core.transformer import dropout


def new(layout=UNEQUAL, **changes):
    return randomize(RewardTermination(layout, tiny(**changes)), scale=0.8).eval()


def steps(layout=UNEQUAL, batch_size=5, length=4):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch_size, length, layout.state_size, generator=generator), random_actions(
        layout, batch_size, length
    )


def test_an_update_is_one_graph_for_a_compiler():
    model, inputs = new().train(), steps()
    torch.compile(model, backend="eager", fullgraph=True)(*inputs)  # raises at what would break the graph


def test_blocks_equal_torchs_transformer_layers():
    model, (states, actions) = new(), steps()
    x = model._embed(states, actions, 0)
    expected = x
    for block in model.blocks:
        layer = torch.nn.TransformerEncoderLayer(8, 2, 32, 0.0, "gelu", batch_first=True, norm_first=True)
        weights = {
            "self_attn.in_proj_": block.query_key_value, "self_attn.out_proj.": block.attention_out,
            "linear1.": block.mlp[0], "linear2.": block.mlp[2], "norm1.": block.norm1, "norm2.": block.norm2,
        }  # fmt: skip
        layer.load_state_dict(
            {f"{name}{kind}": getattr(part, kind) for name, part in weights.items() for kind in ("weight", "bias")}
        )
        layer.train()  # keeps torch off its fused path
        expected = layer(expected, src_mask=torch.nn.Transformer.generate_square_subsequent_mask(8), is_causal=True)
        x = block(x)
        assert torch.allclose(x, expected, atol=1e-4)
    rewards, logits = model(states, actions)
    outcome = model.norm_out(expected[:, 1::2])
    assert torch.allclose(rewards, model.reward_head(outcome)[..., 0], atol=1e-4)
    assert torch.allclose(logits, model.continuation_head(outcome)[..., 0], atol=1e-4)


def test_tokens_alternate_between_state_and_joint_action():
    model, (states, actions) = new(), steps()
    tokens = model._embed(states, actions, 0) - model.position_embedding
    everyone = torch.ones(5, 1, 2, dtype=torch.bool)
    for t in range(4):
        assert torch.allclose(tokens[:, 2 * t], model.state_in(states[:, t]), atol=1e-5)
        assert torch.allclose(tokens[:, 2 * t + 1], model.action_in(actions[:, t : t + 1], everyone), atol=1e-5)


@pytest.mark.parametrize("layout", [UNEQUAL, DISCRETE], ids=["continuous", "discrete"])
@pytest.mark.parametrize("chunks", [[1, 1, 1, 1], [2, 2], [1, 3], [4]])
def test_cached_steps_equal_the_full_sequence(layout, chunks):
    model, (states, actions) = new(layout), steps(layout)
    rewards, logits = model(states, actions)
    cache, start = model.new_cache(5), 0
    for length in chunks:
        now = slice(start, start + length)
        cached_rewards, cached_logits = model.extend(states[:, now], actions[:, now], None, cache)
        assert torch.allclose(cached_rewards, rewards[:, now], atol=1e-5)
        assert torch.allclose(cached_logits, logits[:, now], atol=1e-5)
        start += length


def test_outcomes_depend_on_the_past_and_the_present_only():
    model, (states, actions) = new(), steps()
    before = torch.stack(model(states, actions))
    for t in range(4):
        changed_state, changed_action = states.clone(), actions.clone()
        changed_state[:, t, 0] += 1
        changed_action[:, t, 1, 0] += 1
        for after in (torch.stack(model(changed_state, actions)), torch.stack(model(states, changed_action))):
            assert torch.equal(after[..., :t], before[..., :t])
            assert torch.all((after[..., t:] - before[..., t:]).abs() > 1e-6)


def test_padded_action_entries_have_exactly_no_influence():
    model, (states, actions) = new(), steps()
    disturbed = torch.where(UNEQUAL.action_mask(), actions, torch.tensor(9.0))
    assert torch.equal(torch.stack(model(states, actions)), torch.stack(model(states, disturbed)))


VALID = torch.tensor([[True] * 4, [True, True, False, False], [True, False, False, False], [True] * 4, [True] * 4])


def targets():
    rewards = torch.randn(5, 4, generator=torch.Generator().manual_seed(2)) * 2
    terminated = torch.zeros(5, 4, dtype=torch.bool)
    terminated[1, 1] = terminated[3, 3] = True  # row 2 was truncated
    return rewards, terminated


def test_loss_equals_smooth_l1_plus_cross_entropy_by_hand():
    model, (states, actions), (rewards, terminated) = new(), steps(), targets()
    loss, metrics = model.loss(states, actions, rewards, terminated, VALID)
    predicted, logits = model(states, actions)
    reward_loss = termination_loss = 0.0
    for b in range(5):
        for t in range(4):
            if VALID[b, t]:
                error = abs(float(predicted[b, t] - rewards[b, t]))
                reward_loss += error**2 / 2 if error < 1 else error - 0.5
                goes_on = 1 / (1 + math.exp(-float(logits[b, t])))
                termination_loss -= math.log(1 - goes_on if terminated[b, t] else goes_on)
    count = int(VALID.sum())
    assert math.isclose(metrics["reward_loss"], reward_loss / count, rel_tol=1e-4)
    assert math.isclose(metrics["termination_loss"], termination_loss / count, rel_tol=1e-4)
    assert math.isclose(loss, (reward_loss + termination_loss) / count, rel_tol=1e-4)


def test_invalid_steps_have_exactly_no_influence_on_loss_and_gradient():
    model, (states, actions), (rewards, terminated) = new(), steps(), targets()
    parameters = list(model.parameters())

    def result(fill):
        where = lambda x: torch.where(VALID.view(5, 4, *[1] * (x.ndim - 2)), x, torch.tensor(fill, dtype=x.dtype))  # noqa: E731
        loss, _ = model.loss(where(states), where(actions), where(rewards), where(terminated), VALID)
        return [loss, *torch.autograd.grad(loss, parameters)]

    assert all(torch.equal(a, b) for a, b in zip(result(0), result(9), strict=True))


def test_a_truncated_step_is_learned_as_going_on():
    model, (states, actions), (rewards, _) = new(), steps(), targets()
    nothing_ends = torch.zeros(5, 4, dtype=torch.bool)
    _, metrics = model.loss(states, actions, rewards, nothing_ends, VALID)
    _, logits = model(states, actions)
    assert torch.allclose(metrics["termination_loss"], -torch.nn.functional.logsigmoid(logits)[VALID].mean(), atol=1e-5)


def test_more_steps_than_the_horizon_are_refused():
    model, (states, actions) = new(), steps(length=5)
    with pytest.raises(ValueError, match=r"holds 4 steps, but was given 0 \+ 5"):
        model(states, actions)
    cache = model.new_cache(5)
    model.extend(states[:, :4], actions[:, :4], None, cache)
    with pytest.raises(ValueError, match=r"given 4 \+ 1"):
        model.extend(states[:, 4:], actions[:, 4:], None, cache)


def test_dropout_acts_in_training_only():
    model, (states, actions) = new(reward_dropout=0.5), steps()
    assert torch.equal(model(states, actions)[0], model(states, actions)[0])
    model.train()
    assert not torch.equal(model(states, actions)[0], model(states, actions)[0])
    without = new(reward_dropout=0.0)
    assert torch.equal(without(states, actions)[0], without.train()(states, actions)[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_dropout_zeroes_independently_with_its_probability_and_keeps_the_mean(probability, dtype):
    torch.manual_seed(0)
    x = torch.ones(100_003, 7, dtype=dtype, requires_grad=True)  # not a multiple of four
    out = dropout(x, probability)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    assert out.dtype == dtype and torch.equal(gradient, out)
    assert torch.allclose(out[out != 0], torch.tensor(1 / (1 - probability), dtype=dtype), rtol=1e-4)
    zeroed = (out == 0).flatten()[:700_000].float().view(-1, 4)  # the four decisions of each draw
    deviation = math.sqrt(probability * (1 - probability))
    assert torch.all((zeroed.mean(0) - probability).abs() < 5 * deviation / math.sqrt(len(zeroed)) + 2**-17)
    assert torch.all((zeroed.T.corrcoef() - torch.eye(4)).abs() < 5 / math.sqrt(len(zeroed)))
    assert not torch.equal(dropout(x, probability), out)


def test_dropout_with_probability_zero_changes_nothing():
    x = torch.randn(3, 5)
    assert dropout(x, 0.0) is x
