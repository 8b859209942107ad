"""How do the four Bi-DexHands scenes look, and do they start where the benchmark starts?

How to run:

    python examples/bidexhands_scenes.py                         # pictures into results/
    python examples/bidexhands_scenes.py pictures --task pen

What to expect: one picture bidexhands_<task>.png per task, of the scene after the reset, within seconds; and per task
the points and the reward at the reset beside the benchmark's, which must agree to about a millimetre.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import imageio.v3 as imageio
import numpy as np

from rllib_dima.envs.bidexhands import TASKS, BiDexHands

# The benchmark's values, computed from its files: right palm, left palm, first point of the object, reward.
EXPECTED = {
    "bottle_cap": ((0.0, -0.7205, 0.6686), (0.0076, -0.6200, 0.4564), (0.0, -0.6, 0.5), 1.146),
    "door_open_inward": ((0.18, 0.1903, 0.60), (0.18, -0.1897, 0.60), (0.0456, -0.0304, 0.7167), -0.221),
    "door_open_outward": ((0.18, 0.1903, 0.60), (0.18, -0.1897, 0.60), (0.0344, -0.0304, 0.6833), -0.105),
    "pen": ((0.18, 0.2003, 0.79), (0.18, -0.1997, 0.79), (0.0, 0.1, 0.6125), 0.0),
}


def show_check_values(env: BiDexHands) -> None:
    """Prints points and reward of the present state beside the benchmark's at the reset."""
    points = env.points()
    values = points.right_palm, points.left_palm, points.targets[0], env.task.outcome(points).reward
    print(env.task.name)
    for name, value, expected in zip(
        ("right palm", "left palm", "object", "reward"), values, EXPECTED[env.task.name], strict=True
    ):
        print(f"  {name:10s} {np.round(value, 4)!s:28s} expected {np.array(expected)}")


def main() -> None:
    """Renders every scene at the reset."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, nargs="?", default=Path("results"), help="where to write the pictures")
    parser.add_argument("--task", choices=TASKS, help="only this task")
    args = parser.parse_args()
    args.directory.mkdir(parents=True, exist_ok=True)
    for task in [args.task] if args.task else TASKS:
        env = BiDexHands(task, render_mode="rgb_array")
        env.reset()
        show_check_values(env)
        path = args.directory / f"bidexhands_{task}.png"
        imageio.imwrite(path, env.render())
        print(f"  {path}")
        env.close()


if __name__ == "__main__":
    main()
