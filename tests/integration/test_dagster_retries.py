"""Steps are tried once more, and go on where they were; what trying again cannot mend is not."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dlgforge_dagster import steps as session
from dlgforge_dagster.definitions import build_definitions
from tests.support.simulated_endpoint import SimulatedEndpoint
from tests.support.waiting import wait_until


@pytest.fixture
def execute(
    dsn: str,
    sim: SimulatedEndpoint,
    instance: dg.DagsterInstance,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Any:
    monkeypatch.setattr(session, "RETRY_DELAY_S", 0.5)
    job = (
        build_definitions(str(tmp_path))
        .resolve_job_def("generate_dialogues")
        .get_subset(
            asset_selection={dg.AssetKey("seed_topics"), dg.AssetKey("dialogues")},
            asset_check_selection=set(),
        )
    )

    def run(**run: Any) -> dg.ExecuteInProcessResult:
        run = {"total_samples": 8, "target_languages": ["en"], "n_turns": 1, "patience_s": 1.0, **run}
        config = {
            "ops": {"dialogues": {"config": {"run": run}}},
            "resources": {
                "store": {"config": {"postgres": {"dsn": dsn}}},
                "llm": {"config": {"backend": "openai", "model": "m", "base_url": sim.base_url}},
            },
        }
        return job.execute_in_process(config, instance=instance, raise_on_error=False)

    return run


def tries(result: dg.ExecuteInProcessResult) -> int:
    kinds = (dg.DagsterEventType.STEP_START, dg.DagsterEventType.STEP_RESTARTED)
    return sum(event.step_key == "dialogues" and event.event_type in kinds for event in result.all_events)


def test_a_step_whose_endpoint_comes_back_goes_on(
    execute: Any, sim: SimulatedEndpoint, instance: dg.DagsterInstance
) -> None:
    sim.configure(latency_s=0.1)

    def away_and_back() -> None:
        wait_until(lambda: sim.stats()["served"] >= 9, 60, "some dialogues are made")
        sim.configure(down=True)
        retry = dg.DagsterEventType.STEP_UP_FOR_RETRY
        wait_until(
            lambda: any(instance.all_logs(r.run_id, retry) for r in instance.get_runs()), 60, "a retry"
        )
        sim.configure(down=False)

    thread = threading.Thread(target=away_and_back, daemon=True)
    thread.start()
    result = execute(concurrency=2)
    thread.join(60)
    assert result.success
    assert tries(result) == 2
    (made,) = [m for m in result.asset_materializations_for_node("dialogues") if m.partition is None]
    assert made.metadata["dialogues_done"].value == 8
    assert sim.stats()["served"] < 8 * 3 + 8, "what was committed is not made again"


def test_a_step_that_is_cancelled_is_not_tried_again(execute: Any, sim: SimulatedEndpoint) -> None:
    sim.configure(latency_s=0.2)

    def cancel_midway() -> None:
        wait_until(lambda: sim.stats()["served"] >= 3, 60, "some calls are made")
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=cancel_midway, daemon=True).start()
    with contextlib.suppress(dg.DagsterExecutionInterruptedError, KeyboardInterrupt):
        result = execute(concurrency=1)
        assert not result.success
        assert tries(result) == 1
    assert sim.stats()["served"] < 8 * 3


@pytest.mark.parametrize(
    ("options", "run", "message"),
    [
        ({"api_key": "another"}, {}, "correct the key"),
        ({}, {"min_turns": 9, "max_turns": 2}, "cannot be used"),
    ],
)
def test_what_trying_again_cannot_mend_fails_at_once(
    execute: Any, sim: SimulatedEndpoint, options: dict[str, Any], run: dict[str, Any], message: str
) -> None:
    sim.configure(**options)
    result = execute(**run)
    assert not result.success
    assert tries(result) == 1
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert message in str(failure.event_specific_data)
