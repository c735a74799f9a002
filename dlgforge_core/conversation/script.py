"""The script: from the configuration and the outcomes so far to the next step.

Each turn goes through phases: the question, the answers with the tools they call, the choice among several,
the verdict, another try at a poor one. A phase names its next step, or None once it is through; a turn that
is through all of them is committed. What a conversation can be grows here: by a phase, by a step within a
phase (a tool with state), by another end. Whoever performs the steps only needs to know the new one. Before
the first turn the assistant may open the conversation; and instead of a question the user may end it, so that
it is finished without another turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dlgforge_core.config import GenerationConfig
from dlgforge_core.conversation.outcomes import GOAL, GoalJudged, Judged, Unjudged
from dlgforge_core.conversation.state import State
from dlgforge_core.conversation.steps import (
    Amend,
    Answer,
    Ask,
    CallTools,
    Commit,
    Compare,
    Done,
    Dropped,
    Finish,
    Judge,
    Open,
    Review,
    Step,
)
from dlgforge_core.dialogue import DropReason, Ending, Turn
from dlgforge_core.sources import Exchange, Origin
from dlgforge_core.verdicts import GoalVerdict, Judgement

ANSWER_ATTEMPTS = 2


@dataclass(frozen=True, slots=True)
class Script:
    """What every dialogue of a run goes through. `tool_rounds` is 0 when there are no tools.

    With `opens` the assistant speaks first; after `may_end_after` turns the user may end the conversation
    instead of asking, never with None; `judges_goal`: the user's goal is judged by a call of its own.
    Of several `candidates` for an answer the judge chooses one; an answer that it gives a score below
    `revise` gets another try. Neither is for answers that a seed's conversation gives.
    """

    question_attempts: int
    tool_rounds: int = 0
    judges_turns: bool = False
    judges_whole: bool = False
    opens: bool = False
    may_end_after: int | None = None
    judges_goal: bool = False
    candidates: int = 1
    revise: float | None = None

    @classmethod
    def of(cls, generation: GenerationConfig, *, has_tools: bool) -> Script:
        """Return the script that a configuration asks for."""
        judge, conversation = generation.judge, generation.conversation
        online = judge.mode == "online"
        return cls(
            question_attempts=generation.coverage.question_dedup_retries + 1,
            tool_rounds=generation.tools.max_rounds if has_tools else 0,
            judges_turns=online and judge.granularity == "turn",
            judges_whole=online and judge.granularity == "conversation",
            opens=conversation.opens == "assistant",
            may_end_after=generation.run.min_turns if conversation.ends == "user" else None,
            judges_goal=online and judge.granularity == "turn" and bool(conversation.goals),
            candidates=generation.answers.candidates,
            revise=generation.answers.revise,
        )

    def next(self, state: State) -> Step:
        """Return what is to be done now: a step, or that the dialogue is done or dropped, and why."""
        if state.index == state.n_turns:
            return self._review(state) if state.review else Done()
        of_turn = (self._question, self._answers, self._choice, self._verdict, self._revision)
        for phase in (self._opening, *of_turn, self._at_end):
            if (step := phase(state)) is not None:
                return step
        return self._finish(state) if state.progress.left else self._commit(state)

    def remaining(self, state: State) -> int:
        """How many calls the dialogue has left when nothing is repeated, and the user does not end it."""
        if state.index == state.n_turns:
            return len(self._lacking(state)) if state.review else 0
        progress = state.progress
        at_end = sum(progress.verdict(subject) is None for subject in self._judged_at_end(state))
        if progress.left:
            return at_end
        free = state.n_turns - max(state.index + 1, len(state.given))
        later = free * self._calls(state, None) + at_end + self._is_to_open(state)
        later += sum(self._calls(state, given) for given in state.given[state.index + 1 :])
        if progress.question is None:
            return later + self._calls(state, state.exchange)
        answers, rated = self._lacking_answers(state), self._judges(state) or self._answers_to(state) > 1
        if not answers and not self.judges_turns and len(progress.answered) < 2:
            rated = False  # there is nothing to choose from
        return later + answers + (rated and not self._is_rated(state)) + self._left_of_revision(state)

    def _calls(self, state: State, given: Exchange | None) -> int:
        """How many calls a turn takes of which the seed gives this."""
        if given is not None and given.assistant:
            return 2 + self.judges_turns if state.translates else 0
        asks = given is None or state.translates
        return asks + self.candidates + (self.judges_turns or self.candidates > 1)

    def _answers_to(self, state: State) -> int:
        """How many answers the turn in progress gets: one where the seed has it, translated or not."""
        return 1 if state.has_given_answer else self.candidates

    def _judges(self, state: State) -> bool:
        """Whether the turn in progress gets a verdict: nobody is to judge what the seed says."""
        return self.judges_turns and state.origin is not Origin.SEED

    # Before the first turn

    def _is_to_open(self, state: State) -> bool:
        return self.opens and not state.index and state.progress.opened is None

    def _opening(self, state: State) -> Step | None:
        if not self._is_to_open(state):
            return None
        failure = state.progress.failure
        return Open() if failure is None else Dropped(failure.reason, failure.detail)

    # Phases of a turn

    def _question(self, state: State) -> Step | None:
        progress = state.progress
        if progress.question is not None or progress.left:
            return None
        if progress.failure is not None:
            return Dropped(progress.failure.reason, progress.failure.detail)
        rejected = progress.rejected
        if len(rejected) < self.question_attempts:
            may_end = self.may_end_after is not None and state.index >= self.may_end_after
            return Ask(state.index, rejected, len(rejected) + 1 == self.question_attempts, may_end)
        last = rejected[-1]
        return Dropped(
            DropReason.DEDUP_EXHAUSTED,
            f"turn {state.index + 1}: {len(rejected)} questions in a row had been asked before, "
            f"last {last.question!r}, which is {last.similarity:.0%} like {last.collides_with!r}",
        )

    def _answers(self, state: State) -> Step | None:
        """One candidate after the other; one that cannot be had costs the dialogue only if none can."""
        if state.progress.left:
            return None
        given_up: Dropped | None = None
        for candidate in range(self._answers_to(state)):
            match self._answer(state, candidate):
                case Dropped() as end:
                    given_up = given_up or end
                case None:
                    pass
                case step:
                    return step
        return None if state.progress.answered else given_up

    def _answer(self, state: State, candidate: int, review: Review | None = None) -> Step | None:
        """Return the next step to a candidate; None when it is there, Dropped when it cannot be had."""
        progress, attempt = state.progress, state.progress.candidate(candidate)
        if attempt.answer is not None:
            return None
        assert progress.question is not None
        turn, rejected = state.index, attempt.rejected
        tool_rounds = 0 if state.has_given_answer else self.tool_rounds
        if rejected >= ANSWER_ATTEMPTS:
            return Dropped(
                DropReason.INVALID_OUTPUT,
                f"turn {turn + 1}: {rejected} answers in a row did nothing but repeat the passages",
            )
        if attempt.called is not None:
            if attempt.failures:  # of the model that was to play a tool
                return Dropped(attempt.failures[-1].reason, attempt.failures[-1].detail)
            return CallTools(
                *(turn, rejected, attempt.called, attempt.rounds, attempt.results),
                inherited=review.rounds if review is not None else (),
            )
        offered, overflow = len(attempt.rounds) < tool_rounds, False
        if attempt.failures:
            # With tools a model may say nothing that can be used, or find more than it can read.
            failure = attempt.failures[-1]
            overflow = failure.reason is DropReason.CONTEXT_OVERFLOW and bool(attempt.rounds)
            helps = overflow or failure.reason is DropReason.INVALID_OUTPUT
            if not (offered and helps and len(attempt.failures) == 1):
                return Dropped(failure.reason, failure.detail)
            offered = False
        return Answer(
            *(turn, rejected, progress.question, offered, attempt.rounds, overflow),
            candidate=candidate,
            review=review,
        )

    def _choice(self, state: State) -> Step | None:
        if self._answers_to(state) < 2 or len(answered := state.progress.answered) < 2:
            return None
        if self._is_rated(state):
            return None
        return Compare(state.index, tuple(answered))

    def _is_rated(self, state: State) -> bool:
        """Whether the judge was asked about the answer, or the choice among several."""
        return any(verdict.subject == state.index for verdict in state.progress.verdicts)

    def _verdict(self, state: State) -> Step | None:
        progress, index = state.progress, state.index
        if self._judges(state) and not progress.left and not self._is_rated(state):
            return Judge(index, candidate=progress.answered[0])
        return None

    def _at_end(self, state: State) -> Step | None:
        if state.progress.left or state.index + 1 == state.n_turns:
            for subject in self._judged_at_end(state):
                if state.progress.verdict(subject) is None:
                    return Judge(subject)
        return None

    def _judged_at_end(self, state: State) -> tuple[int | None, ...]:
        """Return what is judged once the conversation has ended."""
        whole = (None,) if self.judges_whole else ()
        return (*whole, GOAL) if self.judges_goal and state.has_goal else whole

    def _revision(self, state: State) -> Step | None:
        if (review := self._under_review(state)) is None:
            return None
        match self._answer(state, self.candidates, review):
            case Dropped():
                return None  # the answer that it was to improve is there
            case None if state.progress.verdict(state.index, self.candidates) is None:
                return Judge(state.index, candidate=self.candidates)
            case step:
                return step

    def _under_review(self, state: State) -> Review | None:
        """Return the answer of the turn in progress that is to be improved, if any."""
        if self.revise is None or state.has_given_answer:
            return None
        progress = state.progress
        best = progress.best([number for number in progress.answered if number < self.candidates])
        verdict = progress.verdict(state.index, best) if best is not None else None
        if best is None or not isinstance(verdict, Judged) or verdict.judgement.score >= self.revise:
            return None
        original = progress.answers[best]
        assert original.answer is not None
        return Review(original.answer, original.rounds, verdict.judgement)

    def _lacking_answers(self, state: State) -> int:
        """How many candidates are neither there nor given up."""
        if (answers := self._answers_to(state)) == 1:
            return not state.progress.answered
        steps = (self._answer(state, candidate) for candidate in range(answers))
        return sum(not isinstance(step, Dropped | None) for step in steps)

    def _left_of_revision(self, state: State) -> int:
        match self._revision(state):
            case None:
                return 0
            case Judge():
                return 1
            case _:
                return 2

    # A finished dialogue, for the verdicts it lacks

    def _review(self, state: State) -> Step:
        lacking = self._lacking(state)
        if lacking:
            return Judge(lacking[0], state.review)
        verdicts = state.progress.verdicts
        return Amend(
            {verdict.subject: verdict.judgement for verdict in verdicts if isinstance(verdict, Judged)},
            self._unjudged(state),
            _judged_goal(state),
        )

    def _lacking(self, state: State) -> list[int | None]:
        """Return what has no verdict and was not judged once more yet."""
        subjects: list[int | None] = []
        if self.judges_turns:
            judged = (turn for turn in state.turns if turn.details.origin is not Origin.SEED)
            subjects = [turn.index for turn in judged if turn.judgement is None]
        elif self.judges_whole and state.judgement is None:
            subjects = [None]
        if self.judges_goal and state.has_goal and state.goal is None:
            subjects.append(GOAL)
        return [subject for subject in subjects if state.progress.verdict(subject) is None]

    def _commit(self, state: State) -> Commit:
        turns, final = state.seen, state.index + 1 == state.n_turns
        return Commit(
            turns[-1],
            final=final,
            judgement=_whole(state),
            unjudged=self._unjudged(state),
            goal=_goal(state, turns) if final else None,
        )

    def _finish(self, state: State) -> Finish:
        return Finish(Ending.USER, _whole(state), self._unjudged(state), _goal(state, state.turns))

    def _unjudged(self, state: State) -> tuple[Unjudged, ...]:
        """Return what stays without a verdict that it should have; that on another answer is no loss."""
        progress, best = state.progress, state.progress.best() or 0
        return tuple(
            verdict
            for verdict in progress.verdicts
            if isinstance(verdict, Unjudged)
            and (verdict.subject in (None, GOAL) or (self.judges_turns and verdict.candidate == best))
        )


def _whole(state: State) -> Judgement | None:
    whole = state.progress.verdict(None)
    return whole.judgement if isinstance(whole, Judged) else None


def _goal(state: State, turns: Sequence[Turn]) -> GoalVerdict | None:
    """Return the verdict on the goal of a dialogue that ends with these turns."""
    if state.expectation is not None:
        return state.expectation.verdict(turns)
    return _judged_goal(state)


def _judged_goal(state: State) -> GoalVerdict | None:
    goal = state.progress.verdict(GOAL)
    return goal.verdict if isinstance(goal, GoalJudged) else None
