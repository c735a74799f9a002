"""Figures of a dataset as it is written, for `dataset_stats.json`, its card and its plots."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dlgforge_core.config.conversation import ENDED_BY
from dlgforge_core.dialogue import Dialogue, Ending, topic_of
from dlgforge_core.export.preference_figures import PreferenceFigures
from dlgforge_core.export.records import clean
from dlgforge_core.export.token_counts import MessageSizes
from dlgforge_core.quality.diversity import Diversity
from dlgforge_core.quality.figures import DialogueFigures, length_of_class
from dlgforge_core.usage import RoleUsage, total_usage

STATS_NAME = "dataset_stats.json"
MAX_DOCUMENTS_LISTED = 1_000


@dataclass
class DatasetFigures:
    """What a dataset holds; add the dialogues one by one. Grows with the languages and documents alone."""

    dialogues: DialogueFigures = field(default_factory=DialogueFigures)
    diversity: Diversity = field(default_factory=Diversity)
    sizes: MessageSizes = field(default_factory=MessageSizes)
    by_language: Counter[str] = field(default_factory=Counter)
    by_split: Counter[str] = field(default_factory=Counter)
    turns_by_split: Counter[str] = field(default_factory=Counter)
    language_by_split: dict[str, Counter[str]] = field(default_factory=dict)
    reasons: Counter[str] = field(default_factory=Counter)
    models: dict[str, set[str]] = field(default_factory=dict)
    given: Counter[str] = field(default_factory=Counter)
    cited: Counter[str] = field(default_factory=Counter)
    passages: int = 0
    """Passages in the evidence of all turns; `passage_texts` of them with their text."""
    passage_texts: int = 0
    judged: int = 0
    off_topic: int = 0
    by_attribute: dict[str, Counter[str]] = field(default_factory=dict)
    conversation: Sequence[str] = ()
    """The columns of who ended dialogues, and of goals."""
    preferences: PreferenceFigures = field(default_factory=PreferenceFigures)
    usage: dict[str, RoleUsage] = field(default_factory=dict)
    """What was called for its dialogues, by role."""

    def add(self, dialogue: Dialogue, split: str) -> None:
        """Count one dialogue in."""
        language = clean(dialogue.plan.language)
        self.dialogues.add(dialogue)
        self.diversity.add(dialogue, language)
        self.sizes.add(dialogue)
        self.preferences.add(dialogue)
        self.by_language[language] += 1
        self.by_split[split] += 1
        self.turns_by_split[split] += len(dialogue.turns)
        self.language_by_split.setdefault(split, Counter())[language] += 1
        self.judged += bool(dialogue.verdicts)
        self.off_topic += bool(dialogue.plan.topic.topic) and not topic_of(dialogue.plan, dialogue.turns)
        for name, value in dialogue.plan.attributes.items():
            self.by_attribute.setdefault(name, Counter())[value] += 1
        for verdict in dialogue.verdicts:
            self.reasons.update(verdict.reasons)
        for role, model in dialogue.models.items():
            self.models.setdefault(str(role), set()).add(model)
        for role, used in dialogue.usage.items():
            self.usage[role] = self.usage.get(role, RoleUsage()) + used
        for turn in dialogue.turns:
            evidence = turn.details.evidence
            self.given.update({clean(item.document) for item in evidence})
            self.cited.update({clean(item.document) for item in evidence if item.cited})
            self.passages += len(evidence)
            self.passage_texts += sum(bool(item.text) for item in evidence)

    def merge(self, other: DatasetFigures) -> None:
        """Count the dialogues of another part in."""
        for part in ("dialogues", "diversity", "sizes", "preferences"):
            getattr(self, part).merge(getattr(other, part))
        for counts in ("by_language", "by_split", "turns_by_split", "reasons", "given", "cited"):
            getattr(self, counts).update(getattr(other, counts))
        for number in ("passages", "passage_texts", "judged", "off_topic"):
            setattr(self, number, getattr(self, number) + getattr(other, number))
        for mine, others in (
            (self.language_by_split, other.language_by_split),
            (self.by_attribute, other.by_attribute),
        ):
            for name, counted in others.items():
                mine.setdefault(name, Counter()).update(counted)
        for role, models in other.models.items():
            self.models.setdefault(role, set()).update(models)
        for role, used in other.usage.items():
            self.usage[role] = self.usage.get(role, RoleUsage()) + used

    def to_json(self) -> dict[str, Any]:
        """As plain data; keys and order are the same for the same dialogues."""
        figures = self.dialogues
        return {
            "dialogues": figures.n_dialogues,
            "turns": figures.n_turns,
            "off_topic": self.off_topic,
            "by_language": _sorted(self.by_language),
            **(
                {"by_attribute": {name: _sorted(n) for name, n in sorted(self.by_attribute.items())}}
                if self.by_attribute
                else {}
            ),
            **self._conversation(),
            "by_split": {
                split: {
                    "dialogues": count,
                    "turns": self.turns_by_split[split],
                    "by_language": _sorted(self.language_by_split.get(split, {})),
                }
                for split, count in self.by_split.items()
            },
            "turn_counts": {str(n): count for n, count in sorted(figures.turn_counts.items())},
            "lengths": {
                "user": _lengths(figures.user_lengths, figures.user_chars, figures.n_turns),
                "assistant": _lengths(figures.assistant_lengths, figures.assistant_chars, figures.n_turns),
            },
            "words_and_tokens": self.sizes.to_json(),
            "diversity": self.diversity.to_json(),
            "scores": {
                "mean": round(figures.mean_score, 4) if figures.mean_score is not None else None,
                "verdicts": {str(score): count for score, count in sorted(figures.scores.items())},
                "judged_dialogues": self.judged,
                "reasons": _sorted(self.reasons),
                **self._rubric(),
            },
            **({"preferences": preferences} if (preferences := self.preferences.to_json()) else {}),
            "models": {role: sorted(models) for role, models in sorted(self.models.items())},
            "documents": self._documents(),
            "tools": {
                name: {"calls": count, "errors": figures.tool_errors[name]}
                for name, count in sorted(figures.tool_calls.items())
            },
            **self._calls(),
            **self._usage(),
        }

    def _conversation(self) -> dict[str, Any]:
        """Who ended dialogues, who began them, and what became of goals, where there is anything to tell."""
        figures = self.dialogues
        ended_by = {ending.value: figures.ended_by[ending] for ending in Ending}
        return {
            **({"ended_by": ended_by} if ENDED_BY in self.conversation else {}),
            **({"opened_by_assistant": figures.opened} if figures.opened else {}),
            **({"goals": _sorted(figures.goals)} if figures.goals else {}),
        }

    def _calls(self) -> dict[str, Any]:
        """How many rounds of calls answers took, and what was wrong with calls, where there were any."""
        rounds, problems = self.dialogues.call_rounds, self.dialogues.tool_problems
        if not rounds:
            return {}
        return {
            "tool_rounds": {str(n): count for n, count in sorted(rounds.items())},
            "tool_problems": _sorted({problem.value: count for problem, count in problems.items()}),
        }

    def _usage(self) -> dict[str, Any]:
        """Return what the calls for its dialogues have used, by role, where that was counted."""
        if not self.usage:
            return {}
        by_role = dict(sorted(self.usage.items()))
        total = total_usage(by_role.values())
        return {"usage": {**{role: _used(one) for role, one in by_role.items()}, "total": _used(total)}}

    def _rubric(self) -> dict[str, Any]:
        figures = self.dialogues
        if not figures.ratings:
            return {}
        return {
            "dimensions": {
                name: {"mean": round(rated.mean, 4), "verdicts": rated.count}
                for name, rated in sorted(figures.ratings.items())
            },
            **{
                f"{part}_ok": {"yes": figures.opinions[part, True], "no": figures.opinions[part, False]}
                for part in ("question", "answer")
            },
        }

    def _documents(self) -> dict[str, Any]:
        ranked = sorted(self.given.items(), key=lambda item: (-item[1], item[0]))
        counts = [count for _, count in ranked]
        return {
            "used": len(ranked),
            "grounded_turns": self.dialogues.grounded_turns,
            "cited_turns": self.dialogues.cited_turns,
            "passages": self.passages,
            "passage_texts": self.passage_texts,
            "uses_min": min(counts, default=0),
            "uses_max": max(counts, default=0),
            "uses_mean": round(sum(counts) / len(counts), 4) if counts else 0.0,
            "most_used": [
                {"document": name, "turns_given": count, "turns_cited": self.cited[name]}
                for name, count in ranked[:MAX_DOCUMENTS_LISTED]
            ],
        }


def _used(usage: RoleUsage) -> dict[str, Any]:
    known = usage.dollars or not usage.unpriced
    return {
        "calls": usage.calls,
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "cost_usd": round(usage.dollars, 8) if known else None,
        **({"calls_of_unknown_price": usage.unpriced} if usage.unpriced else {}),
    }


def _sorted(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items()))


def _lengths(classes: Counter[int], chars: int, messages: int) -> dict[str, Any]:
    """In characters; quantiles are those of classes an eighth wide to either side."""
    return {
        "chars": chars,
        "mean": round(chars / messages, 1) if messages else 0.0,
        **{name: _quantile(classes, share) for name, share in (("p10", 0.1), ("p50", 0.5), ("p90", 0.9))},
    }


def _quantile(classes: Counter[int], share: float) -> int:
    wanted, seen = share * classes.total(), 0
    for number, count in sorted(classes.items()):
        seen += count
        if seen >= wanted:
            return round(length_of_class(number))
    return 0
