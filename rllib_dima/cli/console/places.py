"""Where a name belongs that stands in the wrong place: among the flags, beside `run`, in `config` or in `stop`."""

from __future__ import annotations

from collections.abc import Iterable

from rllib_dima.cli.console.spelling import KNOWN_METRICS, RENAMED_KEYS, RENAMED_METRICS, RENAMED_SETTINGS
from rllib_dima.cli.errors import UsageError
from rllib_dima.cli.experiment.algorithms import settings_of
from rllib_dima.cli.experiment.spec import CHECKPOINT_KEYS, KEYS
from rllib_dima.core.names import near_names


def names_in(place: str) -> set[str]:
    """The names, then and now, that can stand in `config` (of DIMA), in `stop`, or beside `run`."""
    if place == "config":
        from rllib_dima import DIMA

        return {*settings_of(DIMA), *RENAMED_SETTINGS, "num_gpus"}
    return {*KNOWN_METRICS, *RENAMED_METRICS} if place == "stop" else {*KEYS, *RENAMED_KEYS, *CHECKPOINT_KEYS}


def check_place(name: str, place: str) -> None:
    """Refuses a name that is unknown in a place, if another place knows it.

    Raises:
        UsageError: with that place.
    """
    others = {"config": "in config", "run": "beside run", "stop": "in stop"}
    here = others.pop(place)
    for other, where in others.items():
        if name in names_in(other):
            raise UsageError(f"{name!r} means nothing {here}: it belongs {where}.")


def hint_at_flag(flag: str, flags: Iterable[str], commands: Iterable[str]) -> str:
    """What an unknown flag was probably meant to be, as one would write it.

    Args:
        flag: that is not known.
        flags: of the command. If --stop and --config are among them, names of metrics and settings are known as well.
        commands: that are no flags.
    """
    name = flag.lstrip("-").replace("-", "_")
    places = [{known[2:].replace("-", "_"): known for known in flags}]
    places += [{command.split()[-1]: f"`rllib {command}`" for command in commands}]
    for place in ("stop", "config") if "--stop" in flags else ():
        places.append({known: f"--{place} '{{\"{known}\": ...}}'" for known in names_in(place)})
    near = [written[name] for written in places if name in written]
    for cutoff in (1.0, 0.65):  # first by whole words
        near = near or [written[other] for written in places for other in near_names(name, written, cutoff)]
    if near:
        return f"Did you mean {' or '.join(near[:3])}?"
    return "" if "--stop" in flags else f"Known: {', '.join(flags)}."
