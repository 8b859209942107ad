"""What `check_env` found: single findings, and the report that holds them."""

from __future__ import annotations

import contextlib
import textwrap
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from rllib_dima.envs.spaces import ContractError

Severity = Literal["error", "warning", "note"]
MAX_LISTED = 8
_fill = textwrap.TextWrapper(110, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False).fill


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or that may be.

    Args:
        severity: "error": DIMA refuses the environment, or would learn something wrong. "warning": DIMA trains on it,
            but it may not be what its author meant. "note": what DIMA makes of what not every environment has.
        check: what was looked at, as in "rewards".
        found: what is wrong.
        advice: what to do about it; of a note, what happens.
    """

    severity: Severity
    check: str
    found: str
    advice: str

    def __str__(self) -> str:
        then = "What happens" if self.severity == "note" else "What to do"
        return _fill(f"- {self.severity}, {self.check}: {self.found}") + "\n" + _fill(f"    {then}: {self.advice}")


class EnvReport(Sequence):
    """All findings of one environment, errors first and notes last; a sequence of `Finding`.

    Attributes:
        env_name: which environment was checked.
    """

    def __init__(self, env_name: str) -> None:
        self.env_name = env_name
        self._found: dict[tuple, tuple[Finding, dict[str, None]]] = {}  # with its owners, as they came

    def __len__(self) -> int:
        return len(self._found)

    def __getitem__(self, index: int | slice) -> Finding | tuple[Finding, ...]:
        return self.findings[index]

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Errors, warnings, notes; those with the same remedy are merged into one, with the owners of all."""
        return self.errors + self.warnings + self.notes

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that keep DIMA from training on the environment."""
        return self._of("error")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """What may not be meant."""
        return self._of("warning")

    @property
    def notes(self) -> tuple[Finding, ...]:
        """What DIMA makes of what not every environment has."""
        return self._of("note")

    @property
    def ok(self) -> bool:
        """Whether there is no error."""
        return not self.errors

    def raise_if_errors(self) -> None:
        """Does nothing if there is no error.

        Raises:
            ValueError: otherwise, with the whole report.
        """
        if not self.ok:
            raise ValueError(str(self))

    def __str__(self) -> str:
        verdict = "DIMA can train on it" if self.ok else "DIMA cannot train on it"
        counts = f"errors: {len(self.errors)}, warnings: {len(self.warnings)}"
        return "\n".join([f"{self.env_name}: {verdict} ({counts}).", *map(str, self)])

    def add(
        self, severity: Severity, check: str, found: str, advice: str, owner: str = "", cause: object = None
    ) -> None:
        """Adds a finding; only its owner, whose fault it is, where one of the same advice and cause is there."""
        finding = Finding(severity, check, found, advice)
        self._found.setdefault((severity, check, advice, cause), (finding, {}))[1][owner] = None

    @contextlib.contextmanager
    def guard(
        self, check: str, what: str = "", owner: str = "", severity: Severity = "error", or_else: str = ""
    ) -> Iterator[None]:
        """Makes a finding of what its block raises: DIMA's refusal of the environment, or an environment's exception.

        `what` says when it was, for a refusal, which has an owner; and what was called, for an exception, which has the
        severity and, in `or_else`, what else can be done about it.
        """
        try:
            yield
        except ContractError as error:
            self.add("error", check, f"{what}: {error.found}" if what else error.found, error.advice, owner)
        except Exception as error:
            text = traceback.format_exception_only(error)[-1].strip()
            frame = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(frame.filename).name}, line {frame.lineno}, in {frame.name}"
            found = f"{what or f'the check of {check}'} raised {text} ({where})."
            advice = f"Correct it; call the same method yourself to see the whole traceback. {or_else}".rstrip()
            self.add(severity, check, found, advice, cause=(type(error), where))

    def _of(self, severity: Severity) -> tuple[Finding, ...]:
        found = []
        for finding, (_, *others) in self._found.values():
            likewise = f"{finding.found} Likewise {listing(others)}."
            found.append(replace(finding, found=likewise) if others else finding)
        return tuple(finding for finding in found if finding.severity == severity)


def listing(items: Sequence[str]) -> str:
    """The first of them with commas between, and how many more there are."""
    more = len(items) - MAX_LISTED
    return ", ".join(items[:MAX_LISTED]) + (f" and {more} more" if more > 0 else "")
