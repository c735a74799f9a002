"""Tool calls of the chat completions protocol: offering tools, reading calls, and doing without."""

from __future__ import annotations

import ast
import contextlib
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from dlgforge_core.llm import structured

Message = dict[str, Any]
"""A message of the protocol: `role`, `content`, and `tool_calls` or `tool_call_id` where they belong."""

MAX_CALLS = 16
"""Calls read from one answer; a model that loops may ask for hundreds."""
MAX_ARGUMENTS_CHARS = 20_000
MAX_DEPTH = 32
"""Of arguments: who nests deeper than that has lost the thread."""
MAX_NAME_CHARS = 200
MAX_STATE_BYTES = 64 * 1024
"""Of the fields that are sent back with a call."""
MAX_PROBLEM_CHARS = 200


@dataclass(frozen=True, slots=True)
class ToolDefinition:
    """A tool a model may call. `parameters` is the JSON schema of its arguments."""

    name: str
    description: str
    parameters: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """As an item of the request's `tools`."""
        function = {"name": self.name, "description": self.description, "parameters": dict(self.parameters)}
        return {"type": "function", "function": function}


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call the model asks for. `problem` says why its arguments could not be read; they are empty then.

    `state` are fields beside the protocol's own (Gemini's signature of a thought), which go back with it.
    """

    id: str
    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""
    state: Mapping[str, Any] = field(default_factory=dict)


def call_message(text: str, calls: Sequence[ToolCall], state: Mapping[str, Any] | None = None) -> Message:
    """Return the assistant's message that asked for `calls`, to be sent back with the next request.

    `state` are the fields beside the protocol's own that the message came with.
    """
    return {
        "role": "assistant",
        "content": text or None,
        **(state or {}),
        "tool_calls": [
            {
                **call.state,
                "id": call.id,
                "type": "function",
                # Written anew: servers parse what they are sent, and refuse a request with broken JSON in it.
                "function": {"name": call.name, "arguments": orjson.dumps(call.arguments).decode()},
            }
            for call in calls
        ],
    }


def result_message(call: ToolCall, result: str) -> Message:
    """Return what a tool answered, for the model."""
    return {"role": "tool", "tool_call_id": call.id, "content": result}


# Reading


def read_calls(items: Any) -> tuple[ToolCall, ...]:
    """Return the calls in a message's `tool_calls`, whatever is in there; what has no name is left out."""
    calls = []
    for position, item in enumerate(items[:MAX_CALLS] if isinstance(items, list) else ()):
        function = item.get("function") if isinstance(item, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
        if isinstance(function, dict) and isinstance(name, str) and name.strip():
            identity = item.get("id")
            if not isinstance(identity, str) or not 0 < len(identity) <= MAX_NAME_CHARS:
                identity = f"call_{position}"
            calls.append(
                _call(identity, name.strip()[:MAX_NAME_CHARS], function.get("arguments"), _state(item))
            )
    return tuple(calls)


def _state(item: Mapping[str, Any]) -> Mapping[str, Any]:
    state = {name: value for name, value in item.items() if name not in _CALL_FIELDS and value}
    return state if is_plain(state, MAX_STATE_BYTES) else {}


_CALL_FIELDS = frozenset({"id", "type", "index", "function"})


_TAGGED = re.compile(r"<tool_call>\s*(.*?)\s*(?:</tool_call>|$)", re.DOTALL)
_OBJECT = re.compile(r"(?:```(?:json)?\s*)?(\{.*\})(?:\s*```)?", re.DOTALL)
_FENCED = re.compile(r"```(?:json)?\s*([\[{].*?[\]}])\s*```", re.DOTALL)
_CALL_KEYS = frozenset({"type", "id", "name", "arguments", "parameters"})


def split_calls(text: str, offered: Collection[str]) -> tuple[str, tuple[ToolCall, ...]]:
    """`text` without the calls written into it, and those of tools that were offered.

    Models call in words where their server has no parser for them: in <tool_call> tags, which are never left
    in the text; as JSON objects with name and arguments and nothing else; or in code fences among words.
    Words after such a fence are left out: they tell of a result that nobody has had.
    """
    tagged = "<tool_call>" in text
    if tagged:
        parts, rest = _TAGGED.findall(text), _TAGGED.sub("", text).strip()
    elif offered and (fenced := _fenced_calls(text, offered)):
        return fenced
    elif offered and (whole := _OBJECT.fullmatch(text.strip())):
        parts, rest = _lines_of_json(whole.group(1)) or [whole.group(1)], ""
    else:
        return text, ()
    calls = []
    for position, part in enumerate(parts[:MAX_CALLS]):
        value, _ = read_arguments(part)
        name = value.get("name")
        if isinstance(name, str) and name in offered:
            given = value.get("arguments", value.get("parameters"))
            calls.append(_call(f"call_{position}", name, given))
    return (rest, tuple(calls)) if tagged or calls else (text, ())


def _fenced_calls(text: str, offered: Collection[str]) -> tuple[str, tuple[ToolCall, ...]] | None:
    """Return the words before the first fence that holds calls, and all calls in fences; None without any.

    Here a call is an object, or one in a list, that has arguments and nothing that a call has not.
    """
    start, calls = -1, list[ToolCall]()
    for match in _FENCED.finditer(text):
        values = _json_of(match[1])
        if not values or not all(_is_call(value, offered) for value in values):
            continue
        start = match.start() if start < 0 else start
        for value in values[: MAX_CALLS - len(calls)]:
            given = value.get("arguments", value.get("parameters"))
            calls.append(_call(f"call_{len(calls)}", value["name"], given))
    return (text[:start].strip(), tuple(calls)) if calls else None


def _json_of(text: str) -> list[Any]:
    """Return the items of a JSON list, or the JSON objects that are written line by line, or the only one."""
    try:
        value = orjson.loads(text)
    except ValueError:
        lines = _lines_of_json(text)
        value = [orjson.loads(line) for line in lines] if lines else read_arguments(text)[0]
    return value if isinstance(value, list) else [value]


def _lines_of_json(text: str) -> list[str]:
    """Return the lines of a text of which each is JSON; none where one is not."""
    lines = [line for line in text.splitlines() if line.strip()]
    try:
        any(orjson.loads(line) is None for line in lines)
    except ValueError:
        return []
    return lines


def _is_call(value: Any, offered: Collection[str]) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() <= _CALL_KEYS
        and isinstance(value.get("name"), str)
        and value["name"] in offered
        and isinstance(value.get("arguments", value.get("parameters")), dict)
    )


