"""Lengths of time, as people read them."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """Return a length of time as a status line tells it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
