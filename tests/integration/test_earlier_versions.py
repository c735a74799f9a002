"""Run state of an earlier version is taken over: what it began is finished, and nothing is made twice.

`states/schema_0009.sql` is a dump of what a version with `drafts` left when its worker was killed: one run
of 12 dialogues (2 done, 10 under way), and one of 3 whose judging was not finished.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
import pytest

from dlgforge_core.database.database import Database
from dlgforge_core.dialogue import Role
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.scheduling.call_seed import call_seed
from dlgforge_core.store.run_store import RunStore
from tests.support.judging import judge, judging, verdicts
from tests.support.runs import planned, spec, work
from tests.support.simulated_endpoint import simulated_endpoint

STATE = Path(__file__).parent / "states" / "schema_0009.sql"


@pytest.fixture
def former(dsn: str) -> tuple[RunStore, list[tuple[Any, ...]]]:
    """Return the state of the earlier version, migrated, and its drafts: dialogue, turn, question, answer."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("DROP SCHEMA IF EXISTS dlgforge CASCADE")
        connection.execute(STATE.read_bytes())
        drafts = connection.execute(
            "SELECT f.dialogue_id, f.turn_index, f.question, f.answer FROM dlgforge.drafts f "
            "JOIN dlgforge.dialogues d USING (dialogue_id) WHERE f.turn_index = d.turns_done"
        ).fetchall()
    store = RunStore(Database(dsn))
    assert store.migrate()
    return store, drafts


def turns(store: RunStore) -> dict[tuple[str, int], tuple[Any, ...]]:
    with store.connection() as connection:
        rows = connection.execute(
            "SELECT dialogue_id, turn_index, user_text, assistant_text, judgement, created_at FROM turns"
        ).fetchall()
    return {row[:2]: row[2:] for row in rows}


def test_a_run_that_an_earlier_version_began_is_finished_without_repeating_a_call(
    former: tuple[RunStore, list[tuple[Any, ...]]],
) -> None:
    store, drafts = former
    answered = [draft for draft in drafts if draft[3] is not None]
    assert 0 < len(answered) < len(drafts)
    before = turns(store)
    run = planned(store, 12, n_turns=3)
    progress = store.progress(run.run_id)
    assert (progress.done, progress.pending) == (2, 10)
    with simulated_endpoint(record_requests=200) as sim:
        work(spec(store, run, Endpoint("simulated", sim.base_url)))
        seeds = [request["body"]["seed"] for request in sim.stats()["requests"]]
    assert store.progress(run.run_id).done == 12
    after = turns(store)
    assert {key: after[key] for key in before} == before
    for dialogue_id, index, question, answer in drafts:
        made = after[dialogue_id, index]
        assert made[0] == question
        assert answer in (None, made[1])
    wanted = {
        call_seed(run.generation.run.seed, dialogue_id, index, role, 0)
        for dialogue_id, index in after.keys() - before.keys()
        for role in (Role.USER_SIMULATOR, Role.ASSISTANT, Role.JUDGE)
    }
    seed = run.generation.run.seed
    asked = {call_seed(seed, draft[0], draft[1], Role.USER_SIMULATOR, 0) for draft in drafts}
    asked |= {call_seed(seed, draft[0], draft[1], Role.ASSISTANT, 0) for draft in answered}
    assert sorted(seeds) == sorted(wanted - asked)
    with store.connection() as connection:
        assert connection.execute("SELECT count(*) FROM outcomes").fetchone() == (0,)


def test_judging_that_an_earlier_version_began_is_finished(
    former: tuple[RunStore, list[tuple[Any, ...]]],
) -> None:
    # With prompts of a judge that are not those of then: verdicts of both would be no one measure. Those of
    # then stay, as another judge's.
    store, _ = former
    before = verdicts(store)
    assert len(before) == 2
    run = planned(store, 3, n_turns=2, judge=judging())
    assert store.progress(run.run_id).done == 3
    with simulated_endpoint() as sim:
        report = judge(store, run, judging(), Endpoint("simulated", sim.base_url))
        assert sim.stats()["calls"] == 6
    assert (report.kept, report.given, report.missing) == (0, 6, 0)
    after = verdicts(store)
    assert {key: after[key] for key in before} == before