def _call(identity: str, name: str, given: Any, state: Mapping[str, Any] | None = None) -> ToolCall:
    arguments, problem = read_arguments(given)
    return ToolCall(identity, name, arguments, problem, state or {})


def read_arguments(given: Any) -> tuple[dict[str, Any], str]:
    """Arguments as a model wrote them, repaired where that is safe; or none, and what is wrong with them.

    Taken: an object; nothing; JSON, also within a JSON string, in a code fence, among other words, cut off
    before its last quotes and braces; or a Python literal. Never raises.
    """
    if given is None or given == "":
        return {}, ""
    if isinstance(given, dict):
        if not _is_shallow(given):
            return {}, _TOO_DEEP
        given = json.dumps(given)
    if not isinstance(given, str):
        return {}, f"arguments must be a JSON object, not {_shown(given)}"
    if len(given) > MAX_ARGUMENTS_CHARS:
        return {}, f"arguments are {len(given)} characters long; at most {MAX_ARGUMENTS_CHARS} are read"
    for value in _readings(given.strip()):
        if isinstance(value, dict):
            if not is_plain(value, 2 * MAX_ARGUMENTS_CHARS):
                continue
            if not _is_shallow(value):
                return {}, _TOO_DEEP
            return orjson.loads(orjson.dumps(value)), ""
    return {}, f"arguments must be a JSON object, not {_shown(given)}"


