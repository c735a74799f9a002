"""Looks into the run state that only the tests take: who worked, and what is leased."""

from __future__ import annotations

from dlgforge_core.store.run_store import RunStore


def worker_processes(store: RunStore, run_id: str) -> list[tuple[int, str, int]]:
    """Return number, host and pid of every worker of the run, past ones included."""
    with store.connection() as connection:
        return connection.execute(
            "SELECT worker_id, host, pid FROM workers WHERE run_id = %s ORDER BY worker_id", (run_id,)
        ).fetchall()


def leased(store: RunStore, run_id: str) -> int:
    """How many dialogues of the run a worker holds now."""
    with store.connection() as connection:
        row = connection.execute(
            "SELECT count(d.worker_id) FROM run_plans rp JOIN dialogues d USING (plan_id) "
            "WHERE rp.run_id = %s AND d.ordinal < rp.n_dialogues",
            (run_id,),
        ).fetchone()
    assert row is not None
    return int(row[0])


def rows_read(store: RunStore) -> int:
    """Rows of dialogues that sessions have read which have ended since."""
    with store.connection() as connection:
        row = connection.execute(
            "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_user_tables WHERE relname = 'dialogues'"
        ).fetchone()
    assert row is not None
    return int(row[0])
