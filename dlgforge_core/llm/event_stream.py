"""Completions that come as a stream of events though none was asked for, put together again."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from dlgforge_core.common import bodies
from dlgforge_core.common.bodies import BodyError

MAX_EVENTS = 100_000
MAX_CALLS = 64
_FIELD = re.compile(r"(data|event|id|retry)?:")
_LINES = re.compile(r"\r\n|\n|\r")
_DONE = "[DONE]"


def is_event_stream(text: str) -> bool:
    """Whether a body is a stream of server-sent events, by its first line that is not empty."""
    return bool(_FIELD.match(text.lstrip("\ufeff \r\n\t")[:10]))


def read_events(text: str) -> Any:
    """Return the completion, or the error, that a stream of events adds up to.

    Raises BodyError when it is cut short or holds no completion.
    """
    message = _Message()
    for kind, data in _events(text):
        if data == _DONE:
            message.ended = True
            break
        value = bodies.read_first_value(data)[0]
        if _has_error(value):
            return value
        if kind == "error":
            return {"error": value}
        message.add(value)
    return message.completion()


def read_values(text: str) -> Any:
    """Return the same of JSON values one after another, as some servers stream.

    Any other value is given as it is, and what follows it is not read. Raises BodyError without one.
    """
    value, position = bodies.read_first_value(text)
    if not _is_chunk(value):
        return value
    message = _Message()
    message.add(value)
    while (position := bodies.skip_space(text, position)) < len(text):
        value, position = bodies.read_first_value(text, position)
        if _has_error(value):
            return value
        message.add(value)
    return message.completion()


def _events(text: str) -> Iterator[tuple[str, str]]:
    """Kind and data of each event that has data."""
    kind, data = "", list[str]()
    for line in (*_LINES.split(text.lstrip("\ufeff")), ""):
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            data.append(value)
        elif name == "event":
            kind = value.strip()
        elif not line.strip():
            if joined := "\n".join(data).strip():
                yield kind, joined
            kind, data = "", []


def _has_error(value: Any) -> bool:
    return isinstance(value, dict) and bool(value.get("error"))


def _is_chunk(value: Any) -> bool:
    choice = _first_choice(value)
    return choice is not None and isinstance(choice.get("delta"), dict)


def _first_choice(value: Any) -> Mapping[str, Any] | None:
    choices = value.get("choices") if isinstance(value, dict) else None
    if not isinstance(choices, list):
        return None
    return next((c for c in choices if isinstance(c, dict) and c.get("index") in (0, None)), None)


class _Message:
    """The message that the chunks of a stream add up to."""

    def __init__(self) -> None:
        self.ended = False
        self._events = 0
        self._choices = 0
        self._finished = False
        self._top: dict[str, Any] = {}
        self._choice: dict[str, Any] = {}
        self._strings: dict[str, list[str]] = {}
        self._lists: dict[str, list[Any]] = {}
        self._others: dict[str, Any] = {}
        self._calls: dict[int, dict[str, Any]] = {}

    def add(self, chunk: Any) -> None:
        """Take in one chunk; what is none is left out. Raises BodyError after MAX_EVENTS."""
        self._events += 1
        if self._events > MAX_EVENTS:
            raise BodyError(f"it is a stream of more than {MAX_EVENTS} events")
        if not isinstance(chunk, dict):
            return
        for name, value in chunk.items():
            if name != "choices" and value is not None:
                self._top[name] = value
        choice = _first_choice(chunk)
        if choice is None:
            return
        self._choices += 1
        for name, value in choice.items():
            if name not in ("delta", "message") and value is not None:
                self._choice[name] = value
        self._finished = self._finished or bool(choice.get("finish_reason"))
        delta = choice.get("delta")
        if not delta and "content" not in self._strings:  # at the end some repeat the message as a whole
            delta = choice.get("message")
        for name, value in delta.items() if isinstance(delta, dict) else ():
            self._add_field(name, value)

    def _add_field(self, name: str, value: Any) -> None:
        if name == "tool_calls":
            for position, item in enumerate(value if isinstance(value, list) else ()):
                self._add_call(item, position)
        elif name == "role":
            self._others[name] = value
        elif isinstance(value, str):
            self._strings.setdefault(name, []).append(value)
        elif isinstance(value, list):
            self._lists.setdefault(name, []).extend(value)
        elif value is not None:
            self._others[name] = value

    def _add_call(self, item: Any, position: int) -> None:
        if not isinstance(item, dict):
            return
        index = item.get("index")
        if not isinstance(index, int) or isinstance(index, bool):
            index = self._index_of(item, position)
        call = self._calls.get(index)
        if call is None:
            if len(self._calls) >= MAX_CALLS:
                return
            call = self._calls[index] = {"function": {"arguments": []}}
        for name, value in item.items():
            if name not in ("index", "function") and value not in (None, ""):
                call[name] = value
        function = item.get("function")
        for name, value in function.items() if isinstance(function, dict) else ():
            if name == "arguments":
                call["function"]["arguments"].append(value)
            elif value not in (None, ""):
                call["function"][name] = value

    def _index_of(self, item: Mapping[str, Any], position: int) -> int:
        # Without an index: a new id is a new call, a piece without one belongs to the last.
        identity = item.get("id")
        known = next((n for n, call in self._calls.items() if call.get("id") == identity), None)
        if identity and known is None:
            return len(self._calls)
        return known if known is not None else max(position, len(self._calls) - 1)

    def completion(self) -> dict[str, Any]:
        """As a completion that was not streamed. Raises BodyError when there is none, or half of it."""
        if not self._choices:
            raise BodyError(f"it is a stream of {self._events} events without an answer")
        if not self._finished and not self.ended:
            raise BodyError(f"it is a stream that is cut short after {self._events} events")
        message = {**self._others, **self._lists}
        for name, parts in self._strings.items():
            text = "".join(parts)
            listed = self._lists.get(name)
            message[name] = text if listed is None else [*listed, {"type": "text", "text": text}]
        if self._calls:
            message["tool_calls"] = [_whole_call(self._calls[index]) for index in sorted(self._calls)]
        return {**self._top, "choices": [{**self._choice, "message": message}]}


def _whole_call(call: dict[str, Any]) -> dict[str, Any]:
    parts = call["function"]["arguments"]
    if any(isinstance(part, str) for part in parts):
        arguments: Any = "".join(part for part in parts if isinstance(part, str))
    else:
        arguments = next((part for part in reversed(parts) if part is not None), "")
    return {**call, "function": {**call["function"], "arguments": arguments}}
