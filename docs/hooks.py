"""What mkdocs fills in from the code, the tables of hyperparameters, and where names in tables may be broken."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

MARKER = re.compile(r"<!-- hyperparameters of (\w+) -->")
TASKS = {
    "HalfCheetah": "mamujoco_halfcheetah_2x3",
    "Ant": "mamujoco_ant_4x2",
    "Walker2d": "mamujoco_walker2d_2x3",
    "Bi-DexHands": "bidexhands_door_open_inward",
}
"""Of which values are shown where they differ from the default."""
COLUMNS = ("hyperparameter, symbol", "default", "range", "what it does")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Puts the tables in the places of their markers."""
    return MARKER.sub(lambda marker: hyperparameter_table(marker[1]), markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Lets the names of a table's rows be broken after a "/"."""
    return re.sub(r"(?<=<td><code>)[^<]+", lambda name: name[0].replace("/", "/<wbr>"), html)


def hyperparameter_table(algorithm: str = "DIMA") -> str:
    """Every hyperparameter of an algorithm, its values by preset and task, its range and its text, as Markdown."""
    import rllib_dima

    new_config = getattr(rllib_dima, f"{algorithm}Config")
    general = new_config().hyperparameters()
    sizes = [size for size in general.MODEL_SIZES if size != "paper"]
    recipes = [recipe for recipe in general.RECIPES if recipe != "paper"]
    others = {size: new_config().training(model_size=size).hyperparameters() for size in sizes}
    others |= {recipe: new_config().training(recipe=recipe).hyperparameters() for recipe in recipes}
    others |= {name: new_config().environment(task).hyperparameters() for name, task in TASKS.items()}
    rows = [COLUMNS, ("---",) * len(COLUMNS)]
    for field in dataclasses.fields(general):
        values = _values(field.name, general, others)
        about = field.metadata
        name = f"`{field.name}`" + (f"<br>{about['symbol']}" if about["symbol"] else "")
        rows.append((name, "<br>".join(values), _range(about), about["doc"]))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _values(name: str, general: Any, others: dict[str, Any]) -> list[str]:
    """The default, and those other values that presets and tasks have, each with their names."""
    default, names = getattr(general, name), {}
    for whose, hyperparameters in others.items():
        value = getattr(hyperparameters, name)
        if value != default:
            names.setdefault(value, []).append(whose)
    return [f"`{default}`", *(f"{', '.join(whose)}: `{value}`" for value, whose in names.items())]


def _range(about: Any) -> str:
    """The allowed words, or the limits of a number."""
    low, high = (f"`{about[end]:g}`" if about[end] is not None else "" for end in ("low", "high"))
    limits = f"{low} to {high}" if high else f"from {low}" if low else ""
    return ", ".join(f"`{word}`" for word in about["choices"]) or limits
