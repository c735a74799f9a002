"""Dialogues as OpenAI's fine-tuning and Hugging Face chat templates take them, tool calls included."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

import orjson

from dlgforge_core.call_rounds import rounds_of
from dlgforge_core.config.saving import Reasoning
from dlgforge_core.dialogue import Dialogue, Role, Turn, TurnDetails
from dlgforge_core.export.format_context import NO_CONTEXT, FormatContext, Record
from dlgforge_core.export.reasoning import answer_reasoning, call_reasoning, with_reasoning
from dlgforge_core.prompting.quoting import quote
from dlgforge_core.tool_events import ToolEvent, ToolProblem

_JSON_TYPES: Mapping[type, str] = {
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    list: "array",
}


def openai_messages_record(dialogue: Dialogue, context: FormatContext = NO_CONTEXT) -> Record:
    """One line of JSONL: `messages`, and `tools` where there were any; no other key, as OpenAI takes none.

    Tools that the assistant had and did not call are there, too. One that was called and has no definition is
    described by the arguments it was called with.
    """
    record: Record = {"messages": list(messages_of(dialogue, context))}
    if tools := tool_definitions(dialogue, context):
        record["tools"] = tools
    return record


def system_message(dialogue: Dialogue) -> list[Record]:
    """Return the system message of a dialogue; nothing where it has none."""
    text = dialogue.plan.system_prompt
    return [{"role": "system", "content": text}] if text else []


def opening_message(dialogue: Dialogue, form: Reasoning) -> list[Record]:
    """Return the message with which the assistant opened a dialogue; nothing where the user did."""
    if not dialogue.opening:
        return []
    message = {"role": "assistant", "content": dialogue.opening}
    return [with_reasoning(message, dialogue.turns[0].details.opening_reasoning, form)]


def messages_of(dialogue: Dialogue, context: FormatContext) -> Iterator[Record]:
    """Yield the messages of a dialogue, in order."""
    yield from system_message(dialogue)
    yield from opening_message(dialogue, context.reasoning)
    for turn in dialogue.turns:
        yield {"role": "user", "content": question(turn, context)}
        yield from answer_messages(turn.assistant, turn.details, context.reasoning)


def answer_messages(answer: str, details: TurnDetails, form: Reasoning) -> Iterator[Record]:
    """Yield the messages of an answer: the calls of tools behind it with what they gave, and its text."""
    number = 0
    for events in rounds_of(details):
        # Empty and not left out: chat templates join the contents of all messages, or measure them.
        message = {"role": "assistant", "content": "", "tool_calls": [_call(event) for event in events]}
        yield with_reasoning(message, call_reasoning(details, number), form)
        for event in events:
            yield {"role": "tool", "tool_call_id": event.call_id, "content": event.content}
        number += len(events)
    yield with_reasoning({"role": "assistant", "content": answer}, answer_reasoning(details), form)


def question(turn: Turn, context: FormatContext) -> str:
    """Return what the user says in a turn, after the passages for it where a dataset has them there."""
    return _in_context(turn) if context.passages else turn.user


def _in_context(turn: Turn) -> str:
    """Return the question of a turn after the passages that its answer was written from.

    In the user's message, as data for retrieval-augmented fine-tuning (RAFT) has them, and not in a message
    of their own: chat templates that want user and assistant to alternate (Mistral's, Gemma's) refuse a
    `system` message between turns. Passages that a tool found are in the tool's result. One whose text is
    gone is left out.

    <document>
    text of a passage
    </document>

    the question
    """
    found = [event.result for event in turn.details.tools]
    texts = [
        evidence.text
        for evidence in turn.details.evidence
        if evidence.given_to is Role.ASSISTANT
        and evidence.text
        and not any(quote(evidence.text) in result for result in found)
    ]
    return "\n\n".join([*(f"<document>\n{text}\n</document>" for text in texts), turn.user])


def _call(event: ToolEvent) -> Record:
    return {
        "id": event.call_id,
        "type": "function",
        "function": {"name": event.name, "arguments": arguments_json(event)},
    }


def arguments_json(event: ToolEvent) -> str:
    """Return the arguments of a call as JSON text."""
    arguments = dict(event.arguments)
    try:
        return orjson.dumps(arguments, option=orjson.OPT_NON_STR_KEYS, default=str).decode()
    except TypeError:  # of a whole number beyond 64 bits: what was 1e23 is one when Postgres gives it back
        return json.dumps(arguments, default=str, separators=(",", ":"))


def tool_definitions(dialogue: Dialogue, context: FormatContext, *, candidates: bool = False) -> list[Record]:
    """Return the definitions of the tools that a dialogue had, those offered to all, or called, by name.

    With `candidates` also of those that answers called which were not chosen.
    """
    offered = (*context.offered, *(dialogue.plan.tools or ()))
    events: dict[str, list[ToolEvent]] = {name: [] for name in offered}
    for turn in dialogue.turns:
        others = turn.details.candidates if candidates else ()
        for details in (turn.details, *(one.details for one in others)):
            for event in details.tools:
                if event.problem is not ToolProblem.UNKNOWN_TOOL:  # which is none that the dialogue had
                    events.setdefault(event.name, []).append(event)
    return [context.definitions.get(name) or _described(name, events[name]) for name in sorted(events)]


def _described(name: str, events: list[ToolEvent]) -> Record:
    kinds: dict[str, str] = {}
    for event in events:
        for key, value in event.arguments.items():
            kinds.setdefault(str(key), _JSON_TYPES.get(type(value), "object"))
    properties = {key: {"type": kind} for key, kind in sorted(kinds.items())}
    everywhere = [key for key in properties if all(key in event.arguments for event in events)]
    parameters = {"type": "object", "properties": properties, "required": everywhere}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}
