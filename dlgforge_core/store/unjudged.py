"""Unjudged dialogues: those that lack verdicts because the judge, while generating, gave none to be used."""

from __future__ import annotations

import psycopg

from dlgforge_core.store.statements import HAS_VERDICT

NO_VERDICT = "the judge has given no verdict yet that could be used"

_JUDGE_AGAIN = """
WITH lacking AS (
    UPDATE unjudged u SET again = true, attempt = u.attempt + (NOT u.again)::int
    FROM dialogues d JOIN run_plans rp USING (plan_id)
    WHERE rp.run_id = %(run)s AND d.dialogue_id = u.dialogue_id AND d.ordinal < rp.n_dialogues
      AND d.status <> 'unaccepted'
    RETURNING 1
)
SELECT count(*) FROM lacking
"""

_LAST_SLIP = """
SELECT u.reason, u.detail
FROM unjudged u JOIN dialogues d USING (dialogue_id) JOIN run_plans rp USING (plan_id)
WHERE rp.run_id = %(run)s AND d.ordinal < rp.n_dialogues
LIMIT 1
"""


def judge_again(connection: psycopg.Connection, run_id: str) -> int:
    """Have the run's dialogues that lack verdicts judged once more, once finished; returns how many."""
    row = connection.execute(_JUDGE_AGAIN, {"run": run_id}).fetchone()
    return int(row[0]) if row else 0


def judge_fault(connection: psycopg.Connection, run_id: str) -> str:
    """Why the judge of a run that was to judge while generating does not work; empty when it does.

    One verdict shows that it does. Where there is none, though some were asked for, the set-up is at fault.
    """
    slip = connection.execute(_LAST_SLIP, {"run": run_id}).fetchone()
    if slip is None:
        return ""
    found = connection.execute(HAS_VERDICT, {"run": run_id}).fetchone()
    return "" if found and found[0] else f"{NO_VERDICT}: the last failed as {slip[0]}: {slip[1]}"
