"""Dialogues as prompts and completions, in the form that TRL's `SFTTrainer` takes: a row for each answer."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dlgforge_core.config.saving import Reasoning
from dlgforge_core.dialogue import Dialogue
from dlgforge_core.export.openai_messages import Record, openai_messages_record

COLUMNS = ("id", "prompt", "completion")
_ROLES = ("user", "assistant", "tool")
_LARGEST = 2**63


def prompt_completion_records(
    dialogue: Dialogue,
    definitions: Mapping[str, Record] | None = None,
    *,
    offered: Sequence[str] = (),
    context: bool = False,
    reasoning: Reasoning = "none",
) -> Iterator[Record]:
    """Yield a row for each message of the assistant: `completion` is that message, `prompt` all before it.

    A call of a tool is a completion, what the tool gave is part of the next prompt, so that nobody is trained
    to write it. Arguments of calls are objects, as chat templates want them. What opens a conversation is
    part of the prompts alone: TRL takes no prompt that is empty, or a system message and nothing else. For
    the options see `openai_messages_record`.
    """
    record = openai_messages_record(
        dialogue, definitions, offered=offered, context=context, reasoning=reasoning
    )
    messages = [with_objects(message) for message in record["messages"]]
    tools = {"tools": record["tools"]} if "tools" in record else {}
    for place, message in enumerate(messages):
        if message["role"] == "assistant" and any(m["role"] == "user" for m in messages[:place]):
            row = {"id": dialogue.plan.dialogue_id, "prompt": messages[:place], "completion": [message]}
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
    open_calls = set[str]()
    for place, message in enumerate(messages):
        where = f"message {place} of {columns}"
        opens = message["role"] == "assistant" and not message.get("tool_calls")
        if message["role"] not in (_ROLES if place or opens else ("system", "user")):
            return f"{where} is of {message['role']!r}"
        if not isinstance(message["content"], str):
            return f"{where} has no text as 'content'"
        if message["role"] == "tool":
            if message["tool_call_id"] not in open_calls:
                return f"{where} answers no call that is open"
            open_calls.remove(message["tool_call_id"])
        elif open_calls:
            return f"{where} is of {message['role']!r}, and a tool must speak"
        for call in message.get("tool_calls", ()):
            if call["function"]["name"] not in known:
                return f"{where} calls {call['function']['name']!r}, which is not in 'tools'"
            if not isinstance(call["function"]["arguments"], dict):
                return f"{where}: arguments must be an object"
            open_calls.add(call["id"])
    return None
