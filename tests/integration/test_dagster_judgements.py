"""The asset `judgements` in one process, against a simulated endpoint."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from typing import Any

import dagster as dg
import pytest

from dlgforge_core.config import GenerationConfig, JudgeConfig, Recipe, validate
from dlgforge_core.database.named_locks import generation_slot
from dlgforge_core.store.run_store import RunStore
from dlgforge_dagster import steps as session
from dlgforge_dagster.assets.judgements import build_judgements
from dlgforge_dagster.checks import build_checks
from dlgforge_dagster.config import config_class, plain
from dlgforge_dagster.dataset import DatasetSpec
from dlgforge_dagster.judgement_checks import build_judgement_checks
from dlgforge_dagster.resources import LlmResource, RayResource, StoreResource
from tests.support.judging import generated, verdicts
from tests.support.simulated_endpoint import SimulatedEndpoint, simulated_endpoint

TWO = [{"name": "strict", "model": "judge-a"}, {"name": "kind", "model": "judge-b"}]


def materialize(
    store: RunStore,
    base_url: str,
    instance: dg.DagsterInstance | None = None,
    *,
    spec: DatasetSpec | None = None,
    **judge: Any,
) -> dg.ExecuteInProcessResult:
    spec = spec or DatasetSpec()
    return dg.materialize(
        [build_judgements(spec), build_judgement_checks(spec)],
        resources={
            "ray": RayResource(),
            "store": StoreResource(postgres={"dsn": store.database.dsn}),
            "llm": LlmResource(backend="openai", model="simulated", base_url=base_url),
        },
        run_config={"ops": {"judgements": {"config": {"patience_s": 3.0, **judge}}}},
        instance=instance,
        raise_on_error=False,
    )


def metadata(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    (event,) = result.get_asset_materialization_events()
    return {key: value.value for key, value in event.materialization.metadata.items()}


def test_the_asset_judges_and_shows_what_came_out(store: RunStore, sim: SimulatedEndpoint) -> None:
    generated(store, sim, 10)
    shown = metadata(materialize(store, sim.base_url, mode="offline", judges=TWO))
    assert sim.stats()["calls"] == 40
    assert (shown["verdicts_given"], shown["verdicts_missing"], shown["complete"]) == (40, 0, True)
    assert shown["calls"] == 40
    assert shown["prompt_tokens"] > 0
    assert "data:image/png;base64," in shown["plots"]
    assert [row.data["judge"] for row in shown["judges"].records] == ["strict", "kind"]
    assert sum(row.data["given"] for row in shown["judges"].records) == 40
    assert shown["agreement"].records[0].data["judged by both"] == 20
    assert -1 <= shown["alpha"] <= 1
    assert "**" in shown["lowest_scores"]
    assert "strict" in shown["lowest_scores"]
    again = metadata(materialize(store, sim.base_url, mode="offline", judges=TWO))
    assert (again["verdicts_given"], again["verdicts_kept"]) == (0, 40)
    assert sim.stats()["calls"] == 40


@pytest.mark.parametrize(("score", "passes"), [(2, False), (9, True)])
def test_the_offline_verdicts_are_checked_once_they_are_there(
    store: RunStore, score: int, passes: bool
) -> None:
    recipe = Recipe(judge=validate(JudgeConfig, {"mode": "offline"}, "judge"))
    with simulated_endpoint(verdict={"score": score}) as endpoint:
        generated(store, endpoint, 3)
        result = materialize(store, endpoint.base_url, mode="offline", spec=DatasetSpec("", recipe))
    (found,) = result.get_asset_check_evaluations()
    assert (found.asset_key.path, found.check_name, found.passed) == (
        ["judgements"],
        "judge_pass_rate",
        passes,
    )
    assert found.metadata["verdicts"].value == 6
    on_dialogues = build_checks(DatasetSpec("", recipe))[0]
    assert "judge_pass_rate" not in {key.name for key in on_dialogues.check_keys}


def test_without_offline_verdicts_the_check_says_where_to_look(
    store: RunStore, sim: SimulatedEndpoint
) -> None:
    (found,) = materialize(store, sim.base_url, mode="off").get_asset_check_evaluations()
    assert found.passed
    assert "see the check of `dialogues`" in (found.description or "")
    on_dialogues = build_checks(DatasetSpec())[0]
    assert "judge_pass_rate" in {key.name for key in on_dialogues.check_keys}


def test_judges_that_give_no_verdict_do_not_pass(store: RunStore, sim: SimulatedEndpoint) -> None:
    generated(store, sim, 2)
    with simulated_endpoint(faults={"bad_json": 1.0}) as broken:
        result = materialize(store, broken.base_url, mode="offline")
    (found,) = result.get_asset_check_evaluations()
    assert not found.passed
    assert "gave no verdict" in (found.description or "")


@pytest.mark.timeout(60)
def test_it_shares_the_endpoints_with_as_many_runs_as_the_dialogues(
    store: RunStore, sim: SimulatedEndpoint
) -> None:
    generated(store, sim, 2, max_concurrent_runs=2)  # as set in the launchpad: the recipe says 1
    with generation_slot(store.database, 1, lambda: None):
        assert metadata(materialize(store, sim.base_url, mode="offline"))["verdicts_given"] == 4


@pytest.mark.parametrize("mode", ["online", "off"])
def test_in_another_mode_it_does_nothing_and_says_so(store: RunStore, mode: str) -> None:
    # Neither a run nor an endpoint is there: looking for either would fail.
    shown = metadata(materialize(store, "http://127.0.0.1:1/v1", mode=mode))
    assert f"in mode {mode!r}" in shown["note"]
    assert verdicts(store) == {}


def test_several_judges_in_mode_online_are_an_error_that_says_so(store: RunStore) -> None:
    result = materialize(store, "http://127.0.0.1:1/v1", judges=TWO)
    assert not result.success
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert "mode online" in str(failure.event_specific_data)
    assert "set mode to offline" in str(failure.event_specific_data)


def test_a_dead_endpoint_fails_the_step_with_the_reason(
    store: RunStore, sim: SimulatedEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "RETRY_DELAY_S", 0.0)
    generated(store, sim, 4)
    sim.configure(down=True)
    started = time.monotonic()
    result = materialize(store, sim.base_url, mode="offline", patience_s=1.0)
    assert time.monotonic() - started < 20
    assert [event.event_type for event in result.all_events].count(dg.DagsterEventType.STEP_UP_FOR_RETRY) == 1
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert "Run the same configuration again" in str(failure.event_specific_data)


def test_cancelling_ends_within_seconds_and_keeps_what_was_judged(
    store: RunStore, sim: SimulatedEndpoint
) -> None:
    generated(store, sim, 40)
    sim.configure(latency_s=0.1)

    def cancel_midway() -> None:
        while sim.stats()["served"] < 20:
            time.sleep(0.02)
        ended.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    ended: list[float] = []
    canceller = threading.Thread(target=cancel_midway, daemon=True)
    canceller.start()
    with dg.instance_for_test() as instance:
        result: object = None
        with contextlib.suppress(dg.DagsterExecutionInterruptedError, KeyboardInterrupt):
            result = materialize(store, sim.base_url, instance, mode="offline")
        assert not isinstance(result, dg.ExecuteInProcessResult) or not result.success
    canceller.join(5)
    assert time.monotonic() - ended[0] < 30
    kept = len(verdicts(store))
    assert 10 <= kept < 80
    sim.configure(latency_s=0.0)
    assert metadata(materialize(store, sim.base_url, mode="offline"))["verdicts_given"] == 80 - kept


def test_judges_reach_the_core_from_the_run_config_and_from_a_recipe() -> None:
    data = {"mode": "offline", "judges": [{"name": "a", "model": "m", "temperature": 0.3}]}
    judge = validate(JudgeConfig, data, "judge")
    for base in (config_class(judge)(), config_class(JudgeConfig)(**data)):
        assert validate(JudgeConfig, plain(base, JudgeConfig), "judge") == judge
    whole = GenerationConfig(judge=judge)
    made = config_class(whole)()
    assert validate(GenerationConfig, plain(made, GenerationConfig), "generation").judge == judge
