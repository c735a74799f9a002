"""What a run costs: counted with its calls, told, and kept to a budget."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dlgforge_core.config import AnswersConfig, GenerationConfig, LlmConfig, RunConfig
from dlgforge_core.dialogue import Role
from dlgforge_core.generation.prepare import PreparedRun, callers_of_run, models_of_run
from dlgforge_core.generation.run import RunReport, Status, generate
from dlgforge_core.generation.worker_thread import WorkerSpec, WorkerThread
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.llm.prices import Price, price_list
from dlgforge_core.store.results import Scope
from dlgforge_core.store.run_store import RunStore
from dlgforge_core.usage import RoleUsage, total_usage, usage_from_json
from tests.support.judging import generated, judge, judging
from tests.support.run_state import leased
from tests.support.runs import LLM, calls, planned, prepared, spec, work
from tests.support.simulated_endpoint import SimulatedEndpoint, simulated_endpoint

PRICES = {"simulated": {"input": 2.0, "cached_input": 0.5, "output": 8.0}}
PRICE = Price(2.0, 0.5, 8.0)


WITH_PRICES = LlmConfig.model_validate({**LLM.model_dump(), "prices": PRICES})


def priced(store: RunStore, run: PreparedRun, sim: SimulatedEndpoint) -> WorkerSpec:
    """Return a worker that knows what its calls cost."""
    endpoint = Endpoint("simulated", sim.base_url)
    callers = callers_of_run(run.generation, WITH_PRICES)
    prices = price_list(WITH_PRICES, callers, models_of_run(run), [endpoint])
    return replace(spec(store, run, endpoint), prices=prices)


def session(store: RunStore, worker: WorkerSpec) -> tuple[RunReport, list[Status]]:
    """Work on the run; returns its report and the states that it was seen in."""
    seen = list[Status]()
    run_id = worker.run.run_id
    report = generate(
        store, run_id, lambda: WorkerThread(worker), seen.append, poll_s=0.02, first_report_s=0.02
    )
    return report, seen


def test_cost_is_counted_by_role_with_the_cached_tokens_at_their_price(
    store: RunStore, sim: SimulatedEndpoint
) -> None:
    run = planned(store, 4, n_turns=3)
    work(priced(store, run, sim))
    counted, stats = calls(store, run), sim.stats()
    assert stats["cached_tokens"] > 0
    assert counted.spending.unpriced == 0
    assert counted.dollars == pytest.approx(
        PRICE.cost(stats["prompt_tokens"], stats["completion_tokens"], stats["cached_tokens"])
    )
    by_role = {role: counts.dollars for role, counts in counted.by_role().items()}
    assert set(by_role) == {"qa_generator", "kb_responder", "qa_judge"}
    assert sum(by_role.values()) == pytest.approx(counted.dollars)
    used = {role: RoleUsage() for role in by_role}
    for dialogue in store.dialogues(Scope(run_id=run.run_id)):
        assert {role: one.calls for role, one in dialogue.usage.items()} == dict.fromkeys(by_role, 3)
        for role, one in dialogue.usage.items():
            used[role] += one
    for role, counts in counted.by_role().items():
        assert used[role].dollars == pytest.approx(counts.dollars)
        assert used[role].prompt_tokens == counts.prompt_tokens
        assert used[role].completion_tokens == counts.completion_tokens


def candidates(store: RunStore, **run: object) -> PreparedRun:
    """Return a run whose questions get four answers each, all asked for at once."""
    settings = {"total_samples": 12, "target_languages": ["en"], "n_turns": 2, "concurrency": 4, **run}
    return prepared(
        store, GenerationConfig(run=RunConfig.model_validate(settings), answers=AnswersConfig(candidates=4))
    )


def test_a_budget_of_money_stops_cleanly_with_candidates_in_flight_and_a_greater_one_goes_on(
    store: RunStore, sim: SimulatedEndpoint
) -> None:
    sim.configure(latency_s=0.005)
    run = candidates(store, max_cost=0.05)
    result = work(priced(store, run, sim))
    assert result.stop_reason == "run.max_cost = 0.05 is used up"
    used = calls(store, run)
    dearest = 4 * used.dollars / used.total().calls
    assert 0.05 <= used.dollars < 0.05 + 4 * dearest, "four under way"
    progress = store.progress(run.run_id)
    assert progress.pending > 0
    assert progress.dropped == leased(store, run.run_id) == 0
    made = sim.stats()["calls"]
    assert work(priced(store, candidates(store, max_cost=0.05), sim)).stop_reason == result.stop_reason
    assert sim.stats()["calls"] == made, "what is used up pays for no call"
    more = candidates(store, max_cost=100.0)
    assert more.run_id == run.run_id
    assert work(priced(store, more, sim)).stop_reason is None
    assert sim.stats()["calls"] == calls(store, run).total().calls == 12 * 2 * 6, "no call was made twice"
    assert store.progress(run.run_id).done == 12
    by_dialogue = [total_usage(one.usage.values()) for one in store.dialogues(Scope(run_id=run.run_id))]
    attributed = total_usage(by_dialogue)
    assert attributed.calls >= 12 * 2 * 6 - 3 * 4, "of a turn that was broken off, the question alone is lost"
    assert attributed.dollars == pytest.approx(calls(store, run).dollars, rel=0.1)
    assert min(one.calls for one in by_dialogue) >= 11


def test_status_lines_tell_what_all_sessions_have_cost(store: RunStore, sim: SimulatedEndpoint) -> None:
    sim.configure(latency_s=0.03)
    work(priced(store, planned(store, 6, max_dialogues=2), sim))
    before = calls(store, planned(store, 6)).dollars
    report, seen = session(store, priced(store, planned(store, 6), sim))
    assert seen[0].calls.spending.dollars >= before > 0
    assert report.calls.dollars > before
    assert str(seen[-1].calls.spending) in str(seen[-1])


def test_a_price_that_is_not_known_is_reported_as_such(store: RunStore, sim: SimulatedEndpoint) -> None:
    run = planned(store, 2)
    work(spec(store, run, Endpoint("simulated", sim.base_url)))
    counted = calls(store, run)
    assert counted.spending.unpriced == counted.total().calls == 12
    assert str(counted.spending) == "cost unknown"


def test_offline_judging_has_a_budget_of_money_and_tells_its_cost(store: RunStore) -> None:
    with simulated_endpoint(latency_s=0.005) as sim:
        run, endpoint = generated(store, sim, 20), Endpoint("simulated", sim.base_url)
        report = judge(store, run, judging(max_cost=0.005, concurrency=2), endpoint, llm=WITH_PRICES)
        assert report.stop_reason == "judge.max_cost = 0.005 is used up"
        assert 0.005 <= report.calls.dollars < 0.01
        assert report.missing > 0
        again = judge(store, run, judging(), endpoint, llm=WITH_PRICES)
    assert again.missing == 0
    assert again.calls.by_role()[Role.JUDGE.value].dollars == again.calls.dollars > 0


def test_dropped_dialogues_keep_what_they_used(store: RunStore) -> None:
    with simulated_endpoint(faults={"refusal": 0.2}) as sim:
        run = planned(store, 12, n_turns=2)
        work(spec(store, run, Endpoint("simulated", sim.base_url)))
    progress, counted = store.progress(run.run_id), calls(store, run).total()
    assert progress.dropped > 0 < progress.done
    with store.connection() as connection:
        rows = connection.execute("SELECT usage FROM dialogues WHERE usage IS NOT NULL").fetchall()
    assert len(rows) == 12
    used = total_usage(one for (usage,) in rows for one in usage_from_json(usage).values())
    assert (used.calls, used.prompt_tokens, used.unpriced) == (
        counted.calls,
        counted.prompt_tokens,
        counted.unpriced,
    )
    assert str(used.spending) == "cost unknown"
