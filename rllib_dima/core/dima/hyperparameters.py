"""Every hyperparameter of DIMA, once: its default from the paper, its range and what it does.

`DIMAConfig` takes its fields from here, so that the configuration, the documentation and the core cannot disagree.
Where the paper and the publicly released research code differ, the default is what produced the published numbers and
the text says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rllib_dima.core.hyperparameters import knob
from rllib_dima.core.layout import AgentLayout
from rllib_dima.core.policy.hyperparameters import PolicyHyperparameters

_FAMILIES: dict[str, dict[str, Any]] = {
    "mamujoco": {"gamma": 0.99, "entropy_coeff": 0.001, "env_steps_per_iteration": 200},
    "bidexhands": {"gamma": 0.95, "entropy_coeff": 0.01, "env_steps_per_iteration": 500},
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


@dataclass(frozen=True)
class DIMAHyperparameters(PolicyHyperparameters):
    """Hyperparameters of DIMA; see each field's metadata for text, symbol and range."""

    MODEL_SIZES, FAMILIES = _MODEL_SIZES, _FAMILIES

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
    num_steps_before_learning: int = knob(
        0, "Real steps collected with the untrained policy before the first update (released code: 5000).", low=0
    )
    num_world_model_warmup_iterations: int = knob(
        0, "Learning iterations that train the world model alone, before the policy (released code: 9).", low=0
    )

    # Replay
    replay_capacity: int = knob(250_000, "Transitions the replay buffer holds; the oldest are overwritten.", low=1)
    replay_recency: float = knob(
        1.0,
        "Recency of replay: the age rank of a drawn transition is a uniform number raised to this power. "
        "1 draws uniformly (the paper), larger values prefer newer transitions.",
        low=1.0,
    )
    replay_device: str = knob(
        "auto",
        "Where replay lives: on the learner's device, in host memory, or (auto) on the device if it takes at most "
        "half of its free memory.",
        choices=("auto", "learner", "cpu"),
    )

    # State decoder, section G.1 of the paper's appendix
    decoder_hidden_size: int = knob(512, "Width of the state decoder's MLPs.", low=1)
    decoder_num_layers: int = knob(3, "Linear layers of each of the state decoder's MLPs.", low=1)
    decoder_num_tokens: int = knob(12, "Quantised tokens per state (released code).", low=1)
    decoder_fsq_levels: tuple[int, ...] = knob((8, 6, 5), "FSQ levels of each channel of a token.", symbol="L_i", low=3)
    decoder_loss: str = knob(
        "squared", "Reconstruction error, eq. 22 (released code: absolute).", choices=("squared", "absolute")
    )
    decoder_lr: float = knob(3e-4, "Learning rate of the state decoder (AdamW).", low=0.0)
    decoder_weight_decay: float = knob(0.01, "Weight decay of the state decoder.", low=0.0)
    decoder_grad_clip: float = knob(
        10.0, "Largest gradient norm of the state decoder; a huge one never clips.", low=1e-9
    )
    decoder_batch_size: int = knob(256, "Transitions per state-decoder update.", low=1)
    decoder_updates_per_iteration: int = knob(200, "State-decoder updates per iteration.", low=1)

    # Dynamics: network
    context_length: int = knob(3, "States and joint actions t-L+1..t that the dynamics model sees.", symbol="L", low=1)
    dynamics_channels: int = knob(64, "Channels of the U-Net at every level.", low=1)
    dynamics_num_levels: int = knob(3, "Resolution levels of the U-Net; each halves the time axis.", low=1)
    dynamics_blocks_per_level: int = knob(2, "Residual blocks per level (one more on the way up).", low=1)
    dynamics_condition_size: int = knob(256, "Size of the conditioning vector of adaptive group norm.", low=2)
    dynamics_group_size: int = knob(32, "Channels per group of group norm.", low=1)
    dynamics_action_size: int = knob(256, "Width of the action-set encoder's tokens.", low=1)

    # Dynamics: training
    conditioning: str = knob(
        "sequential",
        "What a denoising step sees of the present joint action: one agent (sequential, the paper), all agents "
        "(joint, the paper's ablation), or all agents revealed so far (cumulative).",
        choices=("sequential", "joint", "cumulative"),
    )
    num_autoregressive_steps: int = knob(
        3,
        "Consecutive predictions trained per window, each fed back (paper's Algorithm 1: 1; released code: 3).",
        low=1,
    )
    sigma_data: float = knob(0.5, "Standard deviation of the diffusion model's data.", symbol="sigma_data", low=1e-6)
    noise_log_mean: float = knob(-0.4, "Mean of ln(sigma) in training, eq. 18.", symbol="P_mean")
    noise_log_std: float = knob(1.2, "Standard deviation of ln(sigma) in training, eq. 18.", symbol="P_std", low=0.0)
    noise_sigma_min: float = knob(2e-3, "Smallest noise level in training (released code).", low=0.0)
    noise_sigma_max: float = knob(20.0, "Largest noise level in training (released code).", low=0.0)
    sigma_offset_noise: float = knob(
        0.3, "Extra noise on the noisy state, not part of sigma (released code; 0 as in the paper).", low=0.0
    )
    dynamics_lr: float = knob(1e-4, "Learning rate of the dynamics model (AdamW).", low=0.0)
    dynamics_lr_warmup_updates: int = knob(100, "Updates of linear learning-rate warm-up (released code).", low=0)
    dynamics_weight_decay: float = knob(0.01, "Weight decay of the dynamics model, on matrices only.", low=0.0)
    dynamics_grad_clip: float = knob(
        1.0, "Largest gradient norm of the dynamics model; a huge one never clips.", low=1e-9
    )
    dynamics_batch_size: int = knob(64, "Windows per dynamics update.", low=1)
    dynamics_updates_per_iteration: int = knob(200, "Dynamics updates per iteration.", low=1)

    # Dynamics: sampling
    conditioning_order: str = knob(
        "descending",
        "Order in which agents are revealed while denoising; random draws anew for every imagined step.",
        choices=("descending", "ascending", "random"),
    )
    num_denoising_steps: int = knob(0, "Denoising steps; 0 means 2N for N <= 2 agents, else N.", symbol="K", low=0)
    sampler_solver: str = knob(
        "euler",
        "ODE solver of the sampler. Heun is of second order, but only without offset noise: with it, slopes at the "
        "smallest noise levels are far too steep.",
        choices=("euler", "heun"),
    )
    sampler_rho: float = knob(7.0, "Curvature of the Karras noise schedule.", symbol="rho", low=1e-6)
    sampler_sigma_min: float = knob(2e-3, "Last noise level before 0.", low=1e-9)
    sampler_sigma_max: float = knob(5.0, "First noise level.", low=1e-9)
    sampler_churn: float = knob(
        0.0, "Stochasticity of the sampler (Karras et al. 2022); 0 is off.", symbol="S_churn", low=0
    )
    sampler_churn_noise: float = knob(1.0, "Scale of the churn noise.", symbol="S_noise", low=0.0)

    # Reward and termination
    reward_embedding_size: int = knob(256, "Width of the transformer.", symbol="d_e", low=1)
    reward_num_layers: int = knob(6, "Transformer blocks.", low=1)
    reward_num_heads: int = knob(4, "Attention heads.", low=1)
    reward_dropout: float = knob(0.1, "Dropout on embedding, attention and residuals.", low=0.0, high=0.99)
    reward_lr: float = knob(1e-4, "Learning rate of the transformer (AdamW).", low=0.0)
    reward_weight_decay: float = knob(0.01, "Weight decay of the transformer.", low=0.0)
    reward_grad_clip: float = knob(10.0, "Largest gradient norm of the transformer; a huge one never clips.", low=1e-9)
    reward_batch_size: int = knob(128, "Windows of H steps per transformer update.", low=1)
    reward_updates_per_iteration: int = knob(200, "Transformer updates per iteration.", low=1)

    # Imagination, section C of the paper's appendix
    imagination_horizon: int = knob(15, "Steps of an imagined rollout and of a transformer window.", symbol="H", low=1)
    num_imagined_rollouts: int = knob(600, "Imagined rollouts per policy update.", low=1)
    policy_updates_per_iteration: int = knob(4, "Imagined batches per iteration.", low=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sampler_sigma_min > self.sampler_sigma_max:
            raise ValueError(
                f"sampler_sigma_min ({self.sampler_sigma_min}) exceeds sampler_sigma_max ({self.sampler_sigma_max})."
            )
        if self.noise_sigma_min > self.noise_sigma_max:
            raise ValueError(
                f"noise_sigma_min ({self.noise_sigma_min}) exceeds noise_sigma_max ({self.noise_sigma_max})."
            )
        if self.reward_embedding_size % self.reward_num_heads:
            raise ValueError(
                f"reward_embedding_size ({self.reward_embedding_size}) must be a multiple of reward_num_heads "
                f"({self.reward_num_heads})."
            )
        for channels in (self.dynamics_channels, 2 * self.dynamics_channels):
            groups = max(1, channels // self.dynamics_group_size)
            if channels % groups:
                raise ValueError(
                    f"dynamics_channels ({self.dynamics_channels}) must split into equal groups, but {channels} "
                    f"channels (a block's input) do not split into {groups} groups "
                    f"(dynamics_group_size is {self.dynamics_group_size}). "
                    "Choose a multiple of dynamics_group_size, or fewer channels than one group has."
                )
        if self.dynamics_condition_size % 2:
            raise ValueError(f"dynamics_condition_size must be even, but is {self.dynamics_condition_size}.")
        time_steps, multiple = self.context_length + 1, 2 ** (self.dynamics_num_levels - 1)
        if multiple > 2 * time_steps:
            raise ValueError(
                f"dynamics_num_levels ({self.dynamics_num_levels}) halves the time axis more often than the U-Net's "
                f"{time_steps} time steps (context_length + 1) allow: it would be padded to {multiple}. Use at most "
                f"{(2 * time_steps).bit_length()} levels, or a longer context."
            )
        if self.replay_capacity < self.env_steps_per_iteration:
            raise ValueError(
                f"replay_capacity ({self.replay_capacity}) cannot hold the {self.env_steps_per_iteration} steps of one "
                "iteration. Raise replay_capacity, or lower env_steps_per_iteration."
            )
        if self.replay_capacity < self.longest_window:
            raise ValueError(
                f"replay_capacity ({self.replay_capacity}) is smaller than the longest window drawn from it "
                f"({self.longest_window} transitions: the larger of imagination_horizon and context_length + "
                "num_autoregressive_steps - 1). Raise replay_capacity."
            )

        steps = self.imagination_horizon * self.num_imagined_rollouts
        if self.ppo_minibatches > steps:
            raise ValueError(
                f"ppo_minibatches ({self.ppo_minibatches}) exceeds the {steps} steps of an imagined batch "
                "(imagination_horizon x num_imagined_rollouts), which can be split no further."
            )

    def check_team(self, layout: AgentLayout) -> None:
        """As `denoising_steps` does."""
        self.denoising_steps(layout.num_agents)

    @property
    def longest_window(self) -> int:
        """Transitions of the longest window that is drawn from replay."""
        return max(self.imagination_horizon, self.context_length + self.num_autoregressive_steps - 1)

    def denoising_steps(self, num_agents: int) -> int:
        """K, the number of denoising steps for a team of `num_agents` (Table 4 of the appendix).

        Raises:
            ValueError: if sequential conditioning would never show some agent's action.
        """
        steps = self.num_denoising_steps or (2 * num_agents if num_agents <= 2 else num_agents)
        if self.conditioning == "sequential" and steps < num_agents:
            raise ValueError(
                f"num_denoising_steps ({steps}) is smaller than the number of agents ({num_agents}): with sequential "
                "conditioning some agents' actions would never be seen. Use at least one step per agent, or "
                "conditioning='cumulative' or 'joint'."
            )
        return steps
