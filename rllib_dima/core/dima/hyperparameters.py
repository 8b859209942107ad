"""The hyperparameters of DIMA: those of its networks, each defined beside the class it sizes, and what is left.

`DIMAConfig` takes its fields from here, so that the configuration, the documentation and the core cannot disagree.
Where the paper and the publicly released research code differ, the default is what produced the published numbers and
the text says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rllib_dima.core.dima.diffusion import DynamicsHyperparameters
from rllib_dima.core.dima.reward_termination import RewardTerminationHyperparameters
from rllib_dima.core.dima.state_decoder import StateDecoderHyperparameters
from rllib_dima.core.hyperparameters import knob
from rllib_dima.core.policy.networks import ActorHyperparameters
from rllib_dima.core.replay.hyperparameters import ReplayHyperparameters

_FAMILIES: dict[str, dict[str, Any]] = {
    "mamujoco": {
        "gamma": 0.99,
        "entropy_coeff": 0.001,
        "env_steps_per_iteration": 200,
        "normalize_observations": False,  # they are standardised already, as in the paper
    },
    "bidexhands": {
        "gamma": 0.95,
        "entropy_coeff": 0.01,
        "env_steps_per_iteration": 500,
        "normalize_observations": False,  # they are scaled by the benchmark
    },
}

_MODEL_SIZES: dict[str, dict[str, Any]] = {
    "paper": {},
    "small": {
        "decoder_hidden_size": 256,
        "dynamics_channels": 64,
        "dynamics_blocks_per_level": 1,
        "dynamics_condition_size": 128,
        "dynamics_action_size": 128,
        "reward_embedding_size": 128,
        "reward_num_layers": 3,
        "critic_hidden_size": 128,
        "num_imagined_rollouts": 300,
    },
    "nano": {
        "num_steps_before_learning": 5000,
        "decoder_hidden_size": 128,
        "decoder_lr": 1e-3,
        "decoder_batch_size": 128,
        "decoder_updates_per_iteration": 50,
        "dynamics_channels": 32,
        "dynamics_blocks_per_level": 1,
        "dynamics_condition_size": 64,
        "dynamics_action_size": 64,
        "dynamics_lr": 5e-4,
        "dynamics_updates_per_iteration": 150,
        "reward_embedding_size": 64,
        "reward_num_layers": 2,
        "reward_lr": 3e-4,
        "reward_batch_size": 32,
        "reward_updates_per_iteration": 100,
        "num_imagined_rollouts": 300,
        "policy_updates_per_iteration": 8,
        "actor_hidden_size": 64,
        "critic_hidden_size": 128,
    },
}


_RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "paper": {},
    "swift": {
        "": {
            "decoder_network": "mlp",
            "decoder_lr": 2e-3,
            "context_length": 1,
            "dynamics_network": "mlp",
            "dynamics_target": "change",
            "dynamics_training": "refinement",
            "dynamics_huber_delta": 0.5,
            "dynamics_ema_decay": 0.99,
            "dynamics_lr": 2e-3,
            "dynamics_batch_size": 128,
            "num_autoregressive_steps": 1,
            "conditioning": "joint",
            "num_denoising_steps": 1,
            "sampler_start_noise": 0.0,
            "sigma_offset_noise": 0.0,
            "reward_network": "mlp",
            "reward_lr": 1e-3,
            "reward_batch_size": 256,
            "reward_reads_next_state": True,
            "reward_imagined_fraction": 0.5,
            "policy_distribution": "beta",
            "initial_log_std": 2.0,
        },
        "mamujoco": {"imagination_noise": 1.0},  # on the hands errors add up from step to step
        "nano": {"decoder_updates_per_iteration": 100, "dynamics_width": 256, "reward_width": 128},
    },
}


@dataclass(frozen=True)
class DIMAHyperparameters(
    ReplayHyperparameters,
    RewardTerminationHyperparameters,
    DynamicsHyperparameters,
    StateDecoderHyperparameters,
    ActorHyperparameters,
):
    """Hyperparameters of DIMA; see each field's metadata for text, symbol and range."""

    MODEL_SIZES, RECIPES, FAMILIES = _MODEL_SIZES, _RECIPES, _FAMILIES

    # Execution
    acceleration: str = knob(
        "auto",
        "How training steps are executed: operation by operation (eager), as CUDA graphs, or compiled as well; auto "
        "times the latter two on a GPU and is eager on a CPU.",
        choices=("auto", "eager", "compile", "cuda_graphs"),
    )
    precision: str = knob(
        "tf32",
        "Arithmetic of matrix products in training: float32, tf32 (on GPUs that have it; float32 elsewhere), or "
        "bfloat16 for the world model's and tf32 for the others.",
        choices=("float32", "tf32", "bfloat16"),
    )

    # Collecting real experience
    normalize_observations: bool = knob(
        True,
        "Normalise observations by running statistics, for the actor and as the state decoder's target; off for "
        "MAMuJoCo and Bi-DexHands, which scale them already, but for MAMuJoCo's local observations: set it there.",
    )
    num_steps_before_learning: int = knob(
        0, "Real steps collected with the untrained policy before the first update (released code: 5000).", low=0
    )
    num_world_model_warmup_iterations: int = knob(
        0, "Learning iterations that train the world model alone, before the policy (released code: 9).", low=0
    )

    # Replay
    replay_recency: float = knob(
        1.0,
        "Recency of replay: the age rank of a drawn transition is a uniform number raised to this power. "
        "1 draws uniformly (the paper), larger values prefer newer transitions.",
        low=1.0,
    )

    # Imagination, section C of the paper's appendix
    num_imagined_rollouts: int = knob(600, "Imagined rollouts per policy update.", low=1)
    policy_updates_per_iteration: int = knob(4, "Imagined batches per iteration.", low=1)
    imagination_noise: float = knob(
        0.0,
        "How much of the dynamics' own errors is added to the states that the policy learns from, drawn anew for every "
        "imagined step from those on fresh steps in like states: what the model does not know is then a risk. For "
        "samplers without chance; recipe swift has 1 on MAMuJoCo.",
        low=0.0,
    )
    weigh_by_continuation: bool = knob(
        False,
        "Let imagined steps count in the losses of actor and critic by the probability that the episode has not ended "
        "before them (as DreamerV1 does).",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_capacity(
            self.env_steps_per_iteration, self.longest_window,
            "the longest of imagination_horizon and context_length + num_autoregressive_steps - 1",
        )  # fmt: skip
        steps = self.imagination_horizon * self.num_imagined_rollouts
        self._require_steps_for_minibatches(steps, "an imagined batch (imagination_horizon x num_imagined_rollouts)")

    @property
    def longest_window(self) -> int:
        """Transitions of the longest window that is drawn from replay."""
        imagined = self.imagination_horizon if self.reward_imagined_fraction else 1
        return max(self.reward_window, self.context_length - 1 + max(self.num_autoregressive_steps, imagined))
