"""Figures of a dataset's preference pairs: how many there are, by how much, and why others are none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from dlgforge_core.dialogue import Dialogue, Turn
from dlgforge_core.export.card_text import counted
from dlgforge_core.export.preferences import pairs_of

UNJUDGED, TOO_CLOSE = "unjudged", "too_close"


@dataclass
class PreferenceFigures:
    """Of the turns with several answers; add the dialogues one by one. Grows with the margins alone."""

    min_margin: float = 1.0
    turns: int = 0
    candidates: int = 0
    revised: int = 0
    """Turns whose answer is a revision."""
    margins: Counter[int] = field(default_factory=Counter)
    without: Counter[str] = field(default_factory=Counter)
    """Turns without any pair, by why: answers have no verdicts, or no score is lower by the margin."""
    tools: bool = False
    """Whether an answer that was not chosen called tools."""

    @property
    def pairs(self) -> int:
        """How many there are."""
        return self.margins.total()

    def add(self, dialogue: Dialogue) -> None:
        """Count one dialogue in."""
        for turn in dialogue.turns:
            if len(turn.details.candidates) > 1:
                self._add(turn)

    def merge(self, other: PreferenceFigures) -> None:
        """Count those of another part in."""
        self.turns += other.turns
        self.candidates += other.candidates
        self.revised += other.revised
        self.margins.update(other.margins)
        self.without.update(other.without)
        self.tools |= other.tools

    def _add(self, turn: Turn) -> None:
        candidates = turn.details.candidates
        self.turns += 1
        self.candidates += len(candidates)
        self.revised += any(one.chosen and one.revision for one in candidates)
        self.tools |= any(one.details.tools for one in candidates)
        pairs = pairs_of(turn, self.min_margin)
        self.margins.update(pair.margin for pair in pairs)
        if not pairs:
            judged = sum(one.judgement is not None for one in candidates) > 1
            self.without[TOO_CLOSE if judged else UNJUDGED] += 1

    def to_json(self) -> dict[str, Any]:
        """As plain data; empty when no turn has several answers."""
        if not self.turns:
            return {}
        total = sum(margin * count for margin, count in self.margins.items())
        return {
            "turns": self.turns,
            "candidates": self.candidates,
            "revised": self.revised,
            "pairs": self.pairs,
            "min_margin": self.min_margin,
            "mean_margin": round(total / self.pairs, 4) if self.pairs else None,
            "margins": {str(margin): count for margin, count in sorted(self.margins.items())},
            "turns_without_pair": {name: self.without[name] for name in (UNJUDGED, TOO_CLOSE)},
        }

    def lines(self, *, written: bool) -> Iterator[str]:
        """Yield what a card says of them; `written` says whether the pairs are in the dataset."""
        if not self.turns:
            return
        yield (
            f"{counted(self.turns, 'question')} got several answers, {self.candidates} in all; the judge's "
            f"scores chose one of each. Of those chosen, {self.revised} were written anew after its comment."
        )
        if written:
            yield (
                f"{counted(self.pairs, 'pair')} of answers in `dpo`. Of the turns with several answers, "
                f"{self.without.total()} have none: in {self.without[TOO_CLOSE]} no score is lower by "
                f"{self.min_margin:g} or more, in {self.without[UNJUDGED]} answers have no verdict."
            )
