"""Rounds of tool calls: which calls behind an answer were made at once."""

from __future__ import annotations

from itertools import accumulate

from dlgforge_core.dialogue import TurnDetails
from dlgforge_core.tool_events import ToolEvent


def rounds_of(details: TurnDetails) -> tuple[tuple[ToolEvent, ...], ...]:
    """Return the tool calls behind an answer, those made at once together."""
    sizes, events = details.call_rounds, details.tools
    if sum(sizes) != len(events):  # as where each call was made by itself
        return tuple((event,) for event in events)
    return tuple(events[end - size : end] for end, size in zip(accumulate(sizes), sizes, strict=True))
