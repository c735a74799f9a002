"""Claims: never more than a budget leaves, at a cost that does not grow with the run."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from dlgforge_core.config import GenerationConfig, LlmConfig, RunConfig
from dlgforge_core.dialogue import DropReason, Turn
from dlgforge_core.generation.prepare import PreparedRun, prepare_run
from dlgforge_core.planning.seeds import SeedBatch, read_seeds
from dlgforge_core.sources import SeedTopic
from dlgforge_core.store import claims
from dlgforge_core.store.run_store import RunStore
from dlgforge_core.store.worker_store import WorkerStore
from tests.support.run_state import leased, rows_read

TAKEN = """
SELECT count(*) FROM run_plans rp JOIN dialogues d USING (plan_id)
WHERE rp.run_id = %s AND d.ordinal < rp.n_dialogues
  AND (d.status IN ('done', 'unaccepted') OR d.worker_id IS NOT NULL)
"""


def plan(store: RunStore, total: int, batches: int = 0, **run: Any) -> PreparedRun:
    """Return a run of one turn a dialogue, on one plan or on one of each of so many seed batches."""
    seeds = [SeedBatch(f"b{n}", f"b{n}", (SeedTopic(f"t{n}", "en", f"rice {n}"),)) for n in range(batches)]
    settings = {"total_samples": total, "target_languages": ["en"], "n_turns": 1, **run}
    generation = GenerationConfig(run=RunConfig(**settings))
    return prepare_run(store, generation, LlmConfig(), seeds or read_seeds("", strict=True))


def worker(store: RunStore, run: PreparedRun, **options: Any) -> WorkerStore:
    return WorkerStore(
        store.database, run_id=run.run_id, fingerprint=run.fingerprint, **{"lease_s": 60.0, **options}
    )


def taken(store: RunStore, run: PreparedRun) -> int:
    """How many dialogues of the run are finished or claimed."""
    with store.connection() as connection:
        row = connection.execute(TAKEN, (run.run_id,)).fetchone()
    assert row is not None
    return int(row[0])


def lose(store: RunStore, lost: WorkerStore) -> None:
    """Have a worker's lease be over."""
    with store.connection() as connection:
        connection.execute(
            "UPDATE workers SET expires_at = now() - interval '1 s' WHERE worker_id = %s", (lost.worker_id,)
        )


async def finish(w: WorkerStore, dialogue_id: str) -> None:
    await w.commit_turn(dialogue_id, Turn(0, f"q {dialogue_id}", "a"), final=True)


def test_a_budget_is_kept_exactly_while_workers_claim_drop_and_die(store: RunStore) -> None:
    budget, rng = 60, random.Random(7)
    run = plan(store, 200)
    most = 0

    async def at_work(w: WorkerStore, claimed_in_all: list[str]) -> None:
        """Work until the budget leaves nothing, or the lease is lost."""
        nonlocal most
        while held := [claim.plan.dialogue_id for claim in await w.claim(rng.randint(1, 9))]:
            claimed_in_all += held
            most = max(most, await asyncio.to_thread(taken, store, run))
            if len(claimed_in_all) > 25 and not lost:  # with dialogues in hand
                lost.append(w)
                await asyncio.to_thread(lose, store, w)
                return
            for dialogue_id in held:
                if rng.random() < 0.2:
                    await w.drop(dialogue_id, DropReason.REFUSED, "")
                else:
                    await finish(w, dialogue_id)

    lost: list[WorkerStore] = []

    async def main() -> None:
        async with (
            worker(store, run, max_dialogues=budget) as a,
            worker(store, run, max_dialogues=budget) as b,
            worker(store, run, max_dialogues=budget) as c,
        ):
            every: list[str] = []
            await asyncio.gather(*(at_work(w, every) for w in (a, b, c)))
            rest = [w for w in (a, b, c) if w not in lost]
            await rest[0].take_over()
            while await rest[0].finished() < budget:
                before = await rest[0].finished()
                await asyncio.gather(*(at_work(w, every) for w in rest))
                assert await rest[0].finished() > before, "room was left that no claim found"
            assert await rest[1].claim(5) == []

    asyncio.run(main())
    assert lost, "no worker was lost"
    assert most == budget
    assert store.progress(run.run_id).done == budget
    assert leased(store, run.run_id) == 0


