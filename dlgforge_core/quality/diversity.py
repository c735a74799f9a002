"""Diversity of a set of dialogues, by language: how much of it is said over and over.

- **distinct-n**: different runs of n words among all of them (Li et al.: A Diversity-Promoting Objective
  Function for Neural Conversation Models, NAACL 2016). It falls as texts get more, so it is taken of a
  sample of bounded size, which makes data sets of different sizes comparable.
- **Self-similarity**: the Jaccard similarity of two messages' shingles (Broder: On the Resemblance and
  Containment of Documents, 1997), the measure of `coverage.question_similarity_threshold`; its mean over
  all pairs of a sample, and the mean of each message's nearest one, which is what self-BLEU looks for (Zhu
  et al.: Texygen, SIGIR 2018).
- **Topics and openings**: the share of the most frequent ones. An opening is how a question begins.

Memory is bounded for each language, whatever the number and length of dialogues.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlgforge_core.common.questions import normal_form
from dlgforge_core.common.words import Word, compared_texts, compared_words, joined
from dlgforge_core.dialogue import Dialogue, topic_of
from dlgforge_core.store.near_duplicates import shingles

SAMPLE = 1_000
"""Messages of a language, questions and answers apart, of which distinct-n is taken."""
COMPARED = 300
"""Those of them that are compared with one another."""
MESSAGE_CHARS = 1_000
"""Characters of a message that are looked at."""
OPENING_WORDS = 3
"""Words of an opening; in scripts without spaces each has two characters, about a word."""
COUNTED = 20_000
"""Different topics, and openings, that are counted one by one."""
TOP = 10
MAX_N = 3
_EXCERPT_CHARS = 160
_PAIRS_SHOWN = 3


METHOD: Mapping[str, Any] = {
    "sampled_messages": SAMPLE,
    "compared_messages": COMPARED,
    "chars_of_a_message": MESSAGE_CHARS,
    "opening_words": OPENING_WORDS,
    "counted_texts": COUNTED,
    "similarity": "Jaccard of three-letter pieces of the normal form",
}
"""How the figures are taken, for those who compare data sets."""


@dataclass
class FrequentTexts:
    """Counts of texts, of which the rare ones are forgotten when there are too many.

    Lossy counting (Manku, Motwani: Approximate Frequency Counts over Data Streams, VLDB 2002): a count may
    be too low by at most `missed`.
    """

    most: int = COUNTED
    counts: Counter[str] = field(default_factory=Counter)
    total: int = 0
    missed: int = 0
    forgotten: int = 0

    def add(self, text: str) -> None:
        """Count one text in; of a long one its beginning counts."""
        self.total += 1
        self.counts[text[:_EXCERPT_CHARS]] += 1
        if len(self.counts) > self.most:
            self._forget()

    def merge(self, other: FrequentTexts) -> None:
        """Count the texts of another part in."""
        self.total += other.total
        self.missed += other.missed
        self.forgotten += other.forgotten
        self.counts.update(other.counts)
        while len(self.counts) > self.most:
            self._forget()

    def _forget(self) -> None:
        """Forget the rarer half."""
        least = sorted(self.counts.values())[len(self.counts) // 2]
        kept = Counter({text: count for text, count in self.counts.items() if count > least})
        self.forgotten += len(self.counts) - len(kept)
        self.counts = kept
        self.missed += least

    def to_json(self, name: str) -> dict[str, Any]:
        """Return how many there are, and the most frequent.

        Where that is not `exact`, one that was forgotten and came again is counted twice as `different`.
        """
        ranked = heapq.nsmallest(TOP, self.counts.items(), key=lambda item: (-item[1], item[0]))
        total = max(self.total, 1)
        return {
            "counted": self.total,
            "different": len(self.counts) + self.forgotten,
            "exact": not self.forgotten,
            "top_share": round(sum(count for _, count in ranked) / total, 4),
            "top": [{name: text, "count": n, "share": round(n / total, 4)} for text, n in ranked],
        }


@dataclass
class MessageSample:
    """Messages chosen by the hash of their dialogue and turn: the same ones in whatever order they come."""

    messages: int = 0
    _kept: list[tuple[int, str]] = field(default_factory=list)

    def add(self, dialogue_id: str, turn: int, text: str) -> None:
        """Count one message in, and keep it if its hash is among the smallest."""
        self.messages += 1
        key = f"{dialogue_id}\0{turn}".encode("utf-8", "replace")
        item = (-int.from_bytes(hashlib.blake2b(key, digest_size=8).digest()), text[:MESSAGE_CHARS])
        if len(self._kept) < SAMPLE:
            heapq.heappush(self._kept, item)
        elif item > self._kept[0]:
            heapq.heapreplace(self._kept, item)

    def merge(self, other: MessageSample) -> None:
        """Count the messages of another part in."""
        self.messages += other.messages
        self._kept = heapq.nlargest(SAMPLE, [*self._kept, *other._kept])
        heapq.heapify(self._kept)

    @property
    def texts(self) -> list[str]:
        """The sample, the smallest hash first."""
        return [text for _, text in sorted(self._kept, reverse=True)]

    def to_json(self, pairs: str = "") -> dict[str, Any]:
        """Return the figures of the sample; with `pairs` the most similar texts, under that name."""
        texts = self.texts
        figures: dict[str, Any] = {"messages": self.messages, "sampled": len(texts)}
        words = [compared_texts(text) for text in texts]
        figures |= {f"distinct_{n}": distinct(words, n) for n in range(1, MAX_N + 1)}
        compared = texts[:COMPARED]
        similar = similarities(compared)
        figures |= {
            "self_similarity": _mean(similar[np.triu_indices(len(compared), 1)]),
            "nearest_similarity": _mean(similar.max(axis=1)) if len(compared) > 1 else None,
        }
        return figures | ({pairs: _most_similar(compared, similar)} if pairs else {})


@dataclass
class LanguageDiversity:
    """Diversity of the dialogues in one language."""

    questions: MessageSample = field(default_factory=MessageSample)
    answers: MessageSample = field(default_factory=MessageSample)
    topics: FrequentTexts = field(default_factory=FrequentTexts)
    openings: FrequentTexts = field(default_factory=FrequentTexts)

    def add(self, dialogue: Dialogue) -> None:
        """Count one dialogue in."""
        if topic := topic_of(dialogue.plan, dialogue.turns):
            self.topics.add(topic)
        for turn in dialogue.turns:
            self.questions.add(dialogue.plan.dialogue_id, turn.index, turn.user)
            self.answers.add(dialogue.plan.dialogue_id, turn.index, turn.assistant)
            if start := opening(turn.user):
                self.openings.add(start)

    def merge(self, other: LanguageDiversity) -> None:
        """Count the dialogues of another part in."""
        self.questions.merge(other.questions)
        self.answers.merge(other.answers)
        self.topics.merge(other.topics)
        self.openings.merge(other.openings)

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "questions": self.questions.to_json("most_similar"),
            "answers": self.answers.to_json(),
            "topics": self.topics.to_json("topic"),
            "openings": self.openings.to_json("opening"),
        }


@dataclass
class Diversity:
    """Diversity of a set of dialogues, by language; add them one by one."""

    by_language: dict[str, LanguageDiversity] = field(default_factory=dict)
    _figures: dict[str, Any] | None = None

    def add(self, dialogue: Dialogue, language: str) -> None:
        """Count one dialogue in."""
        self._figures = None
        self.by_language.setdefault(language, LanguageDiversity()).add(dialogue)

    def merge(self, other: Diversity) -> None:
        """Count the dialogues of another part in."""
        self._figures = None
        for language, part in other.by_language.items():
            self.by_language.setdefault(language, LanguageDiversity()).merge(part)

    def to_json(self) -> dict[str, Any]:
        """As plain data, taken once; keys and order are the same for the same dialogues."""
        if self._figures is None:
            languages = sorted(self.by_language.items())
            self._figures = {
                "method": dict(METHOD),
                "by_language": {language: part.to_json() for language, part in languages},
            }
        return self._figures


def opening(question: str) -> str:
    """Return the first words of a question, case-folded; empty where it has none."""
    found: list[Word] = []
    # Twice over: where the first words have no spaces between them, each is half of one.
    halves = 2 * OPENING_WORDS
    for word in compared_words(question[:MESSAGE_CHARS]):
        halves -= 1 if word.unspaced else 2
        if halves < 0:
            break
        found.append(word)
    return joined(found)


def distinct(texts: Iterable[Sequence[str]], n: int) -> float | None:
    """Return distinct-n of texts, given as words; None where none has n words."""
    seen, total = set[int](), 0
    for words in texts:
        grams = zip(*(words[start:] for start in range(n)), strict=False)
        before = total
        seen.update(map(hash, grams))
        total = before + max(len(words) - n + 1, 0)
    return round(len(seen) / total, 4) if total else None


def similarities(texts: Sequence[str]) -> NDArray[np.float64]:
    """Return the Jaccard similarity of the shingles of each text and each other; 0 of a text with itself."""
    number: dict[str, int] = {}
    rows = [
        [number.setdefault(one, len(number)) for one in sorted(shingles(normal_form(text)))] for text in texts
    ]
    held = np.zeros((len(rows), max(len(number), 1)), dtype=np.float32)
    for row, columns in enumerate(rows):
        held[row, columns] = 1.0
    common = (held @ held.T).astype(np.float64)
    sizes = common.diagonal()
    similar: NDArray[np.float64] = common / np.maximum(sizes[:, None] + sizes[None, :] - common, 1.0)
    np.fill_diagonal(similar, 0.0)
    return similar


def _mean(values: NDArray[np.float64]) -> float | None:
    return round(float(values.mean()), 4) if values.size else None


def _most_similar(texts: Sequence[str], similar: NDArray[np.float64]) -> list[dict[str, Any]]:
    rows, columns = np.triu_indices(len(texts), 1)
    values = similar[rows, columns]
    best = np.argsort(-values, kind="stable")[:_PAIRS_SHOWN]
    return [
        {
            "similarity": round(float(values[i]), 4),
            "texts": [texts[rows[i]][:_EXCERPT_CHARS], texts[columns[i]][:_EXCERPT_CHARS]],
        }
        for i in best
        if values[i] > 0
    ]
