"""The script: from the configuration and the outcomes so far to the next step.

Each turn goes through phases: the question, the answer with the tools it calls, the verdict. A phase names
its next step, or None once it is through; a turn that is through all of them is committed. What a
conversation can be grows here: by a phase (choose among several answers, revise one), by a step within a
phase (another candidate, a tool with state), by another end (the user has no further question), by a phase
before the first turn (the assistant opens). Whoever performs the steps only needs to know the new one.
"""

from __future__ import annotations

from dataclasses import dataclass

from dlgforge_core.config import GenerationConfig
from dlgforge_core.conversation.outcomes import Judged, Unjudged
from dlgforge_core.conversation.state import State
from dlgforge_core.conversation.steps import Amend, Answer, Ask, CallTools, Commit, Done, Dropped, Judge, Step
from dlgforge_core.dialogue import DropReason

ANSWER_ATTEMPTS = 2


@dataclass(frozen=True, slots=True)
class Script:
    """What every dialogue of a run goes through. `tool_rounds` is 0 when there are no tools."""

    question_attempts: int
    tool_rounds: int = 0
    judges_turns: bool = False
    judges_whole: bool = False

    @classmethod
    def of(cls, generation: GenerationConfig, *, has_tools: bool) -> Script:
        """Return the script that a configuration asks for."""
        judge = generation.judge
        online = judge.mode == "online"
        return cls(
            question_attempts=generation.coverage.question_dedup_retries + 1,
            tool_rounds=generation.tools.max_rounds if has_tools else 0,
            judges_turns=online and judge.granularity == "turn",
            judges_whole=online and judge.granularity == "conversation",
        )

    def next(self, state: State) -> Step:
        """Return what is to be done now: a step, or that the dialogue is done or dropped, and why."""
        if state.index == state.n_turns:
            return self._review(state) if state.review else Done()
        for phase in (self._question, self._answer, self._verdict):
            if (step := phase(state)) is not None:
                return step
        return _commit(state)

    def remaining(self, state: State) -> int:
        """How many calls the dialogue has left when nothing has to be repeated."""
        if state.index == state.n_turns:
            return len(self._lacking(state)) if state.review else 0
        progress = state.progress
        per_turn = 2 + self.judges_turns
        calls = (state.n_turns - state.index - 1) * per_turn + self.judges_whole
        calls += (progress.question is None) + (progress.answer is None)
        return calls + (self.judges_turns and progress.verdict(state.index) is None)

    # Phases of a turn

    def _question(self, state: State) -> Step | None:
        progress = state.progress
        if progress.question is not None:
            return None
        if progress.failure is not None:
            return Dropped(progress.failure.reason, progress.failure.detail)
        rejected = progress.rejected
        if len(rejected) < self.question_attempts:
            return Ask(state.index, rejected, last=len(rejected) + 1 == self.question_attempts)
        last = rejected[-1]
        return Dropped(
            DropReason.DEDUP_EXHAUSTED,
            f"turn {state.index + 1}: {len(rejected)} questions in a row had been asked before, "
            f"last {last.question!r}, which is {last.similarity:.0%} like {last.collides_with!r}",
        )

    def _answer(self, state: State) -> Step | None:
        progress, attempt = state.progress, state.progress.attempt
        if progress.answer is not None:
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
        if self.judges_turns and progress.verdict(index) is None:
            return Judge(index)
        if self.judges_whole and index + 1 == state.n_turns and progress.verdict(None) is None:
            return Judge(None)
        return None

    # A finished dialogue, for the verdicts it lacks

    def _review(self, state: State) -> Step:
        lacking = self._lacking(state)
        if lacking:
            return Judge(lacking[0], state.review)
        verdicts = state.progress.verdicts
        return Amend(
            {verdict.subject: verdict.judgement for verdict in verdicts if isinstance(verdict, Judged)},
            _unjudged(state),
        )

    def _lacking(self, state: State) -> list[int | None]:
        """Return what has no verdict and was not judged once more yet."""
        subjects: list[int | None] = []
        if self.judges_turns:
            subjects = [turn.index for turn in state.turns if turn.judgement is None]
        elif self.judges_whole and state.judgement is None:
            subjects = [None]
        return [subject for subject in subjects if state.progress.verdict(subject) is None]


def _commit(state: State) -> Commit:
    whole = state.progress.verdict(None)
    return Commit(
        state.seen[-1],
        final=state.index + 1 == state.n_turns,
        judgement=whole.judgement if isinstance(whole, Judged) else None,
        unjudged=_unjudged(state),
    )


def _unjudged(state: State) -> tuple[Unjudged, ...]:
    return tuple(verdict for verdict in state.progress.verdicts if isinstance(verdict, Unjudged))
