"""Whole runs against a simulated endpoint: exact counts, faults, budgets, and running again."""

from __future__ import annotations

import itertools
import time
from typing import Any

import pytest

from dlgforge_core.config import CoverageConfig, JudgeConfig
from dlgforge_core.errors import ConfigError, RunStoppedError
from dlgforge_core.generation.prepare import PreparedRun
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.store.run_store import RunStore
from tests.support.run_state import leased
from tests.support.runs import MODEL, begins_with, calls, planned, spec, work
from tests.support.simulated_endpoint import SimulatedEndpoint, simulated_endpoint


def endpoint(sim: SimulatedEndpoint, name: str = "simulated", **options: Any) -> Endpoint:
    return Endpoint(name, sim.base_url, **options)


def test_every_planned_turn_is_made_with_three_calls(store: RunStore) -> None:
    run = planned(store, 20, min_turns=1, max_turns=5, target_languages=["en", "fr"])
    with simulated_endpoint(models=[MODEL]) as sim:
        result = work(spec(store, run, endpoint(sim)))
        stats = sim.stats()
    progress = store.progress(run.run_id)
    assert result.stop_reason is None
    assert progress.complete
    assert progress.done_by_language == {"en": 10, "fr": 10}
    dialogues = list(store.dialogues(run.run_id))
    turns = sum(d.plan.n_turns for d in dialogues)
    assert [len(d.turns) for d in dialogues] == [d.plan.n_turns for d in dialogues]
    assert stats["calls"] == 3 * turns
    assert stats["by_role"] == {"qa_generator": turns, "kb_responder": turns, "qa_judge": turns}
    assert all(0 <= t.judgement.score <= 10 for d in dialogues for t in d.turns if t.judgement)
    assert all(t.judgement is not None for d in dialogues for t in d.turns)
    questions = [t.user for d in dialogues for t in d.turns]
    assert len(set(questions)) == turns
    counted = calls(store, run)
    assert counted.total().calls == 3 * turns
    assert counted.total().completion_tokens == stats["completion_tokens"]


def test_a_finished_run_run_again_makes_no_call(store: RunStore) -> None:
    run = planned(store, 4)
    with simulated_endpoint() as sim:
        work(spec(store, run, endpoint(sim)))
        before = sim.stats()["calls"]
        again = planned(store, 4)
        assert again.run_id == run.run_id
        work(spec(store, again, endpoint(sim)))
        assert sim.stats()["calls"] == before


@pytest.mark.parametrize(
    ("judge", "judge_calls"),
    [
        (JudgeConfig(granularity="turn"), 12),
        (JudgeConfig(granularity="conversation"), 4),
        (JudgeConfig(mode="off"), 0),
    ],
)
def test_the_judge_looks_at_what_the_config_says(
    store: RunStore, judge: JudgeConfig, judge_calls: int
) -> None:
    run = planned(store, 4, judge=judge, n_turns=3)
    with simulated_endpoint() as sim:
        work(spec(store, run, endpoint(sim)))
        assert sim.stats()["by_role"].get("qa_judge", 0) == judge_calls
    for dialogue in store.dialogues(run.run_id):
        assert (dialogue.judgement is not None) == (
            judge.granularity == "conversation" and judge.mode != "off"
        )


def test_prompts_grow_at_their_end_only(store: RunStore) -> None:
    run = planned(store, 1, n_turns=4)
    with simulated_endpoint(record_requests=100) as sim:
        work(spec(store, run, endpoint(sim)))
        stats = sim.stats()
    by_system: dict[str, list[list[dict[str, str]]]] = {}
    for request in stats["requests"]:
        messages = request["body"]["messages"]
        by_system.setdefault(messages[0]["content"], []).append(messages)
    assert len(by_system) == 3, "each role has one system message for the whole dialogue"
    for prompts in by_system.values():
        assert len(prompts) == 4
        for shorter, longer in itertools.pairwise(prompts):
            assert begins_with(longer, shorter)


