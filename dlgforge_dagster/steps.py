"""Sessions of `dialogues` and `judgements`: their run, a slot at the endpoints, reports, retries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import dagster as dg

from dlgforge_core.database.named_locks import generation_slot
from dlgforge_core.errors import DlgforgeError, RayError, RunRefusedError, RunStoppedError, StoreError
from dlgforge_core.store.results import Scope
from dlgforge_core.store.run_records import RunRecord
from dlgforge_core.store.run_store import RunStore
from dlgforge_dagster.resources.run_scoped import RunScopedResource

_MAX_RETRIES = 1
RETRY_DELAY_S = 30.0


def _failure(
    context: dg.AssetExecutionContext, error: DlgforgeError, metadata: Mapping[str, str]
) -> Exception:
    # Not by a RetryPolicy: with one Dagster also tries again what was cancelled.
    passing = isinstance(error, RayError | RunStoppedError) or (
        isinstance(error, StoreError) and error.transient
    )
    if passing and not isinstance(error, RunRefusedError) and context.retry_number < _MAX_RETRIES:
        context.log.warning(f"{error}\nThe step goes on where it was, in {RETRY_DELAY_S:g} s.")
        return dg.RetryRequested(max_retries=_MAX_RETRIES, seconds_to_wait=RETRY_DELAY_S)
    return dg.Failure(str(error), metadata=metadata, allow_retries=False)


@contextmanager
def as_failure(
    context: dg.AssetExecutionContext, *resources: RunScopedResource, **metadata: str
) -> Iterator[None]:
    """Have errors raised in plain words, with `metadata`, or as another try where they may pass.

    Another try begins with nothing of `resources` started: that may be what broke.
    """
    if context.retry_number:
        for resource in resources:
            resource.start_over()
    try:
        yield
    except DlgforgeError as error:
        raise _failure(context, error, metadata) from error


def run_and_scope(store: RunStore, run_id: str, purpose: str) -> tuple[RunRecord, Scope]:
    """Return the run `run_id` and its dialogues.

    With "" the latest run, and all that was made with its config.

    Raises dagster.Failure when there is no such run to `purpose` ("judge", say).
    """
    record = store.run(run_id or None)
    if record is None:
        known = ", ".join(store.run_ids()) or "none yet: materialize `dialogues` first"
        wanted = f"run {run_id!r}" if run_id else "run"
        raise dg.Failure(f"there is no {wanted} to {purpose}; runs: {known}", allow_retries=False)
    return record, Scope(run_id=record.run_id) if run_id else Scope(fingerprint=record.fingerprint)


@contextmanager
def endpoint_slot(context: dg.AssetExecutionContext, store: RunStore, slots: int) -> Iterator[None]:
    """One of `slots` among the runs that use the endpoints; the log shows the wait for it."""

    def on_wait() -> None:
        context.log.info(f"waiting: {slots} other run(s) use the endpoints (run.max_concurrent_runs)")

    with generation_slot(store.database, slots, on_wait):
        yield
