"""Whose action moves what? Derivatives of the next state by each agent's action, in models and in the simulator.

    python benchmarks/learning.py --recipe swift --conditioning default --label swift --task ant_4x2 --seeds 0
    python benchmarks/sensitivity.py results/learning/ant_4x2_swift_0 results/learning/halfcheetah_2x3_swift_0
    python benchmarks/sensitivity.py --show                                        # the table of what was measured

Checkpoints are those of `benchmarks/learning.py`. The policy of each plays 10 episodes; states are drawn from them.
Printed is each agent's share in all that actions do to the next state, as the model is trained and with agents revealed
in other orders and modes; a mark says that a model was not trained to be sampled like that. Shares and matrices agent x
state entry go to results/sensitivity.json, of which `benchmarks/pictures.py` draws the latter.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from rllib_dima.analysis.checkpoint import load_world_model
from rllib_dima.analysis.collecting import play_episode
from rllib_dima.analysis.comparison import TRAINED
from rllib_dima.analysis.examination import SIMULATOR, Examination, examine
from rllib_dima.analysis.figures import MAP
from rllib_dima.analysis.published import RETURNS
from rllib_dima.envs import CooperativeEnv, make
from rllib_dima.policy import Policy

RESULTS = Path(__file__).parent / "results"
RECORDS = RESULTS / "sensitivity.json"
NUM_EPISODES, NUM_SEGMENTS, SNAPSHOT_EVERY = 10, 100, 10


def environment_of(checkpoint: Path) -> CooperativeEnv:
    """Of a run whose folder is named as `learning.py` does: task, label, seed."""
    name = checkpoint.name
    task = name if name.startswith("bidexhands_") else f"mamujoco_{name}"
    known = [made for made in RETURNS if task.startswith(made)]
    if not known:
        raise SystemExit(f"{name} does not begin with a task: {', '.join(RETURNS)}.")
    return CooperativeEnv(make(known[0]))


def examined(checkpoint: Path) -> tuple[Examination, str]:
    """Everything about one run's model, and how it was trained."""
    world_model, policy, env = (
        load_world_model(checkpoint),
        Policy.from_checkpoint(checkpoint),
        environment_of(checkpoint),
    )
    played = [play_episode(env, policy.act, seed, SNAPSHOT_EVERY) for seed in range(NUM_EPISODES)]
    found = examine(world_model, env, played, NUM_SEGMENTS, world_model.hp.imagination_horizon)
    env.close()
    return found, world_model.hp.conditioning


def record(found: Examination, conditioning: str) -> dict:
    """What is kept of it."""
    of = found.sensitivities
    return {
        "trained": conditioning,
        "returns": [round(number, 1) for number in found.returns],
        "shares": {name: one.shares.round(4).tolist() for name, one in of.items()},
        "caveats": {name: way.caveats for name, way in found.variants.items() if way.caveats},
        "matrices": {name: of[name].matrix.round(4).tolist() for name in (SIMULATOR, TRAINED)},
    }


def show(records: dict[str, dict]) -> None:
    """The table."""
    for run, one in records.items():
        print(f"\n{run}, trained {one['trained']}, return {sum(one['returns']) / len(one['returns']):.0f}")
        for name, shares in one["shares"].items():
            mark = "  *" if name in one["caveats"] else ""
            print(f"  {name:<24}{' : '.join(f'{share:.0%}' for share in shares)}{mark}")
    for reason in sorted({why for one in records.values() for reasons in one["caveats"].values() for why in reasons}):
        print(f"* {reason}")


def draw(records: dict[str, dict], file: Path) -> None:
    """The picture: a row for every run, left the simulator's matrix, right the model's."""
    figure = Figure(figsize=(9, 0.5 + 1.5 * len(records)), layout="constrained")
    rows = figure.subplots(len(records), 2, squeeze=False)
    for panels, (run, one) in zip(rows, records.items(), strict=True):
        highest = max(np.max(matrix) for matrix in one["matrices"].values())
        for panel, (name, matrix) in zip(panels, one["matrices"].items(), strict=True):
            image = panel.imshow(matrix, aspect="auto", cmap=MAP, vmin=0, vmax=highest)
            panel.set_title(f"{run}: {name if name == SIMULATOR else 'model'}", fontsize=8)
            panel.set(ylabel="agent", yticks=range(len(matrix)))
            panel.tick_params(labelsize=7)
        figure.colorbar(image, ax=list(panels)).ax.tick_params(labelsize=7)
    for panel in rows[-1]:
        panel.set_xlabel("entry of the state", fontsize=8)
    figure.suptitle("deviations of the next state per unit of an agent's action", fontsize=9)
    figure.savefig(file, dpi=110)


def main() -> None:
    """Examines, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", type=Path, nargs="*")
    parser.add_argument("--show", action="store_true", help="only print the table")
    args = parser.parse_args()
    records = json.loads(RECORDS.read_text()) if RECORDS.exists() else {}
    for checkpoint in args.checkpoints:
        found, conditioning = examined(checkpoint)
        records[checkpoint.name] = record(found, conditioning)
        RECORDS.write_text(json.dumps(dict(sorted(records.items()))) + "\n")
    show(records)


if __name__ == "__main__":
    main()
