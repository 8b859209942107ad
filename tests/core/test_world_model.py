"""The three models together: what they are fed, and the simulation against a second implementation."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from support.core import (
    DISCRETE,
    SWIFT,
    UNEQUAL,
    new_trainer,
    random_actions,
    random_trajectory,
    randomize,
    tiny,
)

from rllib_dima.core.dima.world_model import WorldModel
from rllib_dima.core.replay.buffer import ReplayBuffer
from rllib_dima.core.replay.data import Window


def new(layout, **changes):
    model = randomize(WorldModel(layout, tiny(sigma_data=0.4, **changes)), scale=0.5).eval()
    buffer = ReplayBuffer(layout, 50)
    buffer.add(random_trajectory(layout, 5, seed=1, terminated=True))
    buffer.add(random_trajectory(layout, 6, seed=2))
    model.normalizer.update(buffer.states[:11])
    return model, buffer


def normalized(states, buffer):
    mean, deviation = buffer.states[:11].mean(0), buffer.states[:11].std(0, correction=0)
    return (states - mean) / deviation


def equal_losses(first, second):
    torch.manual_seed(0)
    ours = first()[0]
    torch.manual_seed(0)
    assert torch.allclose(ours, second()[0], rtol=1e-4)


def test_every_model_learns_from_normalised_states():
    model, buffer = new(UNEQUAL)
    w = buffer.windows(torch.arange(11), past=2, future=2)
    z, next_z = normalized(w.states, buffer), normalized(w.next_states, buffer)
    equal_losses(lambda: model.dynamics_loss(w), lambda: model.dynamics.loss(z * 0.4, w.actions, next_z * 0.4, w.valid))
    w = buffer.windows(torch.arange(11), future=3)
    loss = partial(model.reward_termination.loss, normalized(w.states, buffer), w.actions, w.rewards, w.terminated)
    equal_losses(partial(model.reward_termination_loss, w), partial(loss, w.valid))
    w = buffer.windows(torch.arange(11))
    z = normalized(w.states[:, 0], buffer)
    equal_losses(lambda: model.state_decoder_loss(w), lambda: model.state_decoder.loss(z, w.observations[:, 0]))
    other = new(UNEQUAL, reward_network="mlp", reward_width=8, reward_reads_next_state=True)[0]
    other.normalizer, mlp, next_z = model.normalizer, other.reward_termination, normalized(w.next_states[:, 0], buffer)
    examples = mlp.examples(z, w.actions[:, 0], next_z, w.rewards[:, 0], w.terminated[:, 0])
    equal_losses(lambda: other.reward_termination_loss(other.outcomes(w)), lambda: mlp.loss(examples))


@pytest.mark.parametrize("layout", [UNEQUAL, DISCRETE], ids=["continuous", "discrete"])
@torch.no_grad()
def test_simulation_equals_a_second_implementation(layout):
    model, buffer = new(layout)
    start = buffer.windows(torch.tensor([0, 1, 4, 5, 10]), past=2)
    joint_actions = random_actions(layout, 4, 5, seed=9)
    simulation = model.reset(start)
    assert torch.equal(simulation.observations, start.observations[:, -1])
    torch.manual_seed(0)
    imagined = [simulation.step(actions) for actions in joint_actions]
    assert torch.equal(simulation.states, imagined[-1].states)
    assert torch.equal(simulation.observations, imagined[-1].observations)

    states = list((normalized(start.states, buffer) * start.valid.unsqueeze(-1)).unbind(1))  # times -2, -1, 0
    actions = [*start.actions[:, :2].unbind(1), *joint_actions]
    valid = [*start.valid.unbind(1), *torch.ones(3, 5, dtype=torch.bool)]
    torch.manual_seed(0)
    for t, step in enumerate(imagined):
        past = slice(t, t + 3)  # times t-2, t-1, t
        context, context_actions = torch.stack(states[past], 1), torch.stack(actions[past], 1)
        states.append(model.dynamics.sample(context * 0.4, context_actions, torch.stack(valid[past], 1)) / 0.4)
        rewards, logits = model.reward_termination(torch.stack(states[2:-1], 1), joint_actions[: t + 1].transpose(0, 1))
        assert torch.allclose(step.states, states[-1], atol=1e-3)
        assert torch.allclose(step.rewards, rewards[:, -1], atol=1e-3)
        assert torch.allclose(step.continuations, logits[:, -1].sigmoid(), atol=1e-3)
        assert torch.equal(step.observations, model.state_decoder(step.states))


@torch.no_grad()
def test_rows_before_an_episodes_start_have_exactly_no_influence():
    model, buffer = new(UNEQUAL)
    start = buffer.windows(torch.tensor([0, 1, 5, 6]), past=2)
    assert not start.valid[:, 0].any()
    disturbed = start.__class__(**{**vars(start), "states": start.states.clone(), "actions": start.actions.clone()})
    disturbed.states[~start.valid] = 50.0
    disturbed.actions[~start.valid] = 50.0
    results = []
    for window in (start, disturbed):
        torch.manual_seed(0)
        simulation = model.reset(window)
        results.append([simulation.step(actions).states for actions in random_actions(UNEQUAL, 3, 4)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_state_statistics_are_part_of_the_world_models_checkpoint():
    model, _ = new(UNEQUAL)
    other = WorldModel(UNEQUAL, tiny())
    other.load_state_dict(model.state_dict())
    states = torch.randn(3, 4)
    assert torch.equal(other.normalizer(states), model.normalizer(states))


def test_a_start_of_another_length_is_refused():
    model, buffer = new(UNEQUAL)
    with pytest.raises(AssertionError, match="a start holds L positions"):
        model.reset(buffer.windows(torch.arange(3), past=1))


@torch.no_grad()
def test_replayed_steps_are_those_of_a_simulation_that_takes_the_recorded_actions():
    model, buffer = new(UNEQUAL)
    window = buffer.windows(torch.tensor([0, 1, 4, 5, 10]), past=2, future=3)
    torch.manual_seed(0)
    replayed = model.replayed(window)
    simulation = model.reset(Window(*(column[:, :3] for column in vars(window).values())))
    torch.manual_seed(0)
    states = [simulation.states, *(simulation.step(actions).states for actions in window.actions[:, 2:].unbind(1))]
    imagined = model.normalizer(replayed.states), model.normalizer(replayed.next_states)
    for ours, theirs in zip(imagined, (states[:-1], states[1:]), strict=True):
        assert torch.allclose(ours[replayed.valid], torch.stack(theirs, 1)[replayed.valid], atol=1e-4)
    assert torch.allclose(replayed.states[:, 0], window.states[:, 2], atol=1e-4)
    assert not torch.allclose(replayed.states[:, 1], window.states[:, 3], atol=0.1)
    for name in ("observations", "actions", "rewards", "terminated", "valid"):
        assert torch.equal(getattr(replayed, name), getattr(window, name)[:, 2:]), name


def test_noise_of_imagination_is_drawn_from_the_errors_on_fresh_steps(monkeypatch):
    exact = {"dynamics_network": "mlp", "dynamics_width": 8, "sampler_start_noise": 0.0}
    model, buffer = new(UNEQUAL, imagination_noise=0.5, **exact)
    clean = new(UNEQUAL, **exact)[0]
    clean.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("errors")})
    monkeypatch.setattr(type(model.errors), "CAPACITY", 14)
    monkeypatch.setattr(type(model.errors), "CANDIDATES", 1)  # then any is as likely as any other
    model.errors.errors, model.errors.states = model.errors.errors[:14], model.errors.states[:14]
    start = buffer.windows(torch.arange(11).repeat(200), past=2)
    actions = start.actions[:, -1]
    expected = clean.reset(start).step(actions).states
    assert torch.equal(model.reset(start, is_noisy=True).step(actions).states, expected)  # nothing was measured yet
    kept = torch.zeros(0, UNEQUAL.state_size)
    for number, rows in enumerate((torch.arange(3), torch.arange(3, 11), torch.arange(5))):
        window = buffer.windows(rows, past=2)
        window = replace(window, next_states=window.next_states + 0.3 * number)  # none is met twice
        z, scale = normalized(window.states, buffer) * window.valid.unsqueeze(-1), model.hp.sigma_data
        predicted = clean.dynamics.sample(z * scale, window.actions, window.valid) / scale
        errors = normalized(window.next_states[:, -1], buffer) - predicted
        kept = torch.cat([errors, kept])[:14]
        assert model.measure(window)["open_loop_error_1"] == pytest.approx(errors.abs().mean().item(), rel=1e-4)
        noise = model.reset(start, is_noisy=True).step(actions).states - expected
        distance = torch.cdist(noise, 0.5 * kept, compute_mode="donot_use_mm_for_euclid_dist")
        assert distance.min(dim=1).values.max() < 1e-4  # one of them, whole, each time
        often = distance.argmin(dim=1).bincount(minlength=len(kept)) / len(noise)
        assert torch.allclose(often, torch.full_like(often, 1 / len(kept)), atol=0.05)
    monkeypatch.setattr(type(model.errors), "CANDIDATES", 500)  # then the nearest state's is drawn
    noise = model.reset(start, is_noisy=True).step(actions).states - expected
    made_in = torch.cat([normalized(buffer.states[rows], buffer) for rows in (range(5), range(3, 11), range(3))])[:14]
    nearest = torch.cdist(normalized(start.states[:, -1], buffer), made_in).argmin(dim=1)
    for row in range(11):  # errors made in the same state are as near as each other
        ties = (made_in == made_in[nearest[row]]).all(dim=1)
        assert (noise[row::11].unsqueeze(1) - 0.5 * kept[ties]).abs().sum(dim=2).min(dim=1).values.max() < 1e-4
    assert torch.equal(model.reset(start).step(actions).states, expected)  # not for whom looks at the model
    model.normalizer.is_whole[1] = True
    raw = model.normalizer.denormalize(model.reset(start, is_noisy=True).step(actions).states)
    assert torch.allclose(raw[:, 1], raw[:, 1].round(), atol=1e-4)


def test_the_policy_learns_from_noisy_states_and_outcomes_from_clean_ones(monkeypatch):
    trainer = new_trainer(UNEQUAL, tiny(**SWIFT, imagination_noise=0.3))
    seen, old = [], WorldModel.next_states
    monkeypatch.setattr(WorldModel, "next_states", lambda self, *a: seen.append(len(a) > 3 and a[3]) or old(self, *a))
    trainer.add([random_trajectory(UNEQUAL, 30)])
    assert trainer.world_model.errors.count == 0
    trainer.train_iteration()
    hp = trainer.hp
    assert seen == [False] * hp.imagination_horizon + [True] * hp.imagination_horizon * hp.policy_updates_per_iteration
    trainer.add([random_trajectory(UNEQUAL, 7, seed=1)])
    assert seen[-1] is False and trainer.world_model.errors.count == 7
