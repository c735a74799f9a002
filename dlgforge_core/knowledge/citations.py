"""Citations: which passages an answer draws on, by the words they share."""

from __future__ import annotations

import re
from itertools import pairwise

from dlgforge_core.knowledge.terms import terms

# Shared words in some sentence of the answer from which on it counts as drawn from a passage: see
# `bench/knowledge.py --citations`.
CITED_FROM = 0.5
# Shorter sentences ("Yes, that is right.") say nothing of where they come from.
_MIN_TERMS = 4
_SENTENCE_END = re.compile(r"(?<=[.!?…؟۔।])\s+|(?<=[。！？])|\n+")


def support(answer: str, passage: str, language: str = "") -> float:
    """How much of an answer's best supported sentence the passage holds, from 0 to 1.

    Of a sentence's content words, stemmed in `language` (ISO 639-1), the share that the passage has as
    well, averaged with the same share of the pairs of neighbouring content words, which count double where
    they are found: a topic's common words alone give little.
    """
    held = terms(passage, language)
    words, pairs = set(held), set(pairwise(held))
    return max(
        (_support(sentence, words, pairs, language) for sentence in _SENTENCE_END.split(answer)), default=0.0
    )


def _support(sentence: str, words: set[str], pairs: set[tuple[str, str]], language: str) -> float:
    found = terms(sentence, language)
    if len(found) < _MIN_TERMS:
        return 0.0
    neighbours = list(pairwise(found))
    of_words = sum(word in words for word in found) / len(found)
    of_pairs = sum(pair in pairs for pair in neighbours) / len(neighbours)
    return (of_words + min(1.0, 2 * of_pairs)) / 2


def cited(answer: str, passage: str, language: str = "", *, threshold: float = CITED_FROM) -> bool:
    """Whether an answer draws on a passage: its `support` reaches the threshold."""
    return support(answer, passage, language) >= threshold
