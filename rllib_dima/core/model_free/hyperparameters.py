"""The hyperparameters of MAPPO, HAPPO and HASAC, with the values that their authors' benchmark was tuned to.

"HARL" is the public code of HAPPO's authors, from which the published numbers come. A task with an entry of its own in
`FAMILIES` has HARL's tuned values, or, where HARL has none, those of the tuned task named beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from rllib_dima.core.hyperparameters import Hyperparameters, knob
from rllib_dima.core.policy.hyperparameters import PolicyHyperparameters
from rllib_dima.core.replay.hyperparameters import ReplayHyperparameters

Settings = dict[str, Any]

_MAMUJOCO: Settings = {
    "actor_num_layers": 3,
    "critic_num_layers": 3,
    "clip_param": 0.1,
    "value_clip_param": 0.1,
    "entropy_coeff": 0.0,
    "time_limits": "no_advantage",
}
_HALFCHEETAH: Settings = {
    **_MAMUJOCO, "clip_param": 0.05, "value_clip_param": 0.05, "ppo_epochs": 15, "entropy_coeff": 0.01,
}  # fmt: skip
_WALKER: Settings = {
    **_MAMUJOCO, "clip_param": 0.05, "value_clip_param": 0.05, "ppo_minibatches": 2, "actor_lr": 1e-3,
    "critic_lr": 1e-3, "lr_decay_steps": 10_000_000,
}  # fmt: skip
_HANDS: Settings = {
    "actor_num_layers": 3,
    "critic_num_layers": 3,
    "actor_hidden_size": 256,
    "critic_hidden_size": 256,
    "gamma": 0.95,
    "time_limits": "termination",
    "env_steps_per_iteration": 5000,
}
_FAMILIES: dict[str, Settings] = {
    "mamujoco": _MAMUJOCO,  # other robots: Ant-4x2's
    "mamujoco_halfcheetah_2x3": _HALFCHEETAH,
    "mamujoco_halfcheetah_3x2": _HALFCHEETAH,  # not tuned in HARL
    "mamujoco_halfcheetah_6x1": _HALFCHEETAH,  # not tuned in HARL
    "mamujoco_ant_4x2": _MAMUJOCO,
    "mamujoco_ant_2x4": _MAMUJOCO,  # not tuned in HARL
    "mamujoco_walker2d_2x3": _WALKER,
    "mamujoco_walker2d_3x2": _WALKER,  # not tuned in HARL
    "bidexhands": _HANDS,  # not tuned in HARL: Pen's networks and losses, 20 episodes of 250 steps
    "bidexhands_pen": {**_HANDS, "env_steps_per_iteration": 32_000},  # tuned for HAPPO alone
    "bidexhands_bottle_cap": {**_HANDS, "env_steps_per_iteration": 2500},  # not tuned in HARL: 20 of 125 steps
}
_MODEL_SIZES: dict[str, Settings] = {
    "paper": {},
    "nano": {"actor_hidden_size": 64, "actor_num_layers": 2, "critic_hidden_size": 64, "critic_num_layers": 2},
}
_RECIPES: dict[str, dict[str, Settings]] = {
    "paper": {},
    "untuned": {  # HARL's general file, whatever the task
        "": {
            "actor_hidden_size": 128, "actor_num_layers": 2, "critic_hidden_size": 128, "critic_num_layers": 2,
            "gamma": 0.99, "clip_param": 0.2, "value_clip_param": 0.2, "ppo_epochs": 5, "ppo_minibatches": 1,
            "entropy_coeff": 0.01, "actor_lr": 5e-4, "critic_lr": 5e-4, "lr_decay_steps": 0,
            "time_limits": "no_advantage",
        }
    },
}  # fmt: skip


@dataclass(frozen=True)
class OnPolicyHyperparameters(PolicyHyperparameters):
    """What MAPPO and HAPPO have in common. Defaults are HARL's general ones but for `time_limits`."""

    MODEL_SIZES: ClassVar[dict[str, Settings]] = _MODEL_SIZES
    RECIPES: ClassVar[dict[str, dict[str, Settings]]] = _RECIPES
    FAMILIES: ClassVar[dict[str, Settings]] = _FAMILIES

    env_steps_per_iteration: int = knob(
        4000, "Real environment steps collected per iteration (20 environments of 200 steps).", low=1
    )
    actor_num_layers: int = knob(2, "Hidden layers of the actor.", low=1)
    critic_hidden_size: int = knob(128, "Width of the critic.", low=1)
    normalize_values: bool = knob(True, "Train the critic on normalised returns.")
    ppo_epochs: int = knob(5, "Epochs of actor and critic over the steps of an iteration.", low=1)
    ppo_minibatches: int = knob(1, "Minibatches per epoch.", low=1)
    clip_param: float = knob(0.2, "PPO clipping of the probability ratio.", symbol="epsilon", low=0.0)
    value_clip_param: float = knob(0.2, "PPO clipping of the value (HARL: equal to clip_param); 0 is off.", low=0.0)
    entropy_coeff: float = knob(0.01, "Weight of the entropy bonus.", low=0.0)
    lambda_: float = knob(0.95, "Decay of generalised advantage estimation.", low=0.0, high=1.0)
    normalize_advantages: bool = knob(True, "Standardise advantages over an iteration's steps.")
    value_loss: str = knob("huber", "Critic error.", choices=("huber", "squared"))
    initial_value_std: float = knob(
        0.1, "Standard deviation of the value normaliser before the first update (HARL: 0.1).", low=1e-9
    )
    entropy_reduction: str = knob(
        "mean",
        "Entropy bonus: the mean over a minibatch's actions, or their sum, as HARL had it for continuous actions until "
        "October 2024, when its values were tuned.",
        choices=("mean", "sum"),
    )
    time_limits: str = knob(
        "bootstrap",
        "What the last step of an episode that a time limit ended counts: bootstrap from the state after it (ours), no "
        "advantage (HARL), or as a termination (HARL on Bi-DexHands).",
        choices=("bootstrap", "no_advantage", "termination"),
    )
    lr_decay_steps: int = knob(
        0, "Environment steps over which the learning rates fall linearly to 0; 0 keeps them.", low=0
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_steps_for_minibatches(self.env_steps_per_iteration, "an iteration (env_steps_per_iteration)")

    def learning_rate_factor(self, iteration: int) -> float:
        """What the learning rates are multiplied with in an iteration, counted from 0."""
        if not self.lr_decay_steps:
            return 1.0
        return max(0.0, 1.0 - iteration / max(1, self.lr_decay_steps // self.env_steps_per_iteration))


@dataclass(frozen=True)
class MAPPOHyperparameters(OnPolicyHyperparameters):
    """Hyperparameters of MAPPO; see each field's metadata for text, symbol and range."""

    share_parameters: bool = knob(
        True, "One actor for all agents; without it every agent has its own, trained with the same advantages."
    )


@dataclass(frozen=True)
class HAPPOHyperparameters(OnPolicyHyperparameters):
    """Hyperparameters of HAPPO; see each field's metadata for text, symbol and range."""

    fixed_order: bool = knob(False, "Update the agents in their order instead of a new random one every iteration.")


_SOFT_MAMUJOCO: Settings = {"standardize_states": True, "auto_alpha": True, "n_step": 10}
_SOFT_HALFCHEETAH: Settings = {**_SOFT_MAMUJOCO, "actor_lr": 1e-3, "critic_lr": 1e-3}
_SOFT_ANT: Settings = {
    "standardize_states": True, "auto_alpha": False, "alpha": 0.2, "n_step": 5, "actor_lr": 1e-3, "critic_lr": 3e-4,
}  # fmt: skip
_SOFT_WALKER: Settings = {
    "standardize_states": True, "auto_alpha": False, "alpha": 0.2, "n_step": 20, "actor_lr": 5e-4, "critic_lr": 1e-3,
}  # fmt: skip
_SOFT_HANDS: Settings = {"gamma": 0.95, "auto_alpha": True, "n_step": 20, "time_limits": "termination"}
_SOFT_FAMILIES: dict[str, Settings] = {
    "mamujoco": _SOFT_MAMUJOCO,  # not tuned in HARL
    **{f"mamujoco_halfcheetah_{division}": _SOFT_HALFCHEETAH for division in ("2x3", "3x2", "6x1")},
    "mamujoco_ant_4x2": _SOFT_ANT,
    "mamujoco_ant_2x4": {**_SOFT_ANT, "batch_size": 2200},
    "mamujoco_walker2d_2x3": _SOFT_WALKER,
    "mamujoco_walker2d_3x2": _SOFT_WALKER,  # not tuned in HARL
    "bidexhands": _SOFT_HANDS,
    "bidexhands_door_open_outward": {**_SOFT_HANDS, "gamma": 0.99},
    "bidexhands_bottle_cap": _SOFT_HANDS,  # not tuned in HARL
}


@dataclass(frozen=True)
class SoftActorHyperparameters(Hyperparameters):
    """What HASAC's policies are made with."""

    env_steps_per_iteration: int = knob(
        1000, "Real environment steps collected per iteration (20 environments of 50 steps).", low=1
    )
    actor_hidden_size: int = knob(256, "Width of every agent's actor.", low=1)
    actor_num_layers: int = knob(2, "Hidden layers of every agent's actor.", low=1)
    warmup_steps: int = knob(10_000, "Real steps of uniform actions before the first update.", low=0)


@dataclass(frozen=True)
class HASACHyperparameters(ReplayHyperparameters, SoftActorHyperparameters):
    """Hyperparameters of HASAC; see each field's metadata for text, symbol and range."""

    MODEL_SIZES: ClassVar[dict[str, Settings]] = {
        "paper": {},
        "nano": {"actor_hidden_size": 64, "critic_hidden_size": 64, "batch_size": 256, "replay_capacity": 100_000},
    }
    FAMILIES: ClassVar[dict[str, Settings]] = _SOFT_FAMILIES

    alpha_grad_clip = 1e30  # no field here: temperatures are never clipped

    critic_hidden_size: int = knob(256, "Width of both critics.", low=1)
    critic_num_layers: int = knob(2, "Hidden layers of both critics.", low=1)
    standardize_states: bool = knob(
        False, "Show the critics states that are standardised over their own entries (HARL on MAMuJoCo)."
    )
    gamma: float = knob(0.99, "Discount factor.", symbol="gamma", low=0.0, high=1.0)
    n_step: int = knob(20, "Steps of a return, at most; fewer where an episode ends.", symbol="n", low=1)
    time_limits: str = knob(
        "bootstrap",
        "What the last step of an episode that a time limit ended counts: bootstrap from the state after it, or as a "
        "termination (HARL on Bi-DexHands).",
        choices=("bootstrap", "termination"),
    )
    updates_per_iteration: int = knob(50, "Rounds per iteration: updates of critics, actors and temperatures.", low=1)
    batch_size: int = knob(1000, "Transitions per round, drawn with replacement (HARL: without).", low=1)
    actor_lr: float = knob(5e-4, "Learning rate of the actors (Adam).", low=0.0)
    critic_lr: float = knob(5e-4, "Learning rate of the critics (Adam).", low=0.0)
    adam_epsilon: float = knob(1e-8, "Epsilon of every Adam.", low=1e-12)
    actor_grad_clip: float = knob(1e9, "Largest gradient norm of an actor; a huge one never clips (HARL).", low=1e-9)
    critic_grad_clip: float = knob(
        1e9, "Largest gradient norm of the critics; a huge one never clips (HARL).", low=1e-9
    )
    polyak: float = knob(0.005, "How far target critics move towards the critics per round.", low=0.0, high=1.0)
    auto_alpha: bool = knob(True, "Learn the temperatures, from 1, instead of keeping them at `alpha`.")
    alpha: float = knob(0.2, "Temperature of all agents and the critic without `auto_alpha`.", symbol="alpha", low=0.0)
    alpha_lr: float = knob(3e-4, "Learning rate of the temperatures (Adam).", low=0.0)
    fixed_order: bool = knob(False, "Update the agents in their order instead of a new random one every round.")
    replay_capacity: int = knob(1_000_000, "Transitions the replay buffer holds; the oldest are overwritten.", low=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_capacity(self.env_steps_per_iteration, self.n_step, "n_step")
