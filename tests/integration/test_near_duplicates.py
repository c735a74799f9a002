"""Near-copies of questions are rejected by a real Postgres: across workers, groups, crashes and languages."""

from __future__ import annotations

import asyncio
import random
import string
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import orjson
import psycopg
import pytest

from dlgforge_core.common.questions import normal_form, question_key
from dlgforge_core.database.database import Database
from dlgforge_core.database.migrate import migrations
from dlgforge_core.database.privileges import SCHEMA
from dlgforge_core.dialogue import DropReason
from dlgforge_core.errors import LeaseLostError
from dlgforge_core.generation.prepare import PreparedRun
from dlgforge_core.store import near_index, near_runs, question_log, reservations
from dlgforge_core.store.near_duplicates import jaccard, marks_of, shingles
from dlgforge_core.store.near_index import entries_of
from dlgforge_core.store.run_store import RunStore
from dlgforge_core.store.statements import RESERVE_UNLIKE_QUESTIONS_AT_ONCE
from dlgforge_core.store.worker_store import WorkerStore
from dlgforge_core.store.writes import ReserveQuestion
from tests.support.runs import planned

BREAD = "How do I bake a loaf of rye bread at home without an oven?"
NEAR = "How do I bake a loaf of rye bread at home wihout an oven?"
FAR = "How do I bake an apple cake at home without any flour?"


_WAITING = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


def worker(store: RunStore, run: PreparedRun, threshold: float = 0.8) -> WorkerStore:
    return WorkerStore(
        store.database,
        run_id=run.run_id,
        fingerprint=run.fingerprint,
        lease_s=30.0,
        patience_s=10.0,
        similarity_threshold=threshold,
    )


def random_letters(seed: int) -> str:
    return "".join(random.Random(seed).choices(string.ascii_lowercase, k=40))


async def claimed(w: WorkerStore, n: int) -> list[str]:
    return [claim.plan.dialogue_id for claim in await w.claim(n)]


def with_worker(
    store: RunStore,
    body: Callable[[WorkerStore, list[str]], Coroutine[Any, Any, None]],
    threshold: float = 0.8,
    dialogues: int = 8,
) -> PreparedRun:
    """Run `body` with a worker and the dialogues it has claimed."""
    run = planned(store, dialogues)

    async def main() -> None:
        async with worker(store, run, threshold) as w:
            await body(w, await claimed(w, dialogues))

    asyncio.run(main())
    return run


