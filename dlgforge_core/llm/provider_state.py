"""State of a provider's that its messages with tool calls carry, and that it wants back with them.

Reasoning of Kimi, GLM and DeepSeek, details of OpenRouter's, signatures of Gemini's: an endpoint gets the
fields that it has sent itself, or has asked for by an error, and no others.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from dlgforge_core.llm.completions import Answer
from dlgforge_core.llm.dialect import Dialect
from dlgforge_core.llm.server_errors import ErrorAnswer
from dlgforge_core.llm.tool_calls import Message, fold

_OF_MESSAGE = frozenset({"role", "content", "tool_calls"})
_OF_CALL = frozenset({"id", "type", "function"})
# What errors call them, where that is another name than the field's.
_NAMED_IN_ERRORS = {
    "reasoning_content": "reasoning_content",
    "reasoning_details": "reasoning_details",
    "thought_signature": "extra_content",
    "thoughtsignature": "extra_content",
    "extra_content": "extra_content",
    "thinking_blocks": "thinking_blocks",
}
_UNWANTED = (
    *("unsupported", "not support", "not permitted", "not allowed", "extra", "unrecognized", "unknown"),
    *("unexpected", "must not", "should not", "cannot be"),
)


def notice(dialect: Dialect, answer: Answer) -> None:
    """Remember which fields the endpoint sends with its tool calls."""
    for state in (answer.state, *(call.state for call in answer.tool_calls)):
        dialect.state_fields |= state.keys() - dialect.refused_state


def as_wanted(messages: Sequence[Message], fields: set[str], demanded: Collection[str] = ()) -> list[Message]:
    """Return the conversation with those of the provider's fields that are in `fields`.

    Calls without one that is `demanded`, as those of earlier turns are, are told in words.
    """
    if demanded:
        messages = fold(messages, lambda message: not _carries(message, demanded))
    return [_as_wanted(message, fields) if message.get("tool_calls") else message for message in messages]


def _carries(message: Message, fields: Collection[str]) -> bool:
    holders = (message, *message["tool_calls"])
    return all(any(field in holder for holder in holders) for field in fields)


def _as_wanted(message: Message, fields: set[str]) -> Message:
    kept: Message = {name: value for name, value in message.items() if name in _OF_MESSAGE or name in fields}
    if isinstance(kept.get("content"), list) and "content" not in fields:
        kept["content"] = "".join(map(_text, kept["content"])) or None
    kept["tool_calls"] = [
        {name: value for name, value in call.items() if name in _OF_CALL or name in fields}
        for call in message["tool_calls"]
    ]
    return kept


def _text(part: Any) -> str:
    text = part.get("text") if isinstance(part, Mapping) and part.get("type") in (None, "text") else part
    return text if isinstance(text, str) else ""


def adapt(dialect: Dialect, error: ErrorAnswer, sent: bytes) -> bool:
    """Learn from an error which fields the endpoint wants, or will not have; whether that is new."""
    named = {field for name, field in _NAMED_IN_ERRORS.items() if error.names(name)}
    named |= {field for field in dialect.state_fields if len(field) > _SHORT and error.names(field.lower())}
    for field in sorted(named):
        there = f'"{field}":'.encode()
        if field in dialect.state_fields - dialect.demanded_state and (
            sent.count(b'"tool_calls":[') > sent.count(there) and not error.names(*_UNWANTED)
        ):
            dialect.demanded_state.add(field)
            return True
        if there in sent:
            if field in dialect.state_fields and error.names(*_UNWANTED):
                dialect.state_fields.discard(field)
                dialect.demanded_state.discard(field)
                dialect.refused_state.add(field)
                return True
        elif field not in dialect.state_fields | dialect.refused_state:
            dialect.state_fields.add(field)
            return True
    return False


_SHORT = 9
"""Shorter names ("reasoning", "content") are words of any error."""
