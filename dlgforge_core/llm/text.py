"""Texts made fit for a dialogue: no half sentences, no garbage, no control characters."""

from __future__ import annotations

import re
import unicodedata

# Full-width marks (U+3002, U+FF01, U+FF1F) end a sentence without a space behind them. Written as escapes:
# they look like the ASCII ones.
_SENTENCE_END = re.compile(
    r"""[.!?\u2026\u061f\u06d4]["'\u2019\u201d\xbb)\]]*(?=\s|$)"""
    r"""|[\u3002\uff01\uff1f]["'\u2019\u201d\u300d\u300f\uff09\xbb)\]]*|\n"""
)
_LONE_MARK = re.compile(r"(?:\A|\n)[ \t]*(?:[-*+•]|#{1,6}|\(?\d{1,3}[.)])(?:[ \t]*\*\*)?\Z")
MAX_GARBAGE_SHARE = 0.1


def whole_sentences(text: str) -> str:
    """`text` up to the end of its last whole sentence or line; empty when there is none.

    The mark of a list's item is no sentence, though there is a full stop in "3.".
    """
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    whole = text[: ends[-1]].strip() if ends else ""
    return _LONE_MARK.sub("", whole).rstrip()


def is_garbage(text: str) -> bool:
    """Whether more than a tenth of `text` is no character of any text, or it has no letter or digit."""
    if not any(map(str.isalnum, text)):
        return True
    if "\ufffd" not in text and text.replace("\n", "").replace("\r", "").replace("\t", "").isprintable():
        return False  # nothing odd, seen without looking at each character
    odd = sum(
        1
        for c in text
        if c == "\ufffd" or (c not in "\n\r\t" and unicodedata.category(c) in ("Cc", "Cn", "Co"))
    )
    return odd > MAX_GARBAGE_SHARE * len(text)


def printable(text: str) -> str:
    """`text` without control characters, but for tabs and ends of lines."""
    return _CONTROL.sub("", text)


_CONTROL = re.compile("[\0-\x08\x0b-\x1f\x7f\x80-\x9f]")
