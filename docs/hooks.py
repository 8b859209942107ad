"""What mkdocs fills in from the code: tables of hyperparameters and settings; and where names may be broken."""

from __future__ import annotations

import dataclasses
import inspect
import re
from typing import Any

MARKER = re.compile(r"<!-- hyperparameters of (\w+) -->")
SETTINGS_MARKER = "<!-- settings of RLlib -->"
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
    if SETTINGS_MARKER in markdown:
        markdown = markdown.replace(SETTINGS_MARKER, settings_tables())
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
    together = {}
    for recipe in recipes:
        configs = {size: new_config().training(model_size=size, recipe=recipe) for size in sizes}
        configs |= {name: new_config().environment(task).training(recipe=recipe) for name, task in TASKS.items()}
        together |= {(recipe, name): config.hyperparameters() for name, config in configs.items()}
    rows = [COLUMNS, ("---",) * len(COLUMNS)]
    for field in dataclasses.fields(general):
        values = _values(field.name, general, others, together)
        about = field.metadata
        name = f"`{field.name}`" + (f"<br>{about['symbol']}" if about["symbol"] else "")
        rows.append((name, "<br>".join(values), _range(about), about["doc"]))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _values(name: str, general: Any, others: dict[str, Any], together: dict[tuple[str, str], Any]) -> list[str]:
    """The default, and those other values that presets and tasks have, alone or two together, each with their names."""
    default, names = getattr(general, name), {}
    for whose, hyperparameters in others.items():
        value = getattr(hyperparameters, name)
        if value != default:
            names.setdefault(value, []).append(whose)
    for pair, hyperparameters in together.items():
        value = getattr(hyperparameters, name)
        if value not in [getattr(others[part], name) for part in pair]:
            names.setdefault(value, []).append(" with ".join(pair))
    return [f"`{default}`", *(f"{', '.join(whose)}: `{value}`" for value, whose in names.items())]


def _range(about: Any) -> str:
    """The allowed words, or the limits of a number."""
    low, high = (f"`{about[end]:g}`" if about[end] is not None else "" for end in ("low", "high"))
    limits = f"{low} to {high}" if high else f"from {low}" if low else ""
    return ", ".join(f"`{word}`" for word in about["choices"]) or limits


NOTES = {
    "broadcast_env_runner_states": "Without effect: connectors here keep no state.",
    "merge_env_runner_states": "Without effect: connectors here keep no state.",
    "is_atari": "Without effect: RLlib means its own networks for pictures.",
    "env": "An id, a class or a function.",
    "learner_config_dict": "For a learner class of yours; those here do not look into it.",
    "num_envs_per_env_runner": "Must divide `env_steps_per_iteration`.",
    "explore": "MAPPO and HAPPO, which learn from drawn actions, refuse False; `evaluation_config` has its own.",
    "evaluation_config": 'Checked as the whole configuration is; `{"explore": False}` unless you set it.',
    "evaluation_parallel_to_training": "Needs `evaluation_num_env_runners` of 1 or more.",
    "evaluation_force_reset_envs_before_iteration": 'False only with `evaluation_duration="auto"`.',
}
"""Of settings that are read: what neither their names nor the rules for their values say."""
OTHER_NAMES = {
    "framework": "framework_str",
    "custom_stats_cls_lookup": "stats_cls_lookup",
    "dataset_num_iters_per_offline_eval_runner": "dataset_num_iters_per_eval_runner",
}
"""Arguments that RLlib keeps under a name of its own, which is not the argument's behind "_" or "callbacks_"."""


def settings_of(method: str) -> dict[str, str]:
    """The arguments that a method of RLlib's configurations takes, and the attributes that keep them.

    Without old names, which RLlib itself refuses or translates.
    """
    from ray._common.deprecation import DEPRECATED_VALUE
    from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

    parameters = inspect.signature(getattr(AlgorithmConfig, method)).parameters.values()
    known = vars(AlgorithmConfig())
    names = [p.name for p in parameters if p.name not in ("self", "kwargs") and p.default != DEPRECATED_VALUE]
    return {
        name: next(kept for kept in (OTHER_NAMES.get(name), name, f"_{name}", f"callbacks_{name}") if kept in known)
        for name in names
    }


def settings_methods() -> list[str]:
    """The methods of RLlib's configurations that set something, in RLlib's order."""
    from ray.rllib.algorithms.algorithm_config import AlgorithmConfig, NotProvided

    methods = {n: m for n, m in vars(AlgorithmConfig).items() if inspect.isfunction(m) and n[0] != "_"}
    takes = {name: inspect.signature(method).parameters.values() for name, method in methods.items()}
    return [name for name, parameters in takes.items() if any(p.default is NotProvided for p in parameters)]


def settings_tables() -> str:
    """For every method of RLlib's configurations a table: which arguments are read, and which refused, as Markdown."""
    return "\n\n".join(f"### .{method}()\n\n{_settings_table(method)}" for method in settings_methods())


def _settings_table(method: str) -> str:
    from rllib_dima import DIMAConfig
    from rllib_dima.settings import READ_SETTINGS

    rows, refused = [("argument", ""), ("---", "---")], {}
    arguments, hyperparameters = settings_of(method), DIMAConfig.hyperparameter_class.names()
    for name, kept in arguments.items():
        if method == "training" and kept in READ_SETTINGS:
            refused.setdefault("Set it with `.learners()`.", []).append(f"`{name}`")
        elif kept in READ_SETTINGS:
            rows.append((f"`{name}`", _sentences("read.", _rule(kept), NOTES.get(name, ""))))
        elif kept not in hyperparameters:
            refused.setdefault(DIMAConfig.alternatives.get(kept, ""), []).append(f"`{name}`")
    if method == "training":
        rows.append(("`model_size`, `recipe`, all [hyperparameters](hyperparameters.md)", "read."))
    own = [] if method == "training" else [name for name in _own(DIMAConfig, method) if name not in arguments]
    rows += [(f"`{name}`", _sentences("read; this package's own.", _rule(name))) for name in own]
    without_advice = refused.pop("", [])
    rows += [(", ".join(names), f"**refused.** {advice}") for advice, names in refused.items()]
    rows += [(", ".join(without_advice), "**refused.**")] * bool(without_advice)
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _sentences(*sentences: str) -> str:
    return " ".join(filter(None, sentences))


def _rule(kept: str) -> str:
    from rllib_dima.settings import RULES

    return f"Must be {RULES[kept].expected}." if kept in RULES else ""


def _own(config_class: type, method: str) -> list[str]:
    """Keywords of a method of ours and of the same methods of the classes that it is derived from, down to RLlib's."""
    classes = [c for c in config_class.__mro__ if c.__module__.startswith("rllib_dima") and method in vars(c)]
    parameters = [p for c in classes for p in inspect.signature(vars(c)[method]).parameters.values()]
    return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
