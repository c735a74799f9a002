"""Ratings as models write them, numbers or words, read as numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_SCALES = (5.0, 10.0, 100.0)
_WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
_NUMBER = re.compile(
    r"[\s*_\"'(]{0,8}(?:score|rating)?[\s:=*_~≈]{0,8}(?P<n>\d{1,4}(?:[.,]\d{1,4})?)\s{0,4}"
    r"(?:(?:/|out\s+of|of)\s{0,4}(?P<scale>\d{1,4}(?:\.0{1,4})?)|(?P<percent>%)|points?|\+)?"
    r"(?:[\s*_\"').!]{0,8}|\s{0,4}[(:;,–—-].{0,300}|(?(scale)\s{1,4}[^\W\d].{0,300}|(?!)))",
    re.IGNORECASE | re.DOTALL,
)


def read_rating(value: Any, most: float, least: float = 0) -> float | None:
    """Return the rating in a field, on a scale from `least` to `most`; None when it cannot be told.

    Read as well: text ("8", "8/10", "80 %", "eight"), a list of one, an object that holds it. What
    is rated on another scale is told only where this one begins at 0 or 1: of others a share says too little.
    """
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, dict):
        value = first_of(value, ("value", "score"))
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
    scale = 100.0 if found["percent"] else float(found["scale"] or most)
    if number > scale:
        return None
    if scale == most and not found["percent"]:
        return number
    return number * most / scale if scale in _SCALES and least in (0, 1) else None


def first_of(fields: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    """Return the first of these fields that holds anything; None when none does."""
    return next((fields[name] for name in names if fields.get(name) is not None), None)


def shown(value: Any) -> str:
    """Return what a field holds, in as many characters as a message has room for."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