def _readings(text: str) -> Iterator[Any]:
    for _ in range(3):  # JSON within a JSON string, and once more
        try:
            value = orjson.loads(text)
        except ValueError:
            break
        yield value
        if not isinstance(value, str):
            return
        text = value.strip()
    with contextlib.suppress(ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        yield ast.literal_eval(text)
    start = text.find("{")
    if start < 0:
        return
    for ending in ("}", '"}', "]}", '"]}', "}}", '"}}'):
        try:
            yield json.loads(text[start:] + ending, strict=False)
        except (ValueError, RecursionError):
            continue
        break
    else:
        yield next(structured.objects(text), None)


_TOO_DEEP = f"arguments are nested deeper than {MAX_DEPTH} levels"


def is_plain(value: Any, most_bytes: int) -> bool:
    """Whether it can be written as JSON again, in `most_bytes` at most.

    A Python literal may hold bytes, sets or huge numbers, and some depth is too much for a writer.
    """
    try:
        return len(orjson.dumps(value)) <= most_bytes
    except TypeError:  # orjson's error for all of them
        return False


def _is_shallow(value: Any, depth: int = MAX_DEPTH) -> bool:
    if not isinstance(value, dict | list):
        return True
    items = value.values() if isinstance(value, dict) else value
    return depth > 0 and all(_is_shallow(item, depth - 1) for item in items)


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= MAX_PROBLEM_CHARS else text[:MAX_PROBLEM_CHARS] + "..."


# Doing without


def has_tool_messages(messages: Sequence[Message]) -> bool:
    """Whether tools have been called in this conversation."""
    return any(m["role"] == "tool" or m.get("tool_calls") for m in messages)


def fold(
    messages: Sequence[Message], in_words: Callable[[Message], bool] = lambda message: True
) -> list[Message]:
    """Return the conversation in system, user and assistant messages of plain text alone.

    What the tools gave is put at the end of the user's message before it, so that roles still alternate.
    Calls of messages that need not be put `in_words` stay as they are.
    """
    folded: list[Message] = []
    names: dict[str, str] = {}
    kept = False
    for message in messages:
        if message["role"] == "tool" and not kept:
            name = names.get(message.get("tool_call_id", ""), "a tool")
            _append_result(folded, f"Found by {name}:\n{message.get('content') or ''}")
        elif message.get("tool_calls") and not (kept := not in_words(message)):
            names.update((c["id"], _described(c["function"])) for c in message["tool_calls"])
        else:
            folded.append(message)
    return folded


def _described(function: Mapping[str, Any]) -> str:
    return f"{function['name']} {function['arguments']}"


def _append_result(folded: list[Message], result: str) -> None:
    if folded and folded[-1]["role"] == "user":
        last = folded[-1]
        folded[-1] = {**last, "content": f"{last['content']}\n\n{result}"}
    else:
        folded.append({"role": "user", "content": result})


_TOOLS = re.compile(r"tool[ _-]?(choice|use|call)|\btools\b|function[ _-]call|role.{0,30}\btool\b", re.DOTALL)
# What chat templates say of messages they have no place for.
_ROLES = re.compile(r"\broles?\b.{0,80}(support|alternate)", re.DOTALL)
_LACK = re.compile(
    r"support|requires?\b|enabled?\b|not implemented|unknown|unrecognized|not permitted|not allowed"
)
_FAILURE = re.compile(r"tool_use_failed|failed to (parse|call)|(could|can) ?not parse|pars(e|ing) error")


def sent_with_tools(body: bytes) -> bool:
    """Whether a request's body offers tools or holds their messages."""
    # Within a message's text the quotes would be escaped.
    return b'"tools":[' in body or b'"role":"tool"' in body


def is_refusal(status: int, answer: str) -> bool:
    """Whether a server that was sent tools means, by this error, that it has none."""
    answer = answer.lower()
    if status in (400, 422):
        return bool(_TOOLS.search(answer) or _ROLES.search(answer))
    # An error of its own that happens while tools are used must not end their use.
    return status in (404, 500, 501) and bool(_TOOLS.search(answer) and _LACK.search(answer))


def is_failure(status: int, answer: str) -> bool:
    """Whether the server could not read the tool call that the model made: no tools for this call, then."""
    return status in (400, 422, 500) and bool(_FAILURE.search(answer.lower()))
