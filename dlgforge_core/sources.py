"""Sources of dialogues: seeds, which hold topics or conversations, and documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any


@dataclass(frozen=True, slots=True)
class Exchange:
    """A question and its answer, as a seed's conversation has them; "" where there is no answer."""

    user: str
    assistant: str = ""


class FromSeed(StrEnum):
    """What is made of a seed's conversation; the values are those of `conversation.from_seed`."""

    CONTINUE = "continue"
    ANSWER = "answer"
    TRANSLATE = "translate"


class Origin(StrEnum):
    """Where the texts of a turn come from."""

    GENERATED = ""
    SEED = "seed"
    """Question and answer are the seed's."""
    SEED_QUESTION = "seed_question"
    """The question is the seed's, the answer was generated."""
    TRANSLATED = "translated"
    """Question and answer were translated from the seed's."""


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


@dataclass(frozen=True, slots=True)
class SeedTopic:
    """Something to talk about. `question` is an example of what a user might ask, or None.

    `batch` is the seed batch (one file) the topic came from.
    """

    id: str
    language: str
    topic: str
    question: str | None = None
    batch: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    messages: Sequence[Mapping[str, str]] = ()
    """A conversation: `role` (system, user or assistant) and `content` of each message; empty without one."""

    def to_json(self) -> dict[str, Any]:
        """As plain data, for the store; without messages there is no trace of them."""
        data = asdict(self)
        return {name: value for name, value in data.items() if name != "messages" or value}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SeedTopic:
        """Return the inverse of `to_json`."""
        return cls(**{**data, "messages": tuple(data.get("messages", ()))})

    @property
    def system(self) -> str:
        """The system message of its conversation; "" without one."""
        return next((one["content"] for one in self.messages if one["role"] == "system"), "")

    @property
    def exchanges(self) -> tuple[Exchange, ...]:
        """The questions of its conversation with their answers; the last one may have none."""
        texts = [one["content"] for one in self.messages if one["role"] != "system"]
        return tuple(Exchange(*texts[i : i + 2]) for i in range(0, len(texts), 2))
