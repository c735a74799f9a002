"""Verdicts as judges write them: what is plain is read, and anything else is told to the judge."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from dlgforge_core.config import JudgeConfig
from dlgforge_core.dialogue import MAX_SCORE, Judgement

# Names that judges give to the fields, in small letters.
_SCORE = ("score", "rating", "grade", "overall_score", "final_score")
_REASONS = ("reasons", "reason", "labels", "label", "tags")
_COMMENT = ("comment", "comments", "explanation", "rationale", "justification")
_SCALES = (5, MAX_SCORE, 100)
_WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]

_NUMBER = re.compile(
    r"[\s*_\"'(]{0,8}(?:score|rating)?[\s:=*_~≈]{0,8}(?P<n>\d{1,3}(?:[.,]\d{1,4})?)\s{0,4}"
    r"(?:(?:/|out\s+of|of)\s{0,4}(?P<scale>\d{1,3}(?:\.0{1,4})?)|(?P<percent>%)|points?|\+)?"
    r"(?:[\s*_\"').!]{0,8}|\s{0,4}[(:;,–—-].{0,300}|(?(scale)\s{1,4}[^\W\d].{0,300}|(?!)))",
    re.IGNORECASE | re.DOTALL,
)
_BETWEEN = re.compile(r"[,;|/\n]|\band\b", re.IGNORECASE)
_NOT_IN_LABEL = re.compile(r"[\W_]+")
_LIST_MARK = re.compile(r"\s*\(?\d{1,2}[.):]\s")
_EXPLAINED = re.compile(r"[:(–—]|\s-\s")


def judgement_from(data: Mapping[str, Any], judge: JudgeConfig) -> Judgement:
    """Return the verdict in an answer to the judge's prompt. Raises ValueError when it cannot be used.

    Read as well: a score as text ("8", "8/10", "80 %", "eight") or with a fraction, which is rounded; labels
    in capitals, in one text, or with an explanation; names of fields in capitals.
    """
    fields = _fields(data)
    score = _score(_first(fields, _SCORE))
    given = _first(fields, _REASONS)
    labels = {_label(reason): reason for reason in judge.reasons}
    reasons = tuple(dict.fromkeys(_known(given, labels)))
    if not reasons:
        raise ValueError(f"reasons must name some of: {', '.join(judge.reasons)}; not {_shown(given)}")
    return Judgement(score, reasons, _comment(_first(fields, _COMMENT)))


def _fields(data: Mapping[str, Any]) -> dict[str, Any]:
    fields = {str(name).strip().lower().replace(" ", "_"): value for name, value in data.items()}
    if _first(fields, _SCORE) is None:
        inner = [value for value in fields.values() if isinstance(value, dict)]
        if len(inner) == 1:  # {"verdict": {...}}
            return {**fields, **{str(name).strip().lower(): value for name, value in inner[0].items()}}
    return fields


def _first(fields: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((fields[name] for name in names if fields.get(name) is not None), None)


def _score(value: Any) -> int:
    number = _number(value)
    if number is None or not math.isfinite(number) or not 0 <= number <= MAX_SCORE:
        raise ValueError(f"score must be a whole number from 0 to {MAX_SCORE}, not {_shown(value)}")
    return math.floor(number + 0.5)


def _number(value: Any) -> float | None:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, dict):
        value = _first(value, ("value", "score"))
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    if not isinstance(value, str):
        return float(value) if abs(value) <= 1000 else None
    if value.strip().lower() in _WORDS:
        return _WORDS.index(value.strip().lower())
    found = _NUMBER.fullmatch(value[:500])
    if found is None:
        return None
    number = float(found["n"].replace(",", "."))
    scale = 100 if found["percent"] else float(found["scale"] or MAX_SCORE)
    return number * MAX_SCORE / scale if scale in _SCALES and number <= scale else None


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


def _label(text: str) -> str:
    return _NOT_IN_LABEL.sub(" ", _LIST_MARK.sub("", text, count=1)).strip().casefold()


def _comment(value: Any) -> str:
    if isinstance(value, list):
        value = " ".join(item for item in value if isinstance(item, str))
    return value if isinstance(value, str) else ""


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
