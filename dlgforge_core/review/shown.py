"""Texts as pages show them: escaped, and characters that hide or turn text are written out."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from dlgforge_core.languages import is_right_to_left
from dlgforge_core.printable import CONTROL

_RUN = re.compile(f"(?:{CONTROL.pattern})+")
# Hebrew to Arabic Extended, N'Ko and Thaana among them, presentation forms, and Adlam.
_RIGHT_TO_LEFT = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\U0001e900-\U0001e95f]")
_WRITTEN = 8  # of a run of such characters


def shown(text: Any) -> Markup:
    """Return a text as HTML that shows it: all markup in it is text."""
    parts, start = [], 0
    text = str(text).replace("\r\n", "\n")
    for run in _RUN.finditer(text):
        parts += [Markup.escape(text[start : run.start()]), _written_out(run.group())]
        start = run.end()
    return Markup("").join([*parts, Markup.escape(text[start:])])


def _written_out(run: str) -> Markup:
    codes = " ".join(f"U+{ord(char):04X}" for char in run[:_WRITTEN])
    more = f" and {len(run) - _WRITTEN} more" if len(run) > _WRITTEN else ""
    return Markup('<span class="control">{}{}</span>').format(codes, more)


def readable(data: Mapping[str, Any]) -> str:
    """Return plain data as JSON to read."""
    return json.dumps(data, ensure_ascii=False, indent=2)


def direction(text: str, language: str) -> str:
    """Return the direction of a text in a dialogue of this language, as HTML has it.

    An Arabic text that begins with a Latin word goes from right to left all the same; one that has no Arabic
    letter does not.
    """
    return "rtl" if is_right_to_left(language) and _RIGHT_TO_LEFT.search(text) else "auto"
