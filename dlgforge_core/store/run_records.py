"""Runs as the run state knows them: their records, ids and progress."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dlgforge_core.planning.plan import Plan


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One row of `generation_runs`; `dataset` is "" for the default one."""

    run_id: str
    fingerprint: str
    config: Mapping[str, Any]
    status: str
    stop_reason: str | None
    dataset: str = ""


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands: dialogues, and turns (those of dropped dialogues count only as far as made)."""

    planned: int = 0
    done: int = 0
    turns: int = 0
    turns_planned: int = 0
    drop_reasons: Mapping[str, int] = field(default_factory=dict)
    unjudged: int = 0
    """Verdicts that the judge, while generating, could not be had to give."""
    judged_again: int = 0
    """Dialogues that are to be given the verdicts they lack, once they are finished."""
    done_by_language: Mapping[str, int] = field(default_factory=dict)

    @property
    def dropped(self) -> int:
        """How many dialogues were dropped, whatever for."""
        return sum(self.drop_reasons.values())

    @property
    def pending(self) -> int:
        """How many dialogues are neither done nor dropped."""
        return self.planned - self.done - self.dropped

    @property
    def complete(self) -> bool:
        """Whether no dialogue is pending."""
        return self.pending == 0

    @property
    def nothing_to_do(self) -> bool:
        """Whether every dialogue has ended and none is to be judged again."""
        return self.complete and not self.judged_again


def run_id_of(fingerprint: str, plans: Sequence[Plan]) -> str:
    """Return the run's id: the same plans under the same fingerprint are the same run."""
    parts = sorted(f"{plan.plan_id}:{plan.n_dialogues}" for plan in plans)
    return hashlib.sha256("\n".join([fingerprint, *parts]).encode()).hexdigest()[:16]
