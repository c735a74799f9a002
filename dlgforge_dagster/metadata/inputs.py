"""Metadata of `seed_topics` and `knowledge_index`: what dialogues are made from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from dlgforge_core.export.markdown import escape_inline
from dlgforge_core.knowledge.types import IndexReport
from dlgforge_core.planning.seed_folder import SeedReading
from dlgforge_core.sources import SeedTopic
from dlgforge_dagster.metadata.tables import bullets, count_table


def seed_topics_metadata(reading: SeedReading) -> Mapping[str, Any]:
    """Of seed files that were read."""
    batches, problems = reading.batches, reading.problems
    topics = [topic for batch in batches for topic in batch.topics]
    spread = topics[:: max(1, len(topics) // 8)]
    examples = "\n".join(
        f"- *{t.language}* **{escape_inline(t.topic, 200)}**: {escape_inline(_question(t), 300)}"
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
        metadata["problems"] = bullets(problems[:50])
    return metadata


def _question(topic: SeedTopic) -> str:
    """Return an example of a question on a topic, or the one that begins its conversation."""
    return topic.question or next((one.user for one in topic.exchanges), "")


def knowledge_index_metadata(report: IndexReport, notes: Sequence[str]) -> Mapping[str, Any]:
    """Of documents that were read and indexed."""
    metadata: dict[str, Any] = {
        "index_id": report.index_id or "none",
        "documents": report.n_documents,
        "chunks": report.n_chunks,
        "files_read": report.n_read,
        "files_unchanged": report.n_unchanged,
        "files_removed": report.n_removed,
        "files_with_problems": report.n_broken,
        "files_not_read": report.n_unknown,
        "copies_left_out": report.n_copies,
        "seconds": round(report.seconds, 2),
        "bytes": report.bytes,
    }
    if report.by_language:
        named = {language or "unknown": n for language, n in report.by_language.items()}
        metadata["languages"] = count_table("language", "documents", named)
    if notes:
        metadata["notes"] = bullets(notes)
    if report.problems:
        metadata["problems"] = bullets(report.problems[:50])
    return metadata
