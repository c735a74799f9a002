"""Markdown of the dataset card: tables, counts, and names that cannot break it."""

from __future__ import annotations

import re
from collections.abc import Sequence


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table."""
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def counted(n: int, noun: str) -> str:
    """Return a number and its noun, in the plural if need be."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def plain(text: str) -> str:
    """Return text without markup of its own, in one line."""
    return re.sub(r"([\\`*_\[\]<>#|])", r"\\\1", " ".join(text.split()))


def code(text: str) -> str:
    """Return a name as inline code; nothing in it can end the code, the cell or the line."""
    shown = "".join(c if c.isprintable() else " " for c in text).replace("`", "'").replace("|", "¦")
    return f"`{shown.strip()[:200] or ' '}`"