def test_repeated_questions_are_asked_anew_then_dropped(store: RunStore) -> None:
    run = planned(store, 6, n_turns=1, coverage=CoverageConfig(question_dedup_retries=1))
    with simulated_endpoint(duplicate_rate=1.0) as sim:
        work(spec(store, run, endpoint(sim)))
    progress = store.progress(run.run_id)
    assert progress.complete
    assert progress.done == 1, "the first question is new, all others repeat it"
    assert progress.drop_reasons == {"dedup_exhausted": 5}


def test_with_one_answer_in_ten_faulty_every_dialogue_ends_with_a_true_reason(store: RunStore) -> None:
    faults = dict.fromkeys(["429", "500", "503", "garbage", "cut", "empty"], 0.1 / 6)
    run = planned(store, 60, n_turns=3, concurrency=16, patience_s=30.0)
    with simulated_endpoint(faults=faults, latency_s=0.005, retry_after_s=0) as sim:
        work(spec(store, run, endpoint(sim)))
        injected = sum(sim.stats()["faults"].values())
    progress = store.progress(run.run_id)
    assert progress.complete
    assert progress.done + progress.dropped == 60
    assert progress.done >= 57, "single faults are repaired"
    assert set(progress.drop_reasons) <= {"endpoint_error", "invalid_output"}
    failures = sum(calls(store, run).total().failures.values())
    assert injected >= 30
    assert failures >= 0.8 * injected, "faults are counted"


def test_a_dead_endpoint_beside_a_live_one_costs_no_dialogue(store: RunStore) -> None:
    run = planned(store, 20, patience_s=30.0)
    with simulated_endpoint(latency_s=0.005) as alive, simulated_endpoint(down=True) as dead:
        work(spec(store, run, endpoint(alive, "alive"), endpoint(dead, "dead")))
    progress = store.progress(run.run_id)
    assert progress.done == 20
    assert calls(store, run).by_endpoint()["alive"].calls == 20 * 6


def test_when_no_endpoint_answers_the_run_stops_and_can_be_resumed(store: RunStore) -> None:
    run = planned(store, 6, patience_s=1.0)
    with simulated_endpoint(down=True) as sim:
        started = time.monotonic()
        with pytest.raises(RunStoppedError, match="simulated"):
            work(spec(store, run, endpoint(sim)))
        assert time.monotonic() - started < 10
        progress = store.progress(run.run_id)
        assert (progress.done, progress.dropped, leased(store, run.run_id)) == (0, 0, 0)
        sim.configure(down=False)
        work(spec(store, run, endpoint(sim)))
    assert store.progress(run.run_id).done == 6


def test_a_refused_key_stops_the_run_at_once_without_showing_it(store: RunStore) -> None:
    run = planned(store, 6, patience_s=60.0)
    with simulated_endpoint(api_key="right") as sim:
        started = time.monotonic()
        with pytest.raises(RunStoppedError) as stopped:
            work(spec(store, run, endpoint(sim, api_key="wrong-secret")))
        assert time.monotonic() - started < 10
    assert "key" in str(stopped.value)
    assert "wrong-secret" not in str(stopped.value)


def test_what_is_refused_to_everyone_stops_the_run_and_drops_nobody(store: RunStore) -> None:
    run = planned(store, 40, concurrency=8)
    with simulated_endpoint(faults={"400": 1.0}) as sim:
        with pytest.raises(
            RunStoppedError, match=r"every call of qa_generator with 400: Simulated status 400"
        ):
            work(spec(store, run, endpoint(sim)))
        assert sim.stats()["calls"] < 40
        progress = store.progress(run.run_id)
        assert (progress.done, progress.dropped, leased(store, run.run_id)) == (0, 0, 0)
        sim.configure(faults={})
        work(spec(store, planned(store, 40), endpoint(sim)))
    assert store.progress(run.run_id).done == 40


