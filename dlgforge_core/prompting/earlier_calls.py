"""Calls of functions in earlier turns, as the assistant is told them again: what they gave is known to it."""

from __future__ import annotations

from collections.abc import Iterator

from dlgforge_core.call_rounds import rounds_of
from dlgforge_core.config.tools import SEARCHES
from dlgforge_core.dialogue import Turn
from dlgforge_core.llm.tool_calls import Message, ToolCall, call_message, result_message


def earlier_calls(turn: Turn) -> Iterator[Message]:
    """Yield the messages of a turn's calls, in their rounds, and of what they gave.

    Passages that searches found are of their turn only, as those that are found for a question.
    """
    for events in rounds_of(turn.details):
        own = [event for event in events if event.name not in SEARCHES]
        calls = [ToolCall(event.call_id, event.name, event.arguments) for event in own]
        if calls:
            yield call_message("", calls)
        for call, event in zip(calls, own, strict=True):
            yield result_message(call, event.content)
