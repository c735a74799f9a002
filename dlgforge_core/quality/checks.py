"""Checks of a finished set of dialogues: one pass, bounded memory, with figures and the worst examples.

Nothing here calls a model. `blocking` marks what a dataset must not be made of; the rest is a matter of
taste and of the model, and only warns.
"""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from dlgforge_core.config import ChecksConfig
from dlgforge_core.dialogue import MAX_SCORE, Dialogue, Outcomes
from dlgforge_core.languages import base_code
from dlgforge_core.quality.language import LanguageDetector
from dlgforge_core.quality.leaks import leaks, messages_of
from dlgforge_core.quality.questions import question_key

_EXCERPT_CHARS = 160
_SENTENCE_END = re.compile(r"""[.!?…。！？؟۔:;)\]}»”"'’`*|>~-]\s*$""")
# Below this many words a message without a full stop is an answer ("Paris"), not a cut one.
_CUT_MIN_WORDS = 6
# Dialogues that must have ended in a part for its own drop rate to say anything.
_PART_COUNTS_FROM = 4


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


@dataclass(frozen=True, slots=True)
class CheckInfo:
    """A check as it is offered."""

    name: str
    description: str
    blocking: bool


PASS_RATE = "judge_pass_rate"
CHECKS: tuple[CheckInfo, ...] = (
    CheckInfo("schema", "Every dialogue has its id, language, topic, and turns in order; scores fit.", True),
    CheckInfo("roles_alternate", "User and assistant take turns; the user begins, the assistant ends.", True),
    CheckInfo("no_empty_messages", "Every message has words in it.", True),
    CheckInfo("unique_questions", "No question is asked twice, wherever in the set.", True),
    CheckInfo("drop_rate", "Enough of the planned dialogues were finished.", True),
    CheckInfo("turn_counts", "Every dialogue has as many turns as were planned.", False),
    CheckInfo("no_cut_messages", "Messages do not end in the middle of a sentence.", False),
    CheckInfo(
        "no_leaks", "Nobody repeats instructions or a persona's text, or gives away what it was shown.", False
    ),
    CheckInfo("language", "Messages are in the language that was asked for.", False),
    CheckInfo(PASS_RATE, "Enough of the judge's verdicts are passes.", False),
)


@dataclass(frozen=True, slots=True)
class PartEnds:
    """How the dialogues of one part of a set ended: of a seed batch in one language, say."""

    name: str
    done: int
    dropped: int

    @property
    def drop_rate(self) -> float:
        """Share of dropped dialogues among those that ended."""
        ended = self.done + self.dropped
        return self.dropped / ended if ended else 0.0


class _Check(Protocol):
    def add(self, dialogue: Dialogue) -> None: ...

    def report(self) -> CheckReport: ...


def run_checks(
    dialogues: Callable[[], Iterable[Dialogue]],
    outcomes: Outcomes,
    languages: Iterable[str],
    config: ChecksConfig,
    *,
    parts: Sequence[PartEnds] = (),
    only: Container[str] | None = None,
) -> list[CheckReport]:
    """Check a set; `dialogues` gives it anew at each call, `outcomes` and `parts` tell how the plan ended.

    The set is read once, and once more when questions repeat, to show some; for `only` the drop rate not at
    all. Reports come in the order of `CHECKS`, of those named in `only`.
    """
    questions = _Questions(config)
    checks: dict[str, _Check] = {
        "schema": _Schema(config),
        "roles_alternate": _Roles(config),
        "no_empty_messages": _Empty(config),
        "unique_questions": questions,
        "drop_rate": _DropRate(outcomes, parts, config),
        "turn_counts": _TurnCounts(config),
        "no_cut_messages": _Cut(config),
        "no_leaks": _Leaks(config),
        "language": _Language(languages, config),
        PASS_RATE: _PassRate(config),
    }
    checks = {name: check for name, check in checks.items() if only is None or name in only}
    if checks.keys() - {"drop_rate"}:
        for dialogue in dialogues():
            for check in checks.values():
                check.add(dialogue)
    if "unique_questions" in checks and questions.repeated():
        questions.collect_examples(dialogues())
    return [check.report() for check in checks.values()]


@dataclass
class _Collector:
    """Counts what was looked at and what is wrong, and keeps a few examples."""

    config: ChecksConfig
    looked_at: int = 0
    wrong: int = 0
    examples: list[Finding] = field(default_factory=list)

    def found(self, dialogue: Dialogue, turn: int, problem: str, text: str = "") -> None:
        self.wrong += 1
        if len(self.examples) < self.config.max_examples:
            self.examples.append(Finding(dialogue.plan.dialogue_id, turn, problem, text[:_EXCERPT_CHARS]))

    @property
    def share(self) -> float:
        return self.wrong / self.looked_at if self.looked_at else 0.0

    def made(self, name: str, what: str, most: float = 0.0) -> CheckReport:
        return CheckReport(
            name,
            self.share <= most,
            f"{self.wrong} of {self.looked_at} {what}" + (f" (at most {most:.0%} may)" if most else ""),
            {"looked_at": self.looked_at, "wrong": self.wrong, "share": round(self.share, 4)},
            tuple(self.examples),
        )


