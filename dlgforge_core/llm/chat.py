"""The chat completions protocol: what is sent, and what comes back from servers of many makes."""

from __future__ import annotations

import email.utils
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import httpx
import orjson

from dlgforge_core.config import AgentConfig
from dlgforge_core.dialogue import DropReason, Role
from dlgforge_core.errors import DlgforgeError
from dlgforge_core.llm import tool_calls
from dlgforge_core.llm.structured import JsonMode, response_format, with_schema
from dlgforge_core.llm.tool_calls import Message, ToolCall, ToolDefinition
from dlgforge_core.llm.transport import HttpAnswer

MAX_REASON_CHARS = 300
MAX_ERROR_BYTES = 20_000
"""Of an error's body, where the pause it asks for is looked for."""
CHARS_PER_TOKEN = 4
"""Roughly, of most texts and tokenizers."""


class CallError(DlgforgeError):
    """This one call cannot succeed; the message says why. `reason` is why its dialogue is dropped."""

    def __init__(self, reason: DropReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[Any, ...]:
        # With two arguments an exception does not survive pickling, as between Ray processes, by itself.
        return type(self), (self.reason, str(self))


class RequestRefusedError(CallError):
    """The endpoint refused what it was asked, and there was no other way to ask for it.

    Whether that is about this dialogue or about the set-up shows only once the endpoint has answered the
    role: `endpoint` and `role` tell whose figures to look at.
    """

    def __init__(self, endpoint: str, role: Role, message: str) -> None:
        super().__init__(DropReason.ENDPOINT_ERROR, message)
        self.endpoint = endpoint
        self.role = role

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.endpoint, self.role, str(self))


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


@dataclass(slots=True)
class Dialect:
    """What one endpoint was found to understand for one model."""

    token_parameter: str = "max_tokens"  # or max_completion_tokens, which OpenAI's newer models want
    unsupported: set[str] = field(default_factory=set)
    tools: bool = True
    system_role: bool = True
    json_mode: JsonMode = JsonMode.JSON_SCHEMA
    ignored_schemas: int = 0
    """Answers in a row that show no sign of the JSON that was asked for."""
    answered: set[Role] = field(default_factory=set)
    """The roles that have had an answer."""
    refusals: dict[Role, tuple[str, int]] = field(default_factory=dict)
    """Of roles without one: what calls were refused with, and how many in a row."""

    def refused_alike(self, role: Role, error: ErrorAnswer) -> int:
        """How many calls in a row were refused with these words, this one included; 0 once one was not."""
        if role in self.answered:
            return 0
        words = _NUMBERS.sub("", str(error))
        before, n = self.refusals.get(role, ("", 0))
        self.refusals[role] = words, n + 1 if words == before else 1
        return self.refusals[role][1]


# Words that differ from call to call: numbers, ids, times.
_NUMBERS = re.compile(r"\S*\d\S*")


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


class ErrorAnswer(NamedTuple):
    """An error as a server told it; fields it left out are empty."""

    status: int
    message: str
    code: str
    type: str
    param: str

    def __str__(self) -> str:
        return f"{self.status}: {self.message}" if self.message else f"status {self.status}"

    def names(self, *words: str) -> bool:
        """Whether code, type, parameter or message hold one of `words`."""
        text = self.said.lower()
        return any(word in text for word in words)

    @property
    def said(self) -> str:
        """All of it in one line."""
        return f"{self.code} {self.type} {self.param} {self.message}"


def read_error(answer: HttpAnswer) -> ErrorAnswer:
    """Read the body of an error: OpenAI's shape, those of other servers, or plain text."""
    try:
        data = orjson.loads(answer.body)
    except ValueError:
        return ErrorAnswer(answer.status, excerpt(answer.body), "", "", "")
    if isinstance(data, list) and data and isinstance(data[0], dict):  # Gemini's
        data = data[0]
    error = data.get("error", data) if isinstance(data, dict) else data
    if not isinstance(error, dict):
        return ErrorAnswer(answer.status, excerpt(str(error)), "", "", "")
    message = error.get("message") or error.get("detail") or ""

    def text(key: str) -> str:
        value = error.get(key)
        return value if isinstance(value, str) else ""

    return ErrorAnswer(answer.status, excerpt(str(message)), text("code"), text("type"), text("param"))


def excerpt(text: str | bytes) -> str:
    """One line of at most MAX_REASON_CHARS, for messages."""
    if isinstance(text, bytes):
        text = text[: 8 * MAX_REASON_CHARS].decode("utf-8", "replace")
    line = " ".join(text.split())
    return line if len(line) <= MAX_REASON_CHARS else line[: MAX_REASON_CHARS - 3] + "..."


