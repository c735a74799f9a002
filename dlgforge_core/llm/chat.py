"""The chat completions protocol: what is sent, and an answer as callers get it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from dlgforge_core.config import AgentConfig
from dlgforge_core.config.agents import OPTIONAL_PARAMETERS
from dlgforge_core.llm import provider_state, tool_calls
from dlgforge_core.llm.dialect import Dialect
from dlgforge_core.llm.parameters import without_keywords
from dlgforge_core.llm.structured import JsonMode, instruction_for, response_format, with_words
from dlgforge_core.llm.tool_calls import Message, ToolCall, ToolDefinition


@dataclass(frozen=True, slots=True)
class Completion:
    """An answer that can be used.

    Tokens are the sum over the answers of this call, a repaired one included; `cached_tokens` is None when
    the server does not tell. `latency_s` is the time the endpoint took for the last of them, without waiting
    for a slot. `finish_reason` is `length` when the text was cut and shortened to whole sentences.
    `tools_offered` is false when the endpoint that answered takes no tools; `text` may be empty only when
    there are `tool_calls`. `reasoning` is what the model said to itself, where the server tells; `state` are
    fields that the provider wants back with the calls.
    """

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int | None
    endpoint: str
    model: str
    latency_s: float
    tool_calls: tuple[ToolCall, ...] = ()
    tools_offered: bool = False
    reasoning: str = ""
    state: Mapping[str, Any] = field(default_factory=dict)


def request_body(
    dialect: Dialect,
    agent: AgentConfig,
    model: str,
    messages: Sequence[Message],
    *,
    seed: int | None,
    schema: Mapping[str, Any] | None,
    words: str = "",
    tools: Sequence[ToolDefinition] = (),
) -> bytes:
    """Return the body of `POST /chat/completions`, in the endpoint's dialect.

    `words` ask for what `schema` describes where the endpoint does not enforce it; without them the schema
    itself does.
    """
    if not dialect.tools:
        tools = ()
        if tool_calls.has_tool_messages(messages):
            messages = tool_calls.fold(messages)
    elif tool_calls.has_tool_messages(messages):
        messages = provider_state.as_wanted(messages, dialect.state_fields, dialect.demanded_state)
    if not dialect.system_role:
        messages = without_system(messages)
    body: dict[str, Any] = {
        "model": model,
        "messages": messages,
        "temperature": agent.temperature,
        "top_p": agent.top_p,
        dialect.token_parameter: agent.max_tokens,
        "stream": False,  # some gateways stream unless they are told not to
    }
    if seed is not None:
        body["seed"] = seed
    if tools:
        body["tools"] = [tool.to_json() for tool in tools]
    if schema is not None:
        off = "response_format" in agent.extra_body  # as null: no other value is allowed
        mode = JsonMode.TEXT if off else dialect.json_mode
        if mode is not JsonMode.JSON_SCHEMA:
            body["messages"] = with_words(messages, words or instruction_for(schema))
            mode = JsonMode.TEXT if words else mode
        if wanted := response_format(mode, schema):
            body["response_format"] = without_keywords(wanted, dialect.unsupported_keywords)
    body.update(agent.extra_body)
    # What is null among ours is left out; any other null is the user's own, for the server to read.
    left_out = {name for name in OPTIONAL_PARAMETERS if body.get(name) is None} | dialect.unsupported
    return orjson.dumps({name: value for name, value in body.items() if name not in left_out})


def without_system(messages: Sequence[Message]) -> list[Message]:
    """Return the conversation with what its system message says at the start of the user's first message."""
    if not messages or messages[0]["role"] != "system":
        return list(messages)
    system, *rest = messages
    if not rest or rest[0]["role"] != "user":
        return [{**system, "role": "user"}, *rest]
    return [{**rest[0], "content": f"{system['content']}\n\n{rest[0]['content']}"}, *rest[1:]]
