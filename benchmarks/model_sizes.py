"""How large is each network, per preset?

python benchmarks/model_sizes.py                              # prints the table of docs/hardware.md
"""

from __future__ import annotations

from rllib_dima.core.dima.hyperparameters import DIMAHyperparameters
from rllib_dima.core.dima.world_model import WorldModel
from rllib_dima.core.policy.networks import Actor, Critic
from rllib_dima.envs import CooperativeEnv, make

ENV = "mamujoco_halfcheetah_2x3"


def main() -> None:
    """One row per preset, numbers of trainable parameters."""
    layout = CooperativeEnv(make(ENV)).layout
    print(f"{ENV:<26} {'decoder':>10} {'dynamics':>10} {'transformer':>12} {'actor':>8} {'critic':>8}")
    for name in DIMAHyperparameters.MODEL_SIZES:
        hp = DIMAHyperparameters.resolve({}, "mamujoco", name)
        model = WorldModel(layout, hp)
        networks = (
            model.state_decoder,
            model.dynamics,
            model.reward_termination,
            Actor(layout, hp),
            Critic(layout, hp),
        )
        sizes = [sum(parameter.numel() for parameter in network.parameters()) for network in networks]
        print(f"{name:<26} {sizes[0]:>10} {sizes[1]:>10} {sizes[2]:>12} {sizes[3]:>8} {sizes[4]:>8}")


if __name__ == "__main__":
    main()
