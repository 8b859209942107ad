"""One line of text per training iteration."""

from __future__ import annotations

import math
from typing import Any

from ray.tune import Callback


def progress_line(result: dict[str, Any]) -> str:
    """Iteration, real steps, return, losses and seconds of what `train()` returned, as one line.

    The return is the mean over the last episodes; "-" before the first has ended. Instead of losses it says so where
    an iteration of DIMA only collected. Of an evaluation the mean return follows.
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
    """DIMA's; of other algorithms none."""
    model, critic = learners.get("world_model"), learners.get("critic", {})
    if model is None:
        return []
    if "dynamics_loss" not in model:
        return ["collecting with the untrained policy"]
    losses = {name: model[f"{name}_loss"] for name in ("decoder", "dynamics", "reward")}
    if "value_loss" in critic:
        losses["value"] = critic["value_loss"]
    return ["losses: " + " ".join(f"{name} {value:.3f}" for name, value in losses.items())]
