"""Scores of a simulated judge that depend on what it judges, in one verdict or in one for each answer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_NUMBERED = re.compile(r"^Answer (\d+):\n((?:>.*\n?)*)", re.MULTILINE)


def with_fields(value: dict[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return a verdict with these fields, or verdicts by answer with them in each."""
    if "answer_1" in value:
        return {name: {**verdict, **fields} for name, verdict in value.items()}
    return {**value, **fields}


def with_scores(value: dict[str, Any], scores: Mapping[str, int], prompt: str) -> dict[str, Any]:
    """Return a verdict, or verdicts by answer, with the score of the first text that the answer holds."""
    if "answer_1" not in value:
        return _scored(value, scores, prompt)
    answers = {f"answer_{number}": text for number, text in _NUMBERED.findall(prompt)}
    return {name: _scored(verdict, scores, answers[name]) for name, verdict in value.items()}


def _scored(verdict: dict[str, Any], scores: Mapping[str, int], text: str) -> dict[str, Any]:
    found = next((score for held, score in scores.items() if held in text), None)
    return verdict if found is None else {**verdict, "score": found}
