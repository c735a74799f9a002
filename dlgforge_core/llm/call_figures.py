"""Figures of a session's calls: what was answered, and what is under way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from dlgforge_core.durations import duration
from dlgforge_core.llm.stats import CallStats
from dlgforge_core.usage import NO_SPENDING, Spending

_SLOW_CALL_S = 10.0
_SAME_TIME_S = 30.0
"""Workers that were heard so many seconds before the last one work no longer."""


@dataclass(frozen=True, slots=True)
class UnderWay:
    """What goes on at the moment: calls, the age of the oldest in seconds, and dialogues.

    `turns` are the first and the last that any open dialogue is in, from 1; None when that is not known.
    """

    calls: int = 0
    oldest_s: float = 0.0
    dialogues: int = 0
    turns: tuple[int, int] | None = None

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "calls": self.calls,
            "oldest_s": round(self.oldest_s, 1),
            "dialogues": self.dialogues,
            "turns": list(self.turns) if self.turns else None,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Return the inverse of `to_json`."""
        first_and_last = tuple(data["turns"]) if data["turns"] else None
        return cls(data["calls"], data["oldest_s"], data["dialogues"], first_and_last)

    @classmethod
    def of_workers(cls, stats: Iterable[Mapping[str, Any]]) -> Self:
        """Return the sum over workers, from their stats as `Worker.stats` gives them."""
        published = [item for item in stats if "under_way" in item]
        last = max((item["updated_at"] for item in published), default=0.0)
        parts = [
            cls.from_json(item["under_way"])
            for item in published
            if item["updated_at"] >= last - _SAME_TIME_S
        ]
        spans = [part.turns for part in parts if part.turns]
        return cls(
            sum(part.calls for part in parts),
            max((part.oldest_s for part in parts), default=0.0),
            sum(part.dialogues for part in parts),
            (min(first for first, _ in spans), max(last for _, last in spans)) if spans else None,
        )

    def dialogues_text(self) -> str:
        """Return how far the open dialogues are; empty when none is open."""
        if not self.dialogues or self.turns is None:
            return f"{self.dialogues} open" if self.dialogues else ""
        first, last = self.turns
        return f"{self.dialogues} open in turn{f' {first}' if first == last else f's {first} to {last}'}"


@dataclass(frozen=True, slots=True)
class CallFigures:
    """The calls of a session so far: answered calls, tokens in and out, and what is under way.

    `spending` is that of the sessions before it, too, where these are known.
    """

    answered: int
    tokens: int
    elapsed_s: float
    under_way: UnderWay = UnderWay()
    spending: Spending = NO_SPENDING

    @classmethod
    def of(
        cls, calls: CallStats, elapsed_s: float, under_way: UnderWay, before: Spending = NO_SPENDING
    ) -> Self:
        """Return the figures of these calls, over `elapsed_s` seconds of wall clock."""
        total = calls.total()
        tokens = total.prompt_tokens + total.completion_tokens
        return cls(total.calls, tokens, elapsed_s, under_way, before + total.spending)

    @property
    def calls_per_s(self) -> float:
        """Answered calls per second of wall clock."""
        return self.answered / self.elapsed_s

    @property
    def tokens_per_s(self) -> float:
        """Tokens per second of wall clock."""
        return self.tokens / self.elapsed_s

    def __str__(self) -> str:
        per_s = f" ({self.calls_per_s:.1f}/s)" if self.calls_per_s >= 0.05 else ""
        calls = "call" if self.answered == 1 else "calls"
        parts = [f"{self.answered:,} {calls} answered{per_s}"]
        if self.under_way.calls:
            parts.append(f"{self.under_way.calls} under way")
            if self.under_way.oldest_s >= _SLOW_CALL_S:
                parts.append(f"the oldest for {duration(self.under_way.oldest_s)}")
        parts.append(f"{self.tokens:,} tokens" + (f" ({self.tokens_per_s:,.0f}/s)" if self.tokens else ""))
        if self.spending:
            parts.append(str(self.spending))
        return ", ".join(parts)
