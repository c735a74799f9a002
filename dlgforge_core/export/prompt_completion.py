"""Dialogues as prompts and completions, in the form that TRL's `SFTTrainer` takes: a row for each answer."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from dlgforge_core.dialogue import Dialogue
from dlgforge_core.export.format_context import NO_CONTEXT, FormatContext, Record
from dlgforge_core.export.openai_messages import arguments_json, openai_messages_record
from dlgforge_core.export.record_checks import unknown_tool_problem
from dlgforge_core.tool_events import ToolEvent, ToolProblem

COLUMNS = ("id", "prompt", "completion")
_ROLES = ("user", "assistant", "tool")
_LARGEST = 2**63
_MISTAKES = frozenset({ToolProblem.UNKNOWN_TOOL, ToolProblem.INVALID_ARGUMENTS})
"""Of calls that nobody is to learn."""


def prompt_completion_records(dialogue: Dialogue, context: FormatContext = NO_CONTEXT) -> Iterator[Record]:
    """Yield a row for each message of the assistant: `completion` is that message, `prompt` all before it.

    A call of a tool is a completion, what the tool gave is part of the next prompt, so that nobody is trained
    to write it. Arguments of calls are objects, as chat templates want them. What opens a conversation is
    part of the prompts alone: TRL takes no prompt that is empty, or a system message and nothing else. A
    message with a call that no tool could take, of an unknown one or with arguments against its schema, is
    part of the prompts alone, too: nobody is to learn it.
    """
    mistaken = {
        event.call_id for turn in dialogue.turns for event in turn.details.tools if event.problem in _MISTAKES
    }
    record = openai_messages_record(dialogue, context)
    messages = [with_objects(message) for message in record["messages"]]
    tools = {"tools": record["tools"]} if "tools" in record else {}
    for index, message in enumerate(messages):
        if any(call["id"] in mistaken for call in message.get("tool_calls", ())):
            continue
        if message["role"] == "assistant" and any(m["role"] == "user" for m in messages[:index]):
            row = {"id": dialogue.plan.dialogue_id, "prompt": messages[:index], "completion": [message]}
            yield {**row, **tools}


def with_objects(message: Record) -> Record:
    """Return a message whose calls of tools have objects as arguments, as chat templates want them."""
    if "tool_calls" not in message:
        return message
    calls = [
        {**call, "function": {**call["function"], "arguments": _object(call["function"]["arguments"])}}
        for call in message["tool_calls"]
    ]
    return {**message, "tool_calls": calls}


def arguments_object(event: ToolEvent) -> Any:
    """Return the arguments of a call as an object that every reader of JSON takes."""
    return _object(arguments_json(event))


def _object(arguments: str) -> Any:
    return json.loads(arguments, parse_int=_whole, parse_constant=lambda name: None)


def _whole(digits: str) -> int | float:
    """Return a number that JSON's readers take: beyond 64 bits most do not."""
    number = int(digits)
    return number if -_LARGEST <= number < _LARGEST else float(number)


def prompt_completion_problem(record: Record) -> str | None:
    """Return what is wrong with a row, or None."""
    if unknown := set(record) - {*COLUMNS, "tools"}:
        return f"there is no column {sorted(unknown)[0]!r}"
    prompt, completion = record["prompt"], record["completion"]
    if len(completion) != 1 or completion[0]["role"] != "assistant":
        return "'completion' must be one message of the assistant"
    if not prompt or prompt[-1]["role"] not in ("user", "tool"):
        return "'prompt' must end with the user's message or a tool's result"
    return conversation_problem([*prompt, *completion], record.get("tools", ()), "'prompt' and 'completion'")


def conversation_problem(messages: Sequence[Record], tools: Sequence[Record], columns: str) -> str | None:
    """Return what is wrong with the messages of these columns, one after the other, or None."""
    known = {tool["function"]["name"] for tool in tools}
    open_calls = dict[str, str]()
    for index, message in enumerate(messages):
        where = f"message {index} of {columns}"
        opens = message["role"] == "assistant" and not message.get("tool_calls")
        if message["role"] not in (_ROLES if index or opens else ("system", "user")):
            return f"{where} is of {message['role']!r}"
        if not isinstance(message["content"], str):
            return f"{where} has no text as 'content'"
        if message["role"] == "tool":
            if (name := open_calls.pop(message["tool_call_id"], None)) is None:
                return f"{where} answers no call that is open"
            if problem := unknown_tool_problem(name, known, message["content"]):
                return f"{where} {problem}"
        elif open_calls:
            return f"{where} is of {message['role']!r}, and a tool must speak"
        for call in message.get("tool_calls", ()):
            if not isinstance(call["function"]["arguments"], dict):
                return f"{where}: arguments must be an object"
            open_calls[call["id"]] = call["function"]["name"]
    unknown = next((name for name in open_calls.values() if name not in known), None)
    return f"{columns} end with a call of {unknown!r}, which is not in 'tools'" if unknown else None
