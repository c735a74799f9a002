"""The run state in a real Postgres: plans, leases, committed turns, dedup, and what a crash leaves."""

from __future__ import annotations

import asyncio
import multiprocessing
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from dlgforge_core.config import QUESTION_KINDS, ChecksConfig, GenerationConfig, LlmConfig, RunConfig
from dlgforge_core.conversation.outcomes import Answered, UserLeft
from dlgforge_core.database.database import Database
from dlgforge_core.database.migrate import migrations
from dlgforge_core.dialogue import DropReason, Ending, Turn, TurnDetails
from dlgforge_core.errors import BackendError, LeaseLostError, StoreError
from dlgforge_core.generation.prepare import PreparedRun, prepare_run
from dlgforge_core.generation.run import generate
from dlgforge_core.planning.seeds import SeedBatch, read_seeds
from dlgforge_core.quality.checks import run_checks
from dlgforge_core.scheduling.background import Runner
from dlgforge_core.sources import SeedTopic
from dlgforge_core.store.results import Scope
from dlgforge_core.store.run_store import RunStore
from dlgforge_core.store.worker_store import WorkerStore
from dlgforge_core.verdicts import GoalVerdict, Judgement
from tests.support.runs import LLM


def plan(store: RunStore, total: int = 8, **run: Any) -> PreparedRun:
    settings = {"total_samples": total, "target_languages": ["en"], "n_turns": 2, **run}
    generation = GenerationConfig(run=RunConfig(**settings))
    return prepare_run(store, generation, LlmConfig(), read_seeds("", strict=True))


def worker(store: RunStore, run: PreparedRun, **options: Any) -> WorkerStore:
    arguments = {"lease_s": 30.0, "patience_s": 3.0, **options}
    return WorkerStore(
        store.database,
        run_id=run.run_id,
        fingerprint=run.fingerprint,
        **arguments,
    )


def _migrate(dsn: str) -> int:
    return len(RunStore(Database(dsn)).migrate())


async def reserved(w: WorkerStore, dialogue_id: str, turn_index: int, question: str) -> bool:
    return (await w.reserve(dialogue_id, turn_index, question)).accepted


def test_processes_that_migrate_at_once_apply_each_migration_once(dsn: str) -> None:
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        applied = pool.map(_migrate, [dsn] * 4)
    assert sorted(applied) == [0, 0, 0, len(migrations())]


def test_a_database_of_a_newer_version_is_refused(store: RunStore) -> None:
    with store.connection() as connection:
        connection.execute("INSERT INTO schema_migrations (version) VALUES (9999)")
    with pytest.raises(StoreError, match=r"version 9999.*upgrade dlgforge"):
        store.migrate()


def test_a_schema_is_not_upgraded_while_workers_of_before_are_at_work(store: RunStore) -> None:
    run = plan(store, 1)
    with store.connection() as connection:
        connection.execute("DELETE FROM schema_migrations WHERE version = %s", (migrations()[-1][0],))

    async def main() -> None:
        async with worker(store, run):
            store.migrate()

    with pytest.raises(StoreError, match=r"workers of an earlier dlgforge are at work on it \(1\); wait"):
        asyncio.run(main())


def test_planning_again_adds_nothing_and_a_larger_total_extends_the_plan(store: RunStore) -> None:
    first = plan(store, 8)
    assert plan(store, 8).run_id == first.run_id
    larger = plan(store, 12)
    assert larger.run_id != first.run_id
    assert larger.fingerprint == first.fingerprint
    assert store.progress(first.run_id).planned == 8
    assert store.progress(larger.run_id).planned == 12
    with store.connection() as connection:
        assert connection.execute("SELECT count(*) FROM dialogues").fetchone() == (12,)


def test_processes_that_register_one_run_at_once_write_its_dialogues_once(store: RunStore) -> None:
    with ThreadPoolExecutor(4) as pool:
        ids = {run.run_id for run in pool.map(lambda _: plan(store, 5000), range(4))}
    assert len(ids) == 1
    assert store.progress(ids.pop()).planned == 5000


def test_no_dialogue_is_claimed_twice_and_long_ones_come_first(store: RunStore) -> None:
    run = plan(store, 40, n_turns=None, min_turns=1, max_turns=6)

    async def main() -> list[list[tuple[int, str]]]:
        async with worker(store, run) as a, worker(store, run) as b:
            claims = await asyncio.gather(*[w.claim(7) for _ in range(4) for w in (a, b)])
            return [[(c.plan.n_turns, c.plan.dialogue_id) for c in group] for group in claims]

    groups = asyncio.run(main())
    ids = [dialogue_id for group in groups for _, dialogue_id in group]
    assert len(ids) == len(set(ids)) == 40
    assert all([n for n, _ in group] == sorted((n for n, _ in group), reverse=True) for group in groups)


