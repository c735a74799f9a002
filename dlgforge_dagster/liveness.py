"""Liveness of runs: each holds a lock, which is free once its process is gone."""

from __future__ import annotations

import hashlib

import dagster as dg
from psycopg.conninfo import conninfo_to_dict

from dlgforge_core.database.locks import HeldLock
from dlgforge_core.database.named_locks import hold_liveness_lock, liveness_lock_is_free
from dlgforge_core.store.run_store import RunStore
from dlgforge_dagster.tags import LIVENESS_TAG

# Held to the end of the process, not of the step: a run goes on between its steps and after them.
_held: dict[str, HeldLock] = {}


def show_liveness(instance: dg.DagsterInstance, run_id: str, store: RunStore) -> None:
    """Have this process known as the one that works on a Dagster run, for as long as it lives."""
    if run_id in _held:
        return
    held = hold_liveness_lock(store.database, run_id)
    if held is None:  # another process of the same run
        return
    for other in [other for other in _held if _is_over(instance, other)]:
        _held.pop(other).release()
    _held[run_id] = held
    instance.add_run_tags(run_id, {LIVENESS_TAG: _mark(run_id, store.database.dsn)})


def is_watched(run: dg.DagsterRun, store: RunStore) -> bool:
    """Whether the processes of a run have shown that they live, and in this database."""
    return run.tags.get(LIVENESS_TAG) == _mark(run.run_id, store.database.dsn)


def has_no_process(run: dg.DagsterRun, store: RunStore) -> bool:
    """Whether no living process works on a run that is watched."""
    return liveness_lock_is_free(store.database, run.run_id)


def _is_over(instance: dg.DagsterInstance, run_id: str) -> bool:
    run = instance.get_run_by_id(run_id)
    return run is None or run.is_finished


def _mark(run_id: str, dsn: str) -> str:
    """Name the run and the database, without what is secret.

    A run that is tried again inherits tags, and a run config may name another database than the sensor's.
    """
    values = conninfo_to_dict(dsn)
    address = [str(values.get(key) or "") for key in ("hostaddr", "host", "port", "dbname")]
    return hashlib.sha256("\n".join([run_id, *address]).encode()).hexdigest()[:16]
