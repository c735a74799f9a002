"""Chat completions as servers of many makes write them, read into one form."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import orjson

from dlgforge_core.common import bodies
from dlgforge_core.common.bodies import BodyError
from dlgforge_core.llm import event_stream, server_errors, tool_calls
from dlgforge_core.llm.server_errors import ErrorAnswer, excerpt
from dlgforge_core.llm.tool_calls import ToolCall
from dlgforge_core.llm.vocabulary import Meaning

CHARS_PER_TOKEN = 4
"""Roughly, of most texts and tokenizers."""
MAX_TOKENS = 100_000_000
"""Of one call; a server that counts more does not count."""
MAX_STATE_BYTES = 256 * 1024
"""Of the fields that are sent back with a message."""

_MAX_REASON_CHARS = 100
_TEXT_PARTS = frozenset({"", "text", "output_text", "input_text", "markdown"})
_THINKING_PARTS = frozenset(
    {"thinking", "reasoning", "thought", "reasoning_content", "summary_text", "analysis"}
)
_REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking", "thought", "reasoning_details")
# What a message of the protocol holds of itself. Anything else is state of the provider's.
_PLAIN_FIELDS = frozenset(
    {"role", "content", "tool_calls", "refusal", "function_call", "annotations", "audio", "name", "parsed"}
)


# Of messages whose text is put together of several pieces: streams, and content in parts.
# Beginning with a quotation mark, it is looked for at quotation marks alone.
_IN_PIECES = re.compile(rb'"(?:delta"\s*:|(?:content|reasoning\w*|thinking|thought)"\s*:\s*[\[{])')


class Answer(NamedTuple):
    """What a 200 carried. `text` is as it came; tokens are 0 when the server does not tell.

    `state` are the fields beside the protocol's own, which some providers want back with tool calls.
    """

    text: str
    finish_reason: str
    refusal: str
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int | None
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    state: Mapping[str, Any] = {}

    @property
    def written(self) -> str:
        """Everything that the model wrote, put together."""
        return "\n".join((self.text, self.reasoning, self.refusal, *map(str, self.tool_calls)))

    @property
    def tells_usage(self) -> bool:
        """Whether the server told how many tokens were used: there is no prompt of none."""
        return self.prompt_tokens > 0

    def with_estimated_usage(self, sent: bytes) -> Answer:
        """Return the answer to the request `sent` with tokens estimated from its characters."""
        chars = len(self.text) + len(self.reasoning) + sum(len(str(call)) for call in self.tool_calls)
        return self._replace(
            prompt_tokens=len(sent.decode()) // CHARS_PER_TOKEN + 1,
            completion_tokens=self.completion_tokens or chars // CHARS_PER_TOKEN + 1,
        )


def read_value(body: bytes) -> Any:
    """Return what the body of an answer holds: a JSON value, or what a stream of events adds up to.

    Raises BodyError, saying what is there, for any other body.
    """
    bodies.check_size(body)
    try:
        return orjson.loads(body)
    except ValueError:
        text = bodies.decode(body)
    if event_stream.is_event_stream(text):
        return event_stream.read_events(text)
    return event_stream.read_values(text)


def read_answer(body: bytes, words: Mapping[str, Meaning] | None = None) -> Answer | ErrorAnswer:
    """Read the body of a 200: a chat completion, or the error that it carries in place of one.

    Raises ValueError, saying what is wrong, when it is neither. The JSON is parsed once for both.
    """
    data = server_errors.plain_json(body)
    return server_errors.error_in(data, body, words) or _completion_in(data, body)


def read_completion(body: bytes) -> Answer:
    """Read a chat completion. Raises ValueError, saying what is wrong, when `body` is not one."""
    return _completion_in(None, body)


def _completion_in(data: Any, body: bytes) -> Answer:
    """Return the completion in a body, of which `data` is the JSON if it is known."""
    if data is None:
        try:
            data = read_value(body)
        except BodyError as error:
            raise ValueError(f"status 200, but the body cannot be used: {error}") from None
    answer = answer_of(data)
    if answer is None:
        raise ValueError(f"status 200, but the body is no chat completion: {excerpt(body)}")
    return answer


def is_in_pieces(body: bytes) -> bool:
    """Whether the text of an answer may be spread over its body, and stand nowhere in it as it reads."""
    return not body.lstrip().startswith(b"{") or _IN_PIECES.search(body) is not None


def answer_of(data: Any) -> Answer | None:
    """Return the answer in a completion's JSON; None when it is no completion."""
    try:
        choice = data["choices"][0]
        message = choice.get("message")
        if message is None and isinstance(choice.get("text"), str):  # of the older protocol
            message = {"content": choice["text"]}
        content = message.get("content")
    except (KeyError, IndexError, TypeError, AttributeError):
        return None
    parts = _Parts(content)
    refusal = message.get("refusal")
    prompt, completion, cached = _usage(data)
    calls = tool_calls.read_calls(message.get("tool_calls")) if message.get("tool_calls") else ()
    return Answer(
        text="".join(parts.text),
        finish_reason=str(choice.get("finish_reason") or "")[:_MAX_REASON_CHARS],
        refusal=refusal if isinstance(refusal, str) else "".join(parts.refusal),
        prompt_tokens=prompt,
        completion_tokens=completion,
        cached_tokens=cached,
        reasoning=_reasoning(message, parts),
        tool_calls=calls,
        state=_state(message) if calls else {},
    )


class _Parts:
    """What a message's content holds, which is text, or parts of several types."""

    def __init__(self, content: Any) -> None:
        self.text: list[str] = []
        self.thinking: list[str] = []
        self.refusal: list[str] = []
        for part in content if isinstance(content, list) else [content]:
            if isinstance(part, str):
                self.text.append(part)
            elif isinstance(part, dict):
                self._add(part)

    def _add(self, part: Mapping[str, Any]) -> None:
        kind = str(part.get("type") or "")
        if kind in _THINKING_PARTS or part.get("thought") is True:
            self.thinking.append("".join(_texts(part)))
        elif kind == "refusal":
            self.refusal += _texts(part.get("refusal"))
        elif kind in _TEXT_PARTS:
            text = part.get("text")
            self.text += _texts(text.get("value") if isinstance(text, dict) else text)
        # Of others, pictures for one, there is nothing to be said.


def _texts(value: Any, depth: int = 3) -> Iterator[str]:
    """Yield the texts in a field that may be text, an object that holds one, or a list of those."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list) and depth:
        for item in value:
            yield from _texts(item, depth - 1)
    elif isinstance(value, dict) and depth:
        for name in ("thinking", "reasoning", "text", "content", "summary"):
            if value.get(name):
                yield from _texts(value[name], depth - 1)
                return


def _reasoning(message: Mapping[str, Any], parts: _Parts) -> str:
    for name in _REASONING_FIELDS:
        if text := "".join(_texts(message.get(name))).strip():
            return text
    return "\n\n".join(part.strip() for part in parts.thinking if part.strip())


def _state(message: Mapping[str, Any]) -> Mapping[str, Any]:
    state = {name: value for name, value in message.items() if name not in _PLAIN_FIELDS and value}
    if isinstance(message.get("content"), list):  # with the model's thinking in it
        state["content"] = message["content"]
    return state if tool_calls.is_plain(state, MAX_STATE_BYTES) else {}


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
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return (
        value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_TOKENS else None
    )
