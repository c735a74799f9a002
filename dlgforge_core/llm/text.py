"""What a model said, made fit for a dialogue: no reasoning, no half sentences, no garbage."""

from __future__ import annotations

import re
import unicodedata

_REASONING = re.compile(r"<(think|thinking|reasoning)>.*?</\1>", re.DOTALL | re.IGNORECASE)
_OPENING = re.compile(r"<(think|thinking|reasoning)>", re.IGNORECASE)
_CLOSING = re.compile(r"</(think|thinking|reasoning)>", re.IGNORECASE)
_TAG = re.compile(r"</?(think|thinking|reasoning)>", re.IGNORECASE)
# Full-width marks (U+3002, U+FF01, U+FF1F) end a sentence without a space behind them. Written as escapes:
# they look like the ASCII ones.
_SENTENCE_END = re.compile(
    r"""[.!?\u2026\u061f\u06d4]["'\u2019\u201d\xbb)\]]*(?=\s|$)"""
    r"""|[\u3002\uff01\uff1f]["'\u2019\u201d\u300d\u300f\uff09\xbb)\]]*|\n"""
)
MAX_GARBAGE_SHARE = 0.1


def clean(text: str) -> str:
    """`text` without its reasoning and without white space around it."""
    return split_reasoning(text)[0]


def split_reasoning(text: str) -> tuple[str, str]:
    """What is said in `text`, and the reasoning that stood in tags around or before it."""
    if "<" not in text or not (_OPENING.search(text) or _CLOSING.search(text)):
        return text.strip(), ""
    reasoning = [match.group(0) for match in _REASONING.finditer(text)]
    text = _REASONING.sub("", text)
    # Some chat templates open the reasoning themselves, so that only its end is in the answer.
    if closing := list(_CLOSING.finditer(text)):
        reasoning.append(text[: closing[-1].end()])
        text = text[closing[-1].end() :]
    # Reasoning that was cut has no end, and nothing was said after it.
    if opening := _OPENING.search(text):
        reasoning.append(text[opening.start() :])
        text = text[: opening.start()]
    plain = (_TAG.sub("", part).strip() for part in reasoning)
    return text.strip(), "\n\n".join(part for part in plain if part)


def whole_sentences(text: str) -> str:
    """`text` up to the end of its last whole sentence or line; empty when there is none."""
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    return text[: ends[-1]].strip() if ends else ""


def is_garbage(text: str) -> bool:
    """Whether more than a tenth of `text` is no character of any text, or it has no letter or digit."""
    if not any(c.isalnum() for c in text):
        return True
    if text.isascii() and text.isprintable():
        return False
    odd = sum(
        1
        for c in text
        if c == "\ufffd" or (c not in "\n\r\t" and unicodedata.category(c) in ("Cc", "Cn", "Co"))
    )
    return odd > MAX_GARBAGE_SHARE * len(text)
