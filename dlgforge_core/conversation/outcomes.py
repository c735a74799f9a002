"""Outcomes: what came of a dialogue's steps, as it is recorded and read again.

A new kind of outcome is a class here, and what it changes is a case of `State.after`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any, ClassVar, Self, get_args

from dlgforge_core.dialogue import DropReason, Turn, TurnDetails
from dlgforge_core.tool_events import ToolEvent
from dlgforge_core.verdicts import GoalVerdict, Judgement

NO_DETAILS = TurnDetails()
GOAL = -1
"""The subject of a verdict on the user's goal alone; a turn's is its index, and None the conversation."""


def _of(candidate: int) -> dict[str, int]:
    """Return the part of an outcome that names the candidate; nothing for the first."""
    return {"candidate": candidate} if candidate else {}


class Rejection(StrEnum):
    """Why a question was not taken."""

    ASKED_BEFORE = "asked_before"
    NAMES_MATERIAL = "names_material"


class _Plain:
    """Outcomes whose fields are plain data."""

    def to_json(self) -> dict[str, Any]:
        """As plain data, for the store; what says nothing is left out."""
        values = ((one.name, getattr(self, one.name)) for one in fields(self))  # type: ignore[arg-type]
        return {name: value for name, value in values if value}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Return the inverse of `to_json`; fields of a later version are passed over."""
        return cls(**{f.name: data[f.name] for f in fields(cls) if f.name in data})  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Opened(_Plain):
    """With what the assistant opens the conversation, before the first question."""

    kind: ClassVar[str] = "opened"

    text: str
    reasoning: str = ""


@dataclass(frozen=True, slots=True)
class UserLeft(_Plain):
    """The user has no further question: the conversation ends with the turn before."""

    kind: ClassVar[str] = "user_left"


@dataclass(frozen=True, slots=True)
class Asked(_Plain):
    """The user simulator's question, which is this turn's own now."""

    kind: ClassVar[str] = "asked"

    question: str


@dataclass(frozen=True, slots=True)
class QuestionRejected(_Plain):
    """A question that was not taken, and why; of a repeat what it is like, and how much."""

    kind: ClassVar[str] = "question_refused"

    question: str
    why: Rejection
    similarity: float = 0.0
    collides_with: str = ""

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Return the inverse of `to_json`."""
        similarity, collides_with = data.get("similarity", 0.0), data.get("collides_with", "")
        return cls(data["question"], Rejection(data["why"]), similarity, collides_with)


@dataclass(frozen=True, slots=True)
class ToolsCalled(_Plain):
    """The assistant calls tools: `message` as it is sent back to it.

    `problems` says by call id why a call's arguments could not be read.
    """

    kind: ClassVar[str] = "tools_called"

    message: Mapping[str, Any]
    problems: Mapping[str, str]
    reasoning: str = ""
    candidate: int = 0

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Return the inverse of `to_json`."""
        reasoning, candidate = data.get("reasoning", ""), data.get("candidate", 0)
        return cls(data["message"], data.get("problems", {}), reasoning, candidate)


@dataclass(frozen=True, slots=True)
class ToolResults:
    """What the tools answered: an event for each call, in order, and the passages that were shown.

    `passages` are chunk ids, with how well they matched. The calls of one message may be answered one after
    the other: then each outcome has the events of those that come next.
    """

    kind: ClassVar[str] = "tool_results"

    events: tuple[ToolEvent, ...]
    passages: tuple[tuple[str, float], ...] = ()
    candidate: int = 0

    def to_json(self) -> dict[str, Any]:
        """As plain data, for the store."""
        data = {"events": [event.to_json() for event in self.events], "passages": list(self.passages)}
        return {**data, **_of(self.candidate)}

    def then(self, later: ToolResults) -> ToolResults:
        """Return these, and what came of the calls after them."""
        return ToolResults((*self.events, *later.events), (*self.passages, *later.passages), self.candidate)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Return the inverse of `to_json`."""
        passages = tuple((chunk_id, score) for chunk_id, score in data["passages"])
        events = tuple(map(ToolEvent.from_json, data["events"]))
        return cls(events, passages, data.get("candidate", 0))


@dataclass(frozen=True, slots=True)
class AnswerSource:
    """What one of several answers comes from. A `revision` was written after the judge's comment."""

    model: str = ""
    temperature: float | None = None
    revision: bool = False


