"""One line of text per training iteration."""

from __future__ import annotations

from typing import Any


def progress_line(result: dict[str, Any]) -> str:
    """Iteration, real steps, return, losses and seconds of what `DIMA.train()` returned, as one line.

    The return is the mean over the last episodes; "-" before the first has ended. Instead of losses it says so where
    an iteration only collected.
    """
    episodes, seconds = result["env_runners"], result["time_this_iter_s"]
    parts = [
        f"iteration {result['training_iteration']:4d}",
        f"steps {episodes.get('num_env_steps_sampled_lifetime', 0):8.0f}",
        f"return {_number(episodes.get('episode_return_mean'), '9.1f')}",
        _losses(result.get("learners", {})),
        f"{seconds:6.1f} s",
    ]
    return "   ".join(parts)


def _losses(learners: dict[str, Any]) -> str:
    model, critic = learners.get("world_model", {}), learners.get("critic", {})
    if "dynamics_loss" not in model:
        return "collecting with the untrained policy"
    losses = {name: model[f"{name}_loss"] for name in ("decoder", "dynamics", "reward")}
    if "value_loss" in critic:
        losses["value"] = critic["value_loss"]
    return "losses: " + " ".join(f"{name} {value:.3f}" for name, value in losses.items())


def _number(value: float | None, form: str) -> str:
    missing = value is None or value != value  # NaN
    return "-".rjust(int(form.split(".")[0])) if missing else format(value, form)
