"""`judge.rubric`: the dimensions that a verdict is given in."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from dlgforge_core.config.base import ConfigModel

_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
# Other fields of a verdict, and names by which judges give them.
_TAKEN = frozenset(
    {
        *("score", "reasons", "comment", "dimensions", "question", "answer", "question_ok", "answer_ok"),
        *("judge", "turn_index", "name", "value", "ok"),
    }
)
MAX_DIMENSIONS = 20


def _as_text(levels: Any) -> Any:
    """Return levels as text by text: YAML writes `1: poor`, JSON `"1": "poor"`, and takes `no` for false."""
    if not isinstance(levels, dict):
        return levels
    words = {True: "yes", False: "no"}
    return {
        str(key) if isinstance(key, int) else key: words[text] if isinstance(text, bool) else text
        for key, text in levels.items()
    }


class DimensionConfig(ConfigModel):
    """One dimension of a rubric: what is looked at, on a scale of whole numbers from `min` to `max`."""

    name: str = Field(description="Name in verdicts, columns and filters: small letters, digits and _.")
    about: Literal["question", "answer", "both"] = Field("answer", description="What it is a quality of.")
    description: str = Field("", description="What is looked at, in words for the judge.")
    min: int = Field(1, description="Lowest level.")
    max: int = Field(5, description="Highest level.")
    levels: Annotated[dict[str, str], BeforeValidator(_as_text)] = Field(
        {}, description="What levels mean, by their number; those in between need no text."
    )
    weight: Annotated[float, Field(gt=0.0, le=1000.0, allow_inf_nan=False)] = Field(
        1.0, description="Weight in the score."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not _NAME.fullmatch(self.name) or self.name in _TAKEN:
            raise ValueError(
                f"name = {self.name!r} cannot name a dimension; use small letters, digits and _, beginning "
                f"with a letter, at most 40, and none of: {', '.join(sorted(_TAKEN))}"
            )
        if not -1000 <= self.min < self.max <= 1000:
            raise ValueError(
                f"{self.name}: the scale goes from min = {self.min} to max = {self.max}; min must be less "
                "than max, both between -1000 and 1000"
            )
        for level in self.levels:
            if not re.fullmatch(r"-?\d{1,4}", level) or not self.min <= int(level) <= self.max:
                raise ValueError(
                    f"{self.name}: levels has {level!r}, which is no whole number from {self.min} to "
                    f"{self.max}"
                )
        return self

    def share(self, value: float) -> float:
        """Return where a value lies on the scale: 0 for the lowest level, 1 for the highest."""
        return (value - self.min) / (self.max - self.min)


def _apart(rubric: list[DimensionConfig]) -> list[DimensionConfig]:
    names = Counter(dimension.name for dimension in rubric)
    if twice := sorted(name for name, n in names.items() if n > 1):
        raise ValueError(f"rubric names {', '.join(twice)} more than once; name each dimension once")
    if len(rubric) > MAX_DIMENSIONS:
        raise ValueError(f"rubric has {len(rubric)} dimensions; {MAX_DIMENSIONS} are the most")
    return rubric


RubricConfig = Annotated[list[DimensionConfig], AfterValidator(_apart)]


def dimension_names(rubric: Sequence[DimensionConfig]) -> list[str]:
    """Return the names of a rubric's dimensions, in its order."""
    return [dimension.name for dimension in rubric]
