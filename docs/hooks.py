"""What mkdocs fills in from the code, the table of hyperparameters, and where names in tables may be broken."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

MARKER = "<!-- hyperparameters of DIMA -->"
COLUMNS = ("hyperparameter, symbol", "default", "range", "what it does")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Puts the table in the place of its marker."""
    return markdown.replace(MARKER, hyperparameter_table()) if MARKER in markdown else markdown


def on_page_content(html: str, **_: Any) -> str:
    """Lets the names of a table's rows be broken after a "/"."""
    return re.sub(r"(?<=<td><code>)[^<]+", lambda name: name[0].replace("/", "/<wbr>"), html)


def hyperparameter_table() -> str:
    """Every hyperparameter of DIMA, its values by preset and benchmark, its range and its text, as Markdown."""
    from rllib_dima import DIMAConfig

    paper = DIMAConfig().hyperparameters()
    others = {name: DIMAConfig().training(model_size=name).hyperparameters() for name in ("small", "nano")}
    others["Bi-DexHands"] = DIMAConfig().environment("bidexhands_pen").hyperparameters()
    rows = [COLUMNS, ("---",) * len(COLUMNS)]
    for field in dataclasses.fields(paper):
        default = getattr(paper, field.name)
        values = [f"`{default}`"]
        values += [f"{n}: `{getattr(o, field.name)}`" for n, o in others.items() if getattr(o, field.name) != default]
        about = field.metadata
        name = f"`{field.name}`" + (f"<br>{about['symbol']}" if about["symbol"] else "")
        rows.append((name, "<br>".join(values), _range(about), about["doc"]))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _range(about: Any) -> str:
    """The allowed words, or the limits of a number."""
    low, high = (f"`{about[end]:g}`" if about[end] is not None else "" for end in ("low", "high"))
    limits = f"{low} to {high}" if high else f"from {low}" if low else ""
    return ", ".join(f"`{word}`" for word in about["choices"]) or limits
