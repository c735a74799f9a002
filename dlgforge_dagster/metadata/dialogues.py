"""Metadata of `dialogues`: plots and samples first, then figures and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from dlgforge_core.config.conversation import ENDED_BY
from dlgforge_core.dialogue import Ending
from dlgforge_core.export.attribute_plot import attributes_png
from dlgforge_core.export.markdown import sample_markdown
from dlgforge_core.export.plots import coverage_png, markdown_image, overview_png
from dlgforge_core.generation.endpoint_figures import EndpointFigures, endpoint_figures
from dlgforge_core.generation.prepare import PreparedRun
from dlgforge_core.generation.run import RunReport
from dlgforge_core.knowledge.coverage import coverage_counts
from dlgforge_core.llm.stats import CallStats, Counts
from dlgforge_core.quality.figures import DialogueFigures
from dlgforge_core.review import HOST, PORT
from dlgforge_core.runtime.serving.vllm_metrics import ReplicaMetrics
from dlgforge_core.store.results import Scope
from dlgforge_core.store.run_records import Progress
from dlgforge_core.store.run_store import RunStore
from dlgforge_dagster.metadata.tables import count_table, table

N_SAMPLES = 3
_MOST_USED = 20  # tools in the table of calls
_AT_EITHER_END = 20  # documents in the table of their uses

_REVIEW = (
    "`make review`, or `python -m dlgforge_core.review`, prints the address of a page to read, search, "
    "mark and edit them. Once you have opened it, [the dialogues of this run]({address}/?run={run_id}) are "
    "there."
)


def dialogues_metadata(
    store: RunStore, run: PreparedRun, report: RunReport, replicas: Sequence[ReplicaMetrics]
) -> Mapping[str, Any]:
    """Of a session of `dialogues`. Plain numbers are plotted over time by Dagster itself."""
    progress, calls = report.progress, report.calls
    total, roles = calls.total(), calls.by_role()
    scope = Scope(run_id=run.run_id)
    figures = DialogueFigures.of(store.dialogues(scope))
    plots = overview_png(
        figures,
        drop_reasons={**progress.drop_reasons, **_unaccepted(progress)},
        tokens_by_role={role: (c.prompt_tokens, c.completion_tokens) for role, c in roles.items()},
        throughput=store.throughput(scope),
    )
    metadata: dict[str, Any] = {
        "plots": dg.MetadataValue.md(markdown_image(plots, "plots of the dialogues")),
        "samples": dg.MetadataValue.md(sample_markdown(store.samples(scope, N_SAMPLES))),
        "review": dg.MetadataValue.md(_REVIEW.format(address=f"http://{HOST}:{PORT}", run_id=run.run_id)),
        "dialogues_planned": progress.planned,
        "dialogues_done": progress.done,
        "dialogues_dropped": progress.dropped,
        "drop_rate": progress.dropped / every if (every := progress.planned + progress.spares) else 0.0,
        "turns": progress.turns,
        "complete": progress.complete,
        "seconds": round(report.elapsed_s, 2),
        "calls": total.calls,
        "failed_calls": total.failures.total(),
        "prompt_tokens": total.prompt_tokens,
        "completion_tokens": total.completion_tokens,
        **cost_metadata(calls),
        "dlgforge_run_id": run.run_id,
        "models": {role.value: model for role, model in run.models.items()},
    }
    if report.stop_reason:
        metadata["stop_reason"] = report.stop_reason
    if figures.mean_score is not None:
        metadata["mean_score"] = round(figures.mean_score, 3)
    metadata |= rubric_metadata(figures)
    metadata |= grounding_metadata(figures)
    metadata |= course_metadata(figures, run.generation.conversation.columns)
    metadata["done_by_language"] = count_table("language", "dialogues", progress.done_by_language)
    if run.generation.run.accept.active:
        metadata |= acceptance_metadata(store, run.run_id, progress)
    if run.generation.attributes:
        metadata |= attribute_metadata(store, run)
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


def _unaccepted(progress: Progress) -> dict[str, int]:
    return {"not accepted": progress.unaccepted} if progress.unaccepted else {}


def acceptance_metadata(store: RunStore, run_id: str, progress: Progress) -> dict[str, Any]:
    """Return how many dialogues were made for those that were accepted, and why the others were not."""
    by_part = [
        {
            "language": part.language,
            "seed batch": part.batch,
            "planned": part.planned,
            "made": part.made,
            "accepted": part.done,
        }
        for part in store.parts(run_id)
    ]
    details: dict[str, Any] = {
        "dialogues_made": progress.made,
        "dialogues_accepted": progress.done,
        "accepted_by_part": table(by_part),
    }
    why_not = {
        **progress.shortcomings,
        **{f"dropped: {name}": n for name, n in progress.drop_reasons.items()},
    }
    if why_not:
        details["not_accepted_by_reason"] = count_table("reason", "dialogues", why_not)
    if missing := progress.shortfall:
        details["shortfall"] = missing
        details["shortfall_by_topic"] = table(
            [
                {
                    "language": short.language,
                    "seed batch": short.batch,
                    "topic": short.topic,
                    "missing": short.samples,
                    "attempts": short.attempts,
                    "last for": ", ".join(f"{name} {n}" for name, n in short.reasons.items()),
                }
                for short in store.shortfall(run_id)
            ]
        )
    return details


def rubric_metadata(figures: DialogueFigures) -> dict[str, Any]:
    """Return ratings by dimension, and how much is good enough; nothing without a rubric."""
    if not figures.ratings:
        return {}
    details: dict[str, Any] = {
        "ratings": table(
            [
                {
                    "dimension": name,
                    "mean": round(rated.mean, 3),
                    "lowest": rated.lowest,
                    "highest": rated.highest,
                    "verdicts": rated.count,
                }
                for name, rated in sorted(figures.ratings.items())
            ]
        )
    }
    for part in ("question", "answer"):
        if (share := figures.share_ok(part)) is not None:
            details[f"{part}_ok_share"] = round(share, 4)
    return details


def attribute_metadata(store: RunStore, run: PreparedRun) -> dict[str, Any]:
    """Return how many dialogues were planned, and kept, of each value of each attribute."""
    found = store.attribute_counts(run.run_id)
    counts = {
        name: {value: found.get(name, {}).get(value, (0, 0)) for value in attribute.values}
        for name, attribute in run.generation.attributes.items()
    }
    rows = [
        {"attribute": name, "value": value, "planned": planned, "kept": kept}
        for name, values in counts.items()
        for value, (planned, kept) in values.items()
    ]
    plot = markdown_image(attributes_png(counts), "dialogues by attribute, planned and kept")
    return {"attributes": table(rows), "attributes_plot": dg.MetadataValue.md(plot)}


def course_metadata(figures: DialogueFigures, columns: Sequence[str]) -> dict[str, Any]:
    """Count who ended dialogues, and whether users met their goals, where `columns` tell of it."""
    details: dict[str, Any] = {}
    if ENDED_BY in columns:
        ended = {ending.value: figures.ended_by[ending] for ending in Ending}
        details["ended_by"] = count_table("ended by", "dialogues", ended)
    if figures.goals:
        details["goals"] = count_table("goal", "dialogues", figures.goals)
        if (share := figures.goal_met_share) is not None:
            details["goal_met_share"] = round(share, 4)
    return details


def grounding_metadata(figures: DialogueFigures) -> dict[str, Any]:
    """Return what there is to tell of documents and tools; nothing where there were none."""
    details: dict[str, Any] = {}
    if figures.grounded_turns:
        details["grounded_turns"] = figures.grounded_turns
        details["cited_share"] = round(figures.cited_turns / figures.grounded_turns, 4)
    return {**details, **tool_metadata(figures)}


def tool_metadata(figures: DialogueFigures) -> dict[str, Any]:
    """Return which tools were called most, what went wrong, and how often one answer called some."""
    if not figures.tool_calls:
        return {}
    details: dict[str, Any] = {
        "tool_calls": table(
            [
                {"tool": name, "calls": calls, "errors": figures.tool_errors[name]}
                for name, calls in figures.tool_calls.most_common(_MOST_USED)
            ]
        ),
        "tool_rounds": count_table("rounds of an answer", "answers", _by_number(figures.call_rounds)),
    }
    if (mean := figures.mean_rounds) is not None:
        details["tool_rounds_mean"] = round(mean, 3)
    if problems := figures.tool_problems:
        details["tool_problems"] = count_table("problem", "calls", {p.value: n for p, n in problems.items()})
        details["tool_problem_share"] = round(problems.total() / figures.tool_calls.total(), 4)
    return details


def _by_number(counts: Mapping[int, int]) -> dict[str, int]:
    return {str(number): counts[number] for number in sorted(counts)}


def cost_metadata(calls: CallStats) -> dict[str, Any]:
    """Return what calls cost, in US dollars, and how many of them had a price that is not known.

    Nothing where all were to servers of one's own.
    """
    spent = calls.spending
    by_role = {role: round(c.dollars, 8) for role, c in calls.by_role().items() if c.dollars}
    return {
        **({"cost_usd": round(spent.dollars, 8), "cost_usd_by_role": by_role} if spent.dollars else {}),
        **({"calls_of_unknown_price": spent.unpriced} if spent.unpriced else {}),
    }


def _call_table(name: str, counts: Mapping[str, Counts]) -> dg.TableMetadataValue:
    """Return calls, tokens, cost and latency by role or endpoint; latency in seconds."""
    priced = any(c.spending for c in counts.values())
    rows = [
        {
            name: key,
            "calls": c.calls,
            "tokens in": c.prompt_tokens,
            "tokens out": c.completion_tokens,
            **({"cached": c.cached_tokens, "cost": str(c.spending)} if priced else {}),
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
    shown = (
        counts if len(counts) <= 2 * _AT_EITHER_END else [*counts[:_AT_EITHER_END], *counts[-_AT_EITHER_END:]]
    )
    return table([{"document": name, "dialogues": n} for name, n in shown])
