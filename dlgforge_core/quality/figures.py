"""Figures of a set of dialogues, gathered in one pass with bounded memory, for plots and metadata."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Self

from dlgforge_core.call_rounds import rounds_of
from dlgforge_core.dialogue import Dialogue, Ending, Role
from dlgforge_core.tool_events import ToolEvent, ToolProblem
from dlgforge_core.verdicts import Judgement

# Text lengths are counted in classes a quarter of an octave wide: few, and fine enough for a plot.
_CLASSES_PER_OCTAVE = 4
_MAX_TOOLS = 500
OTHER_TOOLS = "(other)"
"""Stands for tools beyond the first 500."""


@dataclass
class RatingFigures:
    """Ratings of verdicts in one dimension of a rubric."""

    count: int = 0
    total: float = 0.0
    lowest: float = math.inf
    highest: float = -math.inf

    def add(self, rating: float) -> None:
        """Count one in."""
        self.count += 1
        self.total += rating
        self.lowest, self.highest = min(self.lowest, rating), max(self.highest, rating)

    def merge(self, other: Self) -> None:
        """Count those of another part in."""
        self.count += other.count
        self.total += other.total
        self.lowest, self.highest = min(self.lowest, other.lowest), max(self.highest, other.highest)

    @property
    def mean(self) -> float:
        """Mean of all."""
        return self.total / self.count


@dataclass
class DialogueFigures:
    """What a set of dialogues looks like; add them one by one."""

    n_dialogues: int = 0
    n_turns: int = 0
    turn_counts: Counter[int] = field(default_factory=Counter)
    scores: Counter[int] = field(default_factory=Counter)
    """Verdicts by score; of several judges their rounded means."""
    score_total: float = 0.0
    """Of all verdicts, not rounded."""
    ratings: dict[str, RatingFigures] = field(default_factory=dict)
    """By dimension, where there is a rubric."""
    opinions: Counter[tuple[str, bool]] = field(default_factory=Counter)
    """Verdicts by a rubric: how many say that the question, or the answer, is good enough, or is not."""
    user_lengths: Counter[int] = field(default_factory=Counter)
    assistant_lengths: Counter[int] = field(default_factory=Counter)
    grounded_turns: int = 0
    """Turns whose answer was given passages."""
    cited_turns: int = 0
    """Those of them whose answer draws on one of the passages."""
    tools_offered: Counter[str] = field(default_factory=Counter)
    """The declared tools that dialogues had, called or not."""
    tool_calls: Counter[str] = field(default_factory=Counter)
    tool_errors: Counter[str] = field(default_factory=Counter)
    tool_problems: Counter[ToolProblem] = field(default_factory=Counter)
    """Calls that gave no result of the tool's own, by what was wrong."""
    call_rounds: Counter[int] = field(default_factory=Counter)
    """Answers that took calls of tools, by how many times the assistant called some, at once or one."""
    ended_by: Counter[Ending] = field(default_factory=Counter)
    goals: Counter[str] = field(default_factory=Counter)
    """Dialogues whose user has a goal: how many met it, missed it, or have no verdict on it."""
    opened: int = 0
    """Dialogues that the assistant opened."""
    user_chars: int = 0
    assistant_chars: int = 0

    @classmethod
    def of(cls, dialogues: Iterable[Dialogue]) -> Self:
        """Return the figures of all of `dialogues`."""
        made = cls()
        for dialogue in dialogues:
            made.add(dialogue)
        return made

    def add(self, dialogue: Dialogue) -> None:
        """Count one dialogue in."""
        self.n_dialogues += 1
        self.n_turns += len(dialogue.turns)
        self.turn_counts[len(dialogue.turns)] += 1
        self.ended_by[dialogue.ended_by] += 1
        self.opened += bool(dialogue.opening)
        if dialogue.plan.goal:
            self.goals[_goal_state(dialogue)] += 1
        self.tools_offered.update(dialogue.plan.tools or ())
        for turn in dialogue.turns:
            self.user_lengths[length_class(len(turn.user))] += 1
            self.assistant_lengths[length_class(len(turn.assistant))] += 1
            self.user_chars += len(turn.user)
            self.assistant_chars += len(turn.assistant)
            given = [e for e in turn.details.evidence if e.given_to is Role.ASSISTANT]
            self.grounded_turns += bool(given)
            self.cited_turns += any(evidence.cited for evidence in given)
            if events := turn.details.tools:
                self.tool_calls.update(self._tool(event) for event in events)
                self.tool_errors.update(self._tool(event) for event in events if event.failed)
                self.tool_problems.update(problem for event in events if (problem := problem_of(event)))
                self.call_rounds[len(rounds_of(turn.details))] += 1
        for verdict in dialogue.verdicts:
            self._rated(verdict)
        self.scores.update(verdict.score for verdict in dialogue.verdicts)
        self.score_total += sum(dialogue.scores)

    def merge(self, other: Self) -> None:
        """Count the dialogues of another part in."""
        for name, calls in other.tool_calls.items():
            kept = name if name in self.tool_calls or len(self.tool_calls) < _MAX_TOOLS else OTHER_TOOLS
            self.tool_calls[kept] += calls
            self.tool_errors[kept] += other.tool_errors[name]
        for name, rated in other.ratings.items():
            self.ratings.setdefault(name, RatingFigures()).merge(rated)
        for name in vars(self).keys() - {"tool_calls", "tool_errors", "ratings"}:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def _tool(self, event: ToolEvent) -> str:
        """Return the name to count a call under: models that make names up make no end of them."""
        known = event.name in self.tool_calls or len(self.tool_calls) < _MAX_TOOLS
        return event.name if known else OTHER_TOOLS

    def _rated(self, verdict: Judgement) -> None:
        for name, rating in verdict.dimensions.items():
            self.ratings.setdefault(name, RatingFigures()).add(rating)
        for part, opinion in (("question", verdict.question_ok), ("answer", verdict.answer_ok)):
            if opinion is not None:
                self.opinions[part, opinion] += 1

    def share_ok(self, part: str) -> float | None:
        """Share of verdicts that say that the `question` or the `answer` is good enough; None without any."""
        yes, no = self.opinions[part, True], self.opinions[part, False]
        return yes / (yes + no) if yes + no else None

    @property
    def mean_rounds(self) -> float | None:
        """Mean of the rounds of tool calls of the answers that took some; None where none did."""
        n = self.call_rounds.total()
        return sum(rounds * count for rounds, count in self.call_rounds.items()) / n if n else None

    @property
    def goal_met_share(self) -> float | None:
        """Share of the goals met among those that are known to be met or missed; None without any."""
        known = self.goals["met"] + self.goals["missed"]
        return self.goals["met"] / known if known else None

    @property
    def mean_score(self) -> float | None:
        """Mean of all verdicts; None when nothing was judged."""
        n = self.scores.total()
        return self.score_total / n if n else None

    @property
    def mean_turns(self) -> float:
        """Turns a dialogue."""
        return self.n_turns / self.n_dialogues if self.n_dialogues else 0.0


def problem_of(event: ToolEvent) -> ToolProblem:
    """Return what was wrong with a tool call; of one recorded by an earlier version no more than that."""
    return event.problem or (ToolProblem.ERROR if event.error else ToolProblem.NONE)


def _goal_state(dialogue: Dialogue) -> str:
    if (verdict := dialogue.goal_verdict) is None:
        return "unjudged"
    return "met" if verdict.met else "missed"


def length_class(chars: int) -> int:
    """Return the class of a text of `chars` characters."""
    return math.floor(_CLASSES_PER_OCTAVE * math.log2(chars + 1))


def length_of_class(number: int) -> float:
    """Return the length in characters in the middle of a class."""
    return float(2 ** ((number + 0.5) / _CLASSES_PER_OCTAVE) - 1)