def test_a_committed_dialogue_comes_back_as_it_was(store: RunStore) -> None:
    run = plan(store, 1)
    message = [
        Turn(0, "Why?\u2028\x00", "Because … \ud800 “it” is 🙂", Judgement(7, ("clear",), "ok\x00")),
        Turn(1, "سؤال؟", "جواب", None),
    ]

    async def main() -> None:
        async with worker(store, run) as w:
            (claim,) = await w.claim(5)
            for turn in message:
                assert await reserved(w, claim.plan.dialogue_id, turn.index, turn.user)
                await w.record(claim.plan.dialogue_id, turn.index, 1, Answered(turn.assistant))
                await w.commit_turn(claim.plan.dialogue_id, turn, final=turn.index == 1)

    asyncio.run(main())
    (dialogue,) = store.dialogues(run.run_id)
    assert [t.user for t in dialogue.turns] == ["Why?\u2028", "سؤال؟"]
    assert [t.assistant for t in dialogue.turns] == ["Because … ? “it” is 🙂", "جواب"]
    assert dialogue.turns[0].judgement == Judgement(7, ("clear",), "ok")
    assert store.progress(run.run_id).complete


@pytest.mark.parametrize("bad", ["a\0b", "a\ud800b", "\\u0000 \0"])
def test_seed_topics_are_kept_without_what_postgres_cannot_hold(store: RunStore, bad: str) -> None:
    topic = SeedTopic("t", "en", bad, metadata={bad: [bad, {"n": 1}]})
    store.save_seed_batches([SeedBatch("b", "digest", (topic,), ())])
    ((kept,),) = (batch.topics for batch in store.seed_batches())
    good = bad.replace("\0", "").replace("\ud800", "?")
    assert (kept.topic, kept.metadata) == (good, {good: [good, {"n": 1}]})


def test_a_question_is_taken_once_across_workers_and_freed_by_a_drop(store: RunStore) -> None:
    run = plan(store, 4)

    async def main() -> None:
        async with worker(store, run) as a, worker(store, run) as b:
            (one,), (two,) = await a.claim(1), await b.claim(1)
            first, second = one.plan.dialogue_id, two.plan.dialogue_id
            assert await reserved(a, first, 0, "How do I bake bread?")
            assert not await reserved(b, second, 0, "how do I BAKE  bread")
            assert await reserved(a, first, 0, "How do I bake bread?"), "a repeated write is not a repeat"
            await a.drop(first, DropReason.REFUSED, "no")
            assert await reserved(b, second, 0, "how do I BAKE  bread")

    asyncio.run(main())
    assert store.progress(run.run_id).drop_reasons == {"refused": 1}


def test_what_was_wrong_with_dropped_dialogues_is_shown_by_reason(store: RunStore) -> None:
    run = plan(store, 30)

    async def main() -> None:
        async with worker(store, run) as a:
            claims = await a.claim(26)
            for claim in claims[:25]:
                await a.drop(claim.plan.dialogue_id, DropReason.REFUSED, "I cannot talk about that")
            await a.drop(claims[25].plan.dialogue_id, DropReason.INVALID_OUTPUT, "no JSON in 'Sure!'")

    asyncio.run(main())
    found = store.outcomes(run.run_id)
    assert found.drop_reasons == {"refused": 25, "invalid_output": 1}
    assert len(found.drop_examples) == 20
    assert [(one.reason, one.detail) for one in found.drop_examples[:3]] == [
        ("invalid_output", "no JSON in 'Sure!'"),
        ("refused", "I cannot talk about that"),
        ("refused", "I cannot talk about that"),
    ]
    (report,) = run_checks((), tuple, found, ChecksConfig(max_examples=2), only=("drop_rate",))
    assert [example.problem for example in report.examples] == ["dropped: invalid_output", "dropped: refused"]
    assert report.examples[0].excerpt == "no JSON in 'Sure!'"


def test_questions_in_one_group_are_compared_with_each_other(store: RunStore) -> None:
    run = plan(store, 8)

    async def main() -> list[bool]:
        async with worker(store, run) as w:
            ids = [claim.plan.dialogue_id for claim in await w.claim(8)]
            return await asyncio.gather(*[reserved(w, i, 0, "The same?") for i in ids])

    assert sum(asyncio.run(main())) == 1


