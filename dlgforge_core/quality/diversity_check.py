"""The check of a dataset's diversity: which languages say the same over and over, and what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dlgforge_core.config import ChecksConfig
from dlgforge_core.quality.collectors import EXCERPT_CHARS, CheckReport, Finding

NAME = "diversity"
MIN_QUESTIONS = 20
"""Questions that a language must have for its shares to say anything."""


def check_diversity(diversity: Mapping[str, Any], config: ChecksConfig) -> CheckReport:
    """Return how the figures in `Diversity.to_json` keep to the thresholds; examples name what repeats."""
    languages: Mapping[str, Any] = diversity.get("by_language", {})
    enough = {
        language: part
        for language, part in languages.items()
        if part["questions"]["messages"] >= MIN_QUESTIONS
    }
    found = [finding for language, part in enough.items() for finding in _too_alike(language, part, config)]
    figures = {
        f"{name}_{language}": value
        for language, part in languages.items()
        for name, value in _figures(part)
        if value is not None
    }
    problems = list(dict.fromkeys(finding.problem for finding in found))
    summary = "; ".join(problems) or _fine(config, len(enough), len(languages))
    return CheckReport(NAME, not found, summary, figures, found[: config.max_examples])


def _fine(config: ChecksConfig, looked_at: int, languages: int) -> str:
    thresholds = (config.max_opening_share, config.min_distinct_2, config.max_self_similarity)
    if all(one is None for one in thresholds):
        return "every threshold of diversity is off"
    few = (
        f"; {languages - looked_at} have fewer than {MIN_QUESTIONS} questions"
        if looked_at < languages
        else ""
    )
    return f"the questions of {looked_at} of {languages} languages differ as much as they must{few}"


def _figures(part: Mapping[str, Any]) -> Iterator[tuple[str, float | None]]:
    questions = part["questions"]
    yield "distinct_2", questions["distinct_2"]
    yield "self_similarity", questions["self_similarity"]
    yield "opening_share", next((one["share"] for one in part["openings"]["top"]), None)


def _too_alike(language: str, part: Mapping[str, Any], config: ChecksConfig) -> Iterator[Finding]:
    questions, openings = part["questions"], part["openings"]["top"]
    most = config.max_opening_share
    if most is not None:
        for one in openings:
            if one["share"] > most:
                problem = (
                    f"{language}: {one['share']:.1%} of {part['openings']['counted']} questions begin alike "
                    f"(at most {most:.1%} may)"
                )
                yield Finding("", 0, problem, one["opening"])
    least, distinct = config.min_distinct_2, questions["distinct_2"]
    if least is not None and distinct is not None and distinct < least:
        problem = f"{language}: distinct-2 of the questions is {distinct:.3f} (at least {least:.3f})"
        yield from (Finding("", 0, problem, one["opening"]) for one in openings[:1])
        yield from _similar(problem, questions)
    similar, limit = questions["self_similarity"], config.max_self_similarity
    if limit is not None and similar is not None and similar > limit:
        problem = f"{language}: self-similarity of the questions is {similar:.3f} (at most {limit:.3f})"
        yield from _similar(problem, questions)


def _similar(problem: str, questions: Mapping[str, Any]) -> Iterator[Finding]:
    for pair in questions["most_similar"]:
        one, other = (" ".join(text.split()) for text in pair["texts"])
        half = EXCERPT_CHARS // 2 - 2
        yield Finding("", 0, problem, f"{one[:half]} ≈ {other[:half]}")
