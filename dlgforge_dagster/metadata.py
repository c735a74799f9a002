"""Metadata of a materialization, for its asset page: pictures and samples first, then figures and tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg
import pyarrow as pa

from dlgforge_core.export.markdown import escape_inline, sample_markdown
from dlgforge_core.export.plots import markdown_image, overview_png
from dlgforge_core.export.schema import COLUMN_TEXTS, PARQUET_SCHEMA
from dlgforge_core.generation.endpoint_figures import EndpointFigures, endpoint_figures
from dlgforge_core.generation.prepare import PreparedRun
from dlgforge_core.generation.run import RunReport
from dlgforge_core.planning.seed_folder import SeedReading
from dlgforge_core.quality.figures import DialogueFigures
from dlgforge_core.runtime.serving.vllm_metrics import ReplicaMetrics
from dlgforge_core.store.results import Scope
from dlgforge_core.store.run_store import RunStore

N_SAMPLES = 3


def column_schema() -> dg.TableSchema:
    """Return the columns of the Parquet file, for Dagster's `dagster/column_schema`."""
    return dg.TableSchema(
        [
            dg.TableColumn(
                field.name,
                _type_name(field.type),
                description=COLUMN_TEXTS.get(field.name),
                constraints=dg.TableColumnConstraints(nullable=field.nullable, unique=field.name == "id"),
            )
            for field in PARQUET_SCHEMA
        ]
    )


def _type_name(kind: Any) -> str:
    if pa.types.is_list(kind):
        return f"list<{_type_name(kind.value_type)}>"
    if pa.types.is_struct(kind):
        return "struct<" + ", ".join(kind.field(i).name for i in range(kind.num_fields)) + ">"
    return str(kind)


