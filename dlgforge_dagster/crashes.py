"""A run whose process ends by an exception that Dagster could not handle is marked as failed all the same.

So it is when Dagster's own storage fails, on a full disk say: nothing that goes wrong then can be written
down, and the run would count as under way.
"""

import os
import sys
import time
from datetime import UTC, datetime
from types import TracebackType

import dagster as dg
from dagster import DagsterEvent, DagsterEventType, DagsterRunStatus

from dlgforge_core.database.embedded import dlgforge_home, free_reserve
from dlgforge_core.errors import DlgforgeError

_TRIES = 3
_PAUSE_S = 1.0

_runs: dict[str, dg.DagsterInstance] = {}
_hook_before = sys.excepthook


def fail_on_crash(instance: dg.DagsterInstance, run_id: str) -> None:
    """Have the run marked as failed when this process, which works on it, ends by an exception."""
    global _hook_before
    _runs[run_id] = instance
    if sys.excepthook is not _crashed:
        _hook_before, sys.excepthook = sys.excepthook, _crashed


def _crashed(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    free_reserve(dlgforge_home(os.environ))  # what fails may be a full disk
    for run_id, instance in _runs.items():
        mark_failed(instance, run_id, f"The run's process failed: {error}")
    if isinstance(error, DlgforgeError):  # it says what is wrong and what would help
        print(f"Error: {error}", file=sys.stderr)
    else:
        _hook_before(kind, error, traceback)


def mark_failed(instance: dg.DagsterInstance, run_id: str, reason: str) -> None:
    """Mark a run that is under way as failed, if the storage lets us; never raises."""
    for number in range(_TRIES):
        try:
            run = instance.get_run_by_id(run_id)
            if run is not None and not run.is_finished:
                _report(instance, run, reason)
            return
        except Exception:
            if number + 1 < _TRIES:
                time.sleep(_PAUSE_S)


def _report(instance: dg.DagsterInstance, run: dg.DagsterRun, reason: str) -> None:
    try:
        instance.report_run_failed(run, reason)
    except Exception:
        # No room for another event. The status takes none: a row is written anew in its place.
        failed = DagsterEvent(DagsterEventType.RUN_FAILURE.value, run.job_name, message=reason)
        instance.run_storage.handle_run_event(run.run_id, failed, datetime.now(UTC))
    found = instance.get_run_by_id(run.run_id)
    if found is None or found.status is not DagsterRunStatus.FAILURE:
        raise RuntimeError("it was not written")
