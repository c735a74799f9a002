"""Documents cut into chunks: along paragraphs where that fits, else sentences, else words."""

from __future__ import annotations

import re
import unicodedata
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator

_PARAGRAPH_END = re.compile(r"\n[^\S\n]*\n\s*")
# Nothing in them is read twice: a text of dots alone has as many places where one might begin.
_SENTENCE_END = re.compile(r"(?<![.!?…؟۔।])[.!?…؟۔।]++[\"'’”»)\]]*+\s+|[。！？]+[”’」』）]*\s*|\n\s*")
_SPACE = re.compile(r"\s+")


def chunk_spans(text: str, size: int, overlap: int) -> Iterator[tuple[int, int]]:
    """Where the chunks of a text start and end: at most `size` characters each.

    A chunk begins with up to `overlap` characters of the one before, from the start of a sentence or, when
    none starts there, of a word. No chunk is blank, and nothing but white space lies between chunks.
    """
    ends = [
        array("Q", (match.end() for match in pattern.finditer(text)))
        for pattern in (_PARAGRAPH_END, _SENTENCE_END, _SPACE)
    ]
    start = end = 0
    while (start := _skip_space(text, start)) < len(text):
        end = _end(text, ends, start, end, size)
        yield start, start + len(text[start:end].rstrip())
        # The next chunk must reach beyond this one's end and the white space after it.
        reach = _skip_space(text, end)
        if reach == len(text):
            return
        start = _next_start(ends, max(end - overlap, start + 1, reach + 1 - size), end)
        end = reach


def _skip_space(text: str, start: int) -> int:
    match = _SPACE.match(text, start)
    return match.end() if match else start


def _end(text: str, ends: list[array[int]], start: int, previous: int, size: int) -> int:
    """Return the end of the chunk from `start`: the best break in its second half, past the last end."""
    limit = start + size
    if limit >= len(text):
        return len(text)
    lowest = max(start + size // 2, previous)
    for breaks in ends:
        # White space at a chunk's end is cut off, so the break itself may lie beyond the limit.
        at = bisect_right(breaks, limit) - 1
        if at >= 0 and breaks[at] > lowest:
            return breaks[at]
    while limit > lowest + 1 and unicodedata.category(text[limit]) in ("Mn", "Mc"):
        limit -= 1  # a mark stays with its letter
    return limit


def _next_start(ends: list[array[int]], lowest: int, end: int) -> int:
    for breaks in ends[1:]:
        at = bisect_left(breaks, lowest)
        if at < len(breaks) and breaks[at] < end:
            return breaks[at]
    return end