@pytest.fixture
def in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have all reservations wait for the lock, as they do while others reserve."""

    async def others_reserve(self: Any, *arguments: Any) -> None:
        return None

    monkeypatch.setattr(reservations.UnlikeQuestions, "_at_once", others_reserve)


async def reserved(w: WorkerStore, dialogue_id: str, turn_index: int, question: str) -> bool:
    return (await w.reserve(dialogue_id, turn_index, question)).accepted


@pytest.mark.parametrize(
    ("kept", "near", "other"),
    [
        (BREAD, NEAR, FAR),
        (BREAD, "Please, how do I bake a loaf of rye bread at home without an OVEN", FAR),
        (
            "Comment puis-je préparer une pâte feuilletée légère à la maison ?",
            "comment puis-je préparer à la maison une pâte feuilletée légère",
            "Comment puis-je préparer un voyage à vélo dans les Alpes ?",
        ),
        (
            "كيف يمكنني تعلم الخط العربي في المنزل دون معلم؟",
            "كيف يمكنني تعلم الخط العربي بالمنزل دون معلم؟",
            "كيف يمكنني إصلاح الدراجة في المنزل دون أدوات؟",
        ),
        (
            "在家里没有烤箱的情况下，怎样才能烤出又香又软的全麦面包？",
            "在家里没有烤箱的情况下，怎么才能烤出又香又软的全麦面包？",
            "在家里没有花园的情况下，怎样才能种出又大又甜的草莓？",
        ),
        (
            "オーブンがなくても自宅でふわふわの全粒粉パンを焼くにはどうすればいいですか？",
            "オーブンがなくても自宅でふわふわな全粒粉パンを焼くにはどうすればいいですか",
            "自転車がなくても雨の日に駅まで早く行くにはどうすればいいですか？",
        ),
    ],
)
def test_a_near_copy_is_refused_and_shown_what_it_collides_with(
    store: RunStore, kept: str, near: str, other: str
) -> None:
    assert jaccard(shingles(normal_form(kept)), shingles(normal_form(near))) >= 0.8
    assert normal_form(kept) != normal_form(near)

    async def body(w: WorkerStore, ids: list[str]) -> None:
        assert await reserved(w, ids[0], 0, kept)
        refused = await w.reserve(ids[1], 0, near)
        assert not refused
        assert refused.collides_with == normal_form(kept)
        assert 0.8 <= refused.similarity < 1.0
        assert not await reserved(w, ids[0], 1, near), "in its own dialogue as well"
        exact = await w.reserve(ids[1], 0, f" {kept.upper()}!")
        assert (exact.accepted, exact.collides_with, exact.similarity) == (False, normal_form(kept), 1.0)
        assert await reserved(w, ids[1], 0, other)

    with_worker(store, body)


def test_with_a_threshold_of_one_only_exact_repeats_are_refused_and_nothing_more_is_kept(
    store: RunStore,
) -> None:
    async def body(w: WorkerStore, ids: list[str]) -> None:
        assert await reserved(w, ids[0], 0, BREAD)
        assert await reserved(w, ids[1], 0, NEAR)
        refused = await w.reserve(ids[2], 0, BREAD.lower())
        assert (refused.accepted, refused.collides_with) == (False, normal_form(BREAD))

    with_worker(store, body, threshold=1.0)
    with store.connection() as connection:
        rows = connection.execute("SELECT normal_form FROM questions").fetchall()
        assert rows == [(None,)] * 2
        assert connection.execute("SELECT count(*) FROM question_log").fetchone() == (0,)


def test_the_first_of_near_copies_in_one_group_wins(store: RunStore) -> None:
    async def body(w: WorkerStore, ids: list[str]) -> None:
        asked = [BREAD, NEAR, FAR, BREAD, BREAD.upper(), f"Please: {BREAD}", NEAR]
        got = await asyncio.gather(*[w.reserve(i, 0, q) for i, q in zip(ids, asked, strict=False)])
        assert [r.accepted for r in got] == [True, False, True, False, False, False, False]
        assert {r.collides_with for r in got if not r} == {normal_form(BREAD)}

    with_worker(store, body)


def test_of_near_copies_reserved_at_once_by_two_workers_one_wins(store: RunStore) -> None:
    """The schedule in which both look up before either inserts is forced in the test after this one."""
    rounds = 25
    run = planned(store, 2 * rounds)

    async def main() -> None:
        async with worker(store, run) as a, worker(store, run) as b:
            ours, theirs = await claimed(a, rounds), await claimed(b, rounds)
            for n, (one, other) in enumerate(zip(ours, theirs, strict=True)):
                word = random_letters(n)
                got = await asyncio.gather(
                    reserved(a, one, 0, f"What is {word} used for?"),
                    reserved(b, other, 0, f"What is {word}s used for?"),
                )
                assert sorted(got) == [False, True], f"round {n}"

    asyncio.run(main())


def test_a_group_waits_for_the_group_that_has_looked_but_not_yet_written(
    store: RunStore, in_turn: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = planned(store, 2)
    looked: list[float] = []
    with_lock = reservations.UnlikeQuestions._with_lock

    async def slow(self: Any, *arguments: Any) -> Any:
        looked.append(time.monotonic())
        await asyncio.sleep(0.3)
        return await with_lock(self, *arguments)

    monkeypatch.setattr(reservations.UnlikeQuestions, "_with_lock", slow)

    async def main() -> None:
        async with worker(store, run) as a, worker(store, run) as b:
            (one,), (other,) = await claimed(a, 1), await claimed(b, 1)
            got = await asyncio.gather(reserved(a, one, 0, BREAD), reserved(b, other, 0, NEAR))
            assert sorted(got) == [False, True]
            assert len(looked) == 3, "what the other one had kept is undone, and decided anew"
            assert looked[1] - looked[0] > 0.25, "the other one had to wait for the first to be done"

    asyncio.run(main())


async def late(
    monkeypatch: pytest.MonkeyPatch, one: Coroutine[Any, Any, bool], other: Coroutine[Any, Any, bool]
) -> list[bool]:
    """Have one worker reserve between another's look and its write; what both got, the late one first."""
    at_once = reservations.UnlikeQuestions._at_once
    looked, go_on = asyncio.Event(), asyncio.Event()

    async def held_up(self: Any, *arguments: Any) -> Any:
        if not looked.is_set():
            looked.set()
            await go_on.wait()
        return await at_once(self, *arguments)

    monkeypatch.setattr(reservations.UnlikeQuestions, "_at_once", held_up)
    waiting = asyncio.create_task(one)
    await looked.wait()
    first = await other
    go_on.set()
    return [await waiting, first]


