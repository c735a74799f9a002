"""What a dialogue in progress needs of the run state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from dlgforge_core.conversation.acceptance import NONE_LACKING, Shortcomings
from dlgforge_core.conversation.outcomes import Outcome, Unjudged
from dlgforge_core.dialogue import Ending, Turn
from dlgforge_core.store.reservations import Reservation
from dlgforge_core.verdicts import GoalVerdict, Judgement


class DialogueStore(Protocol):
    """What a dialogue needs of the run state."""

    async def reserve(self, dialogue_id: str, turn_index: int, question: str, position: int) -> Reservation:
        """Take a question for the dialogue unless the dataset has it, or one like it."""
        ...

    async def record(self, dialogue_id: str, turn_index: int, position: int, outcome: Outcome) -> None:
        """Keep an outcome; it is durable on return."""
        ...

    async def commit_turn(
        self,
        dialogue_id: str,
        turn: Turn,
        *,
        final: bool,
        judgement: Judgement | None = None,
        unjudged: Sequence[Unjudged] = (),
        shortcomings: Shortcomings = NONE_LACKING,
        goal: GoalVerdict | None = None,
    ) -> None:
        """Keep a turn and forget its outcomes, in one transaction."""
        ...

    async def finish(
        self,
        dialogue_id: str,
        ended_by: Ending,
        *,
        judgement: Judgement | None = None,
        goal: GoalVerdict | None = None,
        unjudged: Sequence[Unjudged] = (),
        shortcomings: Shortcomings = NONE_LACKING,
    ) -> None:
        """Finish a dialogue that ends before another turn, and forget its outcomes, in one transaction."""
        ...

    async def amend(
        self,
        dialogue_id: str,
        judgements: Mapping[int | None, Judgement],
        unjudged: Sequence[Unjudged] = (),
        goal: GoalVerdict | None = None,
    ) -> None:
        """Keep verdicts, by turn index or None, that a finished dialogue lacked."""
        ...
