"""Coverage of the documents, for the asset page of `dialogues`: how evenly they were used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from dlgforge_core.export.plots import coverage_png, markdown_image
from dlgforge_core.generation.prepare import PreparedRun
from dlgforge_core.knowledge.coverage import coverage_counts
from dlgforge_core.store.run_store import RunStore
from dlgforge_dagster.metadata import table

_SHOWN = 20  # documents at either end of the table


def coverage_metadata(store: RunStore, run: PreparedRun) -> Mapping[str, Any]:
    """Return a plot and a table of the documents' uses by everything made with this configuration.

    Empty if none.
    """
    if not run.source.index_id:
        return {}
    counts = coverage_counts(
        store.database,
        run.fingerprint,
        dataset=run.source.dataset,
        index_id=run.source.index_id,
        languages=run.generation.run.target_languages,
    )
    if not counts:
        return {}
    uses = [n for _, n in counts]
    return {
        "coverage": dg.MetadataValue.md(markdown_image(coverage_png(uses), "dialogues of each document")),
        "document_uses": _uses_table(counts),
        "documents": len(counts),
        "documents_used": sum(n > 0 for n in uses),
        "coverage_spread": round((max(uses) - min(uses)) * len(uses) / max(1, sum(uses)), 4),
    }


def _uses_table(counts: Sequence[tuple[str, int]]) -> dg.TableMetadataValue:
    shown = counts if len(counts) <= 2 * _SHOWN else [*counts[:_SHOWN], *counts[-_SHOWN:]]
    return table([{"document": name, "dialogues": n} for name, n in shown])
