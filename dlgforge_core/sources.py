"""Sources of dialogues beside topics: documents."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PlannedDocument:
    """A document that a dialogue is made from, in place of a topic; `digest` is that of its text.

    `nth` counts the dialogues from it that come before, from 0. With `chunk`, from 0, all questions are about
    that one.
    """

    name: str
    digest: str
    nth: int = 0
    chunk: int | None = None
