"""Acceptance: whether a finished dialogue counts, decided once from what it holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from dlgforge_core.config import AcceptConfig, JudgeConfig
from dlgforge_core.dialogue import Dialogue
from dlgforge_core.sources import Origin
from dlgforge_core.verdicts import Judgement

UNJUDGED = "unjudged"
"""A verdict that acceptance depends on could not be had."""

Shortcomings = Mapping[str, str]
"""What a dialogue lacks to be accepted, by name, each with the particulars; empty when it is accepted."""

NONE_LACKING: Shortcomings = MappingProxyType({})

Checks = Callable[[Dialogue], Shortcomings]


def no_checks(dialogue: Dialogue) -> Shortcomings:
    """Find nothing wrong."""
    return NONE_LACKING


@dataclass(frozen=True, slots=True)
class Acceptance:
    """What a dialogue must be like. `checks` are those of the configuration that look at it by itself."""

    accept: AcceptConfig
    judge: JudgeConfig
    checks: Checks = no_checks

    def shortcomings(self, dialogue: Dialogue) -> Shortcomings:
        """Return what the dialogue lacks; empty when it is accepted."""
        of_verdicts = self._of_verdicts(dialogue) if self.accept.needs_verdicts else {}
        return {**of_verdicts, **self._of_goal(dialogue), **self.checks(dialogue)}

    def _of_goal(self, dialogue: Dialogue) -> dict[str, str]:
        wanted, verdict = self.accept.goal_met, dialogue.goal_verdict
        if wanted is None or not dialogue.plan.goal:
            return {}
        if verdict is None:
            return {UNJUDGED: "no verdict on the user's goal"}
        if verdict.met is wanted:
            return {}
        why = f": {verdict.reason}" if dialogue.plan.expects else ""
        return {"goal_met": f"the user {'reached' if verdict.met else 'missed'} the goal{why}"}

    def _of_verdicts(self, dialogue: Dialogue) -> dict[str, str]:
        verdicts = self._verdicts(dialogue)
        if missing := [subject for subject, verdict in verdicts.items() if verdict is None]:
            return {UNJUDGED: f"no verdict on {', '.join(missing)}"}
        found: dict[str, str] = {}
        accept, score = self.accept, dialogue.mean_score
        if accept.min_score is not None and score is not None and score < accept.min_score:
            found["min_score"] = f"the mean score is {score:.4g}, below {accept.min_score:g}"
        for name, least in accept.min_dimensions.items():
            rating = dialogue.mean_rating(name)
            if rating is None or rating < least:
                found[f"min_dimensions: {name}"] = (
                    "it was not rated" if rating is None else f"the mean is {rating:.4g}, below {least:g}"
                )
        for subject, verdict in verdicts.items():
            assert verdict is not None
            for name, problem in self._of_verdict(verdict):
                found.setdefault(name, f"{subject} {problem}")
        return found

    def _verdicts(self, dialogue: Dialogue) -> dict[str, Judgement | None]:
        """Return the verdicts that there should be, by what they are on."""
        if self.judge.granularity == "conversation":
            return {"the conversation": dialogue.judgement}
        judged = (turn for turn in dialogue.turns if turn.details.origin is not Origin.SEED)
        return {f"turn {turn.index + 1}": turn.judgement for turn in judged}

    def _of_verdict(self, verdict: Judgement) -> list[tuple[str, str]]:
        accept, labels = self.accept, frozenset(verdict.reasons)
        found = [
            (f"forbidden_labels: {label}", f"is {label}")
            for label in accept.forbidden_labels
            if label in labels
        ]
        found += [
            (f"required_labels: {label}", f"is not {label}")
            for label in accept.required_labels
            if label not in labels
        ]
        return found
