"""Dialogues that have ended, read in batches, with the verdicts that an export would carry."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from dlgforge_core.database.connection import Connection
from dlgforge_core.dialogue import Dialogue, Role
from dlgforge_core.judging.results import with_judgements
from dlgforge_core.judging.store import LATEST_FIRST

_ROWS = """
SELECT d.dialogue_id, d.plan_id, d.ordinal, d.status, d.drop_reason, p.language,
       coalesce(d.ended_at, p.created_at)::text, p.fingerprint, d.plan, d.judgement, (
    SELECT g.config -> 'models' FROM run_plans rp JOIN generation_runs g USING (run_id)
    WHERE rp.plan_id = p.plan_id ORDER BY g.updated_at DESC LIMIT 1), (
    SELECT jsonb_agg(jsonb_build_array(t.turn_index, t.user_text, t.assistant_text, t.judgement, t.details)
                     ORDER BY t.turn_index)
    FROM turns t WHERE t.dialogue_id = d.dialogue_id), d.ended_by, d.goal_verdict, d.usage
FROM dialogues d JOIN plans p USING (plan_id) WHERE d.dialogue_id = ANY(%(ids)s)
ORDER BY array_position(%(ids)s::text[], d.dialogue_id)
"""
_LATEST_JUDGES = f"""
SELECT DISTINCT ON (fingerprint) fingerprint, judges FROM judgings ORDER BY fingerprint, {LATEST_FIRST}
"""

_NAMES = ("dialogue_id", "plan_id", "ordinal", "status", "drop_reason", "language", "ended_at")

Judges = Mapping[str, Mapping[str, str]]
"""Names of the judges whose verdicts count, by key, of each fingerprint that was judged offline."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A dialogue and how it ended; `ended_at` is a time as Postgres writes it.

    `judge` is whose verdict it carries, where that is no merged one.
    """

    dialogue_id: str
    plan_id: str
    ordinal: int
    status: str
    drop_reason: str | None
    language: str
    ended_at: str
    dialogue: Dialogue
    judge: str


def latest_judges(connection: Connection) -> Judges:
    """Return who judged last what was made under each fingerprint."""
    return {name: dict(judges) for name, judges in connection.execute(_LATEST_JUDGES).fetchall()}


def ended_dialogues(connection: Connection, ids: Sequence[str], judges: Judges) -> Iterator[Ended]:
    """Yield these dialogues, in this order; those that are gone are left out."""
    rows = connection.execute(_ROWS, {"ids": list(ids)}).fetchall()
    dialogues = [Dialogue.from_row(row[8:]) for row in rows]
    judged_by = [judge_while_generating(dialogue) for dialogue in dialogues]
    by_fingerprint: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        by_fingerprint.setdefault(row[7], []).append(i)
    for fingerprint, positions in by_fingerprint.items():
        if names := judges.get(fingerprint):
            judged = with_judgements(connection, [dialogues[i] for i in positions], names)
            for i, dialogue in zip(positions, judged, strict=True):
                dialogues[i], judged_by[i] = dialogue, ", ".join(names.values())
    for row, dialogue, judge in zip(rows, dialogues, judged_by, strict=True):
        yield Ended(**dict(zip(_NAMES, row, strict=False)), dialogue=dialogue, judge=judge)


def judge_while_generating(dialogue: Dialogue) -> str:
    """Return the name of the judge whose verdicts came with a dialogue."""
    return dialogue.models.get(Role.JUDGE.value) or "judge"
