"""Verdicts as judges write them: what is plain is read, and anything else is told to the judge."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from dlgforge_core.config import JudgeConfig
from dlgforge_core.prompting.goal_verdicts import goal_from
from dlgforge_core.prompting.rating_reading import first_of, read_rating, shown
from dlgforge_core.prompting.rubric import read_ratings, rubric_score
from dlgforge_core.verdicts import MAX_SCORE, Judgement

# Names that judges give to the fields, in small letters.
_SCORE = ("score", "rating", "grade", "overall_score", "final_score")
_REASONS = ("reasons", "reason", "labels", "label", "tags")
_COMMENT = ("comment", "comments", "explanation", "rationale", "justification")
_BETWEEN = re.compile(r"[,;|/\n]|\band\b", re.IGNORECASE)
_NOT_IN_LABEL = re.compile(r"[\W_]+")
_LIST_MARK = re.compile(r"(?<!\s)\s*\(?\d{1,2}[.):]\s")
_EXPLAINED = re.compile(r"[:(–—]|\s-\s")


def judgement_from(data: Mapping[str, Any], judge: JudgeConfig, *, goal: bool = False) -> Judgement:
    """Return the verdict in an answer to the judge's prompt. Raises ValueError when it cannot be used.

    Read as well: a score as text ("8", "8/10", "80 %", "eight") or with a fraction, which is rounded; labels
    in capitals, in one text, or with an explanation; names of fields in capitals. By a rubric the score is
    that of its ratings, and one that the judge gives unasked is not looked at. With `goal` the answer must
    say, too, whether the user's goal was met.
    """
    fields = _fields(data)
    ratings = read_ratings(data, judge.rubric) if judge.rubric else None
    score = (
        _score(first_of(fields, _SCORE))
        if ratings is None
        else rubric_score(judge.rubric, ratings.dimensions)
    )
    given = first_of(fields, _REASONS)
    reasons = tuple(dict.fromkeys(_known(given, _labels(tuple(judge.reasons)))))
    if not reasons:
        raise ValueError(f"reasons must name some of: {', '.join(judge.reasons)}; not {shown(given)}")
    comment = _comment(first_of(fields, _COMMENT))
    met = goal_from(data) if goal else None
    if ratings is None:
        return Judgement(score, reasons, comment, goal=met)
    return Judgement(score, reasons, comment, ratings.dimensions, ratings.question_ok, ratings.answer_ok, met)


def _fields(data: Mapping[str, Any]) -> dict[str, Any]:
    fields = {str(name).strip().lower().replace(" ", "_"): value for name, value in data.items()}
    if first_of(fields, _SCORE) is None:
        inner = [value for value in fields.values() if isinstance(value, dict)]
        if len(inner) == 1:  # {"verdict": {...}}
            return {**fields, **{str(name).strip().lower(): value for name, value in inner[0].items()}}
    return fields


def _score(value: Any) -> int:
    number = read_rating(value, MAX_SCORE)
    if number is None or not math.isfinite(number) or not 0 <= number <= MAX_SCORE:
        raise ValueError(f"score must be a whole number from 0 to {MAX_SCORE}, not {shown(value)}")
    return math.floor(number + 0.5)


def _known(given: Any, labels: Mapping[str, str]) -> Iterator[str]:
    for text in _texts(given):
        if (whole := _label(text)) in labels:
            yield labels[whole]
            continue
        for part in _BETWEEN.split(text[:1000]):
            for form in (part, _EXPLAINED.split(part, maxsplit=1)[0]):
                if (label := _label(form)) in labels:
                    yield labels[label]
                    break


def _texts(given: Any) -> Iterator[str]:
    if isinstance(given, str):
        yield given
    elif isinstance(given, list):
        for item in given[:50]:
            if isinstance(item, str):
                yield item
            elif isinstance(item, dict):
                yield from (value for value in item.values() if isinstance(value, str))
    elif isinstance(given, dict):  # {"accurate": true, "clear": false}
        yield from (str(name) for name, value in given.items() if value)


@functools.lru_cache(maxsize=16)
def _labels(reasons: tuple[str, ...]) -> Mapping[str, str]:
    return {_label(reason): reason for reason in reasons}


def _label(text: str) -> str:
    return _NOT_IN_LABEL.sub(" ", _LIST_MARK.sub("", text, count=1)).strip().casefold()


def _comment(value: Any) -> str:
    if isinstance(value, list):
        value = " ".join(item for item in value if isinstance(item, str))
    return value if isinstance(value, str) else ""