def test_a_short_plan_that_is_refused_whole_stops_as_well(store: RunStore) -> None:
    run = planned(store, 3, concurrency=1, max_dialogues=2)
    refused = pytest.raises(RunStoppedError, match=r"no call of qa_generator was answered; simulated: 400")
    with simulated_endpoint(faults={"400": 1.0}) as sim, refused:
        work(spec(store, run, endpoint(sim)))
    progress = store.progress(run.run_id)
    assert (progress.done, progress.dropped, leased(store, run.run_id)) == (0, 0, 0)


def test_what_is_refused_to_some_drops_them_and_the_next_run_tries_them_afresh(store: RunStore) -> None:
    run = planned(store, 30, n_turns=3)
    with simulated_endpoint(faults={"400": 0.1}, record_requests=400) as sim:
        work(spec(store, run, endpoint(sim)))
        progress = store.progress(run.run_id)
        assert progress.complete
        dropped, unjudged = progress.drop_reasons["endpoint_error"], progress.unjudged
        assert 0 < dropped < 30
        with store.connection() as connection:
            (begun,) = connection.execute(
                "SELECT sum(turns_done) FROM dialogues WHERE status = 'dropped'"
            ).fetchone() or (0,)
        assert begun > 0, "some of them had turns already"
        sim.configure(faults={})
        before = sim.stats()["calls"]
        again = planned(store, 30, n_turns=3)
        assert any(
            note.startswith(f"{dropped} dialogues that were dropped as endpoint_error")
            for note in again.notes
        )
        work(spec(store, again, endpoint(sim)))
        asked = dropped * 9 + unjudged
        assert sim.stats()["calls"] - before == asked, "from their first turn on"
        progress = store.progress(run.run_id)
        assert (progress.done, progress.dropped, progress.unjudged) == (30, 0, 0)
        questions = [turn.user for dialogue in store.dialogues(run.run_id) for turn in dialogue.turns]
        assert len(set(questions)) == 90
        work(spec(store, planned(store, 30, n_turns=3), endpoint(sim)))
        assert sim.stats()["calls"] - before == asked


@pytest.mark.parametrize(("status", "message"), [("402", "cannot pay"), ("407", "proxy")])
def test_an_account_without_credit_stops_the_run_and_drops_nobody(
    store: RunStore, status: str, message: str
) -> None:
    run = planned(store, 20, patience_s=30.0)
    with simulated_endpoint(latency_s=0.002) as sim:
        work(spec(store, planned(store, 20, max_dialogues=4), endpoint(sim)))
        sim.configure(faults={status: 1.0})
        with pytest.raises(RunStoppedError, match=rf"(?s){message}.*{status}"):
            work(spec(store, run, endpoint(sim)))
        assert store.progress(run.run_id).dropped == 0
        sim.configure(faults={})
        work(spec(store, run, endpoint(sim)))
    assert store.progress(run.run_id).done == 20


def test_the_token_budget_stops_cleanly_and_a_larger_one_goes_on(store: RunStore) -> None:
    run = planned(store, 12, n_turns=3, max_tokens=5_000, concurrency=4)
    with simulated_endpoint(latency_s=0.005) as sim:
        result = work(spec(store, run, endpoint(sim)))
        assert result.stop_reason is not None
        assert "run.max_tokens = 5000" in result.stop_reason
        used = calls(store, run).total()
        mean = (used.prompt_tokens + used.completion_tokens) / used.calls
        assert 5_000 <= used.prompt_tokens + used.completion_tokens < 5_000 + 8 * mean, "four under way"
        progress = store.progress(run.run_id)
        assert progress.pending > 0
        assert progress.dropped == leased(store, run.run_id) == 0
        more = planned(store, 12, n_turns=3, concurrency=4)
        assert more.run_id == run.run_id
        work(spec(store, more, endpoint(sim)))
        assert sim.stats()["calls"] == 12 * 9, "no call was made twice"
    assert store.progress(run.run_id).done == 12


