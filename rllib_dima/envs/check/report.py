"""What `check_env` found: single findings, and the report that holds them."""

from __future__ import annotations

import textwrap
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from rllib_dima.envs.spaces import ContractError

Severity = Literal["error", "warning"]
LINE_WIDTH = 110
MAX_LISTED = 8


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
        found = _wrap(f"{self.severity}, {self.check}: {self.found}", first_indent="- ")
        return f"{found}\n{_wrap(f'What to do: {self.advice}')}"


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
        return tuple(finding for finding in self.findings if finding.severity == "warning")

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
    """Collects findings; of several about the same thing, the first, with the owners of the others."""

    def __init__(self) -> None:
        self._by_subject: dict[tuple, Finding] = {}
        self._owners: dict[tuple, dict[str, None]] = {}  # in the order in which they came

    def error(self, check: str, found: str, advice: str, subject: object = None, owner: str = "") -> None:
        """Adds an error, unless there is a finding of that check about that subject.

        Args:
            check: what was looked at.
            found: what is wrong.
            advice: what to do about it.
            subject: what tells it from other findings of the same check.
            owner: whose fault `found` describes; those of other owners are one finding with it.
        """
        self._add(Finding("error", check, found, advice), subject, owner)

    def warning(self, check: str, found: str, advice: str, subject: object = None, owner: str = "") -> None:
        """Adds a warning; as `error`."""
        self._add(Finding("warning", check, found, advice), subject, owner)

    def refusal(
        self, check: str, error: ContractError, subject: object = None, when: str = "", owner: str = ""
    ) -> None:
        """Adds the error with which DIMA refuses the environment; as `error`."""
        self.error(check, f"{when}: {error.found}" if when else error.found, error.advice, subject, owner)

    def failure(self, check: str, what: str, error: Exception, advice: str = "") -> None:
        """Adds an exception: the error with which DIMA refuses the environment, or one that the environment raised.

        Args:
            check: what was looked at.
            what: what raised it.
            error: the exception.
            advice: what else can be done than to correct it.
        """
        if isinstance(error, ContractError):
            return self.refusal(check, error)
        text = traceback.format_exception_only(error)[-1].strip()
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(frame.filename).name}, line {frame.lineno}, in {frame.name}"
        advice = f"Correct it; call the same method yourself to see the whole traceback. {advice}".rstrip()
        return self.error(check, f"{what} raised {text} ({where}).", advice, (type(error), where))

    @property
    def has_errors(self) -> bool:
        """Whether there is an error among them."""
        return any(finding.severity == "error" for finding in self._by_subject.values())

    def report(self, env_name: str) -> EnvReport:
        """All that was found so far, errors first."""
        found = sorted(map(self._with_owners, self._by_subject), key=lambda finding: finding.severity != "error")
        return EnvReport(env_name, tuple(found))

    def _add(self, finding: Finding, subject: object, owner: str) -> None:
        key = (finding.check, subject)
        self._by_subject.setdefault(key, finding)
        self._owners.setdefault(key, {})[owner] = None

    def _with_owners(self, key: tuple) -> Finding:
        finding, (_, *others) = self._by_subject[key], self._owners[key]
        return replace(finding, found=f"{finding.found} Likewise {listing(others)}.") if others else finding


def listing(items: Sequence[str]) -> str:
    """The first of them with commas between, and how many more there are."""
    more = len(items) - MAX_LISTED
    return ", ".join(items[:MAX_LISTED]) + (f" and {more} more" if more > 0 else "")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _wrap(text: str, indent: str = "    ", first_indent: str | None = None) -> str:
    return textwrap.fill(
        text,
        LINE_WIDTH,
        initial_indent=indent if first_indent is None else first_indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
