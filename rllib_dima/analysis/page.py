"""An examination as one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping

from matplotlib.figure import Figure

from rllib_dima.analysis.examination import Examination, table
from rllib_dima.analysis.figures import figures, observation_figures
from rllib_dima.analysis.observations import ObservationExamination, observation_table

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff }
body { max-width: 60em; margin: 2em auto; padding: 0 1em }
pre { background: #f6f6f6; padding: 1em; overflow-x: auto; font-size: 13px }
figure { margin: 2em 0; break-inside: avoid } figcaption { color: #444; max-width: 44em } img { max-width: 100% }
h2 { font-size: 1.1em; margin-bottom: 0.2em }
"""


def page(found: Examination, title: str) -> str:
    """The whole page: what was examined, the table, and every figure with what it means."""
    return page_of(title, table(found), figures(found))


def observation_page(found: ObservationExamination, title: str) -> str:
    """The same of a model that predicts no states."""
    return page_of(title, observation_table(found), observation_figures(found))


def page_of(title: str, text: str, drawn: Mapping[str, tuple[Figure, str]]) -> str:
    """A page of a table and of figures, each with what it means."""
    drawn_figures = [_figure(name, figure, meaning) for name, (figure, meaning) in drawn.items()]
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{_STYLE}</style>'
    body = [f"<h1>{html.escape(title)}</h1>", f"<pre>{html.escape(text)}</pre>", *drawn_figures]
    return f'<!doctype html><html lang="en"><head>{head}</head><body>\n' + "\n".join(body) + "\n</body></html>\n"


def _figure(name: str, figure: Figure, meaning: str) -> str:
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=150)
    source = "data:image/png;base64," + base64.b64encode(picture.getvalue()).decode()
    name, meaning = html.escape(name), html.escape(meaning)
    return f'<figure><h2>{name}</h2><img alt="{name}" src="{source}"><figcaption>{meaning}</figcaption></figure>'
