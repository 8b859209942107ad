"""How is a trained policy used without RLlib? Load it from a checkpoint, act, export it, run the exported file.

How to run, after `make quickstart`:

    python examples/deploy_policy.py --checkpoint results/quickstart/checkpoint --env mamujoco_halfcheetah_2x3

What to expect: the return of an episode with the policy loaded in plain Python, and the same return, to the last digit
or nearly so, with the exported file, which needs nothing but torch. Ray is never started. (MAMBA's exported policy
takes memories as well: docs/algorithms/mamba.md.)
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from rllib_dima import Policy
from rllib_dima.envs import CooperativeEnv, make

Act = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]


def episode_return(env: CooperativeEnv, act: Act, seed: int) -> float:
    """The team's return of one episode."""
    observations, _ = env.reset(seed=seed)
    total, done = 0.0, False
    while not done:
        observations, rewards, terminateds, truncateds, _ = env.step(act(observations))
        total += rewards[env.possible_agents[0]]
        done = terminateds["__all__"] or truncateds["__all__"]
    return total


def load_exported(path: Path) -> Act:
    """The exported policy, as a function of observations by agent. This is all that a robot would need."""
    extra = {"layout.json": ""}
    policy = torch.export.load(path, extra_files=extra).module()
    agents = json.loads(extra["layout.json"])["agents"]

    def act(observations: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        stacked = torch.from_numpy(np.stack([observations[agent] for agent in agents]))
        return dict(zip(agents, policy(stacked).numpy(), strict=True))

    return act


def main() -> None:
    """Runs one episode with either form of the policy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=Path("results/quickstart/checkpoint"))
    parser.add_argument("--env", default="mamujoco_halfcheetah_2x3", help="what the policy was trained on")
    parser.add_argument("--out", type=Path, default=Path("results/policy.pt2"), help="the exported file")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    policy = Policy.from_checkpoint(args.checkpoint)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    policy.export(args.out)
    env = CooperativeEnv(make(args.env))
    print(f"Return with the policy of the checkpoint: {episode_return(env, policy.act, args.seed):.3f}")
    print(f"Return with the exported file:            {episode_return(env, load_exported(args.out), args.seed):.3f}")
    print(f"Exported: {args.out} ({args.out.stat().st_size / 1e3:.0f} kB)")


if __name__ == "__main__":
    main()
