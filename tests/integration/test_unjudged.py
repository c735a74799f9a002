"""Verdicts that the judge cannot be had to give while generating: counted, and asked for again on resume."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from dlgforge_core.config import JudgeConfig
from dlgforge_core.errors import RunStoppedError
from dlgforge_core.generation.run import generate
from dlgforge_core.generation.worker_thread import WorkerThread
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.store.run_store import RunStore
from tests.support.runs import planned, spec, work
from tests.support.simulated_endpoint import SimulatedEndpoint, simulated_endpoint

NEVER = {"bad_json": 1.0}


def endpoint(sim: SimulatedEndpoint) -> Endpoint:
    return Endpoint("simulated", sim.base_url)


def made(store: RunStore) -> tuple[list[tuple[Any, ...]], int]:
    """Every turn without its verdict, and how many turns and conversations have one."""
    with store.connection() as connection:
        turns = connection.execute(
            "SELECT dialogue_id, turn_index, user_text, assistant_text, created_at FROM turns ORDER BY 1, 2"
        ).fetchall()
        row = connection.execute(
            "SELECT (SELECT count(judgement) FROM turns) + (SELECT count(judgement) FROM dialogues)"
        ).fetchone()
    assert row is not None
    return turns, int(row[0])


@pytest.mark.parametrize(("granularity", "wanted"), [("turn", 36), ("conversation", 12)])
def test_a_slip_of_the_judge_costs_the_verdict_alone_until_the_next_run(
    store: RunStore, granularity: Any, wanted: int
) -> None:
    plan: dict[str, Any] = {"n_turns": 3, "judge": JudgeConfig(granularity=granularity)}
    with simulated_endpoint(faults={"bad_json": 0.7}, record_requests=300) as sim:
        run = planned(store, 12, **plan)
        work(spec(store, run, endpoint(sim)))
        progress = store.progress(run.run_id)
        turns, judged = made(store)
        assert (progress.done, progress.dropped, progress.complete) == (12, 0, True)
        assert 0 < progress.unjudged == wanted - judged < wanted
        for request in sim.stats()["requests"]:
            roles = [message["role"] for message in request["body"]["messages"][1:]]
            assert all(role != following for role, following in itertools.pairwise(roles))

        sim.configure(faults=NEVER)
        sim.reset()
        again = planned(store, 12, **plan)
        assert "dialogues that lack verdicts are judged again" in again.notes[-1]
        work(spec(store, again, endpoint(sim)))  # the judge worked before: no fault of the set-up
        assert sim.stats()["by_role"] == {"qa_judge": 2 * progress.unjudged}
        assert store.progress(run.run_id).unjudged == progress.unjudged

        sim.configure(faults={})
        sim.reset()
        work(spec(store, planned(store, 12, **plan), endpoint(sim)))
        assert sim.stats()["by_role"] == {"qa_judge": progress.unjudged}
        assert made(store) == (turns, wanted)
        assert store.progress(run.run_id).unjudged == 0

        sim.reset()
        work(spec(store, planned(store, 12, **plan), endpoint(sim)))
        assert sim.stats()["calls"] == 0
    with store.connection() as connection:
        for table in ("outcomes", "unjudged"):
            assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)


@pytest.mark.parametrize("total", [1, 30])
def test_a_judge_that_never_works_stops_the_run_and_nothing_is_lost(store: RunStore, total: int) -> None:
    run = planned(store, total, n_turns=2)
    lines: list[str] = []
    with simulated_endpoint(faults=NEVER) as sim:
        worker = spec(store, run, endpoint(sim))
        with pytest.raises(RunStoppedError, match=r"given no verdict yet.*failed as invalid_output"):
            generate(
                store, run.run_id, lambda: WorkerThread(worker), lambda status: lines.append(str(status))
            )
        assert store.progress(run.run_id).dropped == 0
        before, judged = made(store)
        assert before
        assert judged == 0
        sim.configure(faults={})
        sim.reset()
        run = planned(store, total, n_turns=2)
        worker = spec(store, run, endpoint(sim))
        report = generate(store, run.run_id, lambda: WorkerThread(worker), lambda status: None)
        assert report.progress.complete
        assert report.progress.unjudged == 0
        turns, judged = made(store)
        assert judged == len(turns) == 2 * total
        assert set(before) <= set(turns)


def test_a_dialogue_that_is_judged_again_stays_finished_when_the_run_is_stopped(store: RunStore) -> None:
    with simulated_endpoint(faults={"bad_json": 0.7}) as sim:
        run = planned(store, 12)
        work(spec(store, run, endpoint(sim)))
        lacking = store.progress(run.run_id).unjudged
        sim.configure(faults={"401": 1.0})
        with pytest.raises(RunStoppedError):
            work(spec(store, planned(store, 12), endpoint(sim)))
        progress = store.progress(run.run_id)
        assert (progress.done, progress.unjudged) == (12, lacking)
        assert len(list(store.dialogues(run.run_id))) == 12
        sim.configure(faults={})
        sim.reset()
        work(spec(store, planned(store, 12), endpoint(sim)))
        assert sim.stats()["by_role"] == {"qa_judge": lacking}
    assert store.progress(run.run_id).unjudged == 0
