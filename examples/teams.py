"""How do I train on a team whose agents leave, or cannot always do everything? Three tasks that nobody wrote for DIMA.

How to run:

    pip install "pettingzoo[butterfly,sisl]" lbforaging
    python examples/teams.py --task multiwalker
    python examples/teams.py --task foraging --algorithm MAPPO
    python examples/teams.py --task zombies --steps 20000

    multiwalker   PettingZoo's sisl: three walkers carry a package. Those that fall leave; the others go on. Continuous
    foraging      lbforaging: two agents collect food that may take both. Moves into walls and loading where there is no
                  food are masked. Discrete
    zombies       PettingZoo's butterfly: two archers and two knights against zombies, which kill them. Discrete

What to expect: what `check_env` says of the task, a line per iteration of 200 real steps, and the return of the policy
before and after. It draws its actions there, too: untrained it is random, and the likeliest of numbered actions may
keep an agent where it is for ever. benchmarks/RESULTS.md has what came of 20,000 steps: MAPPO and DIMA learn
the games with masks and deaths; neither is shown to learn to carry a package.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping
from typing import Any

import gymnasium
from ray.tune import register_env

import rllib_dima
from rllib_dima.algorithms.base_config import TeamConfig
from rllib_dima.envs import check_env
from rllib_dima.reporting.progress_line import progress_line

EVALUATION_EPISODES = 20


class ForagingWithMasks(gymnasium.Wrapper):
    """lbforaging knows which actions are possible, and this tells it in a form that is read."""

    def get_avail_actions(self) -> list[list[int]]:
        """Of every player, for each action whether it is possible now."""
        game: Any = self.unwrapped
        actions = range(self.action_space[0].n)  # pyright: ignore[reportIndexIssue]: a Tuple
        possible = [{action.value for action in game._valid_actions[player]} for player in game.players]
        return [[int(action in own) for action in actions] for own in possible]


def multiwalker(settings: Mapping[str, Any]) -> Any:
    """A parallel PettingZoo environment."""
    from pettingzoo.sisl import multiwalker_v9

    return multiwalker_v9.parallel_env(terminate_on_fall=False, remove_on_fall=True, **settings)


def foraging(settings: Mapping[str, Any]) -> Any:
    """A gymnasium environment whose spaces are a Tuple of agents."""
    game = gymnasium.make("lbforaging:Foraging-5x5-2p-2f-v3", disable_env_checker=True, **settings)
    return ForagingWithMasks(game)


def zombies(settings: Mapping[str, Any]) -> Any:
    """A parallel PettingZoo environment."""
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # it draws nothing, but asks for a display
    from pettingzoo.butterfly import knights_archers_zombies_v11

    return knights_archers_zombies_v11.parallel_env(max_cycles=300, spawn_delay=8, **settings)


TASKS = {"multiwalker": multiwalker, "foraging": foraging, "zombies": zombies}
ENV_CONFIGS: dict[str, dict[str, Any]] = {
    # Its state() leaves out who has fallen; the observations with DIMA's own entry do not.
    "multiwalker": {"agents_leave": True, "state": "observations"},
    "foraging": {"team_reward": "sum"},  # each is paid for what it loaded
    "zombies": {"agents_leave": True, "team_reward": "sum"},  # each is paid for those it hit
}
for task, creator in TASKS.items():
    register_env(task, creator)


def build_config(task: str, algorithm: str, seed: int, settings: Mapping[str, Any]) -> TeamConfig:
    """World models at nano size, DIMA in its swift recipe, or a comparator's defaults; and further settings."""
    config: TeamConfig = getattr(rllib_dima, f"{algorithm}Config")()
    if algorithm == "DIMA":
        config.training(recipe="swift")
    if algorithm in ("DIMA", "MAMBA", "MARIE"):
        config.training(model_size="nano", num_steps_before_learning=2000)
    config.environment(task, env_config=ENV_CONFIGS[task]).training(**{"env_steps_per_iteration": 200, **settings})
    config.evaluation(evaluation_duration=EVALUATION_EPISODES, evaluation_config={"explore": True})
    return config.debugging(seed=seed)


def main() -> None:
    """Checks the environment, trains, evaluates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=list(TASKS), default="multiwalker")
    parser.add_argument("--algorithm", choices=list(rllib_dima.ALGORITHMS), default="DIMA")
    parser.add_argument("--steps", type=int, default=20_000, help="real steps to train for")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", default="{}", help="further hyperparameters as JSON")
    args = parser.parse_args()

    config = build_config(args.task, args.algorithm, args.seed, json.loads(args.set))
    report = check_env(args.task, env_config=config.env_config)
    print(report, flush=True)
    report.raise_if_errors()

    algo = config.build()
    before, steps = algo.evaluate()["env_runners"]["episode_return_mean"], 0
    while steps < args.steps:
        result = algo.train()
        steps = result["num_env_steps_sampled_lifetime"]
        print(progress_line(result), flush=True)
    after = algo.evaluate()["env_runners"]["episode_return_mean"]
    algo.stop()
    print(f"Mean return over {EVALUATION_EPISODES} episodes: {before:.2f} untrained, {after:.2f} trained.")


if __name__ == "__main__":
    main()
