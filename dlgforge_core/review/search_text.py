"""Search words: texts and queries folded alike, before Postgres' full-text search sees them.

Postgres folds case by the locale of the database, which may be C, and takes a Chinese sentence for one word.
So case and accents are folded here, and a character of a script without spaces is a word of its own: a run of
them is searched as a phrase.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

MAX_BYTES = 400_000
"""How much of a dialogue is searched, in bytes of UTF-8: Postgres takes a megabyte of distinct words."""
_MAX_TERMS = 20

# Accents of Latin, Greek and Cyrillic letters, points of Hebrew, vowel signs and the elongation of Arabic.
_ACCENTS = re.compile("[\u0300-\u036f\u0591-\u05c7\u0610-\u061a\u0640\u064b-\u065f\u0670]")
# Scripts without spaces: kana, Han, Thai, Lao, Tibetan, Burmese, Khmer.
_SPACELESS = re.compile(
    "[\u0e00-\u0eff\u0f40-\u0fbc\u1000-\u109f\u1780-\u17d3\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff]"
)
# Marks belong to words: vowels of Indic scripts are marks.
_BETWEEN_WORDS = re.compile(r"[^\w\u0300-\u036f\u0900-\u0dff\u0e00-\u109f\u1780-\u17ff]+|_+")
_TERM = re.compile(r'(-?)(?:"([^"]*)"?|(\S+))')


def folded(text: str) -> str:
    """Return the words of a text, folded, with one space between them."""
    text = text.casefold()
    if not text.isascii():
        text = unicodedata.normalize("NFC", _ACCENTS.sub("", unicodedata.normalize("NFKD", text)))
        text = _SPACELESS.sub(r" \g<0> ", text.casefold())
    return " ".join(_BETWEEN_WORDS.sub(" ", text).split())


def searchable(text: str) -> str:
    """Return what of a long text is searched, folded, up to `MAX_BYTES`."""
    found = folded(text[: 2 * MAX_BYTES])
    return found if len(found) * 4 <= MAX_BYTES else found.encode()[:MAX_BYTES].decode(errors="ignore")


@dataclass(frozen=True, slots=True)
class Term:
    """What is searched: words that follow each other, or with `prefix` a word that begins so."""

    words: str
    prefix: bool = False
    without: bool = False
    """Dialogues with it are not wanted."""


def terms_of(query: str) -> list[Term]:
    """Return the terms of a query: words, "phrases", -excluded ones, and beginnings, like `retriev*`."""
    return list(_terms(query))[:_MAX_TERMS]


def _terms(query: str) -> Iterator[Term]:
    for sign, phrase, word in _TERM.findall(query):
        if words := folded(phrase or word):
            prefix = not phrase and word.endswith("*") and " " not in words
            yield Term(words, prefix, bool(sign))