_OVERFLOW = re.compile(
    r"context[ _]length|context[ _]size|context[ _]window|max_model_len|too many (input )?tokens"
    r"|prompt is too long|input is too long|exceeds? the (maximum|available)"
)


def is_context_overflow(error: ErrorAnswer) -> bool:
    """Whether a request was refused because it does not fit the model's context."""
    return error.status == 413 or bool(_OVERFLOW.search(f"{error.code} {error.type} {error.message}".lower()))


def is_content_filter(error: ErrorAnswer) -> bool:
    """Whether a request was refused for what it says."""
    return error.names("content_filter", "content_policy", "content management policy", "moderation")


def is_unknown_model(error: ErrorAnswer) -> bool:
    """Whether a 404 is about the model, not the address."""
    return error.param == "model" or error.code == "model_not_found" or error.names("model")


# What chat templates and servers say of a system message they have no place for.
_SYSTEM_ROLE = re.compile(
    r"system[ _](role|message|prompt|instruction)s?\b.{0,40}(support|allowed|permitted|enabled|accept)"
    r"|(support|allow|permit|accept)\w*.{0,40}\bsystem[ _](role|message|prompt|instruction)"
    r"|developer instructions? (is|are) not (enabled|supported)"
    r"|\bonly\b((?!\bsystem\b).){0,60}\broles? (is|are) (supported|allowed|accepted)"
    r"|(?<!optional system message, conversation )roles must alternate"
    r"|(invalid|unsupported|unknown|unexpected) role.{0,20}\bsystem\b",
    re.DOTALL,
)


def is_system_refusal(error: ErrorAnswer, sent: bytes) -> bool:
    """Whether a server means, by this error, that it takes no system message such as was `sent`."""
    # Within a message's text the quotes would be escaped. llama.cpp says 500 when a chat template raises.
    return (
        error.status in (400, 422, 500)
        and b'"role":"system"' in sent
        and bool(_SYSTEM_ROLE.search(error.said.lower()))
    )


def adapt(dialect: Dialect, error: ErrorAnswer, sent: bytes) -> bool:
    """Learn from a 400 what the endpoint does not understand; whether asking again can help.

    `sent` is the refused request: what another call has learned meanwhile is used as well.
    """
    if is_system_refusal(error, sent) and (error.names("system") or not tool_calls.sent_with_tools(sent)):
        dialect.system_role = False
        return True
    if tool_calls.sent_with_tools(sent) and tool_calls.is_refusal(error.status, error.said):
        dialect.tools = False
        return True
    if error.names("response_format", "json_schema", "json_object", "grammar", "guided", "structured output"):
        return _lower_json_mode(dialect, sent)
    parameters = orjson.loads(sent).keys()
    if error.names("max_completion_tokens") and "max_tokens" in parameters:
        dialect.token_parameter = "max_completion_tokens"
        return True
    for name in ("temperature", "top_p", "seed"):
        if error.param == name or (
            error.names(name)
            and error.names("unsupported", "not support", "not permitted", "extra", "unrecognized", "unknown")
        ):
            if name not in parameters:
                continue
            dialect.unsupported.add(name)
            return True
    return False


def _lower_json_mode(dialect: Dialect, sent: bytes) -> bool:
    for mode in (JsonMode.JSON_SCHEMA, JsonMode.JSON_OBJECT):
        if f'"response_format":{{"type":"{mode.value}"'.encode() in sent:
            if dialect.json_mode is mode:
                dialect.json_mode = mode.lower()
            return True
    return False


# As OpenAI ("try again in 1m12.5s", "in 350ms"), Gemini ("Please retry in 2.5s") and others write it.
_WAIT = re.compile(
    rb"(?:re)?try(?: again)? in (?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)(ms|s\b| ?sec))?", re.IGNORECASE
)


def pause_s(answer: HttpAnswer) -> float | None:
    """How long the server asks us to wait, in seconds: by its headers, or else in words."""
    if (asked := retry_after_s(answer.headers)) is not None:
        return asked
    found = _WAIT.search(answer.body[:MAX_ERROR_BYTES])
    if found is None or not any(found.groups()):
        return None
    hours, minutes, seconds, unit = found.groups()
    last = float(seconds or 0) / (1000 if unit == b"ms" else 1)
    return int(hours or 0) * 3600 + int(minutes or 0) * 60 + last


def retry_after_s(headers: httpx.Headers) -> float | None:
    """How long the server asks us to wait, in seconds; from Retry-After (seconds or date) or its kin."""
    milliseconds = headers.get("retry-after-ms")
    value = headers.get("retry-after")
    try:
        if milliseconds:
            return max(0.0, float(milliseconds) / 1000)
        if value is None:
            return None
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value or "").timestamp() - time.time())
    except (ValueError, OverflowError):
        return None