class _Schema(_Collector):
    def add(self, dialogue: Dialogue) -> None:
        self.looked_at += 1
        plan = dialogue.plan
        for key, value in (
            ("id", plan.dialogue_id),
            ("language", plan.language),
            ("topic", plan.topic.topic),
        ):
            if not value:
                return self.found(dialogue, 0, f"{key} is empty")
        if [turn.index for turn in dialogue.turns] != list(range(len(dialogue.turns))) or not dialogue.turns:
            return self.found(dialogue, 0, f"turns are numbered {[turn.index for turn in dialogue.turns]}")
        for verdict in dialogue.verdicts:
            if not 0 <= verdict.score <= MAX_SCORE:
                return self.found(dialogue, 0, f"a score is {verdict.score}; it must be 0 to {MAX_SCORE}")
        return None

    def report(self) -> CheckReport:
        return self.made("schema", "dialogues are not as they must be")


class _Roles(_Collector):
    def add(self, dialogue: Dialogue) -> None:
        self.looked_at += 1
        # Tool calls are part of an answer. Who says nothing leaves the other speaking twice in a row.
        roles = [role for _, role, text in messages_of(dialogue) if text.strip()]
        if not roles or roles != ["user", "assistant"] * (len(roles) // 2):
            self.found(dialogue, 0, f"the roles are {', '.join(roles) or 'none'}")

    def report(self) -> CheckReport:
        return self.made("roles_alternate", "dialogues do not alternate")


class _Empty(_Collector):
    def add(self, dialogue: Dialogue) -> None:
        for turn, role, text in messages_of(dialogue):
            self.looked_at += 1
            if not any(map(str.isalnum, text)):
                self.found(dialogue, turn, f"the {role}'s message has no word", text)

    def report(self) -> CheckReport:
        return self.made("no_empty_messages", "messages are empty")


class _Questions(_Collector):
    """Eight bytes for each question: ten million take 80 MB."""

    def __init__(self, config: ChecksConfig) -> None:
        super().__init__(config)
        self._keys = array("Q")
        self._repeated: set[int] | None = None

    def add(self, dialogue: Dialogue) -> None:
        self._keys.extend(map(_short_key, (turn.user for turn in dialogue.turns)))

    def repeated(self) -> set[int]:
        if self._repeated is None:
            keys = np.sort(np.frombuffer(self._keys, dtype=np.uint64)) if self._keys else np.array([])
            again = keys[1:][keys[1:] == keys[:-1]]
            self._repeated = {int(key) for key in again}
            self.looked_at, self.wrong = len(keys), len(again)
        return self._repeated

    def collect_examples(self, dialogues: Iterable[Dialogue]) -> None:
        repeated, wrong = self.repeated(), self.wrong
        for dialogue in dialogues:
            for number, turn in enumerate(dialogue.turns, start=1):
                if _short_key(turn.user) in repeated:
                    self.found(dialogue, number, "the question is asked elsewhere too", turn.user)
            if len(self.examples) >= self.config.max_examples:
                break
        self.wrong = wrong

    def report(self) -> CheckReport:
        self.repeated()
        return self.made("unique_questions", "questions repeat an earlier one")


def _short_key(question: str) -> int:
    return int.from_bytes(question_key(question)[:8], "little")


class _DropRate(_Collector):
    def __init__(self, outcomes: Outcomes, parts: Sequence[PartEnds], config: ChecksConfig) -> None:
        super().__init__(config)
        self._outcomes = outcomes
        self._parts = parts

    def add(self, dialogue: Dialogue) -> None:
        pass

    def report(self) -> CheckReport:
        o, most = self._outcomes, self.config.max_drop_rate
        ended = o.done + o.dropped
        rate = o.dropped / ended if ended else 0.0
        reasons = ", ".join(f"{reason} {n}" for reason, n in sorted(o.drop_reasons.items()))
        figures: dict[str, int | float] = {
            "planned": o.planned,
            "done": o.done,
            "dropped": o.dropped,
            "unfinished": o.unfinished,
            "drop_rate": round(rate, 4),
            **{f"dropped_{reason}": n for reason, n in sorted(o.drop_reasons.items())},
        }
        text = f"{o.done} of {o.planned} dialogues are done, {o.dropped} were dropped"
        text += f" ({reasons})" if reasons else ""
        worst = max(self._parts, key=lambda part: part.drop_rate, default=None)
        if worst is not None and worst.dropped and len(self._parts) > 1:
            text += f", {worst.dropped} of {worst.done + worst.dropped} in {worst.name}"
            figures["worst_drop_rate"] = round(worst.drop_rate, 4)
        passed = o.done > 0 and rate <= most and not bad_parts(self._parts, self.config)
        return CheckReport("drop_rate", passed, f"{text}; at most {most:.0%} may be dropped", figures)


def bad_parts(parts: Iterable[PartEnds], config: ChecksConfig) -> list[PartEnds]:
    """The parts of which too many dialogues were dropped: few of a great set, but a hole in it all the same.

    A few dialogues tell nothing of their part; they count in the whole set's rate.
    """
    return [
        part
        for part in parts
        if part.done + part.dropped >= _PART_COUNTS_FROM and part.drop_rate > config.max_drop_rate
    ]


class _TurnCounts(_Collector):
    def __init__(self, config: ChecksConfig) -> None:
        super().__init__(config)
        self._counts: Counter[int] = Counter()

    def add(self, dialogue: Dialogue) -> None:
        self.looked_at += 1
        self._counts[len(dialogue.turns)] += 1
        if len(dialogue.turns) != dialogue.plan.n_turns:
            self.found(dialogue, 0, f"{len(dialogue.turns)} turns, planned were {dialogue.plan.n_turns}")

    def report(self) -> CheckReport:
        made = self.made("turn_counts", "dialogues have another number of turns than planned")
        least, most = min(self._counts, default=0), max(self._counts, default=0)
        figures = {**made.figures, "fewest_turns": least, "most_turns": most}
        return CheckReport(made.name, made.passed, made.summary, figures, made.examples)


class _Cut(_Collector):
    def add(self, dialogue: Dialogue) -> None:
        for turn, role, text in messages_of(dialogue):
            self.looked_at += 1
            # A script without spaces between words has few "words"; its length tells as well.
            long = len(text.split()) >= _CUT_MIN_WORDS or len(text) >= 8 * _CUT_MIN_WORDS
            if long and not _SENTENCE_END.search(text):
                self.found(dialogue, turn, f"the {role}'s message seems cut", text[-_EXCERPT_CHARS:])

    def report(self) -> CheckReport:
        return self.made("no_cut_messages", "messages seem cut", self.config.max_cut_share)


class _Leaks(_Collector):
    def add(self, dialogue: Dialogue) -> None:
        self.looked_at += 1
        for turn, role, text, problem in leaks(dialogue, self.config.leak_words):
            return self.found(dialogue, turn, f"the {role} {problem}", text)

    def report(self) -> CheckReport:
        what = "dialogues repeat their instructions or give away their material"
        return self.made("no_leaks", what, self.config.max_leak_share)


class _Language(_Collector):
    def __init__(self, languages: Iterable[str], config: ChecksConfig) -> None:
        super().__init__(config)
        self._detector = LanguageDetector(languages)
        self._skipped = 0
        self._spoken: Counter[str] = Counter()

    def add(self, dialogue: Dialogue) -> None:
        language = dialogue.plan.language
        if not self._detector.knows(language):
            self._skipped += 2 * len(dialogue.turns)
            return
        for turn, role, text in messages_of(dialogue):
            found = self._detector.detect(text)
            if found is None:
                self._skipped += 1
                continue
            self.looked_at += 1
            self._spoken[found] += 1
            if found != base_code(language):
                self.found(dialogue, turn, f"the {role} speaks {found}, asked was {language}", text)

    def report(self) -> CheckReport:
        made = self.made(
            "language", "messages are in another language", round(1 - self.config.min_language_share, 6)
        )
        spoken = {f"messages_in_{language}": n for language, n in sorted(self._spoken.items())}
        figures = {**made.figures, "not_told": self._skipped, **spoken}
        return CheckReport(made.name, made.passed, made.summary, figures, made.examples)


class _PassRate(_Collector):
    """Its examples are the lowest scores."""

    def __init__(self, config: ChecksConfig) -> None:
        super().__init__(config)
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
            finding = Finding(dialogue.plan.dialogue_id, turn, problem, text[:_EXCERPT_CHARS])
            self._lowest.append((score, finding))
            self._lowest.sort(key=lambda item: item[0])
            del self._lowest[self.config.max_examples :]

    def report(self) -> CheckReport:
        if not self.looked_at:
            return CheckReport(PASS_RATE, True, "nothing was judged", {"verdicts": 0})
        rate, least = 1 - self.share, self.config.min_pass_rate
        return CheckReport(
            PASS_RATE,
            rate >= least,
            f"{rate:.0%} of {self.looked_at} verdicts are {self.config.pass_score} or better; "
            f"at least {least:.0%} must be",
            {"verdicts": self.looked_at, "passes": self.looked_at - self.wrong, "pass_rate": round(rate, 4)},
            tuple(finding for _, finding in self._lowest),
        )
