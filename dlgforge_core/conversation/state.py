"""The state of a dialogue: the fold of its recorded outcomes."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dlgforge_core.conversation.goal_checks import Expectation
from dlgforge_core.conversation.outcomes import (
    NO_DETAILS,
    Amended,
    Answered,
    AnswerRejected,
    AnswerSource,
    Asked,
    Committed,
    Compared,
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
from dlgforge_core.dialogue import Candidate, DialoguePlan, Turn, TurnDetails
from dlgforge_core.sources import Exchange, FromSeed, Origin
from dlgforge_core.verdicts import GoalVerdict, Judgement


@dataclass(frozen=True, slots=True)
class AnswerInProgress:
    """An answer of the assistant: `rejected` counts attempts that could not be used.

    Of the present attempt the rounds of tool calls, and what failed meanwhile; once it is there the `answer`.
    `results` are those of the calls under way, as far as these are answered.
    """

    rounds: tuple[ToolRound, ...] = ()
    called: ToolsCalled | None = None
    results: ToolResults | None = None
    failures: tuple[Failed, ...] = ()
    rejected: int = 0
    answer: Answered | None = None


_NO_ANSWER = AnswerInProgress()
_NO_SOURCE = AnswerSource()


@dataclass(frozen=True, slots=True)
class TurnInProgress:
    """What is known of the turn that is not committed yet. `recorded` counts its outcomes.

    `answers` are the candidates begun so far, by number; a revision comes after all others.
    """

    recorded: int = 0
    rejected: tuple[QuestionRejected, ...] = ()
    question: str | None = None
    answers: tuple[AnswerInProgress, ...] = ()
    verdicts: tuple[Judged | GoalJudged | Unjudged, ...] = ()
    failure: Failed | None = None
    """Of the user simulator, or of the assistant when it was to open the conversation."""
    opened: Opened | None = None
    left: bool = False
    """The user has ended the conversation instead of asking."""

    def verdict(self, subject: int | None, candidate: int = 0) -> Judged | GoalJudged | Unjudged | None:
        """Return what the judge gave on a turn, by its answer, on the whole (None) or on the goal (GOAL)."""
        return next(
            (one for one in self.verdicts if one.subject == subject and one.candidate == candidate), None
        )

    def candidate(self, number: int) -> AnswerInProgress:
        """Return how far a candidate is."""
        return self.answers[number] if number < len(self.answers) else _NO_ANSWER

    @property
    def answered(self) -> list[int]:
        """The candidates that are there, by number."""
        return [number for number, one in enumerate(self.answers) if one.answer is not None]

    def best(self, candidates: Sequence[int] | None = None) -> int | None:
        """Return the candidate with the highest score, of equal ones the first; None without any answer."""
        among = self.answered if candidates is None else candidates
        if len(among) < 2:
            return among[0] if among else None
        scores = {number: judgement.score for number, judgement in self._ratings.items()}
        return max(among, key=lambda number: (scores.get(number, -1), -number))

    @property
    def _ratings(self) -> dict[int, Judgement]:
        """The verdicts on the turn's answers, by candidate."""
        return {
            one.candidate: one.judgement
            for one in self.verdicts
            if isinstance(one, Judged) and one.subject is not None
        }

    @property
    def answer(self) -> Answered | None:
        """The best answer so far."""
        best = self.best()
        return None if best is None else self.answers[best].answer

    def details(self, candidate: int) -> TurnDetails:
        """Return what stands behind a turn with this answer; with all of them, where there may be several."""
        answered = self.answers[candidate].answer
        assert answered is not None, "a candidate without an answer cannot stand"
        if answered.source is None:
            return answered.details
        return replace(
            answered.details, candidates=tuple(self._shown(n, n == candidate) for n in self.answered)
        )

    def _shown(self, number: int, chosen: bool) -> Candidate:
        answered = self.answers[number].answer
        assert answered is not None
        source = answered.source or _NO_SOURCE
        return Candidate(
            answer=answered.answer,
            chosen=chosen,
            revision=source.revision,
            judgement=self._ratings.get(number),
            model=source.model,
            temperature=source.temperature,
            details=NO_DETAILS if chosen else _of_candidate(answered.details),
        )


def _of_candidate(details: TurnDetails) -> TurnDetails:
    """Return what stands behind a candidate that was not chosen: what is the turn's stands there."""
    return replace(details, evidence=(), off_topic=False, origin=Origin.GENERATED)


_NOTHING = TurnInProgress()


