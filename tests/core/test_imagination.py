"""Which imagined values belong together: stand-ins whose numbers tell the time."""

import pytest
import torch
from support.core import DISCRETE, UNEQUAL, new_trainer, random_trajectory, randomize, tiny

from rllib_dima.core.imagination import ImaginedStep, Simulation, imagine


class Clock(Simulation):
    """A world model: s_t = t and o_t = 100 + t; r_t = 200 + a_t / 2 and c_t = 300 + a_t / 2."""

    def __init__(self):
        self.time, self.states, self.observations = 0, torch.full((2, 1), 0.0), torch.full((2, 1, 1), 100.0)

    def step(self, actions):
        assert torch.equal(actions, torch.full((2, 1, 1), 2.0 * self.time)), "the action is that of the present"
        self.time += 1
        self.states, self.observations = torch.full((2, 1), 1.0 * self.time), torch.full((2, 1, 1), 100.0 + self.time)
        outcome = actions[:, 0, 0] / 2
        return ImaginedStep(self.states, self.observations, 200 + outcome, 300 + outcome)


class ClockActor:
    """Draws a_t = 3 (o_t - 100) with log-probability 400 + a_t / 3, and executes 2 / 3 of it."""

    def __call__(self, observations):
        self.observations = observations
        return self

    def sample(self):
        return 3 * (self.observations - 100)

    def log_prob(self, actions):
        return 400 + actions[..., 0] / 3

    def executed(self, actions, observations):
        return (actions + 0 * observations) * 2 / 3


def test_columns_are_aligned_in_time():
    rollout = imagine(Clock(), ClockActor(), horizon=5)
    times = torch.arange(6.0)
    assert torch.equal(rollout.states, times.view(6, 1, 1).expand(6, 2, 1))
    times = times[:5]
    assert torch.equal(rollout.observations, 100 + times.view(5, 1, 1, 1).expand(5, 2, 1, 1))
    assert torch.equal(rollout.actions, 3 * times.view(5, 1, 1, 1).expand(5, 2, 1, 1))
    assert torch.equal(rollout.log_probs, 400 + times.view(5, 1, 1).expand(5, 2, 1))
    assert torch.equal(rollout.rewards, 200 + times.view(5, 1).expand(5, 2))
    assert torch.equal(rollout.continuations, 300 + times.view(5, 1).expand(5, 2))


@pytest.mark.parametrize("layout", [UNEQUAL, DISCRETE], ids=["continuous", "discrete"])
def test_real_models_roll_out_from_the_real_start(layout):
    trainer = new_trainer(layout, tiny())
    trainer.add([random_trajectory(layout, 20)])
    trainer.world_model.eval()
    start = trainer.replay.sample(6, past=2)
    rollout = imagine(trainer.world_model.reset(start), trainer.actor, 4)
    assert torch.allclose(rollout.states[0], trainer.world_model.normalizer(start.states[:, -1]))
    assert torch.equal(rollout.observations[0], start.observations[:, -1])
    policy = trainer.actor(rollout.observations)
    assert torch.allclose(policy.log_prob(rollout.actions), rollout.log_probs, atol=1e-5)
    decoded = trainer.world_model.state_decoder(rollout.states[1:-1])
    assert torch.allclose(rollout.observations[1:], decoded, atol=1e-5)
    assert torch.all((rollout.continuations > 0) & (rollout.continuations < 1))
    assert not any(column.requires_grad for column in rollout)


def test_imagination_stays_on_the_grid():
    trainer = new_trainer(UNEQUAL, tiny())
    chunk = random_trajectory(UNEQUAL, 40)
    chunk.states[:, 1:] = (3 * chunk.states[:, 1:]).round()
    trainer.add([chunk])
    model = randomize(trainer.world_model.eval())
    simulation = model.reset(trainer.replay.sample(8, past=model.hp.context_length - 1))
    for _ in range(2):
        imagined = simulation.step(torch.zeros(8, UNEQUAL.num_agents, UNEQUAL.action_size)).states
        away = (model.normalizer.denormalize(imagined) - model.normalizer.denormalize(imagined).round()).abs().amax(0)
        assert (away[1:] < 1e-4).all() and away[0] > 1e-2
