"""Claims of judging workers: each dialogue once, taken over from the dead, written by its holder alone."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence

import pytest
import uvloop

from dlgforge_core.database.reconnecting import ReconnectingConnection
from dlgforge_core.errors import LeaseLostError, RunStoppedError
from dlgforge_core.judging.judges import Judge, judges_of
from dlgforge_core.judging.sessions import PlanRow, Session, judging_session, session_tallies
from dlgforge_core.judging.store import Verdict, plans_of
from dlgforge_core.judging.tallies import Tally
from dlgforge_core.judging.worker_store import FinishDialogue, JudgingStore, PutVerdict, Write
from dlgforge_core.store.results import Scope
from dlgforge_core.store.run_store import RunStore
from dlgforge_core.verdicts import Judgement
from tests.support.judging import generated, judging, verdicts
from tests.support.runs import LLM
from tests.support.simulated_endpoint import SimulatedEndpoint

N = 9


@pytest.fixture
def plans(store: RunStore, sim: SimulatedEndpoint) -> list[PlanRow]:
    """Return the plans of nine finished dialogues in three languages."""
    run = generated(store, sim, N, target_languages=["en", "fr", "es"])
    with store.connection() as connection:
        (judge,) = judges()
        connection.execute(
            "INSERT INTO judges (judge_key, model, settings) VALUES (%s, 'm', '{}')", (judge.key,)
        )
        return plans_of(connection, Scope(fingerprint=run.fingerprint))


def judges() -> tuple[Judge, ...]:
    return judges_of(judging(), LLM)


@contextlib.contextmanager
def begun(store: RunStore, plans: list[PlanRow]) -> Iterator[tuple[Session, ReconnectingConnection]]:
    connection = store.database.reconnecting("test", 5.0)
    with (
        contextlib.closing(connection),
        judging_session(connection, "f", judges(), plans, plan_number=0, after=-1) as session,
    ):
        yield session, connection


@contextlib.asynccontextmanager
async def worker(store: RunStore, session: Session) -> AsyncIterator[JudgingStore]:
    made = JudgingStore(
        store.database, session_id=session.session_id, lease_s=30.0, patience_s=5.0, application="test"
    )
    async with made:
        yield made


def verdict(dialogue_id: str) -> Verdict:
    (judge,) = judges()
    return Verdict(dialogue_id, 0, judge.key, Judgement(7, ("clear",), "fine"), b"digest")


def test_every_dialogue_is_claimed_once_over_all_plans(store: RunStore, plans: list[PlanRow]) -> None:
    async def run(session: Session) -> None:
        async with worker(store, session) as a, worker(store, session) as b:
            parts = [await a.claim(2), await b.claim(4), await a.claim(100), await b.claim(1)]
            ids = [dialogue_id for part in parts for dialogue_id in part]
            assert [len(part) for part in parts] == [2, 4, 3, 0]
            assert len(set(ids)) == N
            for mine, holder in ((parts[0] + parts[2], a), (parts[1], b)):
                for dialogue_id in mine:
                    await holder.finish(dialogue_id, {})
            assert not await a.left()

    assert len(plans) == 3
    with begun(store, plans) as (session, _):
        uvloop.run(run(session))


def test_what_a_worker_let_go_of_is_claimed_again_and_a_lost_reply_is_no_claim(
    store: RunStore, plans: list[PlanRow]
) -> None:
    async def run(session: Session) -> None:
        async with worker(store, session) as a:
            async with worker(store, session) as b:
                taken = await b.claim(4)
            assert set(await a.claim(4)) == set(taken), "first what others began"
            assert await a.left(), "and now nobody holds them: the worker that asks has nothing open"
            assert set(await a.claim(4)) == set(taken)

    with begun(store, plans) as (session, _):
        uvloop.run(run(session))


def test_who_was_taken_over_writes_nothing_any_more(store: RunStore, plans: list[PlanRow]) -> None:
    (judge,) = judges()

    async def run(session: Session) -> None:
        async with worker(store, session) as a, worker(store, session) as b:
            (mine, other) = await a.claim(2)
            await a.put(verdict(mine), Tally(given=1))
            with store.connection() as connection:
                connection.execute(
                    "UPDATE workers SET expires_at = now() WHERE worker_id = %s", (a.worker_id,)
                )
            assert await b.take_over() == 2
            assert set(await b.claim(2)) == {mine, other}
            with pytest.raises(LeaseLostError):
                await a.put(verdict(other), Tally(given=1))
            with pytest.raises(LeaseLostError):
                await a.finish(mine, {judge.key: Tally(kept=1)})
            assert not await a.heartbeat({})
            await b.put(verdict(other), Tally(given=1))

    with begun(store, plans) as (session, connection):
        uvloop.run(run(session))
        assert len(verdicts(store)) == 2
        (tally,) = connection.run(lambda c: session_tallies(c, session.session_id)).values()
        assert (tally.given, tally.kept) == (2, 0)


def test_a_group_that_is_written_again_counts_once(store: RunStore, plans: list[PlanRow]) -> None:
    """As when the connection breaks after the commit, before its reply."""
    (judge,) = judges()

    async def run(session: Session) -> None:
        async with worker(store, session) as a:
            (one, other) = await a.claim(2)
            ops: list[Write] = [
                PutVerdict(verdict(one), Tally(given=1)),
                FinishDialogue(other, {judge.key: Tally(kept=3)}),
            ]
            for _ in range(2):
                a._writes, a._tallies = 0, {}
                done: Sequence[object] = await a._writing.run(lambda c: a._execute(c, ops))
                assert list(done) == [None, None]
            await a.finish(one, {judge.key: Tally(kept=1)})

    with begun(store, plans) as (session, connection):
        uvloop.run(run(session))
        (tally,) = connection.run(lambda c: session_tallies(c, session.session_id)).values()
        assert (tally.given, tally.kept) == (1, 4)


def test_a_new_session_ends_the_workers_of_the_one_before(store: RunStore, plans: list[PlanRow]) -> None:
    async def run(session: Session) -> None:
        async with worker(store, session) as a:
            (mine,) = await a.claim(1)
            with begun(store, plans):
                with pytest.raises(LeaseLostError):
                    await a.put(verdict(mine), Tally(given=1))
                assert await a.claim(1) == []
                assert not await a.heartbeat({})
                with pytest.raises(RunStoppedError, match="another one judges the same"):
                    await a.register()

    with begun(store, plans) as (session, _):
        uvloop.run(run(session))
    assert verdicts(store) == {}
