"""The chat completions protocol: what is sent, and what comes back from servers of many makes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from dlgforge_core.config import AgentConfig
from dlgforge_core.llm import tool_calls
from dlgforge_core.llm.dialect import Dialect
from dlgforge_core.llm.server_errors import excerpt
from dlgforge_core.llm.structured import JsonMode, response_format, with_schema
from dlgforge_core.llm.tool_calls import Message, ToolCall, ToolDefinition

CHARS_PER_TOKEN = 4
"""Roughly, of most texts and tokenizers."""


@dataclass(frozen=True, slots=True)
class Completion:
    """An answer that can be used.

    Tokens are the sum over the answers of this call, a repaired one included; `cached_tokens` is None when
    the server does not tell. `latency_s` is the time the endpoint took for the last of them, without waiting
    for a slot. `finish_reason` is `length` when the text was cut and shortened to whole sentences.
    `tools_offered` is false when the endpoint that answered takes no tools; `text` may be empty only when
    there are `tool_calls`. `reasoning` is what the model said to itself, where the server tells.
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


def request_body(
    dialect: Dialect,
    agent: AgentConfig,
    model: str,
    messages: Sequence[Message],
    *,
    seed: int | None,
    schema: Mapping[str, Any] | None,
    tools: Sequence[ToolDefinition] = (),
) -> bytes:
    """The body of `POST /chat/completions`, in the endpoint's dialect."""
    if not dialect.tools:
        tools = ()
        if tool_calls.has_tool_messages(messages):
            messages = tool_calls.fold(messages)
    if not dialect.system_role:
        messages = without_system(messages)
    body: dict[str, Any] = {
        "model": model,
        "messages": messages,
        "temperature": agent.temperature,
        "top_p": agent.top_p,
        dialect.token_parameter: agent.max_tokens,
    }
    if seed is not None:
        body["seed"] = seed
    if tools:
        body["tools"] = [tool.to_json() for tool in tools]
    if schema is not None:
        if dialect.json_mode is not JsonMode.JSON_SCHEMA:
            body["messages"] = with_schema(messages, schema)
        if wanted := response_format(dialect.json_mode, schema):
            body["response_format"] = wanted
    for name in dialect.unsupported:
        body.pop(name, None)
    return orjson.dumps({**body, **agent.extra_body})


def without_system(messages: Sequence[Message]) -> list[Message]:
    """The conversation with what its system message says at the start of the user's first message."""
    if not messages or messages[0]["role"] != "system":
        return list(messages)
    system, *rest = messages
    if not rest or rest[0]["role"] != "user":
        return [{**system, "role": "user"}, *rest]
    return [{**rest[0], "content": f"{system['content']}\n\n{rest[0]['content']}"}, *rest[1:]]


class Answer(NamedTuple):
    """What a 200 carried. `text` is as it came; tokens are 0 when the server does not tell."""

    text: str
    finish_reason: str
    refusal: str
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int | None
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()

    @property
    def tells_usage(self) -> bool:
        """Whether the server told how many tokens were used: there is no prompt of none."""
        return self.prompt_tokens > 0

    def with_estimated_usage(self, sent: bytes) -> Answer:
        """The answer to the request `sent` with tokens estimated from its characters."""
        said = len(self.text) + len(self.reasoning) + sum(len(str(call)) for call in self.tool_calls)
        return self._replace(
            prompt_tokens=len(sent.decode()) // CHARS_PER_TOKEN + 1,
            completion_tokens=self.completion_tokens or said // CHARS_PER_TOKEN + 1,
        )


def read_completion(body: bytes) -> Answer:
    """Read a chat completion. Raises ValueError, saying what is wrong, when `body` is not one."""
    try:
        data = orjson.loads(body)
    except ValueError:
        kind = "cut short" if body.lstrip()[:1] == b"{" else "not JSON"
        raise ValueError(f"status 200, but the body is {kind}: {excerpt(body)}") from None
    try:
        choice = data["choices"][0]
        message = choice["message"]
        content = message.get("content")
    except (KeyError, IndexError, TypeError, AttributeError):
        raise ValueError(f"status 200, but the body is no chat completion: {excerpt(body)}") from None
    if isinstance(content, list):  # parts, as some servers send them
        content = "".join(str(p.get("text", "")) for p in content if isinstance(p, dict))
    prompt, completion, cached = _usage(data)
    refusal = message.get("refusal")
    return Answer(
        text=content if isinstance(content, str) else "",
        finish_reason=str(choice.get("finish_reason") or ""),
        refusal=refusal if isinstance(refusal, str) else "",
        prompt_tokens=prompt,
        completion_tokens=completion,
        cached_tokens=cached,
        reasoning=_reasoning(message),
        tool_calls=tool_calls.read_calls(message.get("tool_calls")) if "tool_calls" in message else (),
    )


def _reasoning(message: Mapping[str, Any]) -> str:
    for name in ("reasoning_content", "reasoning"):
        said = message.get(name)
        if isinstance(said, str) and said.strip():
            return said.strip()
    return ""


def _usage(data: Mapping[str, Any]) -> tuple[int, int, int | None]:
    usage = data.get("usage")
    if not isinstance(usage, dict):
        usage = {}
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    if cached is None:  # llama.cpp's server
        timings = data.get("timings")
        cached = timings.get("cache_n") if isinstance(timings, dict) else None
    return (
        _count(usage.get("prompt_tokens")) or 0,
        _count(usage.get("completion_tokens")) or 0,
        _count(cached),
    )


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and value >= 0 else None
