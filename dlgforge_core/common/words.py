"""Words of a text in any script: what is counted as one, and where it stands.

A word is a run of letters, digits and the marks on them; an apostrophe inside belongs to it. Scripts that
put no spaces between words (Han, Kana, Thai, Lao, Khmer, Burmese) give a word for each character with its
marks, as BLEU's tokenizer for Chinese does. Hangul has spaces, and gives words.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

_HANGUL = "\u1100-\u11ff\u3131-\u318e\ua960-\ua97f\uac00-\ud7ff"
# Han, Kana, Bopomofo, Thai, Lao, Burmese, Khmer; without their punctuation.
_UNSPACED = (
    "\u0e00-\u0e4e\u0e80-\u0ecd\u1000-\u1049\u1050-\u109f\u1780-\u17d3\u17dc\u17dd"
    "\u3005-\u3007\u3040-\u30fa\u30fc-\u312f\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf"
    "\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)


@dataclass(frozen=True, slots=True)
class Word:
    """A word; `unspaced` is one of a script without spaces, where it is a character."""

    text: str
    unspaced: bool = False


@lru_cache(maxsize=1)
def run_pattern() -> re.Pattern[str]:
    """Return the pattern of words between others; its group `paired` are runs of Hangul or without spaces."""
    # ZWNJ and ZWJ stand inside Persian and Indic words. C++, C# and F# are words as well.
    paired = _UNSPACED + _HANGUL
    return re.compile(
        rf"(?P<paired>[{paired}]+)|(?:(?![{paired}])[^\W_])(?:(?![{paired}])[^\W_]|[{_marks()}\u200c\u200d])*"
        r"(?:\+\+(?!\w)|\#(?!\w))?"
    )


@lru_cache(maxsize=1)
def _pattern() -> re.Pattern[str]:
    letter = rf"(?![{_UNSPACED}])[^\W_]"
    inside = rf"(?:{letter}|[{_marks()}\u200c\u200d])"
    return re.compile(
        rf"(?P<unspaced>[{_UNSPACED}][{_marks()}]*)|{letter}{inside}*(?:['’]{letter}{inside}*)*"
        r"(?:\+\+(?!\w)|\#(?!\w))?"
    )


@lru_cache(maxsize=1)
def _texts_pattern() -> re.Pattern[str]:
    # Without a group `findall` gives whole words: several times faster than a match object for each.
    return re.compile(_pattern().pattern.replace("(?P<unspaced>", "(?:"))


@lru_cache(maxsize=1)
def _marks() -> str:
    # Python's \w has no combining marks, which are part of a word in Devanagari, Arabic and others.
    codes = (code for code in range(0x300, 0x1F000) if unicodedata.category(chr(code)) in ("Mn", "Mc"))
    return "".join(f"{chr(first)}-{chr(last)}" for first, last in _ranges(codes))


def _ranges(codes: Iterable[int]) -> Iterator[tuple[int, int]]:
    first = last = -2
    for code in codes:
        if code != last + 1:
            if last >= 0:
                yield first, last
            first = code
        last = code
    if last >= 0:
        yield first, last


def words(text: str) -> Iterator[Word]:
    """Yield the words of a text, in order, as they are written."""
    for match in _pattern().finditer(text):
        yield Word(match[0], match["unspaced"] is not None)


def compared_words(text: str) -> Iterator[Word]:
    """Yield the words of a text in the form in which equal ones are equal: NFKC, case-folded."""
    return words(unicodedata.normalize("NFKC", text).casefold())


def count_words(text: str) -> int:
    """Return the number of words in a text."""
    return len(_texts_pattern().findall(text))


def compared_texts(text: str) -> list[str]:
    """Return the texts of `compared_words`."""
    found: list[str] = _texts_pattern().findall(unicodedata.normalize("NFKC", text).casefold())
    return found


def joined(found: Sequence[Word]) -> str:
    """Return words as text, with spaces where their scripts have some."""
    parts = [word.text for word in found[:1]]
    for before, word in itertools.pairwise(found):
        parts += [word.text] if before.unspaced and word.unspaced else [" ", word.text]
    return "".join(parts)
