"""A run whose process ends by an exception is not left as under way."""

from __future__ import annotations

import sys
from typing import Any

import dagster as dg
import pytest

from dlgforge_core.errors import StoreError
from dlgforge_dagster import crashes


def under_way(instance: dg.DagsterInstance) -> str:
    run = dg.DagsterRun("job", status=dg.DagsterRunStatus.STARTED)
    instance.add_run(run)
    return run.run_id


def no_room(*_: Any, **__: Any) -> None:
    raise StoreError("could not extend file: its disk is full")


def status(instance: dg.DagsterInstance, run_id: str) -> str:
    run = instance.get_run_by_id(run_id)
    assert run is not None
    return run.status.value


@pytest.mark.parametrize("room_for_events", [True, False])
def test_it_is_failed_even_when_no_event_can_be_written(
    room_for_events: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        run_id = under_way(instance)
        if not room_for_events:
            monkeypatch.setattr(instance.event_log_storage, "store_event", no_room)
        crashes.mark_failed(instance, run_id, "the disk was full")
        assert status(instance, run_id) == "FAILURE"


def test_what_is_over_stays_as_it_is_and_nothing_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crashes, "_PAUSE_S", 0.0)
    with dg.DagsterInstance.ephemeral() as instance:
        run_id = under_way(instance)
        canceled = instance.get_run_by_id(run_id)
        assert canceled is not None
        instance.report_run_canceled(canceled, "by hand")
        crashes.mark_failed(instance, run_id, "it crashed at its end")
        assert status(instance, run_id) == "CANCELED"
        monkeypatch.setattr(instance, "get_run_by_id", no_room)
        crashes.mark_failed(instance, run_id, "nothing works any more")


@pytest.mark.parametrize(
    ("error", "shown"), [(StoreError("its disk is full"), "Error: its disk is full\n"), (KeyError("x"), "")]
)
def test_ours_are_reported_in_plain_words_others_with_their_traceback(
    error: Exception, shown: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    passed_on: list[type] = []
    monkeypatch.setattr(sys, "excepthook", lambda kind, error, traceback: passed_on.append(kind))
    monkeypatch.setattr(crashes, "_runs", {})
    with dg.DagsterInstance.ephemeral() as instance:
        run_id = under_way(instance)
        crashes.fail_on_crash(instance, run_id)
        crashes.fail_on_crash(instance, run_id)
        sys.excepthook(type(error), error, None)
        assert status(instance, run_id) == "FAILURE"
    assert capsys.readouterr().err == shown
    assert passed_on == ([] if shown else [KeyError])
