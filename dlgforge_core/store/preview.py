"""The first few dialogues of a run's plan, what was called for them, and what the whole plan is made of."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import orjson
import psycopg

from dlgforge_core.planning.rotation import in_rotation, spread
from dlgforge_core.store.writes import storable

_PLANS = """
SELECT rp.plan_id, p.batch, p.language, rp.n_dialogues FROM run_plans rp JOIN plans p USING (plan_id)
WHERE rp.run_id = %(run)s
ORDER BY array_position(%(languages)s::text[], p.language), p.batch
"""
# Of each plan and number of turns as many as may be taken.
_EARLIEST = """
SELECT plan_id, n_turns, dialogue_id FROM (
    SELECT d.plan_id, d.n_turns, d.dialogue_id, d.ordinal,
           row_number() OVER (PARTITION BY d.plan_id, d.n_turns ORDER BY d.ordinal) AS nth
    FROM run_plans rp JOIN dialogues d USING (plan_id)
    WHERE rp.run_id = %(run)s AND d.ordinal < rp.n_dialogues AND d.attempt = 0
) AS d WHERE nth <= %(count)s ORDER BY ordinal
"""
_PUT = """
INSERT INTO preview_calls (dialogue_id, data)
SELECT dialogue_id, data FROM jsonb_to_recordset(%s::jsonb) AS c (dialogue_id text, data jsonb)
JOIN dialogues USING (dialogue_id)
"""
_PREVIEWED = """
SELECT d.dialogue_id, d.plan, d.status, d.turns_done, coalesce(d.drop_reason, ''),
       coalesce(d.drop_detail, ''), d.shortcomings,
       (SELECT jsonb_agg(c.data ORDER BY c.call_id) FROM preview_calls c WHERE c.dialogue_id = d.dialogue_id)
FROM dialogues d JOIN unnest(%s::text[]) WITH ORDINALITY AS f (dialogue_id, nth) USING (dialogue_id)
ORDER BY f.nth
"""
_PLANNED = """
SELECT p.language, d.n_turns, count(*)
FROM run_plans rp JOIN plans p USING (plan_id) JOIN dialogues d USING (plan_id)
WHERE rp.run_id = %s AND d.ordinal < rp.n_dialogues AND d.attempt = 0
GROUP BY 1, 2 ORDER BY 1, 2
"""
_LEFT = """
SELECT p.language, d.n_turns, d.turns_done, count(*)
FROM run_plans rp JOIN plans p USING (plan_id) JOIN dialogues d USING (plan_id)
WHERE rp.run_id = %s AND d.ordinal < rp.n_dialogues AND d.status = 'pending'
GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
"""


@dataclass(frozen=True, slots=True)
class RecordedCall:
    """An answered call for a dialogue: what was asked, what came back, and what that took.

    `turn` counts from 1; `dollars` is None when the price is not known; `ended_at` is Unix time; `tools` are
    those that were offered.
    """

    dialogue_id: str
    turn: int
    role: str
    messages: Sequence[Mapping[str, Any]]
    answer: str
    prompt_tokens: int
    completion_tokens: int
    dollars: float | None
    seconds: float
    ended_at: float
    tools: Sequence[Mapping[str, Any]] = ()

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        lists = {name: [dict(one) for one in getattr(self, name)] for name in ("messages", "tools")}
        return {**asdict(self), **lists}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RecordedCall:
        """Return the inverse of `to_json`; fields of a later version are passed over."""
        return cls(**{field.name: data[field.name] for field in fields(cls) if field.name in data})


@dataclass(frozen=True, slots=True)
class PreviewedDialogue:
    """A dialogue of a preview, and its calls."""

    dialogue_id: str
    plan: Mapping[str, Any]
    status: str
    turns_done: int
    drop_reason: str
    drop_detail: str
    shortcomings: Mapping[str, str]
    calls: tuple[RecordedCall, ...]

    @property
    def ended(self) -> bool:
        """Whether there is nothing left to do for it."""
        return self.status != "pending"


@dataclass(frozen=True, slots=True)
class _PlanPart:
    plan_id: str
    batch: str
    language: str
    n_dialogues: int


def first_dialogues(
    connection: psycopg.Connection, run_id: str, languages: Sequence[str], count: int
) -> list[str]:
    """Return the ids of a few of the run's dialogues that stand for all of it.

    They are of its plans `in_rotation`, of each the earliest whose number of turns is as it should be: those
    of the few are spread as the plan's are. A greater `count` gives the same ones, and others after them.
    """
    rows = connection.execute(_PLANS, {"run": run_id, "languages": list(languages)}).fetchall()
    parts = [_PlanPart(*row) for row in rows]
    earliest: dict[str, dict[int, list[str]]] = {}
    values = {"run": run_id, "count": count}
    for plan_id, n_turns, dialogue_id in connection.execute(_EARLIEST, values):
        earliest.setdefault(plan_id, {}).setdefault(n_turns, []).append(dialogue_id)
    turns = Counter[int]()
    for (_, n_turns), n in planned_turns(connection, run_id).items():
        turns[n_turns] += n
    chosen = itertools.islice(in_rotation(parts), count)
    return [
        _take(earliest[plan.plan_id], _quantile(turns, spread(number)))
        for number, (plan, _) in enumerate(chosen)
    ]


def _take(by_turns: dict[int, list[str]], wanted: int) -> str:
    """Take the earliest dialogue out that has as many turns, or nearly."""
    nearest = min(by_turns, key=lambda n_turns: (abs(n_turns - wanted), n_turns))
    taken = by_turns[nearest].pop(0)
    if not by_turns[nearest]:
        del by_turns[nearest]
    return taken


def _quantile(counts: Counter[int], share: float) -> int:
    seen = 0
    for value in sorted(counts):
        seen += counts[value]
        if seen > share * counts.total():
            return value
    return max(counts)


def put_calls(connection: psycopg.Connection, calls: Sequence[RecordedCall]) -> None:
    """Keep calls that were made for a preview."""
    rows = [{"dialogue_id": call.dialogue_id, "data": call.to_json()} for call in calls]
    if rows:
        connection.execute(_PUT, (orjson.dumps(storable(rows)).decode(),))


def previewed(connection: psycopg.Connection, dialogue_ids: Sequence[str]) -> list[PreviewedDialogue]:
    """Return these dialogues as they are now, with the calls that were kept."""
    rows = connection.execute(_PREVIEWED, (list(dialogue_ids),)).fetchall()
    return [
        PreviewedDialogue(
            *(*row[:6], row[6] or {}, tuple(RecordedCall.from_json(call) for call in row[7] or ())),
        )
        for row in rows
    ]


def planned_turns(connection: psycopg.Connection, run_id: str) -> dict[tuple[str, int], int]:
    """How many dialogues the run's plan has, by language and number of turns."""
    rows = connection.execute(_PLANNED, (run_id,)).fetchall()
    return {(language, turns): int(count) for language, turns, count in rows}


def left_to_make(connection: psycopg.Connection, run_id: str) -> dict[tuple[str, int, int], int]:
    """How many dialogues have not ended, spares included, by language, number of turns and turns made."""
    rows = connection.execute(_LEFT, (run_id,)).fetchall()
    return {(language, turns, done): int(count) for language, turns, done, count in rows}
