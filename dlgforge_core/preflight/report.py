"""Report of a preflight: its rows, as a table for a terminal or for a page."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from dlgforge_core.common.secrets import redact
from dlgforge_core.export.markdown import escape_inline
from dlgforge_core.printable import printable

MAX_TEXT_CHARS = 1200
"""Of a cause or a remedy: servers' errors are quoted in them."""
_MIN_TEXT_WIDTH = 40


class Result(StrEnum):
    """What came of one thing that was looked at."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Row:
    """One thing that was looked at: what it is, what came of it, why, and what helps where that is not ok."""

    subject: str
    check: str
    result: Result
    finding: str
    remedy: str = ""

    def shown(self, secrets: Iterable[str]) -> Row:
        """Return it without these secrets, fit for a terminal and a page."""
        known = tuple(secrets)

        def clean(text: str) -> str:
            text = " ".join(printable(redact(text, known)).split())
            return text if len(text) <= MAX_TEXT_CHARS else text[:MAX_TEXT_CHARS] + " ..."

        return replace(
            self,
            subject=clean(self.subject),
            check=clean(self.check),
            finding=clean(self.finding),
            remedy=clean(self.remedy),
        )


def ok(subject: str, check: str, finding: str) -> Row:
    """Return a row of what is as it should be."""
    return Row(subject, check, Result.OK, finding)


def warning(subject: str, check: str, finding: str, remedy: str = "") -> Row:
    """Return a row of what a run can do with, worse than it might."""
    return Row(subject, check, Result.WARNING, finding, remedy)


def failed(subject: str, check: str, finding: str, remedy: str = "") -> Row:
    """Return a row of what a run cannot do with."""
    return Row(subject, check, Result.FAILED, finding, remedy)


@dataclass(frozen=True, slots=True)
class Report:
    """All rows of a preflight, which took `seconds`."""

    rows: Sequence[Row]
    seconds: float

    @property
    def failed(self) -> bool:
        """Whether a run could not do its work."""
        return any(row.result is Result.FAILED for row in self.rows)

    @property
    def summary(self) -> str:
        """How many rows came out how, in one line."""
        counts = {result: sum(row.result is result for row in self.rows) for result in Result}
        listed = ", ".join(f"{n} {result.value}" for result, n in counts.items() if n)
        return f"{listed or 'nothing was looked at'} ({self.seconds:.1f} s)"

    def text(self, width: int = 120) -> str:
        """Return it as a table in columns; long texts go on below, within `width` characters."""
        head = ("RESULT", "WHAT", "CHECK")
        cells = [head, *((row.result.value, row.subject, row.check) for row in self.rows)]
        wide = [max(map(len, column)) for column in zip(*cells, strict=True)]
        indent = sum(wide) + 2 * len(wide)
        room = max(_MIN_TEXT_WIDTH, width - indent)
        lines = [_columns(head, wide) + "FINDING"]
        for row, cell in zip(self.rows, cells[1:], strict=True):
            texts = [row.finding, *([f"-> {row.remedy}"] if row.remedy else [])]
            first, *rest = [line for text in texts for line in textwrap.wrap(text, room) or [""]]
            lines += [_columns(cell, wide) + first, *(" " * indent + line for line in rest)]
        return "\n".join(line.rstrip() for line in (*lines, "", self.summary))

    def markdown(self) -> str:
        """Return it as a table of Markdown, what servers wrote escaped."""
        lines = ["| | what | check | finding | what helps |", "| --- | --- | --- | --- | --- |"]
        for row in self.rows:
            texts = (row.subject, row.check, row.finding, row.remedy)
            cells = " | ".join(escape_inline(text, MAX_TEXT_CHARS) for text in texts)
            mark = row.result.value if row.result is Result.OK else f"**{row.result.value}**"
            lines.append(f"| {mark} | {cells} |")
        return "\n".join(lines)


def _columns(cells: Sequence[str], wide: Sequence[int]) -> str:
    return "".join(f"{cell:<{size + 2}}" for cell, size in zip(cells, wide, strict=True))
