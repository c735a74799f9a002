"""`reasoning`: what the assistant notes down before it answers, where its model does not think by itself."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints

from dlgforge_core.config.base import ConfigModel

ANSWER_PART = "answer"
"""What the answer is called beside the parts of the trace."""
_NAME = re.compile(r"[^\W\d_](?:\w| (?=\w)){0,39}")
_MAX_PARTS = 10


def _nameable(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} cannot name a part; use letters, digits, _ and single spaces, at most 40 in all, "
            "beginning with a letter"
        )
    if name.casefold() == ANSWER_PART:
        raise ValueError(f"{ANSWER_PART!r} is what the answer is called; choose another name")
    return name


class TracePartConfig(ConfigModel):
    """A part of the trace."""

    name: Annotated[str, AfterValidator(_nameable)] = Field(description="What it is called.")
    content: Annotated[str, StringConstraints(min_length=1, max_length=400, strip_whitespace=True)] = Field(
        description="What belongs there."
    )


def _apart(parts: list[TracePartConfig]) -> list[TracePartConfig]:
    names = [part.name.casefold() for part in parts]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{twice[0]!r} is there twice, capital letters aside; name each part once")
    return parts


TraceParts = Annotated[
    list[TracePartConfig], Field(min_length=1, max_length=_MAX_PARTS), AfterValidator(_apart)
]


class ReasoningConfig(ConfigModel):
    """What the assistant notes down before it answers."""

    prompted: bool = Field(
        False,
        description="Have the assistant write a trace before each answer, and keep it as the turn's "
        "reasoning; saving.reasoning exports it. What a model thinks by itself is kept in its place.",
    )
    parts: TraceParts = Field(
        [
            TracePartConfig(name="evidence", content="what is known that bears on the question"),
            TracePartConfig(name="steps", content="how the answer follows from it, step by step"),
            TracePartConfig(name="limits", content="what is uncertain or missing"),
        ],
        description="The parts of the trace, in order.",
    )
