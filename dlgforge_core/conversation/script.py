"""The script: from the configuration and the outcomes so far to the next step.

Each turn goes through phases: the question, the answer with the tools it calls, the verdict. A phase names
its next step, or None once it is through; a turn that is through all of them is committed. What a
conversation can be grows here: by a phase (choose among several answers, revise one), by a step within a
phase (another candidate, a tool with state), by another end. Whoever performs the steps only needs to know
the new one. Before the first turn the assistant may open the conversation; and instead of a question the user
may end it, so that it is finished without another turn.
"""

from __future__ import annotations

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
    Done,
    Dropped,
    Finish,
    Judge,
    Open,
    Step,
)
from dlgforge_core.dialogue import DropReason, Ending, GoalVerdict, Judgement

ANSWER_ATTEMPTS = 2


@dataclass(frozen=True, slots=True)
class Script:
    """What every dialogue of a run goes through. `tool_rounds` is 0 when there are no tools.

    With `opens` the assistant speaks first; after `may_end_after` turns the user may end the conversation
    instead of asking, never with None; `judges_goal`: the user's goal is judged by a call of its own.
    """

    question_attempts: int
    tool_rounds: int = 0
    judges_turns: bool = False
    judges_whole: bool = False
    opens: bool = False
    may_end_after: int | None = None
    judges_goal: bool = False

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
        )

    def next(self, state: State) -> Step:
        """Return what is to be done now: a step, or that the dialogue is done or dropped, and why."""
        if state.index == state.n_turns:
            return self._review(state) if state.review else Done()
        for phase in (self._opening, self._question, self._answer, self._verdict):
            if (step := phase(state)) is not None:
                return step
        return _finish(state) if state.progress.left else _commit(state)

    def remaining(self, state: State) -> int:
        """How many calls the dialogue has left when nothing is repeated, and the user does not end it."""
        if state.index == state.n_turns:
            return len(self._lacking(state)) if state.review else 0
        progress = state.progress
        at_end = sum(progress.verdict(subject) is None for subject in self._judged_at_end(state))
        if progress.left:
            return at_end
        per_turn = 2 + self.judges_turns
        calls = (state.n_turns - state.index - 1) * per_turn + at_end
        calls += (progress.question is None) + (progress.answer is None) + self._is_to_open(state)
        return calls + (self.judges_turns and progress.verdict(state.index) is None)

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

    def _answer(self, state: State) -> Step | None:
        progress, attempt = state.progress, state.progress.attempt
        if progress.answer is not None or progress.left:
            return None
        assert progress.question is not None
        turn, rejected = state.index, progress.answers_rejected
        if rejected >= ANSWER_ATTEMPTS:
            return Dropped(
                DropReason.INVALID_OUTPUT,
                f"turn {turn + 1}: {rejected} answers in a row did nothing but repeat the passages",
            )
        if attempt.called is not None:
            return CallTools(turn, rejected, attempt.called, attempt.rounds)
        if not attempt.failures:
            offered = len(attempt.rounds) < self.tool_rounds
            return Answer(turn, rejected, progress.question, offered, attempt.rounds)
        failure = attempt.failures[-1]
        if len(attempt.failures) == 1 and len(attempt.rounds) < self.tool_rounds:
            # With tools a model may say nothing that can be used, or find more than it can read.
            overflow = failure.reason is DropReason.CONTEXT_OVERFLOW and bool(attempt.rounds)
            if overflow or failure.reason is DropReason.INVALID_OUTPUT:
                return Answer(turn, rejected, progress.question, False, attempt.rounds, without_last=overflow)
        return Dropped(failure.reason, failure.detail)

    def _verdict(self, state: State) -> Step | None:
        progress, index = state.progress, state.index
        if self.judges_turns and not progress.left and progress.verdict(index) is None:
            return Judge(index)
        if progress.left or index + 1 == state.n_turns:
            for subject in self._judged_at_end(state):
                if progress.verdict(subject) is None:
                    return Judge(subject)
        return None

    def _judged_at_end(self, state: State) -> tuple[int | None, ...]:
        """Return what is judged once the conversation has ended."""
        whole = (None,) if self.judges_whole else ()
        return (*whole, GOAL) if self.judges_goal and state.has_goal else whole

    # A finished dialogue, for the verdicts it lacks

    def _review(self, state: State) -> Step:
        lacking = self._lacking(state)
        if lacking:
            return Judge(lacking[0], state.review)
        verdicts = state.progress.verdicts
        return Amend(
            {verdict.subject: verdict.judgement for verdict in verdicts if isinstance(verdict, Judged)},
            _unjudged(state),
            _goal(state),
        )

    def _lacking(self, state: State) -> list[int | None]:
        """Return what has no verdict and was not judged once more yet."""
        subjects: list[int | None] = []
        if self.judges_turns:
            subjects = [turn.index for turn in state.turns if turn.judgement is None]
        elif self.judges_whole and state.judgement is None:
            subjects = [None]
        if self.judges_goal and state.has_goal and state.goal is None:
            subjects.append(GOAL)
        return [subject for subject in subjects if state.progress.verdict(subject) is None]


def _commit(state: State) -> Commit:
    return Commit(
        state.seen[-1],
        final=state.index + 1 == state.n_turns,
        judgement=_whole(state),
        unjudged=_unjudged(state),
        goal=_goal(state),
    )


def _finish(state: State) -> Finish:
    return Finish(Ending.USER, _whole(state), _unjudged(state), _goal(state))


def _whole(state: State) -> Judgement | None:
    whole = state.progress.verdict(None)
    return whole.judgement if isinstance(whole, Judged) else None


def _goal(state: State) -> GoalVerdict | None:
    goal = state.progress.verdict(GOAL)
    return goal.verdict if isinstance(goal, GoalJudged) else None


def _unjudged(state: State) -> tuple[Unjudged, ...]:
    return tuple(verdict for verdict in state.progress.verdicts if isinstance(verdict, Unjudged))
