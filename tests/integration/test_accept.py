"""Exactly as many accepted dialogues as were asked for, whatever is dropped or not accepted."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from dlgforge_core.dialogue import DialoguePlan
from dlgforge_core.errors import RunStoppedError
from dlgforge_core.generation.prepare import PreparedRun
from dlgforge_core.generation.run import Status, generate, shortfall_text
from dlgforge_core.generation.worker_thread import WorkerThread
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.planning.personas import read_personas
from dlgforge_core.planning.plan import plan_run
from dlgforge_core.planning.seeds import read_seeds
from dlgforge_core.store.run_store import RunStore
from dlgforge_dagster.metadata.dialogues import acceptance_metadata
from tests.support.attempts import assert_exactly
from tests.support.runs import LLM, planned, spec, work
from tests.support.simulated_endpoint import SimulatedEndpoint, simulated_endpoint

HALF = {"min_score": 6}
"""What the simulated judge, whose scores are even from 0 to 10, gives to 5 of 11."""


def endpoint(sim: SimulatedEndpoint) -> Endpoint:
    return Endpoint("simulated", sim.base_url)


def assert_each_is_a_spare_of_its_sample(store: RunStore, run: PreparedRun) -> None:
    """Spares in Postgres are those of the plan, the same on any machine."""
    planning = plan_run(run.generation, LLM, read_personas(), read_seeds("", strict=True), source=run.source)
    of_language = {plan.language: plan for plan in planning.plans}
    with store.connection() as connection:
        rows = connection.execute("SELECT plan, ordinal, attempt, dialogue_id FROM dialogues").fetchall()
    for data, ordinal, attempt, dialogue_id in rows:
        there = DialoguePlan.from_json(data)
        assert there == of_language[there.language].dialogue(ordinal, attempt)
        assert there.dialogue_id == dialogue_id


@pytest.mark.parametrize("workers", [1, 4])
def test_of_a_judge_that_refuses_half_come_exactly_as_many_as_were_asked_for(
    store: RunStore, workers: int
) -> None:
    plan: dict[str, Any] = {"n_turns": 1, "target_languages": ["en", "fr", "es"], "accept": HALF}
    with simulated_endpoint(latency_s=0.002) as sim:
        run = planned(store, 100, **plan)
        for stopped in range(3):  # let go of everything in the midst of it, three times
            threads = [WorkerThread(spec(store, run, endpoint(sim))) for _ in range(workers)]
            for thread in threads:
                thread.start()
            goal = 60 * (stopped + 1)
            while store.progress(run.run_id).made < goal and not all(t.wait(0.02) for t in threads):
                pass
            for thread in threads:
                thread.stop("killed")
            assert all(thread.wait(20) for thread in threads)
            run = planned(store, 100, **plan)
        threads = [WorkerThread(spec(store, run, endpoint(sim))) for _ in range(workers)]
        for thread in threads:
            thread.start()
        assert all(thread.wait(60) for thread in threads)
        assert [thread.result().stop_reason for thread in threads] == [None] * workers
        assert_exactly(store, run, 100)
        calls = sim.stats()["calls"]
        work(spec(store, planned(store, 100, **plan), endpoint(sim)))
        assert sim.stats()["calls"] == calls
    progress = store.progress(run.run_id)
    assert progress.done_by_language == {"en": 34, "fr": 33, "es": 33}
    assert progress.shortcomings == {"min_score": progress.unaccepted}
    dialogues = list(store.dialogues(run.run_id))
    assert len(dialogues) == 100
    assert all(score >= 6 for dialogue in dialogues for score in dialogue.scores)
    assert_each_is_a_spare_of_its_sample(store, run)


def test_dropped_dialogues_are_made_up_and_not_tried_again_once_they_were(store: RunStore) -> None:
    """Those that failed with the endpoint would be, on resume, which would give more than were asked for."""
    plan: dict[str, Any] = {"n_turns": 2, "accept": {"checks": ["schema"]}, "max_attempts_per_sample": 3}
    with simulated_endpoint(faults={"400": 0.15}) as sim:
        run = planned(store, 30, **plan)
        work(spec(store, run, endpoint(sim)))
        progress = store.progress(run.run_id)
        assert progress.drop_reasons.keys() == {"endpoint_error"}
        given_up = progress.shortfall
        assert progress.done == 30 - given_up
        assert 0 < given_up < progress.spares
        sim.configure(faults={})
        again = planned(store, 30, **plan)
        assert f"{given_up} dialogues that were dropped as endpoint_error are tried again" in again.notes
        work(spec(store, again, endpoint(sim)))
    assert_exactly(store, run, 30)
    assert len(list(store.dialogues(run.run_id))) == 30


def test_a_run_that_uses_its_attempts_up_says_where_and_goes_on_with_more(store: RunStore) -> None:
    plan: dict[str, Any] = {"n_turns": 1, "accept": {"min_score": 5, "forbidden_labels": ["incorrect"]}}
    with simulated_endpoint(verdict={"score": 3, "reasons": ["incorrect"]}, latency_s=0.1) as sim:
        run = planned(store, 4, **plan, max_attempts_per_sample=2)
        statuses: list[Status] = []
        report = generate(
            store,
            run.run_id,
            lambda: WorkerThread(spec(store, run, endpoint(sim))),
            statuses.append,
            first_report_s=0.0,
            poll_s=0.01,
        )
        progress = report.progress
        assert (progress.complete, progress.done, progress.made, progress.shortfall) == (True, 0, 8, 4)
        assert progress.shortcomings == {"min_score": 8, "forbidden_labels: incorrect": 8}
        line = str(dataclasses.replace(statuses[0], progress=progress))
        not_accepted = "not accepted 8 (forbidden_labels: incorrect 8, min_score 8)"
        assert line.startswith(f"0/4 dialogues accepted, {not_accepted}, ")
        assert ", 8 turns, " in line
        text = shortfall_text(progress, store.shortfall(run.run_id))
        assert "0 of 4 dialogues were accepted, of 8 that were made" in text
        assert "(en, " in text
        assert "after 2 attempts: min_score 1, forbidden_labels: incorrect 1" in text

        page = acceptance_metadata(store, run.run_id, progress)
        assert (page["dialogues_made"], page["dialogues_accepted"], page["shortfall"]) == (8, 0, 4)
        short = [record.data for record in page["shortfall_by_topic"].records]
        assert sum(record["missing"] for record in short) == 4
        assert {record["attempts"] for record in short} == {2}

        assert len(list(store.dialogues(run.run_id))) == 0
        sim.reset()
        same = planned(store, 4, **plan, max_attempts_per_sample=2)
        work(spec(store, same, endpoint(sim)))
        assert sim.stats()["calls"] == 0, "the same configuration has nothing left to do"

        sim.configure(verdict={"score": 9, "reasons": ["accurate"]})
        more = planned(store, 4, **plan, max_attempts_per_sample=3)
        assert more.run_id == run.run_id
        assert "4 samples that were given up are tried again" in more.notes
        work(spec(store, more, endpoint(sim)))
        assert sim.stats()["calls"] == 4 * 3
    assert_exactly(store, run, 4)
    outcomes = store.outcomes(run.run_id)
    assert (outcomes.planned, outcomes.spares, outcomes.done, outcomes.unaccepted) == (4, 8, 4, 8)
    assert outcomes.unfinished == 0


def test_a_verdict_that_cannot_be_had_is_no_acceptance_and_costs_a_spare(store: RunStore) -> None:
    plan: dict[str, Any] = {"n_turns": 2, "accept": {"min_score": 0}}
    with simulated_endpoint(faults={"bad_json": 0.6}) as sim:
        run = planned(store, 10, **plan)
        work(spec(store, run, endpoint(sim)))
        assert_exactly(store, run, 10)
        progress = store.progress(run.run_id)
        assert progress.shortcomings == {"unjudged": progress.unaccepted}
        assert progress.unaccepted > 0
        assert progress.unjudged == 0
        sim.reset()
        again = planned(store, 10, **plan)
        assert not again.notes
        work(spec(store, again, endpoint(sim)))
        assert sim.stats()["calls"] == 0


def test_without_acceptance_nothing_is_replaced(store: RunStore) -> None:
    with simulated_endpoint(faults={"400": 0.1}) as sim:
        run = planned(store, 20, n_turns=2)
        work(spec(store, run, endpoint(sim)))
    progress = store.progress(run.run_id)
    assert progress.done + progress.dropped == progress.planned == 20
    assert progress.dropped > 0
    assert (progress.spares, progress.unaccepted) == (0, 0)


def test_a_judge_that_never_works_stops_the_run_before_the_attempts_are_used_up(store: RunStore) -> None:
    plan: dict[str, Any] = {"n_turns": 1, "accept": HALF, "concurrency": 2, "max_attempts_per_sample": 40}
    with simulated_endpoint(faults={"bad_json": 1.0}) as sim:
        run = planned(store, 2, **plan)
        with pytest.raises(RunStoppedError, match="given no verdict yet"):
            work(spec(store, run, endpoint(sim)))
        assert 8 <= store.progress(run.run_id).made < 20
        sim.configure(faults={})
        work(spec(store, planned(store, 2, **plan), endpoint(sim)))
    assert_exactly(store, run, 2)
