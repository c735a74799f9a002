"""Collectors: each counts what one check finds in single dialogues, and keeps a few examples."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any, ClassVar

from dlgforge_core.config import ChecksConfig
from dlgforge_core.dialogue import Dialogue, Ending
from dlgforge_core.languages import base_code
from dlgforge_core.llm.markup import Markup
from dlgforge_core.quality.language import LanguageDetector
from dlgforge_core.quality.leaks import PHRASES, leaks, messages_of, written_messages_of
from dlgforge_core.verdicts import MAX_SCORE

PASS_RATE = "judge_pass_rate"
GOALS_MET = "goals_met"
EXCERPT_CHARS = 160
_SENTENCE_END = re.compile(r"""[.!?…。！？؟۔:;)\]}»”"'’`*|>~-]\s*$""")
# Below this many words a message without a full stop is an answer ("Paris"), not a cut one.
_CUT_MIN_WORDS = 6


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a check found; `turn` counts from 1, 0 for the dialogue as a whole."""

    dialogue_id: str
    turn: int
    problem: str
    excerpt: str = ""


@dataclass(frozen=True, slots=True)
class CheckReport:
    """How a check went: `figures` by name, and some examples of what is wrong."""

    name: str
    passed: bool
    summary: str
    figures: Mapping[str, int | float]
    examples: Sequence[Finding] = ()


class Collector(ABC):
    """Counts what was looked at and what is wrong, and keeps a few examples."""

    name: str
    what: str = ""
    """What is wrong, after the numbers."""
    settings: ClassVar[tuple[str, ...]] = ()
    """Keys of `checks` that `add` reads: with another value dialogues are looked at anew."""

    def __init__(self, config: ChecksConfig, languages: Iterable[str] = ()) -> None:
        self.config = config
        self.looked_at = 0
        self.wrong = 0
        self.examples: list[Finding] = []

    @abstractmethod
    def add(self, dialogue: Dialogue) -> None:
        """Look at one more."""

    def to_json(self) -> dict[str, Any]:
        """Return what was found, as plain data."""
        examples = [astuple(example) for example in self.examples]
        return {"looked_at": self.looked_at, "wrong": self.wrong, "examples": examples}

    def merge(self, data: Mapping[str, Any]) -> None:
        """Count what was found elsewhere, given as plain data."""
        self.looked_at += data["looked_at"]
        self.wrong += data["wrong"]
        self.examples += [Finding(*example) for example in data["examples"]]
        del self.examples[self.config.max_examples :]

    @property
    def share(self) -> float:
        """Of what is wrong."""
        return self.wrong / self.looked_at if self.looked_at else 0.0

    @property
    def most(self) -> float:
        """Share that may be wrong."""
        return 0.0

    def figures(self) -> dict[str, int | float]:
        """Of the report."""
        return {"looked_at": self.looked_at, "wrong": self.wrong, "share": round(self.share, 4)}

    def report(self) -> CheckReport:
        """On all that was added and merged."""
        may = f" (at most {self.most:.0%} may)" if self.most else ""
        sentence = f"{self.wrong} of {self.looked_at} {self.what}{may}"
        return CheckReport(self.name, self.share <= self.most, sentence, self.figures(), tuple(self.examples))

    def found(self, dialogue_id: str, turn: int, problem: str, text: str = "") -> None:
        """Count one thing that is wrong; the first ones are kept as examples."""
        self.wrong += 1
        if len(self.examples) < self.config.max_examples:
            self.examples.append(Finding(dialogue_id, turn, problem, text[:EXCERPT_CHARS]))


class _Schema(Collector):
    name = "schema"
    what = "dialogues are not as they must be"

    def add(self, dialogue: Dialogue) -> None:
        self.looked_at += 1
        if problem := _malformed(dialogue):
            self.found(dialogue.plan.dialogue_id, 0, problem)


def _malformed(dialogue: Dialogue) -> str:
    plan, about = dialogue.plan, dialogue.plan.document or dialogue.plan.topic.messages
    needed = {"id": plan.dialogue_id, "language": plan.language, "topic": plan.topic.topic or about}
    if empty := next((key for key, value in needed.items() if not value), ""):
        return f"{empty} is empty"
    if [turn.index for turn in dialogue.turns] != list(range(len(dialogue.turns))) or not dialogue.turns:
        return f"turns are numbered {[turn.index for turn in dialogue.turns]}"
    for verdict in dialogue.verdicts:
        if not 0 <= verdict.score <= MAX_SCORE:
            return f"a score is {verdict.score}; it must be 0 to {MAX_SCORE}"
    return ""


class _Roles(Collector):
    name = "roles_alternate"
    what = "dialogues do not alternate"

    def add(self, dialogue: Dialogue) -> None:
        self.looked_at += 1
        # Tool calls are part of an answer. Who says nothing leaves the other speaking twice in a row.
        roles = [role for _, role, text in messages_of(dialogue) if text.strip()]
        roles = roles[1:] if dialogue.opening.strip() else roles
        if not roles or roles != ["user", "assistant"] * (len(roles) // 2):
            self.found(dialogue.plan.dialogue_id, 0, f"the roles are {', '.join(roles) or 'none'}")


class _Empty(Collector):
    name = "no_empty_messages"
    what = "messages are empty"

    def add(self, dialogue: Dialogue) -> None:
        for turn, role, text in written_messages_of(dialogue):
            self.looked_at += 1
            if not any(map(str.isalnum, text)):
                self.found(dialogue.plan.dialogue_id, turn, f"the {role}'s message has no word", text)


class _TurnCounts(Collector):
    name = "turn_counts"
    what = "dialogues have another number of turns than planned"

    def __init__(self, config: ChecksConfig, languages: Iterable[str] = ()) -> None:
        super().__init__(config, languages)
        self._numbers: set[int] = set()

    def add(self, dialogue: Dialogue) -> None:
        self.looked_at += 1
        turns, planned = len(dialogue.turns), dialogue.plan.n_turns
        self._numbers |= {turns}
        early = dialogue.ended_by is not Ending.PLANNED and 0 < turns < planned
        if turns != planned and not early:
            self.found(dialogue.plan.dialogue_id, 0, f"{turns} turns, planned were {planned}")

    def to_json(self) -> dict[str, Any]:
        return {**super().to_json(), "numbers": sorted(self._numbers)}

    def merge(self, data: Mapping[str, Any]) -> None:
        super().merge(data)
        self._numbers |= set(data["numbers"])

    def figures(self) -> dict[str, int | float]:
        least, most = min(self._numbers, default=0), max(self._numbers, default=0)
        return {**super().figures(), "fewest_turns": least, "most_turns": most}


class _Cut(Collector):
    name = "no_cut_messages"
    what = "messages seem cut"

    @property
    def most(self) -> float:
        return self.config.max_cut_share

    def add(self, dialogue: Dialogue) -> None:
        for turn, role, text in written_messages_of(dialogue):
            self.looked_at += 1
            # A script without spaces between words has few "words"; its length tells as well.
            long = len(text.split()) >= _CUT_MIN_WORDS or len(text) >= 8 * _CUT_MIN_WORDS
            if long and not _SENTENCE_END.search(text):
                problem = f"the {role}'s message seems cut"
                self.found(dialogue.plan.dialogue_id, turn, problem, text[-EXCERPT_CHARS:])


class Leaks(Collector):
    """What it looks for depends on the prompts and the markup that the dialogues were made with, too."""

    name = "no_leaks"
    settings = ("leak_words",)
    markup: Markup | None = None
    phrases = PHRASES
    what = "dialogues repeat their instructions or give away their material"

    @property
    def most(self) -> float:
        """Share that may be wrong."""
        return self.config.max_leak_share

    def add(self, dialogue: Dialogue) -> None:
        """Look at one more."""
        self.looked_at += 1
        for turn, role, text, problem in leaks(dialogue, self.config.leak_words, self.markup, self.phrases):
            self.found(dialogue.plan.dialogue_id, turn, f"the {role} {problem}", text)
            break


class _Language(Collector):
    name = "language"
    what = "messages are in another language"

    def __init__(self, config: ChecksConfig, languages: Iterable[str] = ()) -> None:
        super().__init__(config, languages)
        self._languages = languages
        self._detector: LanguageDetector | None = None  # takes its time, and merging needs none
        self._undetected = 0
        self._spoken: Counter[str] = Counter()

    @property
    def most(self) -> float:
        return round(1 - self.config.min_language_share, 6)

    def add(self, dialogue: Dialogue) -> None:
        detector = self._detector = self._detector or LanguageDetector(self._languages)
        language = dialogue.plan.language
        if not detector.knows(language):
            self._undetected += 2 * len(dialogue.turns)
            return
        for turn, role, text in written_messages_of(dialogue):
            found = detector.detect(text, language)
            if found is None:
                self._undetected += 1
                continue
            self.looked_at += 1
            self._spoken[found] += 1
            if found != base_code(language):
                problem = f"the {role} speaks {found}, asked was {language}"
                self.found(dialogue.plan.dialogue_id, turn, problem, text)

    def to_json(self) -> dict[str, Any]:
        return {**super().to_json(), "undetected": self._undetected, "spoken": dict(self._spoken)}

    def merge(self, data: Mapping[str, Any]) -> None:
        super().merge(data)
        self._undetected += data["undetected"]
        self._spoken.update(data["spoken"])

    def figures(self) -> dict[str, int | float]:
        spoken = {f"messages_in_{language}": n for language, n in sorted(self._spoken.items())}
        return {**super().figures(), "undetected": self._undetected, **spoken}


class _PassRate(Collector):
    """Its examples are the lowest scores."""

    name = PASS_RATE
    settings = ("pass_score",)

    def __init__(self, config: ChecksConfig, languages: Iterable[str] = ()) -> None:
        super().__init__(config, languages)
        self._lowest: list[tuple[float, Finding]] = []

    def add(self, dialogue: Dialogue) -> None:
        verdicts = [(i, turn.judgement, turn.assistant) for i, turn in enumerate(dialogue.turns, start=1)]
        scores = iter(dialogue.scores)
        for turn, verdict, text in (*verdicts, (0, dialogue.judgement, "")):
            if verdict is None:
                continue
            score = next(scores)
            self.looked_at += 1
            if score >= self.config.pass_score:
                continue
            self.wrong += 1
            problem = f"{score:g}/{MAX_SCORE}: {', '.join(verdict.reasons)}"
            finding = Finding(dialogue.plan.dialogue_id, turn, problem, text[:EXCERPT_CHARS])
            self._keep([(score, finding)])

    def _keep(self, low: Iterable[tuple[float, Finding]]) -> None:
        self._lowest += low
        self._lowest.sort(key=lambda item: item[0])
        del self._lowest[self.config.max_examples :]

    def to_json(self) -> dict[str, Any]:
        lowest = [[score, *astuple(finding)] for score, finding in self._lowest]
        return {**super().to_json(), "lowest": lowest}

    def merge(self, data: Mapping[str, Any]) -> None:
        super().merge(data)
        self._keep((score, Finding(*finding)) for score, *finding in data["lowest"])

    def report(self) -> CheckReport:
        if not self.looked_at:
            return CheckReport(self.name, True, "nothing was judged", {"verdicts": 0})
        rate, least = 1 - self.share, self.config.min_pass_rate
        return CheckReport(
            self.name,
            rate >= least,
            f"{rate:.0%} of {self.looked_at} verdicts are {self.config.pass_score} or better; "
            f"at least {least:.0%} must be",
            {"verdicts": self.looked_at, "passes": self.looked_at - self.wrong, "pass_rate": round(rate, 4)},
            tuple(finding for _, finding in self._lowest),
        )


class _GoalsMet(Collector):
    name = GOALS_MET
    what = "users missed their goal"

    @property
    def most(self) -> float:
        return round(1 - self.config.min_goals_met, 6)

    def add(self, dialogue: Dialogue) -> None:
        if not dialogue.plan.goal or (verdict := dialogue.goal_verdict) is None:
            return
        self.looked_at += 1
        if not verdict.met:
            self.found(dialogue.plan.dialogue_id, 0, "the user missed the goal", verdict.reason)


COLLECTORS: dict[str, type[Collector]] = {
    collector.name: collector
    for collector in (_Schema, _Roles, _Empty, _TurnCounts, _Cut, Leaks, _Language, _PassRate, _GoalsMet)
}
"""The checks that look at each dialogue by itself."""
