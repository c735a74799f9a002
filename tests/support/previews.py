"""Previews of runs, made in this process."""

from __future__ import annotations

from dataclasses import replace

from dlgforge_core.generation.preview_run import Preview, preview_run
from dlgforge_core.generation.worker_thread import WorkerSpec, WorkerThread
from dlgforge_core.store.run_store import RunStore


def preview(store: RunStore, worker: WorkerSpec) -> Preview:
    """Return a preview of the worker's run."""
    return preview_run(
        store,
        worker.run,
        lambda few, keep: WorkerThread(replace(worker, among=few, on_call=keep)),
        lambda status: None,
        slots=worker.run.generation.run.concurrency,
        poll_s=0.02,
        first_report_s=0.1,
    )
