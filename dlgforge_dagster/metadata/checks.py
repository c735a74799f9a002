"""Metadata of a check's result: its figures, and examples of what was found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dagster as dg

from dlgforge_core.quality.collectors import CheckReport


def check_metadata(report: CheckReport, run_id: str = "") -> Mapping[str, Any]:
    """Of a check's report; `run_id` is the run that it looked at, where it was one alone."""
    metadata: dict[str, Any] = dict(report.figures)
    if report.examples:
        rows = [
            dg.TableRecord(
                {"problem": e.problem, "text": e.excerpt, "turn": e.turn, "dialogue": e.dialogue_id}
            )
            for e in report.examples
        ]
        metadata["examples"] = dg.MetadataValue.table(records=rows)
    if run_id:
        metadata["dlgforge_run_id"] = run_id
    return metadata
