"""Runs as the run state knows them: their records, ids and progress."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg

from dlgforge_core.planning.plan import Plan

_PROGRESS = """
SELECT d.status, d.drop_reason, p.language, count(*), sum(d.turns_done),
       sum(CASE WHEN d.status = 'dropped' OR d.ended_by IS NOT NULL THEN d.turns_done ELSE d.n_turns END),
       coalesce(sum(u.verdicts), 0), count(*) FILTER (WHERE u.again), count(*) FILTER (WHERE d.attempt > 0)
FROM run_plans rp JOIN plans p USING (plan_id) JOIN dialogues d USING (plan_id)
LEFT JOIN unjudged u ON u.dialogue_id = d.dialogue_id AND d.status <> 'unaccepted'
WHERE rp.run_id = %(run)s AND d.ordinal < rp.n_dialogues
  AND (%(among)s::text[] IS NULL OR d.dialogue_id = ANY(%(among)s))
GROUP BY 1, 2, 3
"""
_SHORTCOMINGS = """
SELECT lacking, count(*)
FROM run_plans rp JOIN dialogues d USING (plan_id), jsonb_object_keys(d.shortcomings) AS lacking
WHERE rp.run_id = %(run)s AND d.ordinal < rp.n_dialogues AND d.status = 'unaccepted'
  AND (%(among)s::text[] IS NULL OR d.dialogue_id = ANY(%(among)s))
GROUP BY 1 ORDER BY 2 DESC, 1
"""


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
    spares: int = 0
    """Dialogues that take the place of one that was dropped or not accepted."""
    unaccepted: int = 0
    """Dialogues that were finished, and do not count."""
    shortcomings: Mapping[str, int] = field(default_factory=dict)
    """Why not, with how many dialogues; one may lack several things."""

    @property
    def made(self) -> int:
        """How many dialogues have ended: done, not accepted, or dropped."""
        return self.done + self.unaccepted + self.dropped

    @property
    def dropped(self) -> int:
        """How many dialogues were dropped, whatever for."""
        return sum(self.drop_reasons.values())

    @property
    def pending(self) -> int:
        """How many dialogues, spares included, have not ended."""
        return self.planned + self.spares - self.made

    @property
    def shortfall(self) -> int:
        """How many accepted dialogues a run that is complete lacks; 0 as long as it is not."""
        return self.planned - self.done if self.complete else 0

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


def progress(connection: psycopg.Connection, run_id: str, among: Sequence[str] = ()) -> Progress:
    """Count the run's dialogues by outcome, and the turns committed; with `among` of these alone."""
    values = {"run": run_id, "among": list(among) or None}
    rows = connection.execute(_PROGRESS, values).fetchall()
    drops: dict[str, int] = {}
    languages: dict[str, int] = {}
    every = turns = turns_planned = unjudged = again = spares = unaccepted = 0
    for status, reason, language, count, turns_done, turns_due, lacking, judged_again, replacing in rows:
        unjudged, again = unjudged + int(lacking), again + judged_again
        every, spares = every + count, spares + replacing
        turns, turns_planned = turns + int(turns_done), turns_planned + int(turns_due)
        if status == "dropped":
            drops[reason] = drops.get(reason, 0) + count
        elif status == "done":
            languages[language] = languages.get(language, 0) + count
        elif status == "unaccepted":
            unaccepted += count
    shortcomings = connection.execute(_SHORTCOMINGS, values).fetchall() if unaccepted else []
    return Progress(
        planned=every - spares,
        done=sum(languages.values()),
        turns=turns,
        turns_planned=turns_planned,
        drop_reasons=drops,
        unjudged=unjudged,
        judged_again=again,
        done_by_language=languages,
        spares=spares,
        unaccepted=unaccepted,
        shortcomings=dict(shortcomings),
    )
