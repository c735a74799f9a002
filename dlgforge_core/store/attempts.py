"""Attempts at the samples of a run: spares for what does not count, dropped dialogues that are tried again.

Of the attempts at one sample at most one, the last, has not ended or is accepted. A spare is opened in the
transaction that ends the attempt before it, for which it stands from then on: a dialogue that has a spare is
never taken up again. So a run never comes to more than was asked for, and never makes more than it must.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import orjson
import psycopg

from dlgforge_core.database import lock_keys
from dlgforge_core.dialogue import DropReason
from dlgforge_core.planning.plan import spare_id

SPARES = """
spares AS (
    INSERT INTO dialogues (dialogue_id, plan_id, ordinal, attempt, n_turns, plan)
    SELECT e.spare, d.plan_id, d.ordinal, d.attempt + 1, d.n_turns,
           jsonb_set(d.plan, '{dialogue_id}', to_jsonb(e.spare))
    FROM ended e JOIN dialogues d USING (dialogue_id)
    WHERE e.spare IS NOT NULL AND d.attempt + 1 < %(attempts)s
    ON CONFLICT DO NOTHING
    RETURNING 1
)"""
"""The spare of each dialogue in `ended` that names one, unless that was the last attempt at its sample."""

# Two that resume the same plan must not try a dialogue again and replace it. A statement of its own: those
# after it must see what was done before.
_LOCK = f"SELECT pg_advisory_xact_lock({lock_keys.ATTEMPTS})"

# Of the attempts at a sample of the run, `d` is the last.
_IS_LAST = """
    NOT EXISTS (SELECT FROM dialogues later WHERE later.plan_id = d.plan_id AND later.ordinal = d.ordinal
                AND later.attempt = d.attempt + 1)
"""

_RETRY_DROPPED = f"""
WITH dropped AS (
    SELECT d.dialogue_id, d.drop_reason FROM run_plans rp JOIN dialogues d USING (plan_id)
    WHERE rp.run_id = %(run)s AND d.ordinal < rp.n_dialogues AND d.status = 'dropped' AND {_IS_LAST}
      AND (d.drop_reason = ANY(%(reasons)s) OR d.drop_reason = ANY(%(changed)s) AND d.drop_setup <> %(setup)s)
    FOR UPDATE OF d
),
again AS (
    UPDATE dialogues d SET status = 'pending', drop_reason = NULL, drop_detail = NULL, drop_setup = NULL,
        turns_done = 0, ended_at = NULL
    FROM dropped x WHERE d.dialogue_id = x.dialogue_id RETURNING d.dialogue_id, x.drop_reason
),
gone AS (DELETE FROM turns t USING again a WHERE t.dialogue_id = a.dialogue_id)
SELECT drop_reason, count(*) FROM again GROUP BY 1 ORDER BY 1
"""

_WANTING = f"""
    SELECT d.* FROM run_plans rp JOIN dialogues d USING (plan_id)
    WHERE rp.run_id = %(run)s AND d.ordinal < rp.n_dialogues AND d.status IN ('unaccepted', 'dropped')
      AND {_IS_LAST}
"""
_TO_REPLACE = f"SELECT dialogue_id FROM ({_WANTING}) AS d WHERE attempt + 1 < %(attempts)s"
_OPEN_SPARES = f"""
WITH ended AS (SELECT * FROM jsonb_to_recordset(%(rows)s::jsonb) AS t (dialogue_id text, spare text)),
{SPARES}
SELECT count(*) FROM spares
"""

_SHORTFALL = f"""
SELECT p.language, p.batch,
       coalesce(nullif(w.plan #>> '{{topic,topic}}', ''), w.plan #>> '{{document,name}}'),
       count(*), max(w.attempt) + 1,
       jsonb_agg(coalesce(w.shortcomings, jsonb_build_object('dropped: ' || w.drop_reason, '')))
FROM ({_WANTING}) AS w JOIN plans p USING (plan_id)
GROUP BY 1, 2, 3 ORDER BY 4 DESC, 1, 2, 3 LIMIT %(limit)s
"""


@dataclass(frozen=True, slots=True)
class Shortfall:
    """Samples on one topic of which no attempt was accepted, after as many `attempts` at most.

    `reasons` says how many of the last attempts lacked what, or were dropped.
    """

    language: str
    batch: str
    topic: str
    samples: int
    attempts: int
    reasons: Mapping[str, int]


def retry_dropped(
    connection: psycopg.Connection,
    run_id: str,
    reasons: Collection[DropReason],
    changed: Collection[DropReason],
    setup: str,
) -> dict[str, int]:
    """Make dropped dialogues of the run that have no spare pending again; returns how many, by reason.

    Those dropped for one of `reasons`, and of `changed` those that were dropped under another `setup`.

    They begin afresh: with the drop their questions and their document were given back, and others may
    have taken them since.
    """
    values = {
        "run": run_id,
        "reasons": [reason.value for reason in reasons],
        "changed": [reason.value for reason in changed],
        "setup": setup,
    }
    with connection.transaction():
        connection.execute(_LOCK)
        rows = connection.execute(_RETRY_DROPPED, values).fetchall()
    return {reason: int(n) for reason, n in rows}


def open_spares(connection: psycopg.Connection, run_id: str, attempts: int) -> int:
    """Open spares for samples that were given up after fewer than `attempts` attempts; returns how many."""
    with connection.transaction():
        connection.execute(_LOCK)
        ended = connection.execute(_TO_REPLACE, {"run": run_id, "attempts": attempts}).fetchall()
        rows = [{"dialogue_id": dialogue_id, "spare": spare_id(dialogue_id)} for (dialogue_id,) in ended]
        values = {"rows": orjson.dumps(rows).decode(), "attempts": attempts}
        row = connection.execute(_OPEN_SPARES, values).fetchone() if rows else None
    return int(row[0]) if row else 0


def shortfall(connection: psycopg.Connection, run_id: str, limit: int = 50) -> list[Shortfall]:
    """Return where a finished run came to less than was asked for: topics, those that lack most first."""
    rows = connection.execute(_SHORTFALL, {"run": run_id, "limit": limit}).fetchall()
    return [
        Shortfall(
            language,
            batch,
            topic or "",
            int(samples),
            int(attempts),
            Counter(name for reasons in lacking for name in reasons),
        )
        for language, batch, topic, samples, attempts, lacking in rows
    ]
