"""One line of text per training iteration."""

from __future__ import annotations

import math
from typing import Any

from ray.tune import Callback


def progress_line(result: dict[str, Any]) -> str:
    """Iteration, real steps, return, losses and seconds of what `train()` returned, as one line.

    The return is the mean over the last episodes, or "-" before the first has ended. Where an iteration only collected,
    the line says so instead of showing losses. The mean return of an evaluation comes last.
    """
    parts = [
        f"iteration {result['training_iteration']:4d}",
        f"steps {result.get('num_env_steps_sampled_lifetime', 0):8.0f}",
        f"return {_return(result):>9}",
        *_losses(result.get("learners", {})),
        f"{result['time_this_iter_s']:6.1f} s",
    ]
    if "evaluation" in result:
        parts.append(f"evaluation {_return(result['evaluation'])}")
    return "   ".join(parts)


class Progress(Callback):
    """Prints a line whenever a trial of Ray Tune reports, which shows what Ray's own output does not.

    tune.RunConfig(callbacks=[Progress()], verbose=0)
    """

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict[str, Any], **info: Any) -> None:
        """A trial has trained for one iteration."""
        print(f"{self.name(trial, trials)}{self.describe(result)}", flush=True)

    def name(self, trial: Any, trials: list) -> str:
        """The trial's id where there are several."""
        return f"{trial.trial_id}   " if len(trials) > 1 else ""

    def describe(self, result: dict[str, Any]) -> str:
        """The line about a report."""
        return progress_line(result)


def _return(results: dict[str, Any]) -> str:
    mean = results.get("env_runners", {}).get("episode_return_mean", math.nan)
    return "-" if math.isnan(mean) else f"{mean:.1f}"


def _losses(learners: dict[str, Any]) -> list[str]:
    """Those of all networks but the policy, whose loss says little."""
    modules = [values for module, values in learners.items() if module != "shared_policy"]
    names = [name for values in modules for name in values if name.endswith("_loss")]
    losses = {name: values[name] for values in modules for name in names if name in values}
    if not losses:
        return ["collecting with the untrained policy"] if "shared_policy" in learners else []  # else RLlib's own
    return ["losses: " + " ".join(f"{name.removesuffix('_loss')} {losses[name]:.3f}" for name in sorted(losses))]
