"""Outcomes of a run: how its planned dialogues ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DroppedDialogue:
    """A dialogue that was given up: the reason, and in `detail` what was wrong with it."""

    dialogue_id: str
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Outcomes:
    """How the planned dialogues of a set, and the spares that replace some of them, ended."""

    planned: int
    done: int
    drop_reasons: Mapping[str, int]
    drop_examples: Sequence[DroppedDialogue] = ()
    """Some of those dropped, of every reason first."""
    spares: int = 0
    unaccepted: int = 0
    """Dialogues that were finished, and do not count."""

    @property
    def dropped(self) -> int:
        """Dialogues given up, whatever the reason."""
        return sum(self.drop_reasons.values())

    @property
    def ended(self) -> int:
        """Dialogues that were finished, accepted or not, or dropped."""
        return self.done + self.unaccepted + self.dropped

    @property
    def unfinished(self) -> int:
        """Dialogues that have not ended."""
        return self.planned + self.spares - self.ended
