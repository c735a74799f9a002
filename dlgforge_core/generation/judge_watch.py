"""Watch over the judge: a verdict that cannot be had is no harm, a judge that never gives one is a fault."""

from __future__ import annotations

from collections import Counter

from dlgforge_core.conversation.outcomes import Compared, GoalJudged, Judged, Unjudged

_ENOUGH = 8


class JudgeWatch:
    """What became of the verdicts that one worker asked for; it looks for a fault early in a long run."""

    def __init__(self) -> None:
        self.unjudged: Counter[str] = Counter()
        """Verdicts that could not be had, by reason."""
        self._worked = False
        self._first: Unjudged | None = None
        self._dialogues: set[str] = set()

    def saw(self, dialogue_id: str, outcome: Judged | GoalJudged | Compared | Unjudged) -> None:
        """Count what the judge gave."""
        if not isinstance(outcome, Unjudged):
            self._worked = True
            self._dialogues.clear()
            return
        self.unjudged[outcome.reason.value] += 1
        self._first = self._first or outcome
        if not self._worked and len(self._dialogues) < _ENOUGH:
            self._dialogues.add(dialogue_id)

    @property
    def fault(self) -> str:
        """Why the judge seems not to work: it gave no verdict, and failed on several different dialogues.

        Empty as long as it may work. Of a whole run, see `RunStore.judge_fault`.
        """
        if self._worked or self._first is None or len(self._dialogues) < _ENOUGH:
            return ""
        return f"the first failed as {self._first.reason.value}: {self._first.detail}"
