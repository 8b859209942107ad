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

Severity = Literal["error", "warning"]
MAX_LISTED = 8
_fill = textwrap.TextWrapper(110, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False).fill


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or that may be.

    Args:
        severity: "error": DIMA refuses the environment, or would learn something wrong. "warning": DIMA trains on it,
            but it may not be what its author meant.
        check: what was looked at, as in "rewards".
        found: what is wrong.
        advice: what to do about it.
    """

    severity: Severity
    check: str
    found: str
    advice: str

    def __str__(self) -> str:
        return _fill(f"- {self.severity}, {self.check}: {self.found}") + "\n" + _fill(f"    What to do: {self.advice}")


@dataclass(frozen=True)
class EnvReport(Sequence):
    """All findings of one environment, errors first; a sequence of `Finding`.

    Args:
        env_name: which environment was checked.
        findings: what was found.
    """

    env_name: str
    findings: tuple[Finding, ...]

    def __len__(self) -> int:
        return len(self.findings)

    def __getitem__(self, index: int | slice) -> Finding | tuple[Finding, ...]:
        return self.findings[index]

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that keep DIMA from training on the environment."""
        return tuple(finding for finding in self.findings if finding.severity == "error")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """The other findings."""
        return self.findings[len(self.errors) :]

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
        counts = f"{_count(len(self.errors), 'error')}, {_count(len(self.warnings), 'warning')}"
        return "\n".join([f"{self.env_name}: {verdict} ({counts}).", *map(str, self.findings)])


class Findings:
    """Collects findings; of several that are mended alike, the first, with the owners of the others."""

    def __init__(self) -> None:
        self._first: dict[tuple, Finding] = {}
        self._owners: dict[tuple, dict[str, None]] = {}  # in the order in which they came

    def add(
        self, severity: Severity, check: str, found: str, advice: str, owner: str = "", subject: object = None
    ) -> None:
        """Adds a finding, unless there is one of the same severity, check, advice and subject.

        Args:
            severity: as of a `Finding`.
            check: what was looked at.
            found: what is wrong.
            advice: what to do about it.
            owner: whose fault `found` describes; those of other owners are one finding with it.
            subject: what else tells it from other findings.
        """
        key = (severity, check, advice, subject)
        self._first.setdefault(key, Finding(severity, check, found, advice))
        self._owners.setdefault(key, {})[owner] = None

    @contextlib.contextmanager
    def guard(
        self,
        check: str,
        what: str = "",
        advice: str = "",
        severity: Severity = "error",
        when: str = "",
        owner: str = "",
        subject: object = None,
    ) -> Iterator[None]:
        """Makes a finding of what its block raises: DIMA's refusal of the environment, or an environment's exception.

        Args:
            check: as for `add`, like `severity`, `owner` and `subject`.
            what: what the block calls.
            advice: what else can be done than to correct it.
            severity: of an exception; a refusal is an error.
            when: in which step, for a refusal.
            owner: for a refusal.
            subject: for a refusal.
        """
        try:
            yield
        except ContractError as error:
            self.add("error", check, f"{when}: {error.found}" if when else error.found, error.advice, owner, subject)
        except Exception as error:
            text = traceback.format_exception_only(error)[-1].strip()
            frame = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(frame.filename).name}, line {frame.lineno}, in {frame.name}"
            found = f"{what or f'the check of {check}'} raised {text} ({where})."
            advice = f"Correct it; call the same method yourself to see the whole traceback. {advice}".rstrip()
            self.add(severity, check, found, advice, subject=(type(error), where))

    @property
    def has_errors(self) -> bool:
        """Whether there is an error among them."""
        return any(finding.severity == "error" for finding in self._first.values())

    def report(self, env_name: str) -> EnvReport:
        """All that was found so far, errors first."""
        found = sorted(map(self._with_owners, self._first), key=lambda finding: finding.severity)
        return EnvReport(env_name, tuple(found))

    def _with_owners(self, key: tuple) -> Finding:
        finding, (_, *others) = self._first[key], self._owners[key]
        return replace(finding, found=f"{finding.found} Likewise {listing(others)}.") if others else finding


def listing(items: Sequence[str]) -> str:
    """The first of them with commas between, and how many more there are."""
    more = len(items) - MAX_LISTED
    return ", ".join(items[:MAX_LISTED]) + (f" and {more} more" if more > 0 else "")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
