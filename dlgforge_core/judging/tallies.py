"""Tallies: what each judge has done in a session, added up over its workers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from dlgforge_core.llm.client import CallError


@dataclass
class Tally:
    """What one judge did in this session. `kept` verdicts were there before and stand."""

    kept: int = 0
    given: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    """The first failure of each reason."""
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def failed(self, error: CallError) -> None:
        """Count a verdict that could not be had."""
        self.failures[error.reason.value] += 1
        self.examples.setdefault(error.reason.value, str(error)[:500])

    def add(self, other: Tally) -> None:
        """Add what was done elsewhere, or later."""
        self.kept += other.kept
        self.given += other.given
        self.failures += other.failures
        self.examples = {**other.examples, **self.examples}
        self.prompt_tokens += other.prompt_tokens
        self.completion_tokens += other.completion_tokens

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "kept": self.kept,
            "given": self.given,
            "failures": dict(self.failures),
            "examples": self.examples,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Return the inverse of `to_json`."""
        return cls(**{**data, "failures": Counter(data["failures"])})


Tallies = dict[str, Tally]
"""By judge key."""


def failures_of(tallies: Mapping[str, Tally]) -> Counter[str]:
    """Return the verdicts that could not be had, by reason, over all judges."""
    return sum((tally.failures for tally in tallies.values()), Counter())


def add_tallies(total: Tallies, more: Mapping[str, Tally]) -> None:
    """Add up, judge by judge."""
    for key, tally in more.items():
        total.setdefault(key, Tally()).add(tally)


def tallies_to_json(tallies: Mapping[str, Tally]) -> dict[str, Any]:
    """As plain data."""
    return {key: tally.to_json() for key, tally in tallies.items()}


def tallies_from_json(rows: Iterable[Mapping[str, Any]]) -> Tallies:
    """Return the sum of several workers' tallies."""
    total: Tallies = {}
    for row in rows:
        add_tallies(total, {key: Tally.from_json(data) for key, data in row.items()})
    return total