def seed_topics_metadata(reading: SeedReading) -> Mapping[str, Any]:
    """Of seed files that were read."""
    batches, problems = reading.batches, reading.problems
    topics = [topic for batch in batches for topic in batch.topics]
    spread = topics[:: max(1, len(topics) // 8)]
    examples = "\n".join(
        f"- *{t.language}* **{escape_inline(t.topic, 200)}**: {escape_inline(t.question or '', 300)}"
        for t in spread
    )
    metadata: dict[str, Any] = {
        "examples": dg.MetadataValue.md(examples),
        "topics": len(topics),
        "seed_batches": [batch.name for batch in batches[:200]],
        "languages": count_table("language", "topics", Counter(topic.language for topic in topics)),
        "skipped_files": len(reading.unusable),
        "skipped_entries": len(problems) - len(reading.unusable),
    }
    if problems:
        metadata["problems"] = dg.MetadataValue.md(
            "\n".join(f"- {escape_inline(p, 500)}" for p in problems[:50])
        )
    return metadata


def dialogues_metadata(
    store: RunStore, run: PreparedRun, report: RunReport, replicas: Sequence[ReplicaMetrics]
) -> Mapping[str, Any]:
    """Of a sitting of `dialogues`. Plain numbers are plotted over time by Dagster itself."""
    progress, calls = report.progress, report.calls
    total, roles = calls.total(), calls.by_role()
    scope = Scope(run_id=run.run_id)
    figures = DialogueFigures.of(store.dialogues(scope))
    plots = overview_png(
        figures,
        drop_reasons=progress.drop_reasons,
        tokens_by_role={role: (c.prompt_tokens, c.completion_tokens) for role, c in roles.items()},
        throughput=store.throughput(scope),
    )
    metadata: dict[str, Any] = {
        "plots": dg.MetadataValue.md(markdown_image(plots, "plots of the dialogues")),
        "samples": dg.MetadataValue.md(sample_markdown(store.samples(scope, N_SAMPLES))),
        "dialogues_planned": progress.planned,
        "dialogues_done": progress.done,
        "dialogues_dropped": progress.dropped,
        "drop_rate": progress.dropped / progress.planned if progress.planned else 0.0,
        "turns": progress.turns,
        "complete": progress.complete,
        "seconds": round(report.elapsed_s, 2),
        "calls": total.calls,
        "failed_calls": total.failures.total(),
        "prompt_tokens": total.prompt_tokens,
        "completion_tokens": total.completion_tokens,
        "dlgforge_run_id": run.run_id,
        "models": {role.value: model for role, model in run.models.items()},
    }
    if report.stop_reason:
        metadata["stop_reason"] = report.stop_reason
    if figures.mean_score is not None:
        metadata["mean_score"] = round(figures.mean_score, 3)
    metadata |= _grounding(figures)
    metadata["done_by_language"] = count_table("language", "dialogues", progress.done_by_language)
    if progress.unjudged:
        metadata["unjudged"] = progress.unjudged
    if progress.drop_reasons:
        metadata["dropped_by_reason"] = count_table("reason", "dialogues", progress.drop_reasons)
    if roles:
        metadata["roles"] = _call_table("role", roles)
        metadata["endpoints"] = _endpoint_table(endpoint_figures(store.worker_stats(run.run_id)))
    if replicas:
        metadata["vllm_servers"] = _replica_table(replicas)
    return metadata


def dataset_metadata(figures: DialogueFigures) -> Mapping[str, Any]:
    """Of a dataset that was written."""
    metadata: dict[str, Any] = {
        "plots": dg.MetadataValue.md(markdown_image(overview_png(figures), "plots of the dataset")),
        "dagster/row_count": figures.n_dialogues,
        "dagster/column_schema": column_schema(),
        "turns": figures.n_turns,
        "mean_turns": round(figures.mean_turns, 3),
        "characters": figures.user_chars + figures.assistant_chars,
    }
    if figures.mean_score is not None:
        metadata["mean_score"] = round(figures.mean_score, 3)
    return metadata | _grounding(figures)


def _grounding(figures: DialogueFigures) -> dict[str, Any]:
    """Return what there is to tell of documents and tools; nothing where there were none."""
    details: dict[str, Any] = {}
    if figures.grounded_turns:
        details["grounded_turns"] = figures.grounded_turns
        details["cited_share"] = round(figures.cited_turns / figures.grounded_turns, 4)
    if figures.tool_calls:
        details["tool_calls"] = count_table("tool", "calls", figures.tool_calls)
    return details


def count_table(name: str, figure: str, counts: Mapping[str, int]) -> dg.TableMetadataValue:
    """Count by name, as a table."""
    return table([{name: key, figure: n} for key, n in sorted(counts.items())], {name: "", figure: "int"})


def _call_table(name: str, counts: Mapping[str, Any]) -> dg.TableMetadataValue:
    """Return calls, tokens and latency by role or endpoint; latency in seconds."""
    rows = [
        {
            name: key,
            "calls": c.calls,
            "tokens in": c.prompt_tokens,
            "tokens out": c.completion_tokens,
            "p50 s": round(c.latency.percentile(50), 3),
            "p90 s": round(c.latency.percentile(90), 3),
            "p99 s": round(c.latency.percentile(99), 3),
        }
        for key, c in counts.items()
    ]
    return table(rows)


def _endpoint_table(endpoints: Sequence[EndpointFigures]) -> dg.TableMetadataValue:
    """Return what each endpoint did in the run, and whether it was well at its end."""
    rows = []
    for endpoint in endpoints:
        c = endpoint.counts
        failures = ", ".join(f"{kind} {n}" for kind, n in c.failures.most_common())
        rows.append(
            {
                "endpoint": endpoint.name,
                "state": f"{endpoint.state}: {endpoint.reason}" if endpoint.reason else endpoint.state,
                "calls": c.calls,
                "retries": c.retries,
                "failures": failures or "none",
                "tokens out": c.completion_tokens,
                "tokens/s": round(endpoint.tokens_per_s, 1),
                "p50 s": round(c.latency.percentile(50), 3),
                "p90 s": round(c.latency.percentile(90), 3),
                "p99 s": round(c.latency.percentile(99), 3),
                "asked": "; ".join(endpoint.lessons) or "as configured",
            }
        )
    return table(rows)


def _replica_table(replicas: Sequence[ReplicaMetrics]) -> dg.TableMetadataValue:
    rows = [
        {
            "server": r.name,
            "tokens out": int(r.generation_tokens),
            "tokens/s": round(r.generation_tokens_per_s, 1),
            "prefix cache hits": f"{100 * r.prefix_cache_hit_rate:.1f} %",
        }
        for r in replicas
    ]
    return table(rows)


def table(
    rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str] | None = None
) -> dg.TableMetadataValue:
    """Return a table for the asset page.

    `columns` gives the type of each ("" is text), and is needed where there may be no row; else the first
    row tells.
    """
    kinds = {int: "int", float: "float"}
    columns = columns or {name: kinds.get(type(value), "") for name, value in rows[0].items()}
    return dg.MetadataValue.table(
        records=[dg.TableRecord(dict(row)) for row in rows],
        schema=dg.TableSchema([dg.TableColumn(name, kind or "string") for name, kind in columns.items()]),
    )
