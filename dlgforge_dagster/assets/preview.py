"""Preview in a run of `preview_dialogues`: a few dialogues of the plan, and what the whole of it takes."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, Protocol

import dagster as dg

from dlgforge_core.generation.prepare import PreparedRun
from dlgforge_core.generation.preview_run import Preview, preview_run
from dlgforge_core.generation.preview_text import estimate_markdown, preview_markdown, preview_text
from dlgforge_core.generation.run import Status
from dlgforge_core.scheduling.background import Runner
from dlgforge_core.store.run_store import RunStore
from dlgforge_dagster.metadata.dialogues import cost_metadata
from dlgforge_dagster.progress import ProgressReport, progress_report
from dlgforge_dagster.steps import as_failure


class MakeRunner(Protocol):
    """What starts a runner."""

    def __call__(self, among: tuple[str, ...] = (), on_call: Any = None) -> Runner:
        """Return a runner of the whole run, or of the dialogues `among` it; `on_call` is told of calls."""


def in_this_process(run: PreparedRun) -> PreparedRun:
    """Return the run with its worker in this process: for a few dialogues no cluster is needed."""
    settings = run.generation.run
    distributed = settings.distributed.model_copy(update={"enabled": False})
    alone = settings.model_copy(update={"distributed": distributed})
    return dataclasses.replace(run, generation=run.generation.model_copy(update={"run": alone}))


def show(report: ProgressReport, status: Status) -> None:
    """Show where a session stands."""
    progress = status.progress
    figures = {"done": progress.done, "planned": progress.planned, "dropped": progress.dropped}
    report.show(status, progress.done + progress.dropped, progress.planned, figures)


def make_preview(
    context: dg.AssetExecutionContext,
    run: PreparedRun,
    run_store: RunStore,
    make_runner: MakeRunner,
    slots: int,
) -> None:
    """Make a preview and tell of it, in the log and on the asset's page."""
    with as_failure(context, dlgforge_run_id=run.run_id), progress_report(context) as report:
        preview = preview_run(run_store, run, make_runner, functools.partial(show, report), slots=slots)
    if (reason := preview.report.stop_reason) is not None:
        context.log.warning(f"stopped before the preview was complete: {reason}")
    context.log.info(f"preview of {len(preview.dialogues)} dialogues\n\n{preview_text(preview)}")
    context.log_event(dg.AssetObservation(context.asset_key, metadata=preview_metadata(preview)))


def preview_metadata(preview: Preview) -> Mapping[str, Any]:
    """Return the estimate as a table and in plain numbers, and the prompts beside what came back."""
    metadata: dict[str, Any] = {
        "estimate": dg.MetadataValue.md(estimate_markdown(preview)),
        "preview": dg.MetadataValue.md(preview_markdown(preview)),
        "complete": False,
        "dialogues_previewed": len(preview.dialogues),
        "dialogues_planned": preview.plan.n_dialogues,
        "dlgforge_run_id": preview.report.run_id,
        **cost_metadata(preview.calls),
    }
    if preview.estimate is None:
        return metadata
    for name, figure in preview.estimate.total.items():
        if name == "seconds" or (name == "dollars" and (preview.unpriced or not preview.costs_money)):
            continue
        key = {"dollars": "cost_usd"}.get(name, name)
        values = {"": figure.value, "_low": figure.low, "_high": figure.high}
        for end, value in values.items():
            metadata[f"estimated_{key}{end}"] = round(value, 6) if name == "dollars" else round(value)
    low, high = preview.seconds
    return {**metadata, "estimated_seconds_low": round(low, 1), "estimated_seconds_high": round(high, 1)}
