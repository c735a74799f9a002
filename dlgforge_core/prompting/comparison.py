"""Comparisons of answers: the schema of a judge's verdicts on all of them, and how they are read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from dlgforge_core.config import JudgeConfig
from dlgforge_core.prompting.verdict_prompts import verdict_schema
from dlgforge_core.prompting.verdict_reading import judgement_from
from dlgforge_core.verdicts import Judgement

_NUMBERED = re.compile(r"[\W_]*(?:(?:answer|candidate|response|verdict)[\W_]*)?(\d{1,2})\W*", re.IGNORECASE)
_DEEPEST = 3


def comparison_schema(judge: JudgeConfig, count: int) -> dict[str, Any]:
    """Return the JSON schema of verdicts on `count` answers: a field each, which is sure to be there."""
    fields = [_field(number) for number in range(1, count + 1)]
    return {
        "type": "object",
        "properties": {field: verdict_schema(judge) for field in fields},
        "required": fields,
        "additionalProperties": False,
    }


def judgements_from(data: Mapping[str, Any], judge: JudgeConfig, count: int) -> list[Judgement]:
    """Return the verdicts in an answer to the prompt of a comparison, in the order of the answers.

    Read as well: other names with the number in them, a list in the order of the answers, either of them in
    an object of its own. Raises ValueError, written for the judge, when one is missing or cannot be used.
    """
    found = _numbered(data, count)
    judgements = []
    for number in range(1, count + 1):
        if (verdict := found.get(number)) is None:
            raise ValueError(f"{_field(number)} is missing; give a verdict on each of {count} answers")
        try:
            judgements.append(judgement_from(verdict, judge))
        except ValueError as error:
            raise ValueError(f"{_field(number)}: {error}") from None
    return judgements


def _field(number: int) -> str:
    return f"answer_{number}"


def _numbered(data: Any, count: int, depth: int = 0) -> dict[int, Mapping[str, Any]]:
    """Return the verdicts by the number of their answer, from wherever in `data` they stand together."""
    if isinstance(data, list):
        verdicts = [item for item in data if isinstance(item, Mapping)]
        return dict(enumerate(verdicts, 1)) if len(verdicts) == len(data) == count else {}
    if not isinstance(data, Mapping) or depth > _DEEPEST:
        return {}
    found = {
        int(named[1]): value
        for name, value in data.items()
        if isinstance(value, Mapping) and (named := _NUMBERED.fullmatch(str(name)[:100]))
    }
    if found:
        return found
    inner = (_numbered(value, count, depth + 1) for value in data.values())
    return next((one for one in inner if one), {})
