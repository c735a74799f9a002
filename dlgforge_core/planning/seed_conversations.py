"""Conversations in seed files: OpenAI's `messages` or ShareGPT's `conversations`, read and checked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from dlgforge_core.common.hints import hint
from dlgforge_core.common.yaml_source import shown
from dlgforge_core.planning.seed_entries import BadEntryError, text_of

KEYS = ("messages", "conversations")
"""Keys under which a record may hold a conversation."""
MAX_MESSAGES = 400
MAX_MESSAGE_CHARS = 100_000
_FORMS = {"role": "content", "from": "value"}
"""Where a message says whose it is, and where its text is: in OpenAI's form and in ShareGPT's."""
_SPEAKERS = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "model"), "assistant"),
}
_OF_TOOLS = ("tool", "function", "function_call", "observation", "tool_calls", "tool_call_id")


def conversation_key(record: Mapping[str, Any]) -> str | None:
    """Return the key of a record's conversation; None without one. Raises BadEntryError for two."""
    found = [key for key in KEYS if record.get(key) is not None]
    if len(found) > 1:
        raise BadEntryError(f"{' and '.join(found)} are both there; keep one conversation")
    return found[0] if found else None


def messages_of(key: str, value: object) -> tuple[dict[str, str], ...]:
    """Return the messages of a conversation, which a table may hold as JSON text.

    Raises BadEntryError: key, value and what would be right.
    """
    if isinstance(value, str):
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError as error:
            raise BadEntryError(f"{key} is not valid JSON: {error.msg} at column {error.colno}") from None
    if not isinstance(value, list) or not value:
        raise BadEntryError(
            f"{key} = {shown(value)} is no list of messages; it looks like "
            '[{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]'
        )
    if len(value) > MAX_MESSAGES:
        raise BadEntryError(f"{key} has {len(value)} messages; it may have {MAX_MESSAGES} at most")
    messages = tuple(_message(f"{key}[{number}]", item) for number, item in enumerate(value))
    _check_order(key, messages)
    return messages


def conversation_id(language: str, topic: str, messages: Sequence[Mapping[str, str]]) -> str:
    """Return the id of a conversation that names none: 16 hex digits."""
    content = json.dumps([language, topic, list(messages)], ensure_ascii=False, separators=(",", ":"))
    return hashlib.blake2b(content.encode(), digest_size=8).hexdigest()


def _message(key: str, item: object) -> dict[str, str]:
    if not isinstance(item, dict):
        raise BadEntryError(f"{key} = {shown(item)} is no message; it is an object with role and content")
    who = next((name for name in _FORMS if name in item), None)
    if who is None:
        raise BadEntryError(f"{key}: role is missing; a message has role and content, or from and value")
    role, text = item[who], _FORMS[who]
    if role in _OF_TOOLS or any(item.get(name) for name in _OF_TOOLS):
        raise BadEntryError(f"{key}: it calls or answers as a tool; leave conversations with tools out")
    if not isinstance(role, str) or role not in _SPEAKERS:
        raise BadEntryError(f"{key}.{who} = {shown(role)}: {hint(str(role), list(_SPEAKERS), 'choose from')}")
    content = text_of(f"{key}.{text}", _joined(f"{key}.{text}", item.get(text)), MAX_MESSAGE_CHARS)
    return {"role": _SPEAKERS[role], "content": content}


def _joined(key: str, content: object) -> object:
    """Return the text of a content that is a list of parts."""
    if not isinstance(content, list):
        return content
    for number, part in enumerate(content):
        known = isinstance(part, dict) and part.get("type", "text") == "text"
        if not known or not isinstance(part.get("text"), str):
            raise BadEntryError(
                f"{key}[{number}] = {shown(part)} is no text; parts of other kinds cannot be used"
            )
    return "".join(part["text"] for part in content)


def _check_order(key: str, messages: Sequence[Mapping[str, str]]) -> None:
    """Raise BadEntryError unless user and assistant speak in turn, after a system message at most."""
    numbered = [(number, one["role"]) for number, one in enumerate(messages)]
    if numbered[0][1] == "system":
        del numbered[0]
    if not numbered:
        raise BadEntryError(f"{key} has no message of the user")
    for position, (number, role) in enumerate(numbered):
        expected = ("user", "assistant")[position % 2]
        if role != expected:
            raise BadEntryError(
                f"{key}[{number}] is the {role}'s; it must be the {expected}'s: after a system message, if "
                "there is one, user and assistant speak in turn, and the user begins"
            )
