"""Small teams, hyperparameters and episodes that the tests of the core share."""

from dataclasses import replace

import numpy as np
import torch

from rllib_dima.core.dima.hyperparameters import DIMAHyperparameters
from rllib_dima.core.dima.trainer import DIMATrainer
from rllib_dima.core.layout import AgentLayout
from rllib_dima.core.replay.data import Trajectory

# Agents of different sizes, and agents that choose among different numbers of actions.
UNEQUAL = AgentLayout(("a", "b"), 4, (3, 2), (2, 1), "continuous", appends_agent_id=True)
DISCRETE = AgentLayout(("a", "b", "c"), 4, (2, 3, 3), (3, 2, 4), "discrete", appends_agent_id=True)
# Of three agents the first makes two choices at once, the second one, the third three.
CHOICES = ((3, 2), (4,), (2, 2, 3))
SEVERAL = AgentLayout(("a", "b", "c"), 4, (2, 3, 3), (5, 4, 7), "multi_discrete", True, CHOICES)
# Teams that agents can leave, and whose actions are not always available.
LEAVING = replace(UNEQUAL, agents_leave=True)
MASKED = replace(DISCRETE, masks_actions=True)
MASKED_LEAVING = replace(SEVERAL, masks_actions=True, agents_leave=True)

TINY = {
    "replay_capacity": 200,
    "decoder_hidden_size": 16,
    "decoder_num_tokens": 2,
    "decoder_batch_size": 8,
    "decoder_updates_per_iteration": 2,
    "dynamics_channels": 8,
    "dynamics_group_size": 4,
    "dynamics_num_levels": 2,
    "dynamics_blocks_per_level": 1,
    "dynamics_condition_size": 8,
    "dynamics_action_size": 8,
    "dynamics_batch_size": 8,
    "dynamics_updates_per_iteration": 2,
    "reward_embedding_size": 8,
    "reward_num_layers": 2,
    "reward_num_heads": 2,
    "reward_batch_size": 4,
    "reward_updates_per_iteration": 2,
    "imagination_horizon": 4,
    "num_imagined_rollouts": 6,
    "policy_updates_per_iteration": 2,
    "ppo_epochs": 2,
    "actor_hidden_size": 8,
    "critic_hidden_size": 8,
}


# The recipe of the same name, with sizes for tests.
SWIFT = DIMAHyperparameters.RECIPES["swift"][""] | {
    "dynamics_width": 8,
    "dynamics_num_blocks": 1,
    "dynamics_batch_size": 8,
    "reward_width": 8,
    "reward_batch_size": 8,
}
# Rewards and endings of present states and actions, learnt on real steps alone.
REAL_OUTCOMES = {"reward_reads_next_state": False, "reward_imagined_fraction": 0.0}


TINY_MAMBA = {
    "env_steps_per_iteration": 20,
    "num_steps_before_learning": 0,
    "replay_capacity": 200,
    "model_hidden_size": 8,
    "deterministic_size": 6,
    "num_categoricals": 3,
    "num_classes": 4,
    "communication_layers": 1,
    "communication_heads": 2,
    "communication_dropout": 0.0,
    "outcome_hidden_size": 8,
    "model_batch_size": 4,
    "window_length": 6,
    "model_updates_per_iteration": 3,
    "num_imagined_windows": 3,
    "policy_updates_per_iteration": 2,
    "imagination_horizon": 4,
    "actor_hidden_size": 8,
    "critic_hidden_size": 8,
    "critic_num_heads": 2,
    "ppo_epochs": 2,
    "ppo_minibatches": 2,
}


TINY_MARIE = {
    "env_steps_per_iteration": 20,
    "replay_capacity": 200,
    "num_steps_before_learning": 0,
    "num_tokenizer_warmup_iterations": 0,
    "num_world_model_warmup_iterations": 0,
    "tokenizer_num_tokens": 2,
    "tokenizer_codebook_size": 8,
    "tokenizer_code_size": 4,
    "tokenizer_fsq_levels": (3, 3),
    "tokenizer_num_bins": 8,
    "tokenizer_hidden_size": 8,
    "tokenizer_batch_size": 8,
    "tokenizer_updates_per_iteration": 2,
    "action_bins": 8,
    "model_embedding_size": 8,
    "model_num_layers": 2,
    "model_num_heads": 2,
    "model_batch_size": 4,
    "model_updates_per_iteration": 2,
    "perceiver_num_layers": 1,
    "perceiver_num_heads": 2,
    "perceiver_head_size": 4,
    "reward_bins": 8,
    "imagination_horizon": 4,
    "num_imagined_rollouts": 6,
    "rollouts_at_once": 4,
    "policy_updates_per_iteration": 2,
    "ppo_epochs": 2,
    "actor_hidden_size": 8,
    "critic_hidden_size": 8,
    "critic_num_heads": 2,
}


