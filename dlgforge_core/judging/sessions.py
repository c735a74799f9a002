"""Sessions of judging in the run state: what their workers share, and what it came to."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime

import orjson
import psycopg

from dlgforge_core.database.reconnecting import ReconnectingConnection
from dlgforge_core.errors import StoreError
from dlgforge_core.judging.judges import Judge
from dlgforge_core.judging.tallies import Tallies, tallies_from_json

PlanRow = tuple[str, int]
"""Id of a plan, and how many of its dialogues are wanted."""


@dataclass(frozen=True, slots=True)
class Session:
    """One session of judging; verdicts from `started_at` on, by the server's clock, were given in it."""

    session_id: str
    started_at: datetime


@contextmanager
def judging_session(
    connection: ReconnectingConnection,
    fingerprint: str,
    judges: Sequence[Judge],
    plans: Sequence[PlanRow],
    *,
    plan_number: int,
    after: int,
) -> Iterator[Session]:
    """Yield a session on these plans, from the dialogue behind `after` of the plan of that number on.

    To be begun by who has the sole right to these judges: workers that an earlier process has left behind
    lose their claims, so that they cannot write any more. It is gone at the end.
    """
    values = {
        "id": secrets.token_hex(8),
        "fingerprint": fingerprint,
        "keys": [judge.key for judge in judges],
        "plans": orjson.dumps([list(plan) for plan in plans]).decode(),
        "number": plan_number,
        "after": after,
    }

    def begin(c: psycopg.Connection) -> Session:
        with c.transaction():
            c.execute(
                "DELETE FROM judging_sessions WHERE fingerprint = %(fingerprint)s AND judge_keys && %(keys)s",
                values,
            )
            row = c.execute(
                "INSERT INTO judging_sessions "
                "(session_id, fingerprint, judge_keys, plans, plan_number, after) "
                "VALUES (%(id)s, %(fingerprint)s, %(keys)s, %(plans)s::jsonb, %(number)s, %(after)s) "
                "RETURNING session_id, started_at",
                values,
            ).fetchone()
        assert row is not None
        return Session(*row)

    session = connection.run(begin)
    try:
        yield session
    finally:
        remove = "DELETE FROM judging_sessions WHERE session_id = %s"
        with suppress(StoreError):  # then the next session does it
            connection.run(lambda c: c.execute(remove, (session.session_id,)))


def session_tallies(connection: psycopg.Connection, session_id: str) -> Tallies:
    """Return what the workers of a session have done, as far as it is durable."""
    rows = connection.execute(
        "SELECT tallies -> 'judges' FROM workers WHERE session_id = %s AND tallies IS NOT NULL "
        "ORDER BY worker_id",
        (session_id,),
    ).fetchall()
    return tallies_from_json(row[0] for row in rows)