@dataclass(frozen=True, slots=True)
class State:
    """A dialogue of `n_turns`: the committed `turns`, and the one in `progress`.

    With `review` above 0 the dialogue is finished and was taken up for verdicts it lacks, for that many times
    now; `judgement` is the one on the whole conversation that it has, `goal` the one on the user's goal,
    where the user `has_goal` that is judged, by a call of its own.
    """

    n_turns: int
    turns: tuple[Turn, ...] = ()
    progress: TurnInProgress = _NOTHING
    review: int = 0
    judgement: Judgement | None = None
    has_goal: bool = False
    goal: GoalVerdict | None = None
    given: tuple[Exchange, ...] = ()
    """What the seed's conversation gives of the first turns."""
    translates: bool = False
    """What is given is translated, and not taken as it stands."""
    expectation: Expectation | None = None
    """What must have happened for the user's goal to be met, where that is not judged."""

    @classmethod
    def of(
        cls,
        plan: DialoguePlan,
        turns: tuple[Turn, ...] = (),
        **more: Any,
    ) -> State:
        """Return the state of a planned dialogue of which these turns were committed."""
        translates = plan.from_seed is FromSeed.TRANSLATE
        begun = cls(
            plan.n_turns,
            turns,
            given=plan.given,
            translates=translates,
            expectation=Expectation.of(plan),
        )
        return replace(begun, progress=begun._begun(len(turns)), **more)

    @property
    def origin(self) -> Origin:
        """Where the texts of the turn in progress come from."""
        if (given := self.exchange) is None:
            return Origin.GENERATED
        if self.translates:
            return Origin.TRANSLATED
        return Origin.SEED if given.assistant else Origin.SEED_QUESTION

    @property
    def exchange(self) -> Exchange | None:
        """What the seed gives of the turn in progress."""
        return self.given[self.index] if self.index < len(self.given) else None

    @property
    def has_given_answer(self) -> bool:
        """Whether the seed gives the answer of the turn in progress, as it stands or to be translated."""
        return (given := self.exchange) is not None and bool(given.assistant)

    def _begun(self, index: int) -> TurnInProgress:
        """Return a turn at its beginning: what is taken from the seed as it stands is there already."""
        if index >= len(self.given) or self.translates:
            return _NOTHING
        given = self.given[index]
        if not given.assistant:
            return TurnInProgress(question=given.user)
        answered = Answered(given.assistant, TurnDetails(origin=Origin.SEED))
        return TurnInProgress(question=given.user, answers=(AnswerInProgress(answer=answered),))

    @property
    def index(self) -> int:
        """The turn in progress; of a finished dialogue the one after its last."""
        return len(self.turns)

    @property
    def seen(self) -> tuple[Turn, ...]:
        """The turns so far with their verdicts, the one in progress once it is answered."""
        progress = self.progress
        turns = self.turns
        if (best := progress.best()) is not None:
            return (*turns, self.answered_by(best))
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

    def answered_by(self, candidate: int) -> Turn:
        """Return the turn in progress with the answer of a candidate, and the verdict on that."""
        progress = self.progress
        answered = progress.answers[candidate].answer
        assert progress.question is not None
        assert answered is not None
        given = progress.verdict(self.index, candidate)
        return Turn(
            self.index,
            progress.question,
            answered.answer,
            given.judgement if isinstance(given, Judged) else None,
            _with_opening(progress.details(candidate), progress.opened),
        )

    def after(self, outcome: Outcome | Committed | Finished | Amended) -> State:
        """Return the state once `outcome` is known."""
        match outcome:
            case Committed(turn):
                return replace(self, turns=(*self.turns, turn), progress=self._begun(self.index + 1))
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
            self.given,
            self.translates,
            self.expectation,
        )


def _with_opening(details: TurnDetails, opened: Opened | None) -> TurnDetails:
    if opened is None:
        return details
    return replace(details, opening=opened.text, opening_reasoning=opened.reasoning)


def _advanced(progress: TurnInProgress, outcome: Outcome) -> TurnInProgress:
    n = progress.recorded + 1
    match outcome:
        case Opened():
            return replace(progress, recorded=n, opened=outcome)
        case UserLeft():
            return replace(progress, recorded=n, left=True)
        case Asked(question):
            return _with(progress, n, question=question)
        case QuestionRejected():
            return replace(progress, recorded=n, rejected=(*progress.rejected, outcome))
        case Judged() | GoalJudged() | Unjudged():
            return _with(progress, n, verdicts=(*progress.verdicts, outcome))
        case Compared():
            return replace(progress, recorded=n, verdicts=(*progress.verdicts, *outcome.verdicts))
        case Failed() if progress.question is None:
            return replace(progress, recorded=n, failure=outcome)
    number, answers = outcome.candidate, progress.answers
    missing = (_NO_ANSWER,) * (number + 1 - len(answers))
    changed = _nearer(progress.candidate(number), outcome)
    answers = (*answers[:number], *missing[1:], changed, *answers[number + 1 :])
    return _with(progress, n, answers=answers)


def _with(
    progress: TurnInProgress,
    recorded: int,
    *,
    question: str | None = None,
    answers: tuple[AnswerInProgress, ...] = (),
    verdicts: tuple[Judged | GoalJudged | Unjudged, ...] = (),
) -> TurnInProgress:
    """Return the turn with what came last, as `replace` does, for outcomes that every turn has."""
    return TurnInProgress(
        recorded,
        progress.rejected,
        question if question is not None else progress.question,
        answers or progress.answers,
        verdicts or progress.verdicts,
        progress.failure,
        progress.opened,
        progress.left,
    )


def _nearer(
    answer: AnswerInProgress, outcome: ToolsCalled | ToolResults | Answered | AnswerRejected | Failed
) -> AnswerInProgress:
    match outcome:
        case ToolsCalled():
            return replace(answer, called=outcome)
        case ToolResults():
            assert answer.called is not None, "tools answered that were not called"
            results = outcome if answer.results is None else answer.results.then(outcome)
            if len(results.events) < len(answer.called.message["tool_calls"]):
                return replace(answer, results=results)
            rounds = (*answer.rounds, ToolRound(answer.called, results))
            return replace(answer, called=None, results=None, rounds=rounds)
        case Answered():
            return AnswerInProgress(
                answer.rounds, answer.called, answer.results, answer.failures, answer.rejected, outcome
            )
        case AnswerRejected():
            return AnswerInProgress(rejected=answer.rejected + 1)
        case Failed():
            return replace(answer, failures=(*answer.failures, outcome))


def fold(state: State, outcomes: Iterable[Outcome | Committed | Finished | Amended]) -> State:
    """Return the state after all of these, one after the other."""
    return functools.reduce(State.after, outcomes, state)
