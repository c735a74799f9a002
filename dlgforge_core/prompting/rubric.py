"""Rubrics: how the judge is told of the dimensions, the schema of its ratings, and how they are read."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dlgforge_core.config.rubric import DimensionConfig, dimension_names
from dlgforge_core.dialogue import DialoguePlan, Role
from dlgforge_core.prompting.parts import everywhere
from dlgforge_core.prompting.rating_reading import first_of, read_rating, shown
from dlgforge_core.prompting.templates import SHIPPED, Templates
from dlgforge_core.verdicts import MAX_SCORE

QUESTION_OK, ANSWER_OK = "question_ok", "answer_ok"

_ABOUT = {"question": "question", "answer": "answer", "both": "question and answer"}
# Names that judges give to the fields, in small letters, with "_" for all that is neither letter nor digit.
_OK_NAMES: Mapping[str, frozenset[str]] = {
    field: frozenset({field, f"{part}_okay", f"is_{part}_ok", f"{part}_is_ok", f"{part}ok"})
    for field, part in ((QUESTION_OK, "question"), (ANSWER_OK, "answer"))
}
_NAMED = ("name", "dimension", "criterion", "label", "key")
_RATED = ("value", "score", "rating", "level", "grade")
_SAID = ("ok", "value", "verdict", "passed", "result")
_YES = ("true", "yes", "ok", "okay", "pass", "passed", "acceptable")
_NO = ("false", "no", "not ok", "not okay", "fail", "failed", "not acceptable", "unacceptable")
_AFTER = r"(?:[\W_]*|\s*[(:;,.–—-].*)"
_OPINION = re.compile(
    rf"[\W_]*(?:(?P<yes>{'|'.join(_YES)})|(?P<no>{'|'.join(_NO)})){_AFTER}", re.IGNORECASE | re.DOTALL
)
_SIGNED = re.compile(r"\s*[+\-−](\d{1,4}(?:\.\d{1,4})?)\s*")
_RANGE = re.compile(r"\s*\d[\d.,]*\s*(?:[-–—]|to|or)\s*\d")
_NOT_IN_NAME = re.compile(r"[\W_]+")
_MOST_FIELDS, _DEEPEST = 400, 4


@dataclass(frozen=True, slots=True)
class Ratings:
    """What a judge said by a rubric."""

    dimensions: Mapping[str, float]
    question_ok: bool
    answer_ok: bool


def rubric_text(rubric: Sequence[DimensionConfig], plan: DialoguePlan, templates: Templates = SHIPPED) -> str:
    """Return the lines that tell the judge of the dimensions; empty without any."""
    lines = (
        templates.render(
            Role.JUDGE,
            "dimension",
            name=dimension.name,
            about=_ABOUT[dimension.about],
            lowest=str(dimension.min),
            highest=str(dimension.max),
            description=" ".join(dimension.description.split()),
            levels="; ".join(
                f"{level} = {' '.join(dimension.levels[level].split())}"
                for level in sorted(dimension.levels, key=int)
            ),
            **everywhere(plan),
        )
        for dimension in rubric
    )
    return "\n".join(line.strip() for line in lines)


def ratings_schema(rubric: Sequence[DimensionConfig]) -> dict[str, Any]:
    """Return the properties of a verdict that take the place of its score."""
    return {
        "dimensions": {
            "type": "object",
            "properties": {
                dimension.name: {"type": "integer", "minimum": dimension.min, "maximum": dimension.max}
                for dimension in rubric
            },
            "required": dimension_names(rubric),
            "additionalProperties": False,
        },
        QUESTION_OK: {"type": "boolean"},
        ANSWER_OK: {"type": "boolean"},
    }


def rubric_score(rubric: Sequence[DimensionConfig], ratings: Mapping[str, float]) -> int:
    """Return the score of ratings in every dimension, from 0 to MAX_SCORE.

    Each rating becomes its share of its scale, from 0 for the lowest level to 1 for the highest; the score is
    MAX_SCORE times their weighted mean, rounded to a whole number, halves up.
    """
    total = math.fsum(one.weight * one.share(ratings[one.name]) for one in rubric)
    mean = total / math.fsum(one.weight for one in rubric)
    # Rounded twice, so that a half is one whatever the weights' binary fractions.
    return math.floor(round(MAX_SCORE * mean, 9) + 0.5)


def read_ratings(data: Mapping[str, Any], rubric: Sequence[DimensionConfig]) -> Ratings:
    """Return the ratings in an answer to the judge's prompt, wherever in it they stand.

    Read as well: a rating as text ("4", "4/5", "four", a level's words), with a fraction, or in an object
    with its explanation; a list of dimensions; yes and no. Raises ValueError, written for the judge, for a
    dimension that is not there, is off its scale or is rated twice in different ways.
    """
    fields = list(walk_fields(data))
    ratings = {
        one.name: _rating(one, [value for name, value in fields if name == one.name]) for one in rubric
    }
    parts_ok = {
        field: read_opinion(field, [value for name, value in fields if name in names])
        for field, names in _OK_NAMES.items()
    }
    return Ratings(ratings, parts_ok[QUESTION_OK], parts_ok[ANSWER_OK])


def walk_fields(data: Any) -> Iterator[tuple[str, Any]]:
    """Yield the fields of an object and of those within it, their names in one form, the outer ones first."""
    level: list[Any] = [data]
    left = _MOST_FIELDS
    for _ in range(_DEEPEST):
        inner: list[Any] = []
        for value in level:
            if isinstance(value, Mapping):
                named = first_of(value, _NAMED)
                if isinstance(named, str) and (rated := first_of(value, _RATED)) is not None:
                    yield _name(named), rated
                for key, item in value.items():
                    name = _name(str(key))
                    yield name, item
                    if name in ("question", "answer") and isinstance(item, Mapping) and "ok" in item:
                        yield f"{name}_ok", item["ok"]
                    left -= 1
                    if left <= 0:
                        return
                inner += value.values()
            elif isinstance(value, list):
                inner += value[:_MOST_FIELDS]
        level = [value for value in inner if isinstance(value, Mapping | list)]


def _name(text: str) -> str:
    return _NOT_IN_NAME.sub("_", text[:100]).strip("_").casefold()


def _rating(dimension: DimensionConfig, given: Sequence[Any]) -> float:
    read = [value for item in given if (value := _value(dimension, item)) is not None]
    if read and len(set(read)) == 1:
        return read[0]
    wrong = f"not {shown(given[0])}" if given else "and is missing"
    if read:
        wrong = f"and is rated {' and '.join(f'{value:g}' for value in dict.fromkeys(read))}"
    raise ValueError(
        f"{dimension.name} must be a whole number from {dimension.min} to {dimension.max}, {wrong}"
    )


def _value(dimension: DimensionConfig, value: Any) -> float | None:
    if isinstance(value, dict):
        value = first_of(value, _RATED)
    if isinstance(value, str):
        for level, text in dimension.levels.items():
            if _name(text) and _name(text) == _name(value):
                return float(level)
        if signed := _SIGNED.fullmatch(value):
            value = float(signed[1]) * (1 if "+" in value else -1)
        elif _RANGE.match(value):
            return None
    number = read_rating(value, dimension.max, dimension.min)
    if number is None or not math.isfinite(number) or not dimension.min <= number <= dimension.max:
        return None
    return number


def read_opinion(field: str, given: Sequence[Any]) -> bool:
    """Return the yes or no in fields of one meaning. Raises ValueError, written for the judge."""
    read = {opinion for item in given if (opinion := yes_or_no(item)) is not None}
    if len(read) == 1:
        return read.pop()
    wrong = "and is both" if read else f"not {shown(given[0])}" if given else "and is missing"
    raise ValueError(f"{field} must be true or false, {wrong}")


def yes_or_no(value: Any) -> bool | None:
    """Return what a field says; None when it says neither."""
    if isinstance(value, dict):
        value = first_of(value, _SAID)
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return bool(value) if value in (0, 1) else None
    found = _OPINION.fullmatch(value[:500]) if isinstance(value, str) else None
    return bool(found["yes"]) if found else None
