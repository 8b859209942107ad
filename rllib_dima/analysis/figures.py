"""Figures of an examination, in colours that colour-blind people tell apart, and lines that print without colours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cycler import cycler
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rllib_dima.analysis.comparison import TRAINED, Variant
from rllib_dima.analysis.examination import PLAIN, SIMULATOR, Examination
from rllib_dima.analysis.observations import ObservationExamination
from rllib_dima.analysis.replaying import HELD
from rllib_dima.core.dima.open_loop import OpenLoopReport

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe and Ito 2008
LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
MAP = "cividis"


def styles(count: int) -> list[tuple[str, Any]]:
    """Colours and patterns of lines, of which no two are alike up to their product."""
    return [(COLORS[i % len(COLORS)], LINES[(i + i // len(COLORS)) % len(LINES)]) for i in range(count)]


_COLORS, _LINES = zip(*styles(len(COLORS) * len(LINES)), strict=True)
STYLE: dict[Any, Any] = {
    "axes.prop_cycle": cycler(color=_COLORS) + cycler(linestyle=_LINES),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 10,
    "grid.color": "#dddddd",
    "font.size": 9,
    "legend.frameon": False,
}


def figures(found: Examination) -> dict[str, tuple[Figure, str]]:
    """By title a figure, and what it means."""
    drawn = {
        "Errors by step": (_by_step(found), _BY_STEP),
        "Orders of conditioning": (_orders(found), _ORDERS + _reservations(found)),
        "Errors by entry of the state": (_by_entry(found), _BY_ENTRY),
        "Errors by agent": (_by_agent(found), _BY_AGENT),
        "The end of the task": (_calibration(found), _CALIBRATION),
        "Spread and error": (_spread(found), _SPREAD),
    }
    if found.sensitivities:
        drawn["Whose action matters for what"] = (_matrices(found), _MATRICES)
        drawn["Influence of each agent"] = (_influence(found), _INFLUENCE)
    return drawn


def observation_figures(found: ObservationExamination) -> dict[str, tuple[Figure, str]]:
    """As `figures`, of a model that predicts no states."""
    lines = {TRAINED: found.trained.observation_by_step, HELD: found.held.observation_by_step}
    rewards = {TRAINED: found.trained.rewards, HELD: found.held.rewards}
    return {
        "Errors by step": (curves(lines, "error per entry"), _OBSERVATIONS_BY_STEP),
        "Errors of rewards": (curves(rewards, "error (environment's units)"), _REWARDS_BY_STEP),
        "Errors by agent": (_by_agent(found), _BY_AGENT),
        "The end of the task": (_calibration(found), _CALIBRATION),
    }


def curves(lines: Mapping[str, np.ndarray], ylabel: str) -> Figure:
    """One line per name over steps 1, 2, ..."""
    with rc_context(STYLE):
        figure = Figure(figsize=(6, 3.4), layout="constrained")
        axes = figure.subplots()
        for name, values in lines.items():
            axes.plot(np.arange(1, len(values) + 1), values, label=name)
        axes.set(xlabel="imagined step", ylabel=ylabel, ylim=(0, None))
        axes.legend()
    return figure


def progress_picture(report: OpenLoopReport) -> Figure:
    """What training has measured of imagination: errors by step, and by entry of the state."""
    with rc_context(STYLE):
        figure = Figure(figsize=(9, 3.6), layout="constrained")
        left, right = figure.subplots(1, 2)
        for name, errors in (("imagined", report.errors), (HELD, report.persistence)):
            left.plot(np.arange(1, len(errors) + 1), errors.mean(axis=1), label=name)
        left.set(xlabel="imagined step", ylabel="error (deviations)", ylim=(0, None))
        left.legend()
        _draw_entries(figure, right, report.errors)
        right.grid(False)
        figure.suptitle(f"imagination of fresh steps, after {report.num_env_steps:,} environment steps", fontsize=10)
    return figure


_BY_STEP = (
    "Mean absolute error of the state, in standard deviations of each entry, after so many steps on the model's own "
    "predictions. Above the line of “nothing changes” the model is worth nothing."
)
_OBSERVATIONS_BY_STEP = (
    "Mean absolute error of observations, per entry of each agent's own, after so many steps on the model's own "
    "predictions. Above the line of “nothing changes” the model is worth nothing."
)
_REWARDS_BY_STEP = "Mean absolute error of rewards, beside that of always saying the episodes' mean reward."
_ORDERS = (
    "Error per observation entry, averaged over agents and accumulated over the horizon, for each order in which "
    "agents are revealed while denoising (the paper's appendix E.2)."
)
_BY_ENTRY = "The state error by entry. A bright row is a part of the world that the model has not learnt."
_BY_AGENT = "The error of decoded observations, per entry of each agent's own, in the environment's units."
_CALIBRATION = (
    "How often steps ended the task, by the probability of it that the model gave; on the diagonal it says what comes "
    "true. Marks grow with the number of steps."
)
_SPREAD = (
    "Standard deviation over repeated imaginations beside their error, and the rank correlation of the two over "
    "segments: near 1 the model knows where it is wrong, near 0 its spread says nothing."
)
_MATRICES = (
    "Change of each entry of the next state, in standard deviations, per unit of each agent's action: in the simulator "
    "and in the model. They should look alike."
)
_INFLUENCE = "Each agent's share in all that actions do to the next state. Unlike the simulator's, shares are a bias."


def _by_step(found: Examination) -> Figure:
    lines = {TRAINED: found.trained.state_by_step, HELD: found.held.state_by_step}
    plain = {} if found.plain is None else {PLAIN: found.plain.state_by_step}
    return curves({**lines, **plain}, "error (deviations)")


def _orders(found: Examination) -> Figure:
    lines = {name: variant.errors.cumulative_observation for name, variant in _ordered(found).items()}
    return curves({**lines, HELD: found.held.cumulative_observation}, "accumulated error per entry")


def _ordered(found: Examination) -> dict[str, Variant]:
    return {name: way for name, way in found.variants.items() if "conditioning_order" in way.changes}


def _reservations(found: Examination) -> str:
    """What the caption must add where the orders were no part of the training."""
    said = dict.fromkeys(caveat for way in _ordered(found).values() for caveat in way.caveats)
    return f" Of this model they tell little: it was {'; '.join(said)}." if said else ""


def _by_entry(found: Examination) -> Figure:
    errors = found.trained.states
    figure = Figure(figsize=(6, min(8.0, 1.6 + 0.14 * errors.shape[1])), layout="constrained")
    _draw_entries(figure, figure.subplots(), errors)
    return figure


def _draw_entries(figure: Figure, axes: Axes, errors: np.ndarray) -> None:
    """errors (T, S)."""
    steps, entries = errors.shape
    image = axes.imshow(errors.T, aspect="auto", cmap=MAP, vmin=0, extent=(0.5, steps + 0.5, entries, 0))
    axes.set(xlabel="imagined step", ylabel="entry of the state")
    figure.colorbar(image, ax=axes, label="error (deviations)")


def _by_agent(found: Examination | ObservationExamination) -> Figure:
    columns = found.trained.observation_by_step_and_agent.T
    lines = {str(agent): column for agent, column in zip(found.layout.agent_ids, columns, strict=True)}
    return curves(lines, "error (environment's units)")


def _calibration(found: Examination | ObservationExamination) -> Figure:
    of = found.calibration
    with rc_context(STYLE):
        figure = Figure(figsize=(3.6, 3.4), layout="constrained")
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color="#888888", linestyle=":")
        sizes = 20 + 120 * of.counts / of.counts.max(initial=1)  # there are none if no number was told
        axes.scatter(of.predicted, of.observed, s=sizes, color=COLORS[0], zorder=3)
        axes.set(xlabel="predicted probability", ylabel="share that ended", xlim=(-0.05, 1.05), ylim=(-0.05, 1.05))
    return figure


def _spread(found: Examination) -> Figure:
    spread = found.spread
    known = [(step, c) for step, c in enumerate(spread.correlation, 1) if c is not None]
    steps = np.arange(1, len(spread.spread) + 1)
    with rc_context(STYLE):
        figure = Figure(figsize=(7, 3), layout="constrained")
        left, right = figure.subplots(1, 2)
        left.plot(steps, spread.spread, label="spread")
        left.plot(steps, spread.error, label="error")
        left.set(xlabel="imagined step", ylabel="deviations", ylim=(0, None))
        left.legend()
        right.plot([step for step, _ in known], [c for _, c in known], marker="o")
        if not known:
            right.set_title("undefined: spread or error does not vary")
        right.axhline(0, color="#888888", linestyle=":")
        right.set(xlabel="imagined step", ylabel="rank correlation", xlim=(0.5, len(steps) + 0.5), ylim=(-1.05, 1.05))
    return figure


def _matrices(found: Examination) -> Figure:
    shown = {name: found.sensitivities[name] for name in (SIMULATOR, TRAINED) if name in found.sensitivities}
    highest = max(sensitivity.matrix.max() for sensitivity in shown.values())
    agents = [str(agent) for agent in found.layout.agent_ids]
    figure = Figure(figsize=(7, 0.9 * len(shown) + 0.3 * len(shown) * len(agents)), layout="constrained")
    rows = figure.subplots(len(shown), squeeze=False)[:, 0]
    images = []
    for axes, (name, sensitivity) in zip(rows, shown.items(), strict=True):
        images.append(axes.imshow(sensitivity.matrix, aspect="auto", cmap=MAP, vmin=0, vmax=highest))
        axes.set(title=name, xlabel="entry of the state", yticks=range(len(agents)), yticklabels=agents)
    figure.colorbar(images[0], ax=list(rows), label="deviations per unit of action")
    return figure


def _influence(found: Examination) -> Figure:
    names, left = list(found.sensitivities)[::-1], np.zeros(len(found.sensitivities))
    with rc_context(STYLE):
        figure = Figure(figsize=(6, 0.9 + 0.3 * len(names)), layout="constrained")
        axes = figure.subplots()
        for index, agent in enumerate(found.layout.agent_ids):
            shares = np.array([found.sensitivities[name].shares[index] for name in names])
            axes.barh(names, shares, left=left, color=COLORS[index % 6], edgecolor="white", label=str(agent))
            left += shares
        axes.set(xlabel="share", xlim=(0, 1))
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.25), ncols=min(4, found.layout.num_agents))
    return figure
