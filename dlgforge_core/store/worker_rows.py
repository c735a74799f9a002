"""What workers have published in their rows: their counts, and whether they are alive."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import psycopg

_OF = "(run_id = %(run)s OR session_id = %(session)s)"


def worker_stats(
    connection: psycopg.Connection, *, run_id: str | None = None, session_id: str | None = None
) -> list[Mapping[str, Any]]:
    """Return what every worker of a run or a judging session, past ones included, has counted."""
    rows = connection.execute(
        f"SELECT stats FROM workers WHERE {_OF} ORDER BY worker_id", {"run": run_id, "session": session_id}
    ).fetchall()
    return [row[0] for row in rows]


def silent_workers(
    connection: psycopg.Connection, *, run_id: str | None = None, session_id: str | None = None
) -> set[tuple[str, int]]:
    """Host and pid of the worker processes of a run or a judging session that hold no valid lease.

    They have ended, or are stuck.
    """
    rows = connection.execute(
        f"SELECT host, pid FROM workers WHERE {_OF} "
        "GROUP BY host, pid HAVING bool_and(ended_at IS NOT NULL OR expires_at < now())",
        {"run": run_id, "session": session_id},
    ).fetchall()
    return {(host, pid) for host, pid in rows}
