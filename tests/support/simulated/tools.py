"""Tool calls of the simulated endpoint: whether a request gets one, which, and with what arguments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from tests.support.simulated import content
from tests.support.simulated.errors import RequestError
from tests.support.simulated.options import Options
from tests.support.simulated.schema import fill

# What vLLM says without --enable-auto-tool-choice.
REFUSAL = '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'
UNREADABLE = "Failed to parse tool call arguments as JSON: unexpected end of input"
MAX_QUERY_CHARS = 200

ToolCalls = list[dict[str, Any]]


def tool_calls_for(options: Options, request: Mapping[str, Any]) -> ToolCalls | None:
    """Return the calls this request is answered with, or None when it gets text.

    They depend on the messages, the tools and `options.seed` alone. Raises RequestError (400) for tools,
    and for messages of tools, when the endpoint has none; 500 when it cannot read its model's call.
    """
    messages, tools = request["messages"], request.get("tools")
    _check_state(options, messages)
    if options.tool_calls == "refused":
        if tools:
            raise RequestError(400, REFUSAL, None)
        if any(m["role"] == "tool" or m.get("tool_calls") for m in messages):
            raise RequestError(400, "Only system, user and assistant roles are supported!", None, "messages")
        return None
    if (
        not tools
        or (options.tool_calls == "ignored" and not options.tool_script)
        or request.get("tool_choice") == "none"
    ):
        return None
    if request.get("response_format"):
        return None
    if options.tool_script:
        return _scripted(options, messages)
    if options.tool_calls == "unreadable":
        raise RequestError(500, UNREADABLE, None)
    if options.tool_calls == "once" and messages[-1]["role"] == "tool":
        return None
    key = content.body_key(orjson.dumps(messages), options.seed)
    if content.unit(content.mix(key, 3)) >= options.tool_call_share:
        return None
    return [
        _call(options, messages, tools, content.mix(key, 16 + n)) for n in range(options.tool_calls_at_once)
    ]


def _scripted(options: Options, messages: list[Any]) -> ToolCalls | None:
    """Return the calls of the script for the round that comes now, or None where it has none."""
    asked = [place for place, message in enumerate(messages) if message["role"] == "user"]
    rounds = sum(bool(message.get("tool_calls")) for message in messages[asked[-1] :])
    text = orjson.dumps(messages).decode()
    for entry in options.tool_script:
        if entry["turn"] == len(asked) and entry.get("contains", "") in text:
            calls = entry["rounds"][rounds] if rounds < len(entry["rounds"]) else ()
            return [_written(call, f"call_{len(asked)}_{rounds}_{n}") for n, call in enumerate(calls)] or None
    return None


def _written(call: Mapping[str, Any], identity: str) -> dict[str, Any]:
    arguments = call.get("arguments", {})
    text = arguments if isinstance(arguments, str) else orjson.dumps(arguments).decode()
    return {"id": identity, "type": "function", "function": {"name": call["name"], "arguments": text}}


def simulated_result(options: Options, text: str) -> str | None:
    """Return what the tool simulator is to answer to a prompt, or None where the options do not say."""
    for entry in options.tool_results:
        if entry["contains"] in text:
            return orjson.dumps(entry["answer"]).decode()
    return None


def _call(options: Options, messages: list[Any], tools: list[Any], key: int) -> dict[str, Any]:
    function = tools[key % len(tools)].get("function", {})
    arguments = options.tool_arguments
    if arguments is None:
        arguments = orjson.dumps(_arguments(function.get("parameters") or {}, messages, key)).decode()
    call = {
        "id": f"call_{key:016x}",
        "type": "function",
        "function": {"name": options.tool_name or function.get("name"), "arguments": arguments},
    }
    if options.state_field == "extra_content":
        call["extra_content"] = {"google": {"thought_signature": f"sign-{key:x}"}}
    return call


# As Kimi and Gemini say it.
_STATE_MISSING = {
    "reasoning_content": "thinking is enabled but reasoning_content is missing in assistant "
    "tool call message",
    "extra_content": "Function call is missing a thought_signature in functionCall parts.",
}


def _check_state(options: Options, messages: list[Any]) -> None:
    """Raise RequestError (400) for calls without the field they came with."""
    field = options.state_field
    for message in messages if field else ():
        calls = message.get("tool_calls") or ()
        holders = calls if field == "extra_content" else [message] * len(calls)
        if not all(holder.get(field) for holder in holders):
            raise RequestError(400, _STATE_MISSING[field], "invalid_request_error")


def _arguments(schema: Mapping[str, Any], messages: list[Any], key: int) -> Any:
    """Return valid arguments, only those required; a `query` is what the user said last."""
    required = schema.get("required", ())
    properties = {n: p for n, p in schema.get("properties", {}).items() if n in required}
    value = fill({**schema, "type": "object", "properties": properties}, key)
    if "query" in properties:
        message = [content.text_of(m) for m in messages if m["role"] == "user"]
        value["query"] = (message[-1] if message else "")[-MAX_QUERY_CHARS:] or "nothing"
    return value
