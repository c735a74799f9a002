"""Dialogues in ShareGPT with tool calls, as LLaMA-Factory reads them: everyone speaks in turn, two and two.

`human` and `observation` are in odd places, `gpt` and `function_call` in even ones. Whatever does not
alternate so is passed over there, with a line in the log.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

import orjson

from dlgforge_core.call_rounds import rounds_of
from dlgforge_core.dialogue import Dialogue, Turn
from dlgforge_core.export.format_context import NO_CONTEXT, FormatContext, Record
from dlgforge_core.export.openai_messages import question, tool_definitions
from dlgforge_core.export.prompt_completion import arguments_object
from dlgforge_core.export.reasoning import answer_reasoning, call_reasoning, in_tags
from dlgforge_core.export.record_checks import unknown_tool_problem
from dlgforge_core.export.records import clean
from dlgforge_core.export.schema import SYSTEM
from dlgforge_core.tool_events import ERROR, ToolEvent

COLUMNS = ("id", "conversations", SYSTEM, "tools")
TEXTS = {
    "id": "Stable id of the dialogue.",
    "conversations": "The conversation: `from` is human, function_call (`value` is a call, or several made "
    "at once, as JSON), observation (what came of them) or gpt.",
    SYSTEM: "The system message that the assistant was told; empty without one.",
    "tools": "The tools that the assistant had in the dialogue, as JSON text; empty without any.",
}
_BETWEEN = "\n</tool_response>\n<tool_response>\n"
"""Between the results of calls made at once, as LLaMA-Factory joins them when it reads OpenAI messages."""


def sharegpt_tools_record(dialogue: Dialogue, context: FormatContext = NO_CONTEXT) -> Record:
    """One line of JSONL. What opens a conversation is left out, as the user must begin.

    Of the forms of reasoning only tags have a place here.
    """
    tools = [_with_properties(one) for one in tool_definitions(dialogue, context)]
    return {
        "id": dialogue.plan.dialogue_id,
        "conversations": [
            {"from": who, "value": value} for turn in dialogue.turns for who, value in _spoken(turn, context)
        ],
        SYSTEM: dialogue.plan.system_prompt,
        "tools": _json(tools) if tools else "",
    }


def _spoken(turn: Turn, context: FormatContext) -> Iterator[tuple[str, str]]:
    yield "human", question(turn, context)
    number, form = 0, context.reasoning
    for events in rounds_of(turn.details):
        calls = [_call(event) for event in events]
        text = _json(calls if len(calls) > 1 else calls[0])
        yield "function_call", in_tags(text, call_reasoning(turn.details, number), form)
        yield "observation", _BETWEEN.join(event.content for event in events)
        number += len(events)
    yield "gpt", in_tags(turn.assistant, answer_reasoning(turn.details), form)


def _call(event: ToolEvent) -> Record:
    return {"name": event.name, "arguments": arguments_object(event)}


def _with_properties(definition: Record) -> Record:
    """Return a tool's definition whose parameters say which they are: LLaMA-Factory looks that up."""
    function = definition.get("function", definition)
    parameters = {"type": "object", "properties": {}, **(function.get("parameters") or {})}
    return {"type": "function", "function": {**function, "parameters": parameters}}


def _json(value: Any) -> str:
    return orjson.dumps(clean(value), option=orjson.OPT_NON_STR_KEYS, default=str).decode()


def sharegpt_tools_problem(record: Record) -> str | None:
    """Return what is wrong with a row that was read back, or None."""
    if unknown := set(record) - set(COLUMNS):
        return f"there is no column {sorted(unknown)[0]!r}"
    tools = orjson.loads(record["tools"]) if record["tools"] else []
    known = {tool["function"]["name"] for tool in tools}
    conversation = record["conversations"]
    if not conversation or len(conversation) % 2:
        return "'conversations' must be pairs of messages"
    for place, message in enumerate(conversation):
        who, value = message["from"], message["value"]
        if who not in (("human", "observation"), ("gpt", "function_call"))[place % 2]:
            return f"'conversations'[{place}] is of {who!r}, who cannot speak there"
        if not isinstance(value, str):
            return f"'conversations'[{place}] has no text as 'value'"
        if (who == "observation") != (place > 0 and conversation[place - 1]["from"] == "function_call"):
            return f"'conversations'[{place}] is of {who!r} after {conversation[place - 1]['from']!r}"
        if who == "function_call":
            results = [message["value"] for message in conversation[place + 1 : place + 2]]
            if problem := _call_problem(value, known, "".join(results).split(_BETWEEN)):
                return f"'conversations'[{place}] {problem}"
    return None if conversation[-1]["from"] == "gpt" else "'conversations' must end with an answer"


def _first_error(results: Sequence[str]) -> str:
    return next((result for result in results if result.startswith(ERROR)), "")


def _calls_in(value: str) -> Any:
    """Return the calls at the end of a text, which may begin with reasoning in any words."""
    for start in (match.start() for match in re.finditer(r"[\[{]", value)):
        if start and not value.startswith("</think>\n\n", start - len("</think>\n\n")):
            continue
        with contextlib.suppress(ValueError):
            return orjson.loads(value[start:])
    raise ValueError("a function_call without calls")


def _call_problem(value: str, known: set[str], results: Sequence[str]) -> str | None:
    read = _calls_in(value)
    calls = read if isinstance(read, list) else [read]
    for number, call in enumerate(calls):
        # A result may hold what stands between results: then any error may be this call's.
        result = results[number] if len(results) == len(calls) else _first_error(results)
        if problem := unknown_tool_problem(call["name"], known, result):
            return problem
        if not isinstance(call["arguments"], dict):
            return "must have an object as 'arguments'"
    return None