def test_what_another_run_on_the_same_plan_takes_counts(store: RunStore) -> None:
    small, large = plan(store, 20), plan(store, 40)

    async def main() -> None:
        async with worker(store, small, max_dialogues=10) as a, worker(store, large) as b:
            assert len(await a.claim(4)) == 4
            shared = [c for c in await b.claim(40) if c.plan.ordinal < 20]
            assert len(shared) == 16
            assert await a.claim(4) == [], "14 are taken that the small run wants as well"
            for claim in shared[:12]:
                await b.drop(claim.plan.dialogue_id, DropReason.REFUSED, "")
            assert await a.claim(4) == [], "none is free"
            assert taken(store, small) == 8

    asyncio.run(main())


def test_a_worker_that_ends_leaves_its_room_to_the_others(store: RunStore) -> None:
    run = plan(store, 20)

    async def main() -> list[int]:
        async with worker(store, run, max_dialogues=5) as a:
            async with worker(store, run, max_dialogues=5) as b:
                first = [len(claims) for claims in await asyncio.gather(a.claim(4), b.claim(4), a.claim(4))]
                assert await a.claim(4) == []
                here = sum(first) - leased(store, run.run_id)
                assert not here
            return [sum(first), len(await a.claim(9)), leased(store, run.run_id)]

    total, more, held = asyncio.run(main())
    assert total == held == 5
    assert more


def test_a_claim_under_a_budget_does_not_count_the_run(store: RunStore) -> None:
    done = 3000
    run = plan(store, done + 100)
    with store.connection() as connection:
        connection.execute("UPDATE dialogues SET status = 'done' WHERE ordinal < %s", (done,))
        connection.execute("VACUUM ANALYZE dialogues")

    async def main() -> None:
        async with worker(store, run, max_dialogues=done + 50) as w:
            for _ in range(20):
                for claim in await w.claim(2):
                    await finish(w, claim.plan.dialogue_id)

    before = rows_read(store)
    asyncio.run(main())
    assert rows_read(store) - before < 3 * done, "each claim has counted"
    assert taken(store, run) == done + 40


@pytest.fixture
def of_many(store: RunStore) -> PreparedRun:
    """Return a run of more plans than are locked in full."""
    return plan(store, 10, batches=3 * claims.FEW_PLANS)


def test_a_claim_of_many_plans_locks_what_it_takes(store: RunStore, of_many: PreparedRun) -> None:
    async def main() -> int:
        async with worker(store, of_many) as w:
            assert len(await w.claim(12)) == 12
            with store.connection() as connection:
                # A row that was locked and not written keeps the transaction that locked it.
                row = connection.execute(
                    "SELECT count(*) FROM dialogues WHERE worker_id IS NULL AND xmax <> 0"
                ).fetchone()
            assert row is not None
            return int(row[0])

    assert asyncio.run(main()) == 0


def test_all_of_many_plans_is_claimed_in_the_end(store: RunStore, of_many: PreparedRun) -> None:
    every = 10 * 3 * claims.FEW_PLANS
    with store.connection() as connection:  # one plan is far behind the others
        connection.execute(
            "UPDATE dialogues SET status = 'done' FROM plans p WHERE p.plan_id = dialogues.plan_id "
            "AND p.batch <> 'b0'"
        )
        row = connection.execute("SELECT count(*) FROM dialogues WHERE status = 'pending'").fetchone()
    assert row is not None
    assert 0 < row[0] < every

    async def main() -> list[int]:
        async with worker(store, of_many) as a, worker(store, of_many) as b:
            found = await asyncio.gather(a.claim(6), b.claim(6))
            assert len({c.plan.dialogue_id for claimed in found for c in claimed}) == row[0]
            return [len(claimed) for claimed in found]

    assert sum(asyncio.run(main())) == row[0]
