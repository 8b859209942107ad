"""The hyperparameters of MAMBA, with the values that its authors found best on StarCraft.

"Released" is the authors' public code, which has no continuous actions: what those need is our choice, and says so. The
numbers that the DIMA paper gives for MAMBA come from settings that are not public.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from rllib_dima.core.hyperparameters import knob
from rllib_dima.core.policy.hyperparameters import PolicyHyperparameters
from rllib_dima.core.replay.hyperparameters import ReplayHyperparameters

Settings = dict[str, Any]

_FAMILIES: dict[str, Settings] = {
    "mamujoco": {"env_steps_per_iteration": 1000, "normalize_observations": False},  # they are standardised already
    "bidexhands": {  # DIMA's own; a guess
        "gamma": 0.95,
        "entropy_coeff": 0.01,
        "env_steps_per_iteration": 500,
        "normalize_observations": False,
    },
}
_MODEL_SIZES: dict[str, Settings] = {
    "paper": {},
    "nano": {
        "env_steps_per_iteration": 200,
        "num_steps_before_learning": 5000,
        "model_hidden_size": 96,
        "deterministic_size": 96,
        "num_categoricals": 16,
        "num_classes": 16,
        "communication_layers": 1,
        "communication_heads": 4,
        "outcome_hidden_size": 64,
        "model_lr": 5e-4,
        "model_batch_size": 16,
        "model_updates_per_iteration": 80,
        "num_imagined_windows": 16,
        "policy_updates_per_iteration": 6,
        "actor_hidden_size": 64,
        "critic_hidden_size": 64,
        "critic_num_heads": 4,
    },
}


@dataclass(frozen=True)
class RepresentationHyperparameters(PolicyHyperparameters):
    """What acting needs: representation and actor."""

    normalize_observations: bool = knob(
        True,
        "Let the world model read and predict observations normalised by running statistics (ours); off for "
        "MAMuJoCo and Bi-DexHands, which scale them already, but for MAMuJoCo's local observations: set it there.",
    )
    actor_hidden_size: int = knob(256, "Width of the actor.", low=1)
    actor_num_layers: int = knob(2, "Hidden layers of the actor.", low=1)
    model_hidden_size: int = knob(256, "Width of the world model's networks and of what agents communicate.", low=1)
    deterministic_size: int = knob(256, "Entries of an agent's deterministic state.", low=1)
    num_categoricals: int = knob(32, "Categoricals of an agent's stochastic state.", low=1)
    num_classes: int = knob(32, "Classes of each categorical.", low=2)
    communication_layers: int = knob(3, "Layers of attention through which agents communicate at every step.", low=1)
    communication_heads: int = knob(8, "Heads of a communication layer; a divisor of model_hidden_size.", low=1)
    communication_dropout: float = knob(0.1, "Dropout of communication while the model learns.", low=0.0, high=0.99)
    sample_latents_in_evaluation: bool = knob(
        True, "Draw stochastic states also where the policy is deterministic (released); else take the likeliest."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_multiple("model_hidden_size", of="communication_heads")

    @property
    def stochastic_size(self) -> int:
        """Entries of an agent's stochastic state."""
        return self.num_categoricals * self.num_classes

    @property
    def feature_size(self) -> int:
        """Entries of an agent's whole state."""
        return self.stochastic_size + self.deterministic_size


