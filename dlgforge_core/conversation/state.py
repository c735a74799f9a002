"""The state of a dialogue: the fold of its recorded outcomes."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass, replace

from dlgforge_core.conversation.outcomes import (
    Amended,
    Answered,
    AnswerRejected,
    Asked,
    Committed,
    Failed,
    Finished,
    GoalJudged,
    Judged,
    Opened,
    Outcome,
    QuestionRejected,
    ToolResults,
    ToolsCalled,
    Unjudged,
    UserLeft,
)
from dlgforge_core.conversation.steps import ToolRound
from dlgforge_core.dialogue import GoalVerdict, Judgement, Turn, TurnDetails


@dataclass(frozen=True, slots=True)
class AnswerInProgress:
    """One attempt of the assistant at an answer: its rounds of tool calls, and what failed meanwhile."""

    rounds: tuple[ToolRound, ...] = ()
    called: ToolsCalled | None = None
    failures: tuple[Failed, ...] = ()


@dataclass(frozen=True, slots=True)
class TurnInProgress:
    """What is known of the turn that is not committed yet. `recorded` counts its outcomes."""

    recorded: int = 0
    rejected: tuple[QuestionRejected, ...] = ()
    question: str | None = None
    answers_rejected: int = 0
    attempt: AnswerInProgress = AnswerInProgress()
    answer: Answered | None = None
    verdicts: tuple[Judged | GoalJudged | Unjudged, ...] = ()
    failure: Failed | None = None
    """Of the user simulator, or of the assistant when it was to open the conversation."""
    opened: Opened | None = None
    left: bool = False
    """The user has ended the conversation instead of asking."""

    def verdict(self, subject: int | None) -> Judged | GoalJudged | Unjudged | None:
        """Return what the judge gave on a turn, on the whole conversation (None) or on the goal (GOAL)."""
        return next((verdict for verdict in self.verdicts if verdict.subject == subject), None)


_NOTHING = TurnInProgress()


@dataclass(frozen=True, slots=True)
class State:
    """A dialogue of `n_turns`: the committed `turns`, and the one in `progress`.

    With `review` above 0 the dialogue is finished and was taken up for verdicts it lacks, for that many times
    now; `judgement` is the one on the whole conversation that it has, `goal` the one on the user's goal,
    where the user `has_goal` and it is judged by a call of its own.
    """

    n_turns: int
    turns: tuple[Turn, ...] = ()
    progress: TurnInProgress = _NOTHING
    review: int = 0
    judgement: Judgement | None = None
    has_goal: bool = False
    goal: GoalVerdict | None = None

    @property
    def index(self) -> int:
        """The turn in progress; of a finished dialogue the one after its last."""
        return len(self.turns)

    @property
    def seen(self) -> tuple[Turn, ...]:
        """The turns so far with their verdicts, the one in progress once it is answered."""
        progress = self.progress
        turns = self.turns
        if progress.question is not None and progress.answer is not None:
            details = _with_opening(progress.answer.details, progress.opened)
            current = Turn(self.index, progress.question, progress.answer.answer, None, details)
            turns = (*turns, current)
        given = {v.subject: v.judgement for v in progress.verdicts if isinstance(v, Judged)}
        if not given:
            return turns
        return tuple(
            replace(turn, judgement=given[turn.index]) if turn.index in given else turn for turn in turns
        )

    @property
    def opening(self) -> str:
        """With what the assistant opened the conversation; empty where the user does."""
        if self.turns:
            return self.turns[0].details.opening
        return self.progress.opened.text if self.progress.opened is not None else ""

    def after(self, outcome: Outcome | Committed | Finished | Amended) -> State:
        """Return the state once `outcome` is known."""
        match outcome:
            case Committed(turn):
                return replace(self, turns=(*self.turns, turn), progress=_NOTHING)
            case Finished():
                return replace(self, n_turns=self.index, progress=_NOTHING)
            case Amended():
                return replace(self, progress=_NOTHING, review=0)
        # Written out: `replace` takes several times as long, and this is done for every call.
        return State(
            self.n_turns,
            self.turns,
            _advanced(self.progress, outcome),
            self.review,
            self.judgement,
            self.has_goal,
            self.goal,
        )


def _with_opening(details: TurnDetails, opened: Opened | None) -> TurnDetails:
    if opened is None:
        return details
    return replace(details, opening=opened.text, opening_reasoning=opened.reasoning)


def _advanced(progress: TurnInProgress, outcome: Outcome) -> TurnInProgress:
    n, attempt = progress.recorded + 1, progress.attempt
    match outcome:
        case Opened():
            return replace(progress, recorded=n, opened=outcome)
        case UserLeft():
            return replace(progress, recorded=n, left=True)
        case Asked(question):
            return replace(progress, recorded=n, question=question)
        case QuestionRejected():
            return replace(progress, recorded=n, rejected=(*progress.rejected, outcome))
        case ToolsCalled():
            return replace(progress, recorded=n, attempt=replace(attempt, called=outcome))
        case ToolResults():
            assert attempt.called is not None, "tools answered that were not called"
            rounds = (*attempt.rounds, ToolRound(attempt.called, outcome))
            return replace(progress, recorded=n, attempt=replace(attempt, called=None, rounds=rounds))
        case Answered():
            return replace(progress, recorded=n, answer=outcome)
        case AnswerRejected():
            rejected = progress.answers_rejected + 1
            return replace(progress, recorded=n, answers_rejected=rejected, attempt=AnswerInProgress())
        case Judged() | GoalJudged() | Unjudged():
            return replace(progress, recorded=n, verdicts=(*progress.verdicts, outcome))
        case Failed() if progress.question is None:
            return replace(progress, recorded=n, failure=outcome)
        case Failed():
            failures = (*attempt.failures, outcome)
            return replace(progress, recorded=n, attempt=replace(attempt, failures=failures))


def fold(state: State, outcomes: Iterable[Outcome | Committed | Finished | Amended]) -> State:
    """Return the state after all of these, one after the other."""
    return functools.reduce(State.after, outcomes, state)
