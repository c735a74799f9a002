"""Whole runs against endpoints with the quirks of real servers: every dialogue has a true end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from dlgforge_core.config import JudgeConfig
from dlgforge_core.errors import RunStoppedError
from dlgforge_core.generation.prepare import PreparedRun, prepare_run
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.planning.seeds import read_seeds
from dlgforge_core.store.run_store import RunStore
from tests.support.run_state import leased
from tests.support.runs import LLM, calls, planned, spec, work
from tests.support.simulated_endpoint import SimulatedEndpoint, simulated_endpoint


@pytest.fixture(scope="module")
def server() -> Iterator[SimulatedEndpoint]:
    with simulated_endpoint() as started:
        yield started


@pytest.fixture
def sim(server: SimulatedEndpoint) -> Iterator[SimulatedEndpoint]:
    """One server for all: starting one takes as long as a run."""
    server.reset()
    yield server
    server.configure(canned=[], finish_reasons={})


def endpoint(sim: SimulatedEndpoint, name: str = "simulated", **options: Any) -> Endpoint:
    return Endpoint(name, sim.base_url, **options)


def poisoned_topic(store: RunStore, run: PreparedRun) -> tuple[str, int]:
    """Return a topic of the plan, and how many of its dialogues have it."""
    with store.connection() as connection:
        rows = connection.execute(
            "SELECT d.plan -> 'topic' ->> 'topic' AS topic, count(*) FROM run_plans rp JOIN dialogues d "
            "USING (plan_id) WHERE rp.run_id = %s GROUP BY 1 ORDER BY 2, 1",
            (run.run_id,),
        ).fetchall()
    topic, n = rows[0]
    assert n < sum(row[1] for row in rows)
    return topic, n


POISONS: dict[str, dict[str, Any]] = {
    "500": {"status": 500, "body": {"error": {"message": "CUDA error: device-side assert triggered"}}},
    "no choices": {"body": {"id": "x", "choices": []}},
    "null choices": {"body": {"choices": None, "usage": None}},
    "an error in a 200": {"body": {"error": {"message": "upstream failed", "code": 502}}},
    "an error of a choice": {
        "body": {"choices": [{"error": {"code": 500, "message": "Provider returned error"}, "message": {}}]}
    },
    "plain text": {"status": 200, "body": "Internal error"},
    "a gateway's page": {"status": 502, "body": "<html>Bad gateway</html>"},
}


@pytest.mark.parametrize("name", POISONS)
def test_a_prompt_that_is_never_answered_costs_its_dialogue_alone(
    store: RunStore, sim: SimulatedEndpoint, name: str
) -> None:
    run = planned(store, 8, n_turns=1, concurrency=4, patience_s=2.0)
    topic, n = poisoned_topic(store, run)
    sim.configure(canned=[{"contains": topic, **POISONS[name]}])
    work(spec(store, run, endpoint(sim), max_attempts=3))
    progress = store.progress(run.run_id)
    assert progress.complete
    assert (progress.done, progress.drop_reasons) == (8 - n, {"endpoint_error": n})
    assert sim.stats()["calls"] < 3 * 8 + n * 10
    # Again, with the poisoned dialogues alone.
    again = planned(store, 8, n_turns=1, concurrency=4, patience_s=2.0)
    work(spec(store, again, endpoint(sim), max_attempts=3))
    progress = store.progress(run.run_id)
    assert (progress.done, progress.drop_reasons) == (8 - n, {"endpoint_error": n})
    sim.configure(canned=[])
    work(spec(store, planned(store, 8, n_turns=1), endpoint(sim)))
    assert store.progress(run.run_id).done == 8


@pytest.mark.parametrize(
    ("concurrency", "endpoints", "judge"),
    [(1, 1, "online"), (8, 2, "online"), (1, 2, "off"), (2, 1, "offline")],
)
def test_one_prompts_fault_is_no_endpoints_with_few_slots_or_several_endpoints(
    store: RunStore, sim: SimulatedEndpoint, concurrency: int, endpoints: int, judge: Any
) -> None:
    settings: dict[str, Any] = {"n_turns": 1, "concurrency": concurrency, "patience_s": 2.0}
    run = planned(store, 6, judge=JudgeConfig(mode=judge), **settings)
    topic, n = poisoned_topic(store, run)
    poison = [{"contains": topic, "status": 500, "body": {"error": "it crashed"}}]
    sim.configure(canned=poison)
    work(spec(store, run, *[endpoint(sim, name) for name in "ab"[:endpoints]], max_attempts=3))
    progress = store.progress(run.run_id)
    assert (progress.done, progress.drop_reasons) == (6 - n, {"endpoint_error": n})


@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize("body", [{"choices": []}, {"error": {"message": "out of memory", "code": 500}}])
def test_an_endpoint_that_answers_nobody_stops_the_run_and_drops_nobody(
    store: RunStore, sim: SimulatedEndpoint, concurrency: int, body: dict[str, Any]
) -> None:
    run = planned(store, 4, n_turns=1, concurrency=concurrency, patience_s=1.0)
    sim.configure(canned=[{"body": body}])
    started = time.monotonic()
    with pytest.raises(RunStoppedError, match=r"no endpoint has given an answer for 1 s"):
        work(spec(store, run, endpoint(sim), max_attempts=3))
    assert time.monotonic() - started < 20
    progress = store.progress(run.run_id)
    assert (progress.done, progress.dropped, leased(store, run.run_id)) == (0, 0, 0)
    sim.configure(canned=[])
    work(spec(store, planned(store, 4, n_turns=1), endpoint(sim)))
    assert store.progress(run.run_id).done == 4


@pytest.mark.parametrize(
    "reason",
    [
        "error",
        "abort",
        "network_error",
        "insufficient_system_resource",
        "max_tokens",
        "MAX_TOKENS",
        "no_idea",
    ],
)
def test_fragments_do_not_pass_for_answers(store: RunStore, sim: SimulatedEndpoint, reason: str) -> None:
    run = planned(store, 6, judge=JudgeConfig(mode="off"), n_turns=2, patience_s=10.0)
    sim.configure(finish_reasons={reason: 0.2})
    work(spec(store, run, endpoint(sim)))
    assert sim.stats()["faults"]["finish_reason"] > 0
    progress = store.progress(run.run_id)
    assert progress.complete
    assert progress.done == 6 or "max" in reason.lower(), "a question that was cut twice is of no use"
    for dialogue in store.dialogues(run.run_id):
        for turn in dialogue.turns:
            assert turn.user[-1] in ".?!"
            assert turn.assistant[-1] in ".?!"
    failures = calls(store, run).total().failures
    assert failures["cut" if "max" in reason.lower() else "unknown_end" if reason == "no_idea" else "aborted"]


def test_an_unknown_reason_is_taken_as_the_configuration_says(
    store: RunStore, sim: SimulatedEndpoint
) -> None:
    run = planned(store, 3, judge=JudgeConfig(mode="off"), n_turns=1, patience_s=1.0)
    sim.configure(finish_reasons={"no_idea": 1.0})
    with pytest.raises(RunStoppedError, match=r"unknown finish_reason 'no_idea'.*finish_reasons"):
        work(spec(store, run, endpoint(sim)))
    assert store.progress(run.run_id).dropped == 0
    work(spec(store, run, endpoint(sim), finish_reasons={"no_idea": "stop"}))
    assert store.progress(run.run_id).done == 3


REFUSALS: dict[str, dict[str, Any]] = {
    "dashscope": {
        "status": 400,
        "body": {
            "error": {
                "code": "data_inspection_failed",
                "message": "Input text data may contain inappropriate content.",
                "type": "data_inspection_failed",
                "param": None,
            }
        },
    },
    "openai": {"status": 400, "body": {"error": {"message": "Invalid prompt", "code": "invalid_prompt"}}},
    "deepseek": {
        "status": 400,
        "body": {"error": {"message": "Content Exists Risk", "type": "invalid_request_error"}},
    },
    "zhipu": {"status": 400, "body": {"error": {"code": "1301", "message": "unsafe"}}},
    "xai": {
        "status": 403,
        "body": {
            "code": "The caller does not have permission to execute the specified operation",
            "error": "Content violates usage guidelines. Failed check: SAFETY_CHECK_TYPE_BIO",
        },
    },
    "gemini": {"body": {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}}},
    "the answer itself": {
        "body": {
            "choices": [{"finish_reason": "sensitive", "message": {"role": "assistant", "content": "I"}}]
        }
    },
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_a_filter_refuses_is_refused_for_good(
    store: RunStore, sim: SimulatedEndpoint, name: str
) -> None:
    run = planned(store, 8, n_turns=1)
    topic, n = poisoned_topic(store, run)
    sim.configure(canned=[{"contains": topic, **REFUSALS[name]}])
    work(spec(store, run, endpoint(sim)))
    progress = store.progress(run.run_id)
    assert (progress.done, progress.drop_reasons) == (8 - n, {"refused": n})
    before = sim.stats()["calls"]
    work(spec(store, planned(store, 8, n_turns=1), endpoint(sim)))
    assert sim.stats()["calls"] == before


LIMITS: dict[str, dict[str, Any]] = {
    "in a 200": {"body": {"error": {"code": 429, "message": "Too many requests"}}},
    "as text": {"body": {"error": {"code": "429", "message": "busy"}}},
    "by type": {"body": {"error": {"type": "rate_limit_error", "message": "busy"}}},
    "of a choice": {"body": {"choices": [{"error": {"code": 429}, "finish_reason": "error", "message": {}}]}},
    "a sentence": {"body": {"error": "Rate limit reached. Please retry after 0.1 seconds"}},
    "of AWS": {"status": 400, "body": {"__type": "ThrottlingException", "message": "Slow down"}},
    "with a reset": {"status": 429, "headers": {"x-ratelimit-reset-requests": "100ms"}, "body": {}},
    "of a gateway": {"status": 429, "headers": {"llm_provider-retry-after": "0.1"}, "body": {}},
    "absurd": {"status": 429, "headers": {"retry-after": "9" * 4000}, "body": {}},
    "an hour, once": {"status": 429, "headers": {"retry-after": "3600"}, "body": {}},
}


@pytest.mark.parametrize("name", LIMITS)
def test_limits_in_other_words_slow_a_run_down_and_cost_nothing(
    store: RunStore, sim: SimulatedEndpoint, name: str
) -> None:
    run = planned(store, 6, n_turns=1, patience_s=10.0)
    with simulated_endpoint(
        canned=[{**LIMITS[name], "every": 3, "times": 1 if "once" in name else 4}]
    ) as sim:
        work(spec(store, run, endpoint(sim)))
    assert store.progress(run.run_id).done == 6
    assert calls(store, run).total().failures["rate_limited"] == (1 if "once" in name else 4)


PARAMETERS: dict[str, list[dict[str, Any]]] = {
    "both": [
        {
            "sends": "top_p",
            "status": 400,
            "body": {"error": {"message": "`temperature` and `top_p` cannot both be specified."}},
        }
    ],
    "deprecated": [
        {
            "sends": "temperature",
            "status": 400,
            "body": {"error": {"message": "`temperature` is deprecated for this model."}},
        }
    ],
    "a schema's keywords": [
        {
            "sends": "minimum",
            "status": 400,
            "body": {"error": "For 'integer' type, properties maximum, minimum are not supported"},
        }
    ],
    "pydantic": [
        {
            "sends": "seed",
            "status": 422,
            "body": {"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs"}]},
        }
    ],
    "nothing named": [{"sends": "seed", "status": 400, "body": "Bad request"}],
    "two, not named": [
        {"sends": "temperature", "status": 400, "body": {"error": {"message": "no"}}},
        {"sends": "top_p", "status": 400, "body": {"error": {"message": "no"}}},
    ],
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_what_is_refused_and_can_be_done_without_is_left_out(
    store: RunStore, sim: SimulatedEndpoint, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    run = planned(store, 6, n_turns=1, concurrency=3)
    sim.configure(canned=PARAMETERS[name])
    work(spec(store, run, endpoint(sim)))
    progress = store.progress(run.run_id)
    assert (progress.done, progress.dropped) == (6, 0)
    assert sim.stats()["calls"] < 6 * 3 + 25
    assert "From now on it is asked: " in caplog.text
    (stats,) = store.worker_stats(run.run_id)
    assert stats["endpoints"][0]["lessons"]


_OVERFLOW = {
    "status": 400,
    "body": {"error": {"message": "maximum context length is 99 tokens", "code": "context_length_exceeded"}},
}


def test_a_context_too_small_for_a_role_stops_the_run_and_drops_nobody(
    store: RunStore, sim: SimulatedEndpoint
) -> None:
    run = planned(store, 5, judge=JudgeConfig(mode="off"), n_turns=1)
    before = sim.stats()["calls"]
    sim.configure(canned=[_OVERFLOW])
    with pytest.raises(RunStoppedError, match=r"no call of qa_generator was .*maximum context length"):
        work(spec(store, run, endpoint(sim)))
    progress = store.progress(run.run_id)
    assert (progress.done, progress.dropped, leased(store, run.run_id)) == (0, 0, 0)
    assert sim.stats()["calls"] - before <= 10
    sim.configure(canned=[])
    work(spec(store, planned(store, 5, judge=JudgeConfig(mode="off"), n_turns=1), endpoint(sim)))
    assert store.progress(run.run_id).done == 5


def test_what_did_not_fit_is_tried_again_when_the_set_up_has_changed_or_the_key_says_so(
    store: RunStore, sim: SimulatedEndpoint
) -> None:
    run = planned(store, 8, n_turns=1)
    topic, n = poisoned_topic(store, run)
    sim.configure(canned=[{"contains": topic, **_OVERFLOW}])
    work(spec(store, run, endpoint(sim)))
    assert store.progress(run.run_id).drop_reasons == {"context_overflow": n}
    before = sim.stats()["calls"]
    work(spec(store, planned(store, 8, n_turns=1), endpoint(sim)))
    assert sim.stats()["calls"] == before, "nothing has changed"
    moved = LLM.model_copy(update={"base_url": "http://127.0.0.1:2/v1"})
    again = prepare_run(store, run.generation, moved, read_seeds("", strict=True))
    assert again.run_id == run.run_id
    assert f"{n} dialogues that were dropped as context_overflow are tried again" in again.notes
    work(spec(store, again, endpoint(sim)))
    assert store.progress(run.run_id).drop_reasons == {"context_overflow": n}
    assert prepare_run(store, run.generation, moved, read_seeds("", strict=True)).retried == 0
    sim.configure(canned=[])
    forced = planned(store, 8, n_turns=1, retry_dropped=["context_overflow"])
    assert (forced.run_id, forced.retried) == (run.run_id, n)
    work(spec(store, forced, endpoint(sim)))
    assert store.progress(run.run_id).done == 8
