"""Metadata of `dialogue_dataset`: the files that were written, and what is in them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import dagster as dg
import pyarrow as pa

from dlgforge_core.dialogue import Dialogue
from dlgforge_core.export.diversity_plots import diversity_png
from dlgforge_core.export.markdown import sample_markdown
from dlgforge_core.export.plots import markdown_image, overview_png
from dlgforge_core.export.schema import COLUMN_TEXTS, PARQUET_SCHEMA
from dlgforge_core.export.writer import DatasetSummary
from dlgforge_core.quality.diversity import MAX_N, TOP
from dlgforge_core.usage import total_usage
from dlgforge_dagster.metadata.dialogues import course_metadata, grounding_metadata, rubric_metadata
from dlgforge_dagster.metadata.tables import count_table, table


def dataset_metadata(summary: DatasetSummary, samples: Iterable[Dialogue]) -> Mapping[str, Any]:
    """Of a dataset that was written."""
    figures = summary.figures
    metadata: dict[str, Any] = {
        "plots": dg.MetadataValue.md(markdown_image(overview_png(figures), "plots of the dataset")),
        "dagster/row_count": figures.n_dialogues,
        "dagster/column_schema": _column_schema(),
        "turns": figures.n_turns,
        "mean_turns": round(figures.mean_turns, 3),
        "characters": figures.user_chars + figures.assistant_chars,
        "words": summary.sizes.words.total(),
        "tokens": summary.sizes.tokens.total(),
        "tokens_are": summary.sizes.counted_by,
    }
    if figures.mean_score is not None:
        metadata["mean_score"] = round(figures.mean_score, 3)
    return {
        **metadata,
        **rubric_metadata(figures),
        **_preferences(summary),
        **_usage(summary),
        **grounding_metadata(figures),
        **course_metadata(figures, summary.conversation),
        **_diversity(summary.diversity),
        "samples": dg.MetadataValue.md(sample_markdown(samples)),
        "languages": count_table("language", "dialogues", summary.by_language),
        **_counts(summary),
        "folder": dg.MetadataValue.path(summary.folder.absolute()),
        "files": _file_table(summary),
    }


def _preferences(summary: DatasetSummary) -> dict[str, Any]:
    """Return how many questions got several answers, and how many pairs there are; nothing without any."""
    figures = summary.preferences
    if not figures.turns:
        return {}
    return {
        "turns_with_candidates": figures.turns,
        "revised_turns": figures.revised,
        "preference_pairs": figures.pairs,
        "turns_without_pair": figures.without.total(),
    }


def _usage(summary: DatasetSummary) -> dict[str, Any]:
    """Return what was called for the dataset's dialogues, by role, and what they cost."""
    if not summary.usage:
        return {}
    total = total_usage(summary.usage.values())
    rows = [
        {
            "role": role,
            "calls": one.calls,
            "tokens in": one.prompt_tokens,
            "tokens out": one.completion_tokens,
            **({"cost": str(one.spending)} if total.spending else {}),
        }
        for role, one in (*summary.usage.items(), ("total", total))
    ]
    return {**({"cost_usd": round(total.dollars, 8)} if total.dollars else {}), "calls": table(rows)}


def _diversity(diversity: Mapping[str, Any]) -> dict[str, Any]:
    """Return a table and a plot; nothing where there is no question."""
    rows = [
        {"language": language, **row}
        for language, part in diversity["by_language"].items()
        if (row := _diversity_row(part))
    ]
    if not rows:
        return {}
    columns = {name: "" if name in ("language", "most frequent opening") else "float" for name in rows[0]}
    picture = markdown_image(diversity_png(diversity), "plots of the dataset's diversity")
    return {
        "diversity": table(rows, columns | {"questions": "int", "openings": "int", "topics": "int"}),
        "diversity_plots": dg.MetadataValue.md(picture),
    }


def _diversity_row(part: Mapping[str, Any]) -> dict[str, Any]:
    questions, openings, topics = part["questions"], part["openings"], part["topics"]
    if not questions["messages"]:
        return {}
    most = openings["top"][0] if openings["top"] else {"opening": "", "share": 0.0}
    return {
        "questions": questions["messages"],
        **{f"distinct-{n}": questions[f"distinct_{n}"] for n in range(1, MAX_N + 1)},
        "self-similarity": questions["self_similarity"],
        "nearest": questions["nearest_similarity"],
        "openings": openings["different"],
        f"top {TOP} openings": openings["top_share"],
        "topics": topics["different"],
        f"top {TOP} topics": topics["top_share"],
        "most frequent opening": f"{most['opening']} ({most['share']:.1%})",
    }


def filters_metadata(refused: Mapping[str, int]) -> dict[str, Any]:
    """Count the dialogues that filters left out; nothing where none was."""
    return {"filters": count_table("filter", "dialogues", refused)} if refused else {}


def _counts(summary: DatasetSummary) -> Mapping[str, Any]:
    """Return what splits, filters and documents there are to tell of."""
    counted: dict[str, Any] = {}
    if len(summary.by_split) > 1:
        counted["splits"] = count_table("split", "dialogues", summary.by_split)
    if summary.refused:
        counted["filtered_out"] = sum(summary.refused.values())
        counted |= filters_metadata(summary.refused)
    if summary.documents:
        counted["documents_used"] = len(summary.documents)
    return counted


def _file_table(summary: DatasetSummary) -> dg.TableMetadataValue:
    rows = [
        {"format": file.format, "split": file.split, "file": file.name, "bytes": file.bytes}
        for file in summary.files
    ]
    return table(rows, {"format": "", "split": "", "file": "", "bytes": "int"})


def _column_schema() -> dg.TableSchema:
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
