"""Texts as index terms, for any language: what must be equal for a word of a query to match one of a chunk.

Text is brought to Unicode NFKC and case-folded. A word loses its stop words, is stemmed by the Snowball
stemmer of its language where there is one, and then loses the marks that writers leave out: accents of the
Latin, Greek and Cyrillic scripts, Arabic and Hebrew vowels, the hamza and the like. Scripts that put no
spaces between words (Han, Kana, Thai, Lao, Khmer, Burmese), and Hangul, whose words grow suffixes, give
pairs of characters, as Lucene's CJKAnalyzer does.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache

import Stemmer  # type: ignore[import-not-found]

from dlgforge_core.common.words import run_pattern
from dlgforge_core.knowledge.stopwords import stopwords

# Raised whenever the same text would give other terms: indexes are built anew then.
TERMS_VERSION = 1

MAX_TERM_CHARS = 40
_STEMMERS = {
    "ar": "arabic", "hy": "armenian", "eu": "basque", "ca": "catalan", "da": "danish", "nl": "dutch",
    "en": "english", "fi": "finnish", "fr": "french", "de": "german", "el": "greek", "hi": "hindi",
    "hu": "hungarian", "id": "indonesian", "ga": "irish", "it": "italian", "lt": "lithuanian",
    "ne": "nepali", "no": "norwegian", "nb": "norwegian", "nn": "norwegian", "pt": "portuguese",
    "ro": "romanian", "ru": "russian", "sr": "serbian", "es": "spanish", "sv": "swedish", "ta": "tamil",
    "tr": "turkish", "yi": "yiddish",
}  # fmt: skip
_MARKS = {
    *range(0x0300, 0x0370),  # of Latin, Greek and Cyrillic letters
    *range(0x0591, 0x05BE), 0x05BF, 0x05C1, 0x05C2, 0x05C4, 0x05C5, 0x05C7,  # Hebrew points
    *range(0x0610, 0x061B), 0x0640, *range(0x064B, 0x0660), 0x0670,  # Arabic vowels, tatweel, hamzas
    *range(0x06D6, 0x06DD), *range(0x06DF, 0x06E9), *range(0x06EA, 0x06EE),
}  # fmt: skip
_FOLDED = {mark: None for mark in _MARKS} | {
    ord("ى"): "ي", ord("ی"): "ي", ord("ة"): "ه", ord("ک"): "ك", ord("ٱ"): "ا",
    **{0x0660 + n: str(n) for n in range(10)}, **{0x06F0 + n: str(n) for n in range(10)},
}  # fmt: skip
_HAMZAS = range(0x653, 0x656)
_ARABIC_VOWELS = {mark: None for mark in _MARKS if 0x0610 <= mark <= 0x06ED and mark not in _HAMZAS}
# The article after "and": the stemmer knows the article only where the word begins.
_ARABIC_AND = re.compile("^[وف](?=ال..|لل..)")
_CACHED_WORDS = 100_000


def terms(text: str, language: str) -> list[str]:
    """Return the terms of a text in a language (ISO 639-1, or empty when unknown), in order, with repeats."""
    return [term for word in _terms_by_word(text, language) for term in word]


def query_terms(query: str, languages: Iterable[str]) -> list[str]:
    """Return the different terms of a query that may be in any of these languages, as each of them writes it.

    A word written without its accents matches the word with them.
    """
    found: dict[str, None] = {}
    plain = _fold(unicodedata.normalize("NFKC", query).casefold())
    for language in tuple(languages) or ("",):
        found.update(dict.fromkeys(terms(query, language)))
        found.update(dict.fromkeys(terms(plain, language)))
    return list(found)


def _terms_by_word(text: str, language: str) -> Iterator[tuple[str, ...]]:
    to_term = _to_term(language)
    for match in run_pattern().finditer(unicodedata.normalize("NFKC", text).casefold()):
        word = match[0]
        if match["paired"] is not None:
            yield (word,) if len(word) == 1 else tuple(word[i : i + 2] for i in range(len(word) - 1))
        elif term := to_term(word):
            yield (term,)


@lru_cache(maxsize=64)
def _to_term(language: str) -> Callable[[str], str]:
    """Return what makes a term of a word; an empty one of a stop word."""
    name = _STEMMERS.get(language)
    stemmer = Stemmer.Stemmer(name, 0) if name else None
    stops = stopwords(language) | {_fold(word) for word in stopwords(language)}
    arabic = language == "ar"

    @lru_cache(maxsize=_CACHED_WORDS)
    def to_term(word: str) -> str:
        if arabic:
            word = _ARABIC_AND.sub("", word.translate(_ARABIC_VOWELS))
        if word in stops or (arabic and word[:1] in "وف" and word[1:] in stops):
            return ""
        return _fold(stemmer.stemWord(word) if stemmer is not None else word)[:MAX_TERM_CHARS]

    return to_term


def _fold(word: str) -> str:
    """Without the marks that writers leave out."""
    if word.isascii():
        return word
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", word).translate(_FOLDED))
