"""Rows that a run has left behind, and rows that other workers hold, written straight into the run state."""

from __future__ import annotations

import psycopg

from dlgforge_core.database import lock_keys

_TURNS = 4
_CHUNK = 20_000
_USAGE = '{"qa_generator": [4, 2000, 200, 0.001], "kb_responder": [4, 3000, 900, 0.002]}'

# As real ones are: plans of the run's own, and texts of the sizes that were measured.
_DIALOGUES = """
WITH samples AS (
    SELECT row_number() OVER () - 1 AS n, plan_id, plan FROM (
        SELECT plan_id, plan FROM dialogues WHERE status = 'pending' AND worker_id IS NULL LIMIT 100) s
)
INSERT INTO dialogues
    (dialogue_id, plan_id, ordinal, n_turns, plan, status, turns_done, worker_id, ended_at, usage)
SELECT md5('at rest ' || g), s.plan_id, 100000000 + g, %(turns)s, s.plan, %(status)s, %(turns_done)s,
       %(worker)s, CASE WHEN %(status)s = 'done' THEN now() END,
       CASE WHEN %(status)s = 'done' THEN %(usage)s::jsonb END
FROM generate_series(%(first)s::int, %(last)s::int) g JOIN samples s ON s.n = g %% 100
"""
_TURNS_OF_THEM = """
WITH texts AS (
    SELECT n, (SELECT string_agg(md5(n || ' ' || i), ' ') FROM generate_series(1, 30) i) AS text
    FROM generate_series(0, 99) n
)
INSERT INTO turns (dialogue_id, turn_index, user_text, assistant_text, judgement, worker_id)
SELECT md5('at rest ' || g), t, left(x.text, 100), x.text,
       jsonb_build_object('score', 8, 'reasons', '["clear"]'::jsonb, 'comment', left(x.text, 150)), 1
FROM generate_series(%(first)s::int, %(last)s::int) g, generate_series(0, %(turns)s - 1) t
JOIN texts x ON x.n = t
"""
_QUESTIONS = """
INSERT INTO questions (fingerprint, question_key, dialogue_id, turn_index)
SELECT %(fingerprint)s, decode(md5('q' || g || ' ' || t), 'hex'), md5('at rest ' || g), t
FROM generate_series(%(first)s::int, %(last)s::int) g, generate_series(0, %(turns)s - 1) t
"""
_COUNTED = "UPDATE {table} SET n_dialogues = 500000000"


def fill(connection: psycopg.Connection, fingerprint: str, done: int) -> None:
    """Write finished dialogues of the only run, with their turns and questions."""
    values = {
        "turns": _TURNS,
        "turns_done": _TURNS,
        "status": "done",
        "worker": None,
        "usage": _USAGE,
        "fingerprint": fingerprint,
    }
    for first in range(1, done + 1, _CHUNK):
        part = {**values, "first": first, "last": min(done, first + _CHUNK - 1)}
        for statement in (_DIALOGUES, _TURNS_OF_THEM, _QUESTIONS):
            connection.execute(statement, part)
    _count(connection)


def hold(connection: psycopg.Connection, run_id: str, first: int, held: int) -> None:
    """Have a worker that lives, by its lock, hold so many dialogues of the only run."""
    row = connection.execute(
        "INSERT INTO workers (run_id, host, pid, expires_at) "
        "VALUES (%s, 'elsewhere', 1, now() + interval '1 day') "
        "RETURNING worker_id, pg_advisory_lock(%s, worker_id)",
        (run_id, lock_keys.WORKERS),
    ).fetchone()
    assert row is not None
    values = {"turns": _TURNS, "turns_done": 0, "status": "pending", "worker": row[0], "usage": None}
    connection.execute(_DIALOGUES, {**values, "first": first + 1, "last": first + held})
    _count(connection)


def leave_open(connection: psycopg.Connection, dialogues: int) -> None:
    """Write so many dialogues of the only run that nobody has claimed."""
    values = {"turns": _TURNS, "turns_done": 0, "status": "pending", "worker": None, "usage": None}
    for first in range(1, dialogues + 1, _CHUNK):
        connection.execute(_DIALOGUES, {**values, "first": first, "last": min(dialogues, first + _CHUNK - 1)})
    _count(connection)


def _count(connection: psycopg.Connection) -> None:
    for table in ("plans", "run_plans"):
        connection.execute(_COUNTED.format(table=table))
