"""What the dataset card says of diversity."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dlgforge_core.export.card_text import code, table
from dlgforge_core.quality.diversity import COMPARED, MESSAGE_CHARS, OPENING_WORDS, SAMPLE, TOP


def diversity_section(diversity: Mapping[str, Any]) -> Iterator[list[str]]:
    """Yield the parts of the section, of the figures in `Diversity.to_json`; none without a question."""
    languages = {
        name: part for name, part in diversity["by_language"].items() if part["questions"]["messages"]
    }
    if not languages:
        return
    yield ["## Diversity"]
    yield table(
        (
            "language",
            "questions",
            "distinct-1",
            "distinct-2",
            "distinct-3",
            "self-similarity",
            "nearest",
            f"top {TOP} openings",
            f"top {TOP} topics",
            "most frequent opening",
        ),
        [_row(language, part) for language, part in languages.items()],
    )
    yield [
        f"Of the questions of at most {SAMPLE} turns a language, chosen by a hash, and of each its first",
        f"{MESSAGE_CHARS} characters. Distinct-n: different runs of n words among all (Li et al., 2016).",
        f"Self-similarity: mean Jaccard similarity of the three-letter pieces of {COMPARED} of them, of all",
        f"pairs; nearest: of each to the one most like it. An opening is the first {OPENING_WORDS} words of",
        "a question; topics are counted by dialogue. In scripts without spaces a character counts as a word.",
    ]


def _row(language: str, part: Mapping[str, Any]) -> list[str]:
    questions, openings = part["questions"], part["openings"]
    most = [f"{code(one['opening'])} {one['share']:.1%}" for one in openings["top"][:1]]
    return [
        code(language),
        str(questions["messages"]),
        *(_number(questions[f"distinct_{n}"]) for n in (1, 2, 3)),
        _number(questions["self_similarity"]),
        _number(questions["nearest_similarity"]),
        _share(openings),
        _share(part["topics"]),
        "".join(most) or "none",
    ]


def _share(counts: Mapping[str, Any]) -> str:
    about = "" if counts["exact"] else "about "
    return f"{counts['top_share']:.1%} of {about}{counts['different']}" if counts["counted"] else "none"


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"
