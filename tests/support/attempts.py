"""Looks at the attempts of a run at its samples."""

from __future__ import annotations

from dlgforge_core.generation.prepare import PreparedRun
from dlgforge_core.store.run_store import RunStore


def attempts(store: RunStore, run: PreparedRun) -> dict[tuple[str, int], list[str]]:
    """Return how the attempts at each sample, by language and ordinal, ended, in their order."""
    with store.connection() as connection:
        rows = connection.execute(
            "SELECT p.language, d.ordinal, d.attempt, d.status FROM run_plans rp "
            "JOIN plans p USING (plan_id) JOIN dialogues d USING (plan_id) "
            "WHERE rp.run_id = %s ORDER BY 1, 2, 3",
            (run.run_id,),
        ).fetchall()
    found: dict[tuple[str, int], list[str]] = {}
    for language, ordinal, attempt, status in rows:
        made = found.setdefault((language, ordinal), [])
        assert attempt == len(made)
        made.append(status)
    return found


def assert_exactly(store: RunStore, run: PreparedRun, n: int) -> None:
    """As many were accepted as were asked for, and no attempt was made after one that was."""
    ended = attempts(store, run)
    assert len(ended) == n
    for made in ended.values():
        assert made[-1] == "done"
        assert set(made[:-1]) <= {"unaccepted", "dropped"}
    progress = store.progress(run.run_id)
    assert (progress.planned, progress.done, progress.pending) == (n, n, 0)
    assert progress.made == sum(map(len, ended.values())) == n + progress.spares
