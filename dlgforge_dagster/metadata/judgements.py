"""Metadata of `judgements`: scores of the judges, how far they agree, and the lowest scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from dlgforge_core.export.markdown import escape_inline
from dlgforge_core.export.plots import markdown_image
from dlgforge_core.judging.agreement import Agreement
from dlgforge_core.judging.judges import WHOLE
from dlgforge_core.judging.plots import judges_png
from dlgforge_core.judging.rating_agreement import DimensionFigures
from dlgforge_core.judging.results import LowScore
from dlgforge_core.judging.run import JudgingReport
from dlgforge_core.verdicts import MAX_SCORE
from dlgforge_dagster.metadata.dialogues import cost_metadata
from dlgforge_dagster.metadata.tables import table


def judgements_metadata(
    report: JudgingReport,
    found: Agreement,
    lowest: Sequence[LowScore],
    ratings: Mapping[str, DimensionFigures],
) -> Mapping[str, Any]:
    """Of a session of `judgements`. Plain numbers are plotted over time by Dagster itself."""
    total = report.calls.total()
    metadata: dict[str, Any] = {
        "plots": dg.MetadataValue.md(markdown_image(judges_png(found, ratings), "scores of the judges")),
        "judges": table(_judge_rows(report, found)),
        "verdicts": report.kept + report.given,
        "verdicts_given": report.given,
        "verdicts_kept": report.kept,
        "verdicts_missing": report.missing,
        "complete": report.missing == 0,
        "seconds": round(report.elapsed_s, 2),
        "calls": total.calls,
        "failed_calls": total.failures.total(),
        "prompt_tokens": total.prompt_tokens,
        "cached_tokens": total.cached_tokens,
        "completion_tokens": total.completion_tokens,
        **cost_metadata(report.calls),
        "fingerprint": report.fingerprint[:16],
    }
    if report.stop_reason is not None:
        metadata["stop_reason"] = report.stop_reason
    if found.mean is not None:
        metadata["mean_score"] = round(found.mean, 3)
    if found.alpha is not None:
        metadata["alpha"] = round(found.alpha, 4)
    if found.pairs:
        metadata["agreement"] = table(_pair_rows(found))
    if ratings:
        metadata["ratings"] = table(_rating_rows(ratings, found.judges))
    if lowest:
        names = {judge.key: judge.name for judge in report.judges}
        metadata["lowest_scores"] = dg.MetadataValue.md(_lowest_markdown(lowest, names))
    if report.failures:
        rows = [{"reason": reason, "verdicts": n} for reason, n in sorted(report.failures.items())]
        metadata["failed_by_reason"] = table(rows)
    return metadata


def _judge_rows(report: JudgingReport, found: Agreement) -> list[dict[str, Any]]:
    rows = []
    for judge in report.judges:
        tally = report.tallies[judge.key]
        rows.append(
            {
                "judge": judge.name,
                "model": judge.model,
                "mean score": _shown(found.mean_of(judge.name), 2),
                "given": tally.given,
                "kept": tally.kept,
                "failed": tally.failures.total(),
                "tokens in": tally.prompt_tokens,
                "tokens out": tally.completion_tokens,
            }
        )
    return rows


def _pair_rows(found: Agreement) -> list[dict[str, Any]]:
    rows = [
        {
            "judges": f"{pair.first}, {pair.second}",
            "judged by both": pair.units,
            "Krippendorff's alpha": _shown(pair.alpha, 3),
            "mean difference": _shown(pair.mean_difference, 2),
            "within 1 point": "" if pair.within_one is None else f"{pair.within_one:.0%}",
        }
        for pair in found.pairs
    ]
    if len(found.judges) > 2:
        rows.append(
            {
                "judges": "all",
                "judged by both": found.units,
                "Krippendorff's alpha": _shown(found.alpha, 3),
                "mean difference": "",
                "within 1 point": "",
            }
        )
    return rows


def _rating_rows(ratings: Mapping[str, DimensionFigures], judges: Sequence[str]) -> list[dict[str, Any]]:
    """Return the mean rating of every judge by dimension, and how far several agree in it."""
    rows = []
    for name, figures in ratings.items():
        row = {"dimension": name, **{judge: _shown(figures.mean_of(judge), 2) for judge in judges}}
        if len(judges) > 1:
            row |= {
                "judged by several": str(figures.units),
                "Krippendorff's alpha": _shown(figures.agreement.value(), 3),
            }
        rows.append(row)
    return rows


def _lowest_markdown(lowest: Sequence[LowScore], names: Mapping[str, str]) -> str:
    parts = []
    for low in lowest:
        what = "whole conversation" if low.turn_index == WHOLE else f"turn {low.turn_index + 1}"
        topic = escape_inline(low.topic or "(off the seed topic)", 120)
        lines = [f"**{topic}** ({escape_inline(low.language, 40)}, `{low.dialogue_id}`, {what})", ""]
        for key, verdict in low.verdicts.items():
            reasons = escape_inline(", ".join(verdict.reasons), 200)
            comment = escape_inline(verdict.comment, 300)
            lines.append(
                f"- {escape_inline(names[key], 60)}: {verdict.score}/{MAX_SCORE}, {reasons}. {comment}"
            )
        lines += [
            "",
            f"> user: {escape_inline(low.user, 400)}",
            ">",
            f"> assistant: {escape_inline(low.assistant, 400)}",
        ]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _shown(figure: float | None, digits: int) -> str:
    return "" if figure is None else f"{figure:.{digits}f}"
