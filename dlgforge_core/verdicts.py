"""Verdicts: what a judge says of a turn, a conversation and the user's goal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

MAX_SCORE = 10
"""Scores of the judge go from 0 to this; the constraint in the database says the same."""


@dataclass(frozen=True, slots=True)
class GoalVerdict:
    """Whether the user reached the goal of a conversation, and why: by the judge, or by what happened."""

    met: bool
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """As plain data, for the store."""
        return {"met": self.met, "reason": self.reason}

    @classmethod
    def from_json(cls, data: Mapping[str, Any] | None) -> GoalVerdict | None:
        """Return the inverse of `to_json`; None without a verdict."""
        return cls(bool(data["met"]), data.get("reason", "")) if data else None


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict: `score` from 0 to MAX_SCORE, `reasons` from the labels in the config.

    By a rubric it has ratings: `dimensions`, by name, and whether question and answer are good enough. One
    that was given at the end of a conversation may say whether the user's `goal` was met.
    """

    score: int
    reasons: tuple[str, ...]
    comment: str = ""
    dimensions: Mapping[str, float] = field(default_factory=dict, hash=False)
    question_ok: bool | None = None
    answer_ok: bool | None = None
    goal: GoalVerdict | None = None

    @property
    def more(self) -> dict[str, Any] | None:
        """What it says beside score, reasons and comment, as plain data; None for nothing."""
        goal = {"goal": self.goal.to_json()} if self.goal is not None else {}
        return {**(self.ratings or {}), **goal} or None

    @property
    def ratings(self) -> dict[str, Any] | None:
        """What it says by a rubric, as plain data; None without one."""
        if not self.dimensions:
            return None
        return {
            "dimensions": dict(self.dimensions),
            "question_ok": self.question_ok,
            "answer_ok": self.answer_ok,
        }

    def to_json(self) -> dict[str, Any]:
        """As plain data, for the store and the exports."""
        plain = {"score": self.score, "reasons": list(self.reasons), "comment": self.comment}
        return {**plain, **(self.more or {})}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Judgement:
        """Return the inverse of `to_json`."""
        return cls(
            int(data["score"]),
            tuple(data["reasons"]),
            data.get("comment", ""),
            data.get("dimensions", {}),
            data.get("question_ok"),
            data.get("answer_ok"),
            GoalVerdict.from_json(data.get("goal")),
        )


@dataclass(frozen=True, slots=True)
class JudgeVerdict:
    """What one of several judges said of a turn or, with `turn_index` None, of the whole conversation."""

    judge: str
    turn_index: int | None
    judgement: Judgement


def mean_scores(verdicts: Iterable[JudgeVerdict]) -> dict[str, float]:
    """Return the mean score that each judge gave."""
    scores: dict[str, list[int]] = {}
    for one in verdicts:
        scores.setdefault(one.judge, []).append(one.judgement.score)
    return {judge: sum(given) / len(given) for judge, given in scores.items()}


@dataclass(frozen=True, slots=True)
class Mark:
    """What a reviewer, a person, thinks of a dialogue: `good` or not, with a label and a comment."""

    reviewer: str
    good: bool
    label: str = ""
    comment: str = ""

    @property
    def verdict(self) -> str:
        """The word for it: good or bad."""
        return "good" if self.good else "bad"

    def to_json(self) -> dict[str, Any]:
        """As plain data, for exports."""
        return {
            "reviewer": self.reviewer,
            "verdict": self.verdict,
            "label": self.label,
            "comment": self.comment,
        }