@dataclass(frozen=True, slots=True)
class Answered:
    """The assistant's answer, and what stood behind it; `source` where there may be several."""

    kind: ClassVar[str] = "answered"

    answer: str
    details: TurnDetails = NO_DETAILS
    candidate: int = 0
    source: AnswerSource | None = None

    def to_json(self) -> dict[str, Any]:
        """As plain data, for the store."""
        details = self.details.to_json()
        return {
            "answer": self.answer,
            **({"details": details} if details else {}),
            **_of(self.candidate),
            **({"source": asdict(self.source)} if self.source is not None else {}),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Return the inverse of `to_json`."""
        source = data.get("source")
        return cls(
            data["answer"],
            TurnDetails.from_json(data.get("details")),
            data.get("candidate", 0),
            AnswerSource(**source) if source else None,
        )


@dataclass(frozen=True, slots=True)
class AnswerRejected(_Plain):
    """An answer that cannot be used: it does nothing but repeat the passages."""

    kind: ClassVar[str] = "answer_refused"

    candidate: int = 0


@dataclass(frozen=True, slots=True)
class Judged:
    """A verdict on the turn `subject` as a candidate answers it, or with None on the whole conversation."""

    kind: ClassVar[str] = "judged"

    subject: int | None
    judgement: Judgement
    candidate: int = 0

    def to_json(self) -> dict[str, Any]:
        """As plain data, for the store."""
        return {
            "subject": self.subject,
            "judgement": self.judgement.to_json(),
            **_of(self.candidate),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Return the inverse of `to_json`."""
        return cls(data["subject"], Judgement.from_json(data["judgement"]), data.get("candidate", 0))


@dataclass(frozen=True, slots=True)
class Compared:
    """A verdict on each of several candidates for the answer of the turn `subject`, by candidate."""

    kind: ClassVar[str] = "compared"

    subject: int
    judgements: Mapping[int, Judgement]

    @property
    def verdicts(self) -> tuple[Judged, ...]:
        """What it says of each candidate."""
        return tuple(
            Judged(self.subject, judgement, candidate) for candidate, judgement in self.judgements.items()
        )

    def to_json(self) -> dict[str, Any]:
        """As plain data, for the store."""
        return {"subject": self.subject, "verdicts": [verdict.to_json() for verdict in self.verdicts]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Return the inverse of `to_json`."""
        verdicts = map(Judged.from_json, data["verdicts"])
        return cls(data["subject"], {verdict.candidate: verdict.judgement for verdict in verdicts})


@dataclass(frozen=True, slots=True)
class GoalJudged:
    """A verdict on the user's goal alone."""

    kind: ClassVar[str] = "goal_judged"
    subject: ClassVar[int] = GOAL
    candidate: ClassVar[int] = 0

    verdict: GoalVerdict

    def to_json(self) -> dict[str, Any]:
        """As plain data, for the store."""
        return self.verdict.to_json()

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Return the inverse of `to_json`."""
        return cls(GoalVerdict(data["met"], data["reason"]))


@dataclass(frozen=True, slots=True)
class Unjudged:
    """The judge gave no verdict that could be used: what it was to judge stays without one for now."""

    kind: ClassVar[str] = "unjudged"

    subject: int | None
    reason: DropReason
    detail: str = ""
    candidate: int = 0

    def to_json(self) -> dict[str, Any]:
        """As plain data, for the store."""
        data = {"subject": self.subject, "reason": self.reason.value, "detail": self.detail}
        return {**data, **_of(self.candidate)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Return the inverse of `to_json`."""
        return cls(data["subject"], DropReason(data["reason"]), data["detail"], data.get("candidate", 0))


@dataclass(frozen=True, slots=True)
class Failed:
    """A call of the user simulator or the assistant that cannot succeed."""

    kind: ClassVar[str] = "failed"

    reason: DropReason
    detail: str = ""
    candidate: int = 0

    def to_json(self) -> dict[str, Any]:
        """As plain data, for the store."""
        return {"reason": self.reason.value, "detail": self.detail, **_of(self.candidate)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Return the inverse of `to_json`."""
        return cls(DropReason(data["reason"]), data["detail"], data.get("candidate", 0))


Outcome = (
    Opened
    | UserLeft
    | Asked
    | QuestionRejected
    | ToolsCalled
    | ToolResults
    | Answered
    | AnswerRejected
    | Judged
    | GoalJudged
    | Compared
    | Unjudged
    | Failed
)
"""What is recorded of a turn in progress."""

_KINDS: Mapping[str, type[Outcome]] = {cls.kind: cls for cls in get_args(Outcome)}


def outcome_from(kind: str, data: Mapping[str, Any]) -> Outcome:
    """Return the outcome that was recorded as `kind` and `data`.

    Raises ValueError for a kind of a later version.
    """
    try:
        cls = _KINDS[kind]
    except KeyError:
        raise ValueError(f"there is no outcome {kind!r}; a later version of dlgforge recorded it") from None
    return cls.from_json(data)


@dataclass(frozen=True, slots=True)
class Committed:
    """A turn was committed, which folds its outcomes away."""

    turn: Turn


@dataclass(frozen=True, slots=True)
class Finished:
    """A dialogue was finished without another turn, which folds its outcomes away."""


@dataclass(frozen=True, slots=True)
class Amended:
    """The verdicts that a finished dialogue was still given are kept, which folds their outcomes away."""
