"""Whether an answer can be used: its text, its tool calls, and what is wrong with it otherwise."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from dlgforge_core.config import AgentConfig
from dlgforge_core.dialogue import DropReason
from dlgforge_core.llm import text, tool_calls
from dlgforge_core.llm.call_errors import CallError
from dlgforge_core.llm.chat import Completion
from dlgforge_core.llm.completions import Answer
from dlgforge_core.llm.dialect import Dialect
from dlgforge_core.llm.markup import Markup, default_markup
from dlgforge_core.llm.server_errors import excerpt
from dlgforge_core.llm.stats import FailureKind
from dlgforge_core.llm.structured import JsonMode
from dlgforge_core.llm.tool_calls import ToolCall
from dlgforge_core.usage import NO_USAGE, RoleUsage

_log = logging.getLogger(__name__)

IGNORED_SCHEMAS_TO_LOWER = 3
MAX_RAW_CHARS = 1_000_000
"""Of a text as it came, thinking included."""
MIN_MOST_CHARS = 50_000
MOST_CHARS_PER_TOKEN = 16
TOKENS_WITHOUT_LIMIT = 32_768
"""Of an answer where `max_tokens` is not sent: nobody reads on behind them."""


@dataclass(slots=True)
class Reply:
    """A chat completion, as it came, and from where. `json_mode` and `tools_offered`: as it was asked.

    `used` are its tokens and what they cost.
    """

    answer: Answer
    endpoint: str
    dialect: Dialect
    json_mode: JsonMode
    tools_offered: bool
    latency_s: float
    used: RoleUsage = NO_USAGE


class UsableAnswer(NamedTuple):
    """What can be used of an answer; nothing, when text and calls are empty."""

    text: str
    tool_calls: tuple[ToolCall, ...] = ()
    reasoning: str = ""

    def __bool__(self) -> bool:
        return bool(self.text or self.tool_calls)


_NOTHING = UsableAnswer("")


def most_chars(agent: AgentConfig) -> int:
    """How long a text of a role may be: longer than its `max_tokens` can be, whatever the tokens."""
    return max(MIN_MOST_CHARS, MOST_CHARS_PER_TOKEN * (agent.max_tokens or TOKENS_WITHOUT_LIMIT))


def usable(
    reply: Reply,
    offered: Collection[str],
    *,
    last_chance: bool,
    markup: Markup | None = None,
    most: int = MIN_MOST_CHARS,
) -> tuple[UsableAnswer, FailureKind | None]:
    """Return what can be used of the answer, and what is wrong with it, if anything.

    `offered` names the tools the caller has; `most` is how many characters are taken. A cut text is
    shortened to whole sentences; on the last chance that is enough, however much is lost.
    """
    answer = reply.answer
    if answer.refusal or answer.finish_reason == "content_filter":
        return _NOTHING, FailureKind.REFUSED
    if len(answer.text) > MAX_RAW_CHARS:
        return _NOTHING, FailureKind.GARBAGE
    words, reasoning = (markup or default_markup()).clean(answer.text)
    if not words.isprintable() and not text.is_garbage(words):
        words = text.printable(words)
    if len(words) > most:
        return _NOTHING, FailureKind.GARBAGE
    if not reply.tools_offered:
        offered = ()
    calls: tuple[ToolCall, ...] = ()
    if offered or "<tool_call>" in words:
        words, calls = tool_calls.split_calls(words, offered)
    if offered and (calls := answer.tool_calls or calls):
        return UsableAnswer("" if text.is_garbage(words) else words, calls, reasoning), None
    if answer.finish_reason == "length":
        whole = text.whole_sentences(words)
        # Losing the end of a long answer does no harm; losing most of it is worth another try.
        enough = bool(whole) and (last_chance or 2 * len(whole) >= len(words)) and not text.is_garbage(whole)
        return UsableAnswer(whole if enough else "", (), reasoning), FailureKind.CUT
    if not words:
        return _NOTHING, FailureKind.EMPTY
    if text.is_garbage(words):
        return _NOTHING, FailureKind.GARBAGE
    return UsableAnswer(words, (), reasoning), None


def completion(words: UsableAnswer, model: str, replies: Sequence[Reply]) -> Completion:
    """Return the answer as the caller gets it; tokens are those of all `replies`."""
    last = replies[-1]
    cached = [r.answer.cached_tokens for r in replies if r.answer.cached_tokens is not None]
    return Completion(
        text=words.text,
        finish_reason=last.answer.finish_reason,
        prompt_tokens=sum(r.answer.prompt_tokens for r in replies),
        completion_tokens=sum(r.answer.completion_tokens for r in replies),
        cached_tokens=sum(cached) if cached else None,
        endpoint=last.endpoint,
        model=model,
        latency_s=last.latency_s,
        tool_calls=words.tool_calls,
        tools_offered=last.tools_offered,
        reasoning=last.answer.reasoning or words.reasoning,
        state=last.answer.state if words.tool_calls else {},
    )


def notice_ignored_schema(reply: Reply, answer: str) -> None:
    """After some answers without a trace of JSON, ask for it in another way."""
    dialect = reply.dialect
    if not answer or "{" in answer or dialect.json_mode is not reply.json_mode:
        return
    dialect.ignored_schemas += 1
    if dialect.ignored_schemas >= IGNORED_SCHEMAS_TO_LOWER and dialect.json_mode is not JsonMode.TEXT:
        dialect.json_mode = dialect.json_mode.lower()
        dialect.ignored_schemas = 0
        _log.info(
            "endpoint %s ignores response_format; asking for %s now", reply.endpoint, dialect.json_mode.value
        )


_PROBLEMS: dict[FailureKind, Callable[[Reply], str]] = {
    FailureKind.REFUSED: lambda r: f"declined: {excerpt(r.answer.refusal or r.answer.finish_reason)}",
    FailureKind.EMPTY: lambda r: "no text",
    FailureKind.CUT: lambda r: "cut at max_tokens before a whole sentence or object; raise max_tokens",
    FailureKind.GARBAGE: lambda r: (
        f"not text, or far too long: {excerpt(r.answer.text)!r}, {len(r.answer.text)} characters"
    ),
    FailureKind.INVALID_JSON: lambda r: excerpt(r.answer.text),
}


def failure(kind: FailureKind, reply: Reply, problem: str = "") -> CallError:
    """Return the error of a call whose second answer was no better than the first."""
    reason = DropReason.REFUSED if kind is FailureKind.REFUSED else DropReason.INVALID_OUTPUT
    words = _PROBLEMS[kind](reply)
    detail = f"{problem}: {words}" if problem and kind is FailureKind.INVALID_JSON else words
    message = f"{reply.endpoint} gave no usable answer, asked twice; the last one: {detail}"
    return CallError(reason, message, reply.endpoint)
