"""Text of others, made fit for a terminal and a log."""

from __future__ import annotations

import re

# Control characters but for tabs and ends of lines, and characters that turn the direction of what follows:
# with them a server's words could move a terminal's cursor, set its title, or hide what stands before them.
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
"""One of these characters."""


def printable(text: str) -> str:
    r"""Return `text` with control characters written out, as \x1b for an escape."""
    return CONTROL.sub(_written_out, text)


def _written_out(found: re.Match[str]) -> str:
    code = ord(found.group())
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