def test_commit_is_repeatable_but_only_by_the_holder_of_the_lease(store: RunStore) -> None:
    run = plan(store, 1)
    turn = Turn(0, "q", "a")

    async def main() -> None:
        async with worker(store, run) as a:
            (claim,) = await a.claim(1)
            dialogue_id = claim.plan.dialogue_id
            await a.commit_turn(dialogue_id, turn, final=False)
            await a.commit_turn(dialogue_id, turn, final=False)
            async with worker(store, run) as b:
                with pytest.raises(LeaseLostError):
                    await b.commit_turn(dialogue_id, Turn(1, "q2", "a2"), final=True)
                assert await b.claim(1) == []

    asyncio.run(main())
    assert store.progress(run.run_id).turns == 1


def test_a_dialogue_that_ends_early_is_finished_once_and_by_the_holder_of_its_lease(store: RunStore) -> None:
    run = plan(store, 1)

    async def main() -> None:
        async with worker(store, run) as a, worker(store, run) as b:
            (claim,) = await a.claim(1)
            dialogue_id = claim.plan.dialogue_id
            details = TurnDetails(opening="Hello\x00 \ud800")
            turn = Turn(0, "Why?", "Because.", details=details)
            await a.commit_turn(dialogue_id, turn, final=False)
            await a.record(dialogue_id, 1, 0, UserLeft())
            with pytest.raises(LeaseLostError):
                await b.finish(dialogue_id, Ending.USER)
            for _ in range(2):
                await a.finish(dialogue_id, Ending.USER, goal=GoalVerdict(True, "Paid\x00 \ud800"))
            assert await b.claim(1) == []

    asyncio.run(main())
    (dialogue,) = store.dialogues(run.run_id)
    assert (dialogue.ended_by, dialogue.goal) == (Ending.USER, GoalVerdict(True, "Paid ?"))
    assert dialogue.opening == "Hello ?"
    progress = store.progress(run.run_id)
    assert (progress.done, progress.turns, progress.complete) == (1, 1, True)
    with store.connection() as connection:
        assert connection.execute("SELECT count(*) FROM outcomes").fetchone() == (0,)


def test_an_expired_lease_is_taken_over_and_its_late_owner_is_fenced_off(store: RunStore) -> None:
    run = plan(store, 1)

    async def main() -> None:
        async with worker(store, run) as a, worker(store, run) as b:
            (claim,) = await a.claim(1)
            assert await b.take_over() == 0, "the owner lives and its lease holds"
            with store.connection() as connection:
                connection.execute(
                    "UPDATE workers SET expires_at = now() WHERE worker_id = %s", (a.worker_id,)
                )
            assert await b.take_over() == 1
            (again,) = await b.claim(1)
            assert again.plan == claim.plan
            assert not await a.heartbeat({}), "the owner is told that its lease is lost"
            with pytest.raises(LeaseLostError):
                await a.commit_turn(claim.plan.dialogue_id, Turn(0, "q", "a"), final=True)
            await b.commit_turn(claim.plan.dialogue_id, Turn(0, "q", "a"), final=True)

    asyncio.run(main())


_HOLDER = """
    import asyncio, sys
    from dlgforge_core.conversation.outcomes import Answered
    from dlgforge_core.database.database import Database
    from dlgforge_core.store.worker_store import WorkerStore

    async def main():
        dsn, run, fingerprint = sys.argv[1:]
        store = WorkerStore(Database(dsn), run_id=run, fingerprint=fingerprint, lease_s=3600)
        async with store as w:
            (claim,) = await w.claim(1)
            await w.reserve(claim.plan.dialogue_id, 0, "Asked before the crash?")
            await w.record(claim.plan.dialogue_id, 0, 1, Answered("Answered before the crash."))
            print("ready", flush=True)
            await asyncio.sleep(60)

    asyncio.run(main())
"""


def test_a_killed_worker_is_known_dead_at_once_and_its_outcomes_are_taken_up(store: RunStore) -> None:
    run = plan(store, 1)
    holder = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(_HOLDER), store.database.dsn, run.run_id, run.fingerprint],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "ready\n"

    async def main() -> None:
        await asyncio.sleep(2.1)  # a worker that only just started may not have taken its lock yet
        async with worker(store, run) as w:
            assert await w.take_over() == 0
            holder.kill()
            holder.wait()
            for _ in range(50):
                if await w.take_over():
                    break
                await asyncio.sleep(0.1)
            (claim,) = await w.claim(1)
            assert claim.state.progress.question == "Asked before the crash?"
            assert claim.state.progress.answer == Answered("Answered before the crash.")

    asyncio.run(main())