@pytest.mark.parametrize(("question", "accepted"), [(NEAR, False), (FAR, True)])
def test_one_who_has_looked_before_another_has_kept_looks_again(
    store: RunStore, monkeypatch: pytest.MonkeyPatch, question: str, accepted: bool
) -> None:
    run = planned(store, 2)

    async def main() -> None:
        async with worker(store, run) as a, worker(store, run) as b:
            (one,), (other,) = await claimed(a, 1), await claimed(b, 1)
            got = await late(monkeypatch, reserved(a, one, 0, question), reserved(b, other, 0, BREAD))
            assert got == [accepted, True]
            with store.connection() as connection:
                row = connection.execute("SELECT count(*) FROM questions").fetchone()
            assert row == (1 + accepted,)
            assert await reserved(a, one, 0, question) == accepted, "this write, repeated"
            assert not await reserved(b, other, 1, question), "and nobody else's"

    asyncio.run(main())


def test_a_question_that_is_in_the_log_but_no_longer_kept_lets_no_near_copy_pass(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = planned(store, 3)

    async def main() -> None:
        async with worker(store, run) as a, worker(store, run) as b, worker(store, run) as c:
            (one,), (other,), (third,) = await claimed(a, 1), await claimed(b, 1), await claimed(c, 1)

            async def dropped_and_near() -> bool:
                assert await reserved(b, other, 0, BREAD)
                await b.drop(other, DropReason.REFUSED, "no")
                return await reserved(c, third, 0, NEAR)

            got = await late(monkeypatch, reserved(a, one, 0, BREAD), dropped_and_near())
            assert got == [False, True]
            assert not await reserved(c, third, 1, BREAD)

    asyncio.run(main())


def test_a_write_that_is_repeated_while_its_first_attempt_still_commits_is_no_repeat(store: RunStore) -> None:
    """The first attempt's session has lost its client, and its commit takes its time."""
    run = planned(store, 2)
    key, form = question_key(BREAD), normal_form(BREAD)

    async def main() -> None:
        async with worker(store, run) as w:
            mine, other = await claimed(w, 2)
            assert await reserved(w, other, 0, FAR)
            write = ReserveQuestion(w.worker_id, mine, 0, 0, BREAD)
            row = {"op": 0, "worker_id": w.worker_id, "dialogue_id": mine, **write.row(), "normal_form": form}
            with store.connection() as first, store.connection() as looking:
                last = first.execute("SELECT seq, tag FROM question_log").fetchone()
                assert last is not None
                values = {
                    "fingerprint": run.fingerprint,
                    "rows": orjson.dumps([row]).decode(),
                    "seq": last[0] + 1,
                    "tag": 1,
                    "last_tag": last[1],
                    "entries": entries_of([key], marks_of([form])).tobytes(),
                }
                with first.transaction():
                    first.execute(RESERVE_UNLIKE_QUESTIONS_AT_ONCE.encode(), values)
                    repeated = asyncio.create_task(reserved(w, mine, 0, BREAD))
                    while not looking.execute(_WAITING).fetchall():  # noqa: ASYNC110
                        await asyncio.sleep(0)
                assert await repeated
                kinds = first.execute("SELECT kind FROM outcomes WHERE dialogue_id = %s", (mine,)).fetchall()
                assert kinds == [("asked",)]

    asyncio.run(main())


def test_the_same_question_from_one_in_turn_and_one_at_once_is_no_deadlock(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One has written it and asks for the lock when the other has that, and waits for what was written."""
    run = planned(store, 2)
    lock, look = question_log.QuestionLog.lock, reservations.UnlikeQuestions._look
    at_once = reservations.UnlikeQuestions._at_once
    written, tried = asyncio.Event(), asyncio.Event()
    looks = 0

    async def counted(self: Any, *arguments: Any) -> Any:
        nonlocal looks
        looks += 1
        return await look(self, *arguments)

    async def held_up(self: Any, *arguments: Any) -> Any:
        if not written.is_set():
            written.set()
            await tried.wait()
        return await lock(self, *arguments)

    async def first_in_turn(self: Any, *arguments: Any) -> Any:
        if not written.is_set():
            return None
        trying = asyncio.create_task(at_once(self, *arguments))
        with store.connection() as connection:
            while not trying.done() and not connection.execute(_WAITING).fetchall():  # noqa: ASYNC110
                await asyncio.sleep(0)
        tried.set()
        return await trying

    monkeypatch.setattr(reservations.UnlikeQuestions, "_look", counted)
    monkeypatch.setattr(reservations.UnlikeQuestions, "_at_once", first_in_turn)
    monkeypatch.setattr(question_log.QuestionLog, "lock", held_up)

    async def main() -> None:
        async with worker(store, run) as a, worker(store, run) as b:
            (one,), (other,) = await claimed(a, 1), await claimed(b, 1)
            first = asyncio.create_task(reserved(a, one, 0, BREAD))
            await written.wait()
            assert not await reserved(b, other, 0, BREAD)
            assert await first
            assert looks == 3, "the other one has looked again, and nothing was written again"

    asyncio.run(main())


def test_a_worker_reads_what_others_have_kept_meanwhile(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(question_log, "_ROWS_AT_ONCE", 3)
    run = planned(store, 2)
    kept = [f"What is {random_letters(n)} used for?" for n in range(8)]

    async def main() -> None:
        async with worker(store, run) as a, worker(store, run) as b:
            (one,), (other,) = await claimed(a, 1), await claimed(b, 1)
            assert await reserved(b, other, 0, FAR), "its index is there from now on"
            for n, question in enumerate(kept):
                assert await reserved(a, one, n, question)
            for question in kept:
                assert not await reserved(b, other, 1, f"{question} Really")

    asyncio.run(main())


def kept_by_an_earlier_version(store: RunStore, run: PreparedRun) -> None:
    """Have the migration find the questions that are there as it finds those of earlier versions."""
    with store.connection() as connection:
        connection.execute("DELETE FROM question_log")
        connection.execute("INSERT INTO unlogged_questions VALUES (%s, '')", (run.fingerprint,))


def test_near_copies_of_what_earlier_versions_kept_are_refused(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(question_log, "_OLDER_AT_ONCE", 3)
    kept = [f"What is {random_letters(n)} used for?" for n in range(8)]

    async def before(w: WorkerStore, ids: list[str]) -> None:
        for dialogue, question in zip(ids, kept, strict=True):
            assert await reserved(w, dialogue, 0, question)

    run = with_worker(store, before)
    kept_by_an_earlier_version(store, run)

    async def main() -> None:
        async with worker(store, run) as a, worker(store, run) as b:
            with store.connection() as connection:
                connection.execute("UPDATE dialogues SET worker_id = NULL")
            (one,), (other,) = await claimed(a, 1), await claimed(b, 1)
            for question in kept:
                got = await asyncio.gather(
                    reserved(a, one, 1, f"{question} Really"), reserved(b, other, 1, f"{question} Please")
                )
                assert not any(got)
            assert await reserved(b, other, 1, FAR)

    asyncio.run(main())
    with store.connection() as connection:
        assert connection.execute("SELECT count(*) FROM unlogged_questions").fetchone() == (0,)


@pytest.mark.parametrize("more", [False, True], ids=["as many rows", "more rows"])
def test_after_a_fail_over_that_lost_the_end_of_the_log_it_is_read_anew(store: RunStore, more: bool) -> None:
    """Another server has other rows under the numbers that this worker has read."""
    run = planned(store, 3)

    async def main() -> None:
        async with worker(store, run) as a, worker(store, run) as b:
            (one,), (other, third) = await claimed(a, 1), await claimed(b, 2)
            assert await reserved(a, one, 0, FAR)
            assert await reserved(a, one, 1, BREAD)
            with store.connection() as connection:
                connection.execute("DELETE FROM question_log WHERE seq = 2")
                connection.execute("DELETE FROM questions WHERE turn_index = 1")
            assert await reserved(b, other, 0, NEAR), "nobody has it any more"
            if more:
                assert await reserved(b, third, 0, random_letters(1))
            assert not await reserved(a, one, 1, BREAD)
            assert not await reserved(a, one, 1, f"{FAR} Please"), "nor is what was before it forgotten"
            with store.connection() as connection:
                connection.execute("DELETE FROM question_log")
                connection.execute("INSERT INTO unlogged_questions VALUES (%s, '')", (run.fingerprint,))
            assert not await reserved(a, one, 1, f"{FAR} Please"), "as it is after an upgrade, all the same"

    asyncio.run(main())


def test_groups_of_another_fingerprint_neither_wait_nor_collide(
    store: RunStore, in_turn: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, other_run = planned(store, 1), planned(store, 1, seed=9)
    assert run.fingerprint != other_run.fingerprint
    with_lock = reservations.UnlikeQuestions._with_lock
    locked, go_on = asyncio.Event(), asyncio.Event()

    async def first_holds(self: Any, *arguments: Any) -> Any:
        if not locked.is_set():
            locked.set()
            await go_on.wait()
        return await with_lock(self, *arguments)

    monkeypatch.setattr(reservations.UnlikeQuestions, "_with_lock", first_holds)

    async def main() -> None:
        async with worker(store, run) as a, worker(store, other_run) as b:
            (one,), (other,) = await claimed(a, 1), await claimed(b, 1)
            holding = asyncio.create_task(reserved(a, one, 0, BREAD))
            await locked.wait()
            async with asyncio.timeout(3):
                assert await reserved(b, other, 0, NEAR)
            go_on.set()
            assert await holding
            assert await reserved(b, other, 1, FAR)

    asyncio.run(main())


def test_a_repeated_write_is_not_a_repeat_and_a_superseded_question_is_not_in_the_way(
    store: RunStore,
) -> None:
    async def body(w: WorkerStore, ids: list[str]) -> None:
        assert await reserved(w, ids[0], 0, BREAD)
        assert await reserved(w, ids[0], 0, BREAD)
        assert await reserved(w, ids[0], 0, NEAR), "the turn's question was made again, a bit otherwise"

    with_worker(store, body)
    with store.connection() as connection:
        assert connection.execute(
            "SELECT data ->> 'question' FROM outcomes WHERE kind = 'asked'"
        ).fetchall() == [(NEAR,)]


def test_a_dropped_dialogue_frees_its_questions(store: RunStore) -> None:
    async def body(w: WorkerStore, ids: list[str]) -> None:
        assert await reserved(w, ids[0], 0, BREAD)
        assert not await reserved(w, ids[1], 0, NEAR)
        _, again = await asyncio.gather(
            w.drop(ids[0], DropReason.REFUSED, "no"), reserved(w, ids[1], 0, NEAR)
        )
        assert again, "in one group the drop comes first"

    with_worker(store, body)


def test_who_has_lost_the_lease_reserves_nothing_and_stands_in_nobodys_way(store: RunStore) -> None:
    async def body(w: WorkerStore, ids: list[str]) -> None:
        with store.connection() as connection:
            connection.execute(
                "UPDATE dialogues SET worker_id = worker_id + 1 WHERE dialogue_id = %s", (ids[0],)
            )
        lost, kept = await asyncio.gather(
            w.reserve(ids[0], 0, BREAD), w.reserve(ids[1], 0, NEAR), return_exceptions=True
        )
        assert isinstance(lost, LeaseLostError)
        assert kept

    with_worker(store, body)


_HOLDER = """
    import asyncio, sys
    from dlgforge_core.database.database import Database
    from dlgforge_core.store import reservations
    from dlgforge_core.store.worker_store import WorkerStore

    async def main():
        dsn, run, fingerprint, question, moment = sys.argv[1:]
        if moment == "between":
            async def never(self, *arguments):
                print("ready", flush=True)
                await asyncio.sleep(60)
            async def others_reserve(self, *arguments):
                return None
            reservations.UnlikeQuestions._at_once = others_reserve
            reservations.UnlikeQuestions._with_lock = never
        store = WorkerStore(
            Database(dsn), run_id=run, fingerprint=fingerprint, lease_s=3600, similarity_threshold=0.8
        )
        async with store as w:
            (claim,) = await w.claim(1)
            await w.reserve(claim.plan.dialogue_id, 0, question)
            print("ready", flush=True)
            await asyncio.sleep(60)

    asyncio.run(main())
"""


def holder(store: RunStore, run: PreparedRun, moment: str) -> subprocess.Popen[str]:
    """Return a worker process that has reserved `BREAD`, or holds the lock `between` look-up and write."""
    arguments = [store.database.dsn, run.run_id, run.fingerprint, BREAD, moment]
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(_HOLDER), *arguments], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_a_killed_workers_question_stays_its_turns_until_the_dialogue_is_dropped(store: RunStore) -> None:
    run = planned(store, 2)
    process = holder(store, run, "after")

    async def main() -> None:
        async with worker(store, run) as w:
            (mine,) = await claimed(w, 1)
            assert not await reserved(w, mine, 0, NEAR)
            process.kill()
            process.wait()
            with store.connection() as connection:
                connection.execute(
                    "UPDATE workers SET expires_at = now() WHERE worker_id <> %s", (w.worker_id,)
                )
            assert await w.take_over() == 1
            (claim,) = await w.claim(2)
            assert claim.state.progress.question == BREAD
            taken_over = claim.plan.dialogue_id
            assert not await reserved(w, mine, 0, NEAR), "the draft still stands"
            assert await reserved(w, taken_over, 0, BREAD), "resumed: this write, repeated"
            await w.drop(taken_over, DropReason.REFUSED, "no")
            assert await reserved(w, mine, 0, NEAR)

    asyncio.run(main())


def test_a_worker_killed_while_it_holds_the_lock_leaves_nothing_behind(store: RunStore) -> None:
    run = planned(store, 2)
    process = holder(store, run, "between")

    async def main() -> None:
        async with worker(store, run) as w:
            (mine,) = await claimed(w, 1)
            waiting = asyncio.create_task(reserved(w, mine, 0, NEAR))
            done, _ = await asyncio.wait([waiting], timeout=0.5)
            assert not done, "the lock is held"
            process.kill()
            process.wait()
            async with asyncio.timeout(5):
                assert await waiting

    asyncio.run(main())


def test_a_worker_that_stands_still_with_the_lock_is_cut_off_and_writes_again_when_it_wakes(
    store: RunStore, in_turn: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(question_log, "STALL_S", 0.5)
    run = planned(store, 2)
    with_lock = reservations.UnlikeQuestions._with_lock
    asleep, wake = asyncio.Event(), asyncio.Event()

    async def stalled(self: Any, *arguments: Any) -> Any:
        if not asleep.is_set():
            asleep.set()
            await wake.wait()
        return await with_lock(self, *arguments)

    monkeypatch.setattr(reservations.UnlikeQuestions, "_with_lock", stalled)

    async def main() -> None:
        async with worker(store, run) as a, worker(store, run) as b:
            (one,), (other,) = await claimed(a, 1), await claimed(b, 1)
            sleeper = asyncio.create_task(reserved(a, one, 0, BREAD))
            await asleep.wait()
            async with asyncio.timeout(30):  # it sleeps on meanwhile: the server cuts it off
                assert await reserved(b, other, 0, NEAR)
            wake.set()
            assert not await sleeper, "it looked again, and found the other's"
            assert await reserved(a, one, 0, FAR)

    asyncio.run(main())


def test_one_that_stands_still_after_it_has_compared_under_the_lock_is_cut_off_as_well(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(question_log, "STALL_S", 0.5)
    run = planned(store, 3)
    with_lock = reservations.UnlikeQuestions._with_lock
    asleep, wake = asyncio.Event(), asyncio.Event()

    async def stalled(self: Any, *arguments: Any) -> Any:
        try:
            return await with_lock(self, *arguments)
        finally:
            if not asleep.is_set():
                asleep.set()
                await wake.wait()

    async def main() -> None:
        async with worker(store, run) as a, worker(store, run) as b:
            (one,), (other, third) = await claimed(a, 1), await claimed(b, 2)
            sleeper = asyncio.create_task(
                late(monkeypatch, reserved(a, one, 0, NEAR), reserved(b, other, 0, BREAD))
            )
            monkeypatch.setattr(reservations.UnlikeQuestions, "_with_lock", stalled)
            await asleep.wait()
            async with asyncio.timeout(30):
                assert await reserved(b, third, 0, FAR)
            wake.set()
            assert await sleeper == [False, True]

    asyncio.run(main())


def migrate_before(connection: psycopg.Connection[Any], newest: int) -> None:
    """Make the schema as it was before a migration, with a dialogue in it."""
    connection.execute(f"CREATE SCHEMA {SCHEMA}")
    connection.execute(f"SET search_path TO {SCHEMA}")
    connection.execute(
        "CREATE TABLE schema_migrations "
        "(version integer PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())"
    )
    for version, statements in migrations():
        if version < newest:
            connection.execute(statements.encode())
            connection.execute("INSERT INTO schema_migrations (version) VALUES (%s)", (version,))
    connection.execute("INSERT INTO plans VALUES ('p', 'f', 'b', 'en', 1)")
    connection.execute("INSERT INTO dialogues (dialogue_id, plan_id, ordinal, n_turns, plan) "
                       "VALUES ('d', 'p', 0, 1, '{}')")  # fmt: skip


def test_old_rows_have_no_bands_and_are_compared_by_their_key(dsn: str) -> None:
    """A database of the version before, with a question in it, is migrated."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        migrate_before(connection, 4)
        store = RunStore(Database(dsn))
        connection.execute("INSERT INTO questions VALUES ('f', %s, 'd', 0)", (question_key(BREAD),))
    assert 4 in store.migrate()
    run = planned(store, 2)
    with store.connection() as connection:
        connection.execute("UPDATE questions SET fingerprint = %s", (run.fingerprint,))

    async def main() -> None:
        async with worker(store, run) as w:
            one, other = await claimed(w, 2)
            assert not await reserved(w, one, 0, BREAD)
            assert await reserved(w, one, 0, NEAR), "an old row is not seen as a near-copy"
            assert not await reserved(w, other, 0, f"{NEAR} Please")

    asyncio.run(main())


def test_questions_of_the_version_before_are_known_to_wait_for_their_log(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        migrate_before(connection, 23)
        for turn, (fingerprint, form) in enumerate([("f", BREAD), ("f", FAR), ("exact", None)]):
            connection.execute(
                "INSERT INTO questions (fingerprint, question_key, dialogue_id, turn_index, normal_form) "
                "VALUES (%s, %s, 'd', %s, %s)",
                (fingerprint, question_key(f"{turn}"), turn, form),
            )
        store = RunStore(Database(dsn))
    assert 23 in store.migrate()
    with store.connection() as connection:
        assert connection.execute("SELECT * FROM unlogged_questions").fetchall() == [("f", b"")]


def test_workers_of_a_machine_share_the_index(
    store: RunStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(near_index, "BLOCK", 4)
    monkeypatch.setattr(near_runs, "SHARED", 8)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    run = planned(store, 8)
    kept = [f"What is {random_letters(n)} used for?" for n in range(40)]
    opened: list[int] = []
    open_run = near_runs.SharedRun.open

    def noted(self: near_runs.SharedRun) -> near_index.Run:
        opened.append(self.size)
        return open_run(self)

    monkeypatch.setattr(near_runs.SharedRun, "open", noted)

    async def main() -> None:
        async with worker(store, run) as a, worker(store, run) as b:
            ids, (other,) = await claimed(a, 7), await claimed(b, 1)
            for n, question in enumerate(kept):
                assert await reserved(a, ids[n % 7], n, question)
            opened.clear()
            for question in kept:
                assert not await reserved(b, other, 0, f"{question} Really")
            assert opened == [32, 8], "what was made already, not the log"
            assert await reserved(b, other, 0, FAR)
            assert not await reserved(a, ids[0], 50, f"{FAR} Please")

    asyncio.run(main())