def _tokens(store: RunStore, run: PreparedRun) -> int:
    used = calls(store, run).total()
    return used.prompt_tokens + used.completion_tokens


def test_a_used_up_token_budget_pays_for_no_further_call(store: RunStore) -> None:
    run = planned(store, 40, max_tokens=2_000, concurrency=8)
    with simulated_endpoint(latency_s=0.005) as sim:
        work(spec(store, run, endpoint(sim)))
        made = sim.stats()["calls"]
        assert 2_000 <= _tokens(store, run) < 4_000
        for _ in range(2):
            result = work(spec(store, planned(store, 40, max_tokens=2_000), endpoint(sim)))
            assert result.stop_reason == "run.max_tokens = 2000 is used up"
        assert sim.stats()["calls"] == made


def test_the_token_budget_counts_what_brings_no_dialogue_forward(store: RunStore) -> None:
    run = planned(store, 60, max_tokens=4_000, concurrency=4)
    with simulated_endpoint(faults={"bad_json": 1.0}) as sim:
        result = work(spec(store, run, endpoint(sim)))
    assert result.stop_reason is not None
    assert 4_000 <= _tokens(store, run) < 7_000
    assert store.progress(run.run_id).pending > 0


def test_without_usage_tokens_are_estimated_and_the_budget_holds(
    store: RunStore, caplog: pytest.LogCaptureFixture
) -> None:
    run = planned(store, 40, max_tokens=4_000, concurrency=4)
    with simulated_endpoint(usage=False) as sim:
        result = work(spec(store, run, endpoint(sim)))
        stats = sim.stats()
    assert result.stop_reason == "run.max_tokens = 4000 is used up"
    assert 0.3 < (stats["prompt_tokens"] + stats["completion_tokens"]) / _tokens(store, run) < 1.5
    warned = [r.getMessage() for r in caplog.records if "`usage` is missing" in r.getMessage()]
    assert len(warned) == 1
    assert "simulated" in warned[0]


def test_the_dialogue_budget_stops_cleanly(store: RunStore) -> None:
    run = planned(store, 12, max_dialogues=5)
    with simulated_endpoint() as sim:
        result = work(spec(store, run, endpoint(sim)))
    assert result.stop_reason is not None
    assert "run.max_dialogues = 5" in result.stop_reason
    assert store.progress(run.run_id).done == 5


def test_a_changed_config_is_another_run_and_resume_run_id_picks_the_earlier_one(store: RunStore) -> None:
    run = planned(store, 4, max_dialogues=2)
    changed = planned(store, 4, n_turns=3)
    assert changed.run_id != run.run_id
    resumed = planned(store, 4, n_turns=3, resume_run_id=run.run_id)
    assert resumed.run_id == run.run_id
    assert resumed.generation.run.n_turns == 2, "what to make is as it was planned"
    with simulated_endpoint() as sim:
        work(spec(store, run, endpoint(sim)))
        work(spec(store, resumed, endpoint(sim)))
        assert sim.stats()["calls"] == 4 * 6
    assert store.progress(run.run_id).complete
    with pytest.raises(ConfigError, match=rf"no such run; the latest are: .*{run.run_id}"):
        planned(store, 4, resume_run_id="nonesuch")


def test_two_endpoints_share_the_load_by_weight(store: RunStore) -> None:
    run = planned(store, 40, concurrency=32)
    with simulated_endpoint(latency_s=0.02) as a, simulated_endpoint(latency_s=0.02) as b:
        work(spec(store, run, endpoint(a, "a", weight=3.0), endpoint(b, "b", weight=1.0)))
        share = a.stats()["calls"] / (a.stats()["calls"] + b.stats()["calls"])
    assert 0.65 < share < 0.85


def test_call_slots_are_never_exceeded(store: RunStore) -> None:
    run = planned(store, 40, concurrency=5)
    with simulated_endpoint(latency_s=0.01) as sim:
        work(spec(store, run, endpoint(sim)))
        assert sim.stats()["in_flight_max"] == 5