@dataclass(frozen=True)
class MAMBAHyperparameters(ReplayHyperparameters, RepresentationHyperparameters):
    """Hyperparameters of MAMBA; see each field's metadata for text, symbol and range."""

    MODEL_SIZES: ClassVar[dict[str, Settings]] = _MODEL_SIZES
    FAMILIES: ClassVar[dict[str, Settings]] = _FAMILIES

    env_steps_per_iteration: int = knob(
        1000,
        "Real environment steps collected per iteration (released: an episode, however long).",
        low=1,
    )
    num_steps_before_learning: int = knob(
        500, "Real steps collected with the untrained policy before the first update.", low=0
    )

    # Execution
    acceleration: str = knob(
        "auto",
        "How training steps are executed: operation by operation (eager) or as CUDA graphs; auto is the latter on a "
        "GPU.",
        choices=("auto", "eager", "cuda_graphs"),
    )
    precision: str = knob(
        "tf32",
        "Arithmetic of matrix products in training: float32, or tf32 on GPUs that have it.",
        choices=("float32", "tf32"),
    )

    # World model
    outcome_hidden_size: int = knob(256, "Width of the predictors of reward and continuation.", low=1)
    model_lr: float = knob(2e-4, "Learning rate of the world model (Adam).", low=0.0)
    model_grad_clip: float = knob(
        100.0, "Largest gradient norm of the world model; a larger gradient is scaled down to it.", low=1e-9
    )
    model_batch_size: int = knob(40, "Windows per world-model update.", low=1)
    window_length: int = knob(
        20,
        "Steps of a window. The first one gives the action before it alone, so states are learnt on one less.",
        low=3,
    )
    model_updates_per_iteration: int = knob(60, "World-model updates per iteration.", low=1)
    kl_balance: float = knob(
        0.8, "Weight of the KL divergence in the prior's gradient; the posterior's is the rest.", low=0.0, high=1.0
    )
    reward_weight: float = knob(1.0, "Weight of the reward's loss in the world model's.", low=0.0)
    continuation_weight: float = knob(1.0, "Weight of the continuation's loss.", low=0.0)
    information_weight: float = knob(
        1.0, "Weight of the loss that has an agent's state tell its own last action.", low=0.0
    )

    # Imagination
    imagination_horizon: int = knob(
        14, "Steps of an imagined rollout (released: 15, counting its states); DIMA's default is 15.", low=1
    )
    num_imagined_windows: int = knob(
        40,
        "Windows per policy update; a rollout begins at each of their steps but the first and the last.",
        low=1,
    )
    policy_updates_per_iteration: int = knob(4, "Imagined batches per iteration.", low=1)

    # Actor, critic and PPO
    critic_hidden_size: int = knob(256, "Width of the critic.", low=1)
    critic_num_layers: int = knob(1, "Hidden layers of the critic behind its attention over the agents.", low=1)
    critic_num_heads: int = knob(8, "Heads of the critic's attention; a divisor of critic_hidden_size.", low=1)
    actor_weight_decay: float = knob(1e-5, "Weight decay of the actor (L2, on matrices).", low=0.0)
    adam_epsilon: float = knob(1e-8, "Epsilon of every Adam.", low=1e-12)
    actor_grad_clip: float = knob(
        100.0, "Largest gradient norm of the actor; a larger gradient is scaled down to it.", low=1e-9
    )
    critic_grad_clip: float = knob(
        200.0,
        "Largest gradient norm of the critic; a larger gradient is scaled down to it (released: 100 of half the "
        "error).",
        low=1e-9,
    )
    ppo_minibatches: int = knob(5, "Minibatches per PPO epoch (released: of 2,000 steps).", low=1)
    clip_param: float = knob(0.2, "PPO clipping of the probability ratio.", symbol="epsilon", low=0.0)
    entropy_coeff: float = knob(0.001, "Weight of the entropy bonus at the start.", symbol="eta", low=0.0)
    entropy_decay: float = knob(0.99998, "Factor on entropy_coeff for every minibatch.", low=0.0, high=1.0)
    value_loss: str = knob("squared", "Critic error.", choices=("huber", "squared"))
    value_clip_param: float = knob(0.0, "PPO clipping of the value; 0 is off (released).", low=0.0)
    normalize_values: bool = knob(False, "Train the critic on normalised returns (ours; the released code never does).")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_multiple("critic_hidden_size", of="critic_num_heads")
        self._require_capacity(self.env_steps_per_iteration, self.window_length, "window_length")
        self._require_steps_for_minibatches(self.num_imagined_rollouts * self.imagination_horizon, "an imagined batch")

    @property
    def num_imagined_rollouts(self) -> int:
        """Rollouts per policy update."""
        return self.num_imagined_windows * (self.window_length - 2)

    @property
    def context_length(self) -> int:
        """Real steps that a simulation begins with: as many as states are learnt on."""
        return self.window_length - 1
