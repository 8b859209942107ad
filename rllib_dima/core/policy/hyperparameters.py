"""The hyperparameters of actor, critic and PPO, with DIMA's defaults (section C of its appendix)."""

from __future__ import annotations

from dataclasses import dataclass

from rllib_dima.core.hyperparameters import Hyperparameters, knob


@dataclass(frozen=True)
class PolicyHyperparameters(Hyperparameters):
    """What actor, critic and PPO are made and trained with."""

    normalize_observations = False  # no field here: not every algorithm can

    gamma: float = knob(0.99, "Discount factor.", symbol="gamma", low=0.0, high=1.0)
    lambda_: float = knob(0.95, "Weight of longer returns in the lambda-return, eq. 19.", low=0.0, high=1.0)
    policy_distribution: str = knob(
        "gaussian", "Distribution of continuous actions (discrete ones are categorical).", choices=("gaussian", "beta")
    )
    initial_log_std: float = knob(
        1.0,
        "Initial log_std of the Gaussian, whose std is 0.5 sigmoid(log_std); a Beta starts with the same std.",
        low=-20.0,
    )
    actor_hidden_size: int = knob(128, "Width of the actor.", low=1)
    actor_num_layers: int = knob(2, "Hidden layers of the actor (released code: 3).", low=1)
    critic_hidden_size: int = knob(256, "Width of the critic.", low=1)
    critic_num_layers: int = knob(2, "Hidden layers of the critic.", low=1)
    actor_lr: float = knob(5e-4, "Learning rate of the actor (Adam).", low=0.0)
    critic_lr: float = knob(5e-4, "Learning rate of the critic (Adam).", low=0.0)
    adam_epsilon: float = knob(1e-5, "Epsilon of the actor's and the critic's Adam.", low=1e-12)
    actor_grad_clip: float = knob(
        10.0, "Largest gradient norm of the actor; a larger gradient is scaled down to it.", low=1e-9
    )
    critic_grad_clip: float = knob(
        10.0, "Largest gradient norm of the critic; a larger gradient is scaled down to it.", low=1e-9
    )
    ppo_epochs: int = knob(5, "PPO epochs per imagined batch.", low=1)
    ppo_minibatches: int = knob(1, "Minibatches per PPO epoch.", low=1)
    clip_param: float = knob(0.1, "PPO clipping of the probability ratio, eq. 21.", symbol="epsilon", low=0.0)
    entropy_coeff: float = knob(0.001, "Weight of the entropy bonus, eq. 21.", symbol="eta", low=0.0)
    normalize_advantages: bool = knob(True, "Standardise advantages over the imagined batch.")
    value_loss: str = knob("huber", "Critic error (paper: squared, eq. 20).", choices=("huber", "squared"))
    value_huber_delta: float = knob(10.0, "Where the Huber error turns linear.", low=1e-9)
    value_clip_param: float = knob(0.1, "PPO clipping of the value (released code); 0 is off.", low=0.0)
    normalize_values: bool = knob(True, "Train the critic on normalised returns (released code).")
    value_normalization_beta: float = knob(
        0.99999, "Decay of the value normaliser's moving averages.", low=0.0, high=0.9999999
    )

    def _require_steps_for_minibatches(self, steps: int, of: str) -> None:
        """Raises ValueError if there are more minibatches than steps to be learnt from."""
        if self.ppo_minibatches > steps:
            raise ValueError(
                f"ppo_minibatches ({self.ppo_minibatches}) exceeds the {steps} steps of {of}, which can be split no "
                "further."
            )
