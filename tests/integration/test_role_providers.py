"""Runs whose roles are asked at different servers: whose calls go where, and what a dead one costs."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from dlgforge_core.config import GenerationConfig, JudgeConfig, LlmConfig, validate
from dlgforge_core.dialogue import Role
from dlgforge_core.errors import RunRefusedError, RunStoppedError
from dlgforge_core.generation.endpoint_figures import endpoint_figures
from dlgforge_core.generation.prepare import PreparedRun, callers_of_run, prepare_run
from dlgforge_core.generation.worker_thread import WorkerSpec
from dlgforge_core.judging.judges import judges_of
from dlgforge_core.llm.endpoints import endpoints_from_config
from dlgforge_core.llm.providers import endpoints_of
from dlgforge_core.planning.seeds import read_seeds
from dlgforge_core.store.run_store import RunStore
from tests.support.judging import judge, judging
from tests.support.runs import calls, work
from tests.support.simulated_endpoint import SimulatedEndpoint, simulated_endpoint

KEYS = {"USER_KEY": "key-of-the-user", "ASSISTANT_KEY": "key-of-theirs", "JUDGE_KEY": "key-of-the-judge"}
NAMES = {"user": Role.USER_SIMULATOR, "assistant": Role.ASSISTANT, "judge": Role.JUDGE}
Sims = Mapping[str, SimulatedEndpoint]


@pytest.fixture(scope="module")
def servers() -> Iterator[Sims]:
    with simulated_endpoint() as user, simulated_endpoint() as assistant, simulated_endpoint() as judge:
        yield {"user": user, "assistant": assistant, "judge": judge}


@pytest.fixture
def sims(servers: Sims) -> Sims:
    for name, sim in servers.items():
        key = KEYS[f"{name.upper()}_KEY"]
        sim.configure(down=False, latency_s=0.0)
        sim.configure(api_key=key, models=[f"model-of-{name}"], faults={}, record_requests=200)
        sim.reset()
    return servers


def settings(sims: Sims, **of_judge: Any) -> LlmConfig:
    agents = {
        role.value: {
            "model": f"model-of-{name}",
            "endpoints": [{"name": name, "base_url": sims[name].base_url}],
            "api_key_env": f"{name.upper()}_KEY",
            **(of_judge if name == "judge" else {}),
        }
        for name, role in NAMES.items()
    }
    return validate(LlmConfig, {"agents": agents}, "llm")


def run_of(store: RunStore, llm: LlmConfig, total: int, **run: Any) -> WorkerSpec:
    turns = {} if "max_turns" in run else {"n_turns": 1}
    data = {"run": {"total_samples": total, "target_languages": ["en"], "patience_s": 1.5, **turns, **run}}
    generation = validate(GenerationConfig, data, "generation")
    batches = read_seeds("", strict=True)
    store.save_seed_batches(batches)
    return worker(store, prepare_run(store, generation, llm, batches), llm)


def worker(store: RunStore, run: PreparedRun, llm: LlmConfig) -> WorkerSpec:
    endpoints = endpoints_of(llm, callers_of_run(run.generation, llm), list, KEYS)
    return WorkerSpec(run=run, database=store.database, endpoints=tuple(endpoints), routing=llm.routing)


def asked(sims: Sims) -> dict[str, int]:
    return {name: sim.stats()["calls"] for name, sim in sims.items()}


def test_each_role_is_asked_at_its_own_endpoint_with_its_own_model_and_parameters(
    store: RunStore, sims: Sims
) -> None:
    llm = settings(sims, temperature=None, top_p=None, max_tokens=None)
    spec = run_of(store, llm, 6, n_turns=2)
    assert spec.run.models == {role: f"model-of-{name}" for name, role in NAMES.items()}
    work(spec)
    progress = store.progress(spec.run.run_id)
    assert (progress.done, progress.turns, progress.unjudged) == (6, 12, 0)
    # Not one call where another role's are answered: each would have been refused for its key.
    assert asked(sims) == {"user": 12, "assistant": 12, "judge": 12}
    assert [sim.stats()["by_role"] for sim in sims.values()] == [{role: 12} for role in NAMES.values()]
    stats = calls(store, spec.run)
    assert {key: counts.calls for key, counts in stats.by_key.items()} == {
        (name, role): 12 for name, role in NAMES.items()
    }
    figures = endpoint_figures(store.worker_stats(spec.run.run_id))
    assert [(one.name, one.state, one.counts.calls) for one in figures] == [
        (name, "well", 12) for name in ("assistant", "judge", "user")
    ]
    sent = [request["body"] for request in sims["judge"].requests()]
    assert not any({"temperature", "top_p", "max_tokens"} & body.keys() for body in sent)
    assert all(body["max_tokens"] == 512 for body in (r["body"] for r in sims["assistant"].requests()))


def test_a_judge_that_is_away_holds_up_nobody_else_drops_nothing_and_is_named(
    store: RunStore, sims: Sims
) -> None:
    llm = settings(sims)
    sims["judge"].configure(down=True)
    spec = run_of(store, llm, 12, concurrency=4)
    with pytest.raises(
        RunStoppedError, match=r"no endpoint for qa_judge has given an answer for 1\.5 s"
    ) as stop:
        work(spec)
    assert "judge (http://127.0.0.1" in str(stop.value)
    assert "assistant" not in str(stop.value)
    assert {name: n for name, n in asked(sims).items() if name != "judge"} == {"user": 12, "assistant": 12}
    progress = store.progress(spec.run.run_id)
    assert (progress.dropped, progress.done) == (0, 0)
    states = {one.name: one.state for one in endpoint_figures(store.worker_stats(spec.run.run_id))}
    assert states == {"user": "well", "assistant": "well", "judge": "left alone"}
    # It comes back, and is asked with more patience: it is the same run, and nothing is answered twice.
    sims["judge"].configure(down=False)
    again = run_of(store, settings(sims, timeout_s=9.0), 12, concurrency=4, resume_run_id=spec.run.run_id)
    assert (again.run.run_id, again.run.agents.qa_judge.timeout_s) == (spec.run.run_id, 9.0)
    work(again)
    progress = store.progress(spec.run.run_id)
    assert (progress.done, progress.turns, progress.unjudged) == (12, 12, 0)
    assert {name: n for name, n in asked(sims).items() if name != "judge"} == {"user": 12, "assistant": 12}


def test_slots_are_not_spent_on_waiting_for_one_role_while_others_can_be_asked(
    store: RunStore, sims: Sims
) -> None:
    plan: dict[str, Any] = {"min_turns": 1, "max_turns": 6, "concurrency": 4, "patience_s": 0.7}
    sims["assistant"].configure(down=True)
    with pytest.raises(RunStoppedError, match="no endpoint for kb_responder"):
        work(run_of(store, settings(sims), 12, **plan))
    assert asked(sims)["user"] == 12
    sims["assistant"].configure(down=False, latency_s=0.1)
    sims["user"].configure(down=True)
    # The longest dialogues come first, and soon want their next question.
    with pytest.raises(RunStoppedError, match="no endpoint for qa_generator"):
        work(run_of(store, settings(sims), 12, **plan))
    assert sims["assistant"].stats()["by_role"] == {"kb_responder": 12}
    assert sims["judge"].stats()["by_role"] == {"qa_judge": 12}


def test_a_key_that_one_roles_endpoint_refuses_stops_the_run_at_once_without_showing_it(
    store: RunStore, sims: Sims, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    sims["assistant"].configure(api_key="another-key")
    spec = run_of(store, settings(sims), 4)
    with pytest.raises(
        RunRefusedError, match=r"no endpoint for kb_responder can be used; correct the key"
    ) as stop:
        work(spec)
    assert store.progress(spec.run.run_id).dropped == 0
    shown = str(stop.value) + caplog.text + repr(spec)
    assert not any(key in shown for key in KEYS.values())


def test_a_role_has_attempts_and_time_of_its_own(store: RunStore, sims: Sims) -> None:
    # Every other of the judge's calls hangs for longer than its time.
    sims["judge"].configure(faults={"hang": 0.5})
    spec = run_of(store, settings(sims, timeout_s=0.3, max_attempts=8), 6, patience_s=20.0)
    work(spec)
    progress = store.progress(spec.run.run_id)
    assert (progress.done, progress.dropped, progress.unjudged) == (6, 0, 0)
    failures = calls(store, spec.run).by_endpoint()["judge"].failures
    assert failures["timeout"] > 0


def test_judges_at_providers_of_their_own_judge_what_is_there(
    store: RunStore, sims: Sims, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, key in KEYS.items():
        monkeypatch.setenv(name, key)
    llm = settings(sims)
    spec = run_of(store, llm, 4)
    work(spec)
    for sim in sims.values():
        sim.reset()
    panel = [
        {"name": name, "model": f"model-of-{name}", "base_url": sims[name].base_url, "api_key_env": key}
        for name, key in (("user", "USER_KEY"), ("assistant", "ASSISTANT_KEY"))
    ]
    config: JudgeConfig = judging(judges=[*panel, {"name": "ours"}])
    callers = {one.caller: one.agent for one in judges_of(config, llm)}
    endpoints = endpoints_of(llm, callers, lambda: endpoints_from_config(llm), os.environ)
    report = judge(store, spec.run, config, *endpoints, llm=llm)
    assert (report.given, report.missing) == (12, 0)
    assert asked(sims) == {"user": 4, "assistant": 4, "judge": 4}