def test_workers_ride_through_a_broken_connection(store: RunStore) -> None:
    run = plan(store, 2)

    async def main() -> None:
        async with worker(store, run) as w:
            claims = await w.claim(2)
            with psycopg.connect(store.database.dsn, autocommit=True) as admin:
                admin.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE application_name = 'dlgforge worker' AND datname = current_database()"
                )
            for claim in claims:
                await w.commit_turn(claim.plan.dialogue_id, Turn(0, "q", "a"), final=False)
            assert await w.heartbeat({"tokens": 3})

    asyncio.run(main())
    assert store.progress(run.run_id).turns == 2


def test_a_worker_that_ends_frees_what_it_had_claimed(store: RunStore) -> None:
    run = plan(store, 3)

    async def main() -> None:
        async with worker(store, run) as a:
            await a.claim(3)
            assert await a.claim(1) == []
        async with worker(store, run) as b:
            assert len(await b.claim(9)) == 3

    asyncio.run(main())


def test_what_was_made_of_former_seeds_is_reported_by_its_run_alone(store: RunStore) -> None:
    def seeds(name: str, topic: str) -> SeedBatch:
        return SeedBatch(name, f"{name}: {topic}", (SeedTopic(topic, "en", topic),))

    def made(*batches: SeedBatch, everything: bool) -> PreparedRun:
        store.save_seed_batches(batches, all_there_are=everything)
        config = GenerationConfig(run=RunConfig(total_samples=2, target_languages=["en"], n_turns=1))
        run = prepare_run(store, config, LlmConfig(), store.seed_batches())
        with store.connection() as connection:
            connection.execute("UPDATE dialogues SET status = 'done'")
        return run

    def topics(scope: Scope) -> list[str]:
        return [dialogue.plan.topic.topic for dialogue in store.dialogues(scope)]

    first = made(seeds("one", "rice"), seeds("two", "bread"), everything=True)
    scope = Scope(fingerprint=first.fingerprint)
    assert topics(scope) == ["rice"] * 2 + ["bread"] * 2
    made(seeds("two", "cake"), everything=False)
    assert topics(scope) == ["rice"] * 2 + ["cake"] * 2, "two was edited, one is as it was"
    made(seeds("three", "tea"), everything=True)
    assert topics(scope) == ["tea"] * 2
    assert store.outcomes(scope).done == 2
    assert [(part.batch, part.done) for part in store.parts(scope)] == [("three", 2)]
    assert store.former_dialogues(first.fingerprint) == 6
    assert topics(Scope(run_id=first.run_id)) == ["rice"] * 2 + ["bread"] * 2
    made(seeds("two", "bread"), everything=True)
    assert topics(scope) == ["bread"] * 2, "a file that is as it was is made from what there is"
    with store.connection() as connection:  # as an earlier version left it
        connection.execute("UPDATE plans SET batch_digest = NULL")
    assert sorted(topics(scope)) == ["bread", "bread", "cake", "cake"]


@pytest.mark.parametrize(("llm", "kinds"), [(LlmConfig(), []), (LLM, list(QUESTION_KINDS))])
def test_sorts_of_questions_are_those_that_the_model_can_follow(
    store: RunStore, llm: LlmConfig, kinds: list[str]
) -> None:
    run = prepare_run(store, GenerationConfig(), llm, read_seeds("", strict=True))
    assert run.generation.run.question_kinds == kinds
    own = GenerationConfig(run=RunConfig(question_kinds=["why"]))
    assert prepare_run(store, own, llm, read_seeds("")).generation.run.question_kinds == ["why"]


def test_a_run_whose_endpoints_cannot_be_had_says_so(store: RunStore) -> None:
    run = plan(store, 2)

    def no_runner() -> Runner:
        record = store.run(run.run_id)
        assert record is not None
        assert record.status == "running", "starting servers is part of it"
        raise BackendError("vllm-0 ended with exit status 1")

    with pytest.raises(BackendError):
        generate(store, run.run_id, no_runner, lambda _: None)
    record = store.run(run.run_id)
    assert record is not None
    assert (record.status, record.stop_reason) == ("stopped", "vllm-0 ended with exit status 1")
