"""One optimiser step against torch's AdamW and by hand."""

import copy

import torch
from torch import nn

from rllib_dima.core.training.optimization import ModelOptimizer


class Model(nn.Module):
    """One parameter of each kind."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(3, 2)
        self.norm = nn.LayerNorm(2)
        self.agent_embedding = nn.Parameter(torch.randn(4, 2))
        self.frozen = nn.Parameter(torch.randn(2, 2), requires_grad=False)

    def loss(self, seed):
        x = torch.randn(5, 3, generator=torch.Generator().manual_seed(seed))
        return (self.norm(self.linear(x)) * self.agent_embedding.sum(0)).square().mean()


def optimizer(model, **changes):
    settings = {"optimizer_class": torch.optim.AdamW, "lr": 0.1, "grad_clip": 1e9, **changes}
    return ModelOptimizer("model", model, **settings)


def update(optimizer, loss):
    optimizer.begin_update()
    return optimizer.step(loss)


def test_weight_decay_shrinks_matrices_only():
    model = Model()
    before = copy.deepcopy(model)
    update(optimizer(model, weight_decay=0.2), sum((p * 0).sum() for p in model.parameters()))
    for name, parameter in model.named_parameters():
        factor = 1 - 0.1 * 0.2 if name == "linear.weight" else 1.0
        assert torch.allclose(parameter, before.get_parameter(name) * factor), name


def test_steps_equal_torchs_adamw_with_clipping():
    model, reference = Model(), Model()
    ours = optimizer(model, weight_decay=0.05, grad_clip=0.3, lr=0.01)
    decayed = [reference.linear.weight]
    others = [reference.linear.bias, *reference.norm.parameters(), reference.agent_embedding]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    theirs = torch.optim.AdamW(groups, lr=0.01, eps=1e-8)
    for seed in range(5):
        norm = update(ours, model.loss(seed))
        theirs.zero_grad()
        reference.loss(seed).backward()
        gradients = torch.cat([p.grad.flatten() for p in decayed + others])
        assert torch.allclose(norm, gradients.norm()) and norm > 0.3  # before clipping
        for parameter in decayed + others:
            parameter.grad *= 0.3 / gradients.norm()
        theirs.step()
        for our, their in zip(model.parameters(), reference.parameters(), strict=True):
            assert torch.allclose(our, their, atol=1e-5)


def test_learning_rate_warms_up_linearly():
    model = nn.Linear(1, 1, bias=False)
    ours, positions = optimizer(model, lr=0.1, warmup_updates=4), [model.weight.item()]
    for _ in range(6):
        update(ours, model.weight.sum())  # a constant gradient moves Adam by its learning rate
        positions.append(model.weight.item())
    moves = -torch.tensor(positions).diff()
    assert torch.allclose(moves, torch.tensor([0.025, 0.05, 0.075, 0.1, 0.1, 0.1]), atol=1e-4)


def test_gradients_are_averaged_before_they_are_clipped():
    model = nn.Linear(1, 1, bias=False)

    def average(parameters):
        for parameter in parameters:
            parameter.grad *= 10

    ours = optimizer(model, average_gradients=average, grad_clip=2.0)
    assert torch.allclose(update(ours, model.weight.sum() * 0.5), torch.tensor(5.0))
    assert torch.allclose(model.weight.grad, torch.tensor(2.0))


def test_gradients_do_not_accumulate():
    model = nn.Linear(1, 1, bias=False)
    ours = optimizer(model)
    assert [update(ours, model.weight.sum()).item() for _ in range(3)] == [1.0, 1.0, 1.0]


def test_a_restored_optimizer_goes_on_but_keeps_its_own_learning_rate():
    model = Model()
    ours = optimizer(model, warmup_updates=3)
    for seed in range(2):
        update(ours, model.loss(seed))
    saved, twin, slow = copy.deepcopy(ours.state_dict()), copy.deepcopy(model), copy.deepcopy(model)
    restored, other = optimizer(twin, warmup_updates=3), optimizer(slow, lr=0.0, warmup_updates=3)
    restored.load_state_dict(copy.deepcopy(saved))
    other.load_state_dict(copy.deepcopy(saved))
    before = copy.deepcopy(slow)
    for seed in range(2, 5):
        update(ours, model.loss(seed))
        update(restored, twin.loss(seed))
        update(other, slow.loss(seed))
    assert restored.num_updates == 5
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(before.parameters(), slow.parameters(), strict=True))


def test_a_restored_optimizer_keeps_its_own_weight_decay_and_epsilon():
    model = Model()
    saved = optimizer(model, weight_decay=0.01)
    update(saved, model.loss(0))
    ours = optimizer(model, weight_decay=0.2, epsilon=1e-3)
    ours.load_state_dict(saved.state_dict())
    assert [(g["weight_decay"], g["eps"]) for g in ours._optimizer.param_groups] == [(0.2, 1e-3), (0.0, 1e-3)]
