"""Steps: what is to be done next for a dialogue, and how it may end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dlgforge_core.conversation.outcomes import (
    Answered,
    Failed,
    QuestionRejected,
    ToolResults,
    ToolsCalled,
    Unjudged,
)
from dlgforge_core.dialogue import DropReason, Ending, Turn
from dlgforge_core.verdicts import GoalVerdict, Judgement


@dataclass(frozen=True, slots=True)
class ToolRound:
    """Tools that the assistant called for one answer, and what they gave."""

    called: ToolsCalled
    results: ToolResults


@dataclass(frozen=True, slots=True)
class Open:
    """Have the assistant open the conversation."""

    def failure(self, reason: DropReason, detail: str) -> Failed:
        """Return the outcome when its call cannot succeed."""
        return Failed(reason, detail)


@dataclass(frozen=True, slots=True)
class Ask:
    """Have the user simulator ask; `rejected` are its questions of this turn that were not taken."""

    turn: int
    rejected: tuple[QuestionRejected, ...] = ()
    last: bool = False
    """There is no other attempt after this one."""
    may_end: bool = False
    """The user may end the conversation instead of asking."""

    @property
    def attempt(self) -> int:
        """Counts from 0."""
        return len(self.rejected)

    def failure(self, reason: DropReason, detail: str) -> Failed:
        """Return the outcome when its call cannot succeed."""
        return Failed(reason, detail)


@dataclass(frozen=True, slots=True)
class Review:
    """An answer that is to be improved, the rounds of tool calls it was written after, and the verdict."""

    answered: Answered
    rounds: tuple[ToolRound, ...]
    judgement: Judgement


@dataclass(frozen=True, slots=True)
class Answer:
    """Have the assistant answer, which may call tools when they are `offered`.

    `rounds` are its calls so far; with `without_last` what the last of them found is not shown again. With a
    `review` it is to improve that answer.
    """

    turn: int
    attempt: int
    question: str
    offered: bool = False
    rounds: tuple[ToolRound, ...] = ()
    without_last: bool = False
    candidate: int = 0
    review: Review | None = None

    @property
    def all_rounds(self) -> tuple[ToolRound, ...]:
        """The rounds behind the answer: those of the answer that it is to improve come first."""
        return self.rounds if self.review is None else (*self.review.rounds, *self.rounds)

    def failure(self, reason: DropReason, detail: str) -> Failed:
        """Return the outcome when its call cannot succeed."""
        return Failed(reason, detail, self.candidate)


@dataclass(frozen=True, slots=True)
class CallTools:
    """Do what the assistant's message `called` asks for; `rounds` are its calls before.

    `answered` are the results of the first calls of the message, where they are there already; `inherited`
    the rounds of an answer that is to be improved.
    """

    turn: int
    attempt: int
    called: ToolsCalled
    rounds: tuple[ToolRound, ...] = ()
    answered: ToolResults | None = None
    inherited: tuple[ToolRound, ...] = ()

    @property
    def candidate(self) -> int:
        """The candidate that calls them."""
        return self.called.candidate

    def failure(self, reason: DropReason, detail: str) -> Failed:
        """Return the outcome when the model that plays a tool cannot be used."""
        return Failed(reason, detail, self.candidate)


@dataclass(frozen=True, slots=True)
class Judge:
    """Have the judge give a verdict on the turn `subject`, or with None on the whole conversation.

    With GOAL it is one on the user's goal alone.
    `attempt` counts from 0: how often the finished dialogue was taken up again for verdicts it lacks.
    `candidate` is the answer that the verdict is about, of a turn with several.
    """

    subject: int | None
    attempt: int = 0
    candidate: int = 0

    def failure(self, reason: DropReason, detail: str) -> Unjudged:
        """Return the outcome when its call cannot succeed: that costs the verdict, never the dialogue."""
        return Unjudged(self.subject, reason, detail, self.candidate)


@dataclass(frozen=True, slots=True)
class Compare:
    """Have the judge give a verdict on each of several answers to a question, two or more."""

    turn: int
    candidates: tuple[int, ...]

    def failure(self, reason: DropReason, detail: str) -> Unjudged:
        """Return the outcome when its call cannot succeed: the first answer stands, without a verdict."""
        return Unjudged(self.turn, reason, detail, self.candidates[0])


@dataclass(frozen=True, slots=True)
class Commit:
    """Keep a turn, and fold its outcomes away; with `final` the dialogue is finished, under `judgement`."""

    turn: Turn
    final: bool
    judgement: Judgement | None = None
    unjudged: tuple[Unjudged, ...] = ()
    goal: GoalVerdict | None = None


@dataclass(frozen=True, slots=True)
class Finish:
    """Finish a dialogue that ends before another turn, and fold the outcomes away."""

    ended_by: Ending
    judgement: Judgement | None = None
    unjudged: tuple[Unjudged, ...] = ()
    goal: GoalVerdict | None = None


@dataclass(frozen=True, slots=True)
class Amend:
    """Keep the verdicts that a finished dialogue lacked, and fold their outcomes away."""

    judgements: Mapping[int | None, Judgement]
    unjudged: tuple[Unjudged, ...] = ()
    goal: GoalVerdict | None = None


@dataclass(frozen=True, slots=True)
class Done:
    """Nothing is left to do."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """The dialogue is given up."""

    reason: DropReason
    detail: str


Call = Open | Ask | Answer | Judge | Compare
"""Steps that call a model."""
Write = Commit | Finish | Amend
"""Steps that fold outcomes away, in one transaction."""
End = Done | Dropped
Step = Call | CallTools | Write | End