def tiny(**changes):
    """DIMAHyperparameters of networks that train in milliseconds."""
    return DIMAHyperparameters(**{**TINY, **changes})


def randomize(module, seed=0, scale=0.3):
    """Gives every parameter a value, so that nothing is hidden by an initialisation with zeros."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return module


def random_actions(layout, *shape, seed=0):
    """(*shape, N, A) executed actions: in [-1, 1] or one-hot, zero where padded."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(*shape, layout.num_agents, layout.action_size, generator=generator) * layout.action_mask()
    if layout.is_discrete:
        choices = [block.argmax(-1) for block in scores.split(list(layout.block_sizes), -1)]
        drawn = torch.stack(choices, dim=-1) if layout.is_factored else choices[0]
        return layout.executed(drawn, layout.action_mask().float())
    return (2 * scores - 1) * layout.action_mask()


def random_observations(layout, *shape, seed=0):
    """(*shape, N, O) padded observations that end in the one-hot agent id; a third of the agents have left."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(*shape, layout.num_agents, layout.observation_size, generator=generator)
    values = values * layout.observation_mask()
    if layout.masks_actions:
        flags = torch.rand(values[..., layout.available_slice].shape, generator=generator) < 0.5
        first = torch.cat([torch.arange(width) == 0 for width in layout.block_sizes])
        values[..., layout.available_slice] = ((flags | first) & layout.action_mask()).float()
    if layout.agents_leave:
        values[..., layout.alive_index] = 1
        values *= torch.rand(*shape, layout.num_agents, 1, generator=generator) > 1 / 3
    values[..., -layout.num_agents :] = torch.eye(layout.num_agents)
    return values


def random_trajectory(layout, length, seed=0, **flags):
    """A chunk of `length` steps full of random numbers."""
    random = np.random.default_rng(seed)
    observations = random_observations(layout, length, seed=seed)
    actions = random_actions(layout, length, seed=seed)
    return Trajectory(
        episode_id=flags.pop("episode_id", f"episode {seed}"),
        states=random.normal(2.0, 3.0, (length + 1, layout.state_size)).astype(np.float32),
        observations=observations.numpy(),
        actions=layout.effective(actions, observations).numpy(),
        rewards=random.normal(size=length).astype(np.float32),
        **flags,
    )


def new_trainer(layout, hp, seed=0, network_seed=0, **arguments):
    """A trainer of freshly initialised networks."""
    torch.manual_seed(network_seed)
    device = arguments.get("device", "cpu")
    networks = {name: network(layout, hp).to(device) for name, network in DIMATrainer.NETWORKS.items()}
    return DIMATrainer(layout, hp, networks, seed=seed, **arguments)


def layout_of(num_agents, state_size=4, observation_size=3, action_size=2, kind="continuous"):
    """Equal agents, also a single one, which the public interface refuses."""
    layout = object.__new__(AgentLayout)
    values = {
        "agent_ids": tuple("abcdef"[:num_agents]),
        "state_size": state_size,
        "observation_sizes": (observation_size,) * num_agents,
        "action_sizes": (action_size,) * num_agents,
        "action_kind": kind,
        "appends_agent_id": True,
    }
    for name, value in values.items():
        object.__setattr__(layout, name, value)
    return layout


def make_trainer(trainer_class, layout, hp, seed=0, network_seed=0, **arguments):
    """Any algorithm's trainer, of freshly initialised networks."""
    torch.manual_seed(network_seed)
    networks = {name: network(layout, hp) for name, network in trainer_class.NETWORKS.items()}
    return trainer_class(layout, hp, networks, seed=seed, **arguments)


def acted_trajectory(actor, length, seed=0, **flags):
    """A chunk in which a policy drew the actions."""
    layout = actor.layout
    plain = random_trajectory(layout, length, seed, **flags)
    torch.manual_seed(seed)
    with torch.no_grad():
        policy = actor(torch.from_numpy(plain.observations))
        drawn = policy.sample()
        log_probs = policy.log_prob(drawn)
    return replace(
        plain,
        actions=actor.executed(drawn, torch.from_numpy(plain.observations)).numpy(),
        drawn_actions=drawn.numpy(),
        log_probs=log_probs.numpy(),
        last_observations=random_observations(layout, seed=seed + 1).numpy(),
    )


def weights(network):
    """(P,) a copy of all parameters."""
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])
