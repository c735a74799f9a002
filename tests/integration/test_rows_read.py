"""What writes and renewals read does not grow with what other workers hold."""

from __future__ import annotations

import asyncio
import re

import pytest

from dlgforge_core.generation.prepare import PreparedRun
from dlgforge_core.store import statements as sql
from dlgforge_core.store.finishing import FINISH_DIALOGUES
from dlgforge_core.store.run_store import RunStore
from dlgforge_core.store.worker_store import WorkerStore
from tests.support.run_state import leased, rows_read
from tests.support.runs import planned

HELD = 3000
OWN = 8


def worker(store: RunStore, run: PreparedRun) -> WorkerStore:
    return WorkerStore(store.database, run_id=run.run_id, fingerprint=run.fingerprint, lease_s=60.0)


@pytest.fixture
def run(store: RunStore) -> PreparedRun:
    """Return a large plan whose statistics are of before anything was claimed."""
    made = planned(store, HELD + OWN)
    with store.connection() as connection:
        connection.execute("VACUUM ANALYZE dialogues")
    return made


@pytest.mark.parametrize(
    "statement",
    [
        *(sql.RECORD_OUTCOMES, sql.COMMIT_TURNS, sql.AMEND_DIALOGUES, sql.DROP_DIALOGUES, FINISH_DIALOGUES),
        *(sql.RESERVE_QUESTIONS, sql.RESERVE_UNLIKE_QUESTIONS),
    ],
    ids=["record", "commit", "amend", "drop", "finish", "reserve", "reserve unlike"],
)
def test_a_write_finds_its_dialogue_by_key(store: RunStore, run: PreparedRun, statement: str) -> None:
    """Whatever the statistics: the index of leases has what all workers hold."""
    names: dict[str, int] = {}
    numbered = re.sub(
        r"%\((\w+)\)s", lambda match: f"${names.setdefault(match[1], len(names) + 1)}", statement
    )
    with store.connection() as connection:
        connection.execute(sql.BY_KEY_ONLY)
        rows = connection.execute(f"EXPLAIN (GENERIC_PLAN) {numbered}".encode()).fetchall()
    plan = "\n".join(row[0] for row in rows)
    assert "dialogues_pkey" in plan
    assert "dialogues_leased" not in plan


def test_a_look_for_the_dead_does_not_read_what_the_living_hold(store: RunStore, run: PreparedRun) -> None:
    async def main() -> int:
        async with worker(store, run):
            pass  # a worker that has ended, as there are in a run that was resumed
        async with worker(store, run) as others, worker(store, run) as mine:
            assert len(await others.claim(HELD)) == HELD
            for _ in range(30):
                assert await mine.take_over() == 0
            return leased(store, run.run_id)

    assert asyncio.run(main()) == HELD
    assert rows_read(store) < 10 * HELD, "each look has read what is held"
