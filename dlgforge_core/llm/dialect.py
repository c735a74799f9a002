"""What one endpoint understands, learned from what it refuses."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from dlgforge_core.dialogue import Role
from dlgforge_core.llm import parameters, tool_calls
from dlgforge_core.llm.server_errors import ErrorAnswer, is_system_refusal
from dlgforge_core.llm.structured import JsonMode


@dataclass(slots=True)
class Dialect:
    """What one endpoint was found to understand for one model."""

    token_parameter: str = "max_tokens"  # or max_completion_tokens, which OpenAI's newer models want
    unsupported: set[str] = field(default_factory=set)
    unsupported_keywords: set[str] = field(default_factory=set)
    """Of JSON schemas."""
    tools: bool = True
    system_role: bool = True
    json_mode: JsonMode = JsonMode.JSON_SCHEMA
    ignored_schemas: int = 0
    """Answers in a row that show no sign of the JSON that was asked for."""
    answered: set[Role] = field(default_factory=set)
    """The roles that have had an answer."""
    refusals: dict[Role, tuple[str, int]] = field(default_factory=dict)
    """Of roles without one: what calls were refused with, and how many in a row."""
    searches: dict[Role, asyncio.Event] = field(default_factory=dict)
    """Of roles without one: a call looks for a form that is taken; set once it has ended."""
    tools_worked: bool = False
    """A request with tools was answered: what it refuses later is no lack of them."""
    state_fields: set[str] = field(default_factory=set)
    """Fields of its own that go back to it with messages of tools."""
    demanded_state: set[str] = field(default_factory=set)
    """Those without which it takes no message with tool calls, earlier turns' included."""
    refused_state: set[str] = field(default_factory=set)

    def refused_alike(self, role: Role, error: ErrorAnswer) -> int:
        """How many calls in a row were refused with these words, this one included; 0 once one was not."""
        if role in self.answered:
            return 0
        words = _NUMBERS.sub("", str(error))
        before, n = self.refusals.get(role, ("", 0))
        self.refusals[role] = words, n + 1 if words == before else 1
        return self.refusals[role][1]

    def copy(self) -> Dialect:
        """Return a dialect to ask for less with, on its own; what else is known it shares."""
        return replace(
            self, unsupported=set(self.unsupported), unsupported_keywords=set(self.unsupported_keywords)
        )

    def learn(self, other: Dialect) -> None:
        """Take over what a call without this and that was answered with."""
        self.token_parameter = other.token_parameter
        self.unsupported |= other.unsupported
        self.unsupported_keywords |= other.unsupported_keywords
        if list(JsonMode).index(other.json_mode) > list(JsonMode).index(self.json_mode):
            self.json_mode = other.json_mode

    def lessons(self) -> Iterator[str]:
        """Yield what is asked otherwise than by default, for people."""
        if not self.tools:
            yield "without tools"
        if not self.system_role:
            yield "system message within the user's"
        if self.token_parameter != "max_tokens" and self.token_parameter not in self.unsupported:
            yield f"{self.token_parameter} in place of max_tokens"
        if self.unsupported:
            yield f"without {', '.join(sorted(self.unsupported))}"
        if self.json_mode is JsonMode.JSON_OBJECT:
            yield "schema in words, response_format json_object"
        elif self.json_mode is JsonMode.TEXT:
            yield "schema in words, without response_format"
        elif self.unsupported_keywords:
            yield f"schema without {', '.join(sorted(self.unsupported_keywords))}"


# Words that differ from call to call: numbers, ids, times.
_NUMBERS = re.compile(r"(?<!\S)[^\s\d]*\d\S*")


def adapt(dialect: Dialect, error: ErrorAnswer, sent: bytes) -> bool:
    """Learn from a 400 what the endpoint does not understand; whether asking again can help.

    `sent` is the refused request: what another call has learned meanwhile is used as well.
    """
    if is_system_refusal(error, sent) and (error.names("system") or not tool_calls.sent_with_tools(sent)):
        dialect.system_role = False
        return True
    if is_lack_of_tools(dialect, error, sent):
        dialect.tools = False
        return True
    request: dict[str, Any] = orjson.loads(sent)
    if keywords := parameters.named_keywords(error, request):
        dialect.unsupported_keywords |= keywords
        return True
    if _JSON.search(error.text) and _lower_json_mode(dialect, request):
        return True
    if error.names("max_completion_tokens") and "max_tokens" in request:
        dialect.token_parameter = "max_completion_tokens"
        return True
    if name := parameters.named(error, request):
        _leave_out(dialect, name, is_too_much=not _UNKNOWN.search(error.text))
        return True
    return False


def is_lack_of_tools(dialect: Dialect, error: ErrorAnswer, sent: bytes) -> bool:
    """Whether an endpoint means, by this error, that it takes no tools."""
    return not dialect.tools_worked and is_about_tools(error, sent)


def is_about_tools(error: ErrorAnswer, sent: bytes) -> bool:
    """Whether an error speaks of the tools that were sent."""
    return tool_calls.sent_with_tools(sent) and tool_calls.is_refusal(error.status, error.text)


# How servers speak of structured output.
_JSON = re.compile(
    r"response[_ ]?format|json[_ ]?schema|json_object|\bgrammar|\bguided|structured[_ ]outputs?|output_config"
    r"|response_schema|response_mime_type|\bxgrammar|\boutlines\b|json mode"
)
_UNKNOWN = re.compile(r"support|unknown|unrecogni|unexpected|deprecat|extra|instead|permitted|not allowed")


def _leave_out(dialect: Dialect, name: str, *, is_too_much: bool = False) -> None:
    """Leave a parameter out, or send it by its other name first where the name may be what is refused."""
    if name == "max_tokens" and dialect.token_parameter == "max_tokens" and not is_too_much:
        dialect.token_parameter = "max_completion_tokens"
    else:
        dialect.unsupported.add(name)


def ask_for_less(dialect: Dialect, sent: bytes) -> str:
    """Leave out the next thing that can be done without; returns what, or "" when there is nothing left.

    For refusals that name nothing: bounds of the schema, then parameters, then the schema itself.
    """
    request: dict[str, Any] = orjson.loads(sent)
    if keywords := set(parameters.keywords_in(request)):
        dialect.unsupported_keywords |= keywords
        return f"the schema's {', '.join(sorted(keywords))}"
    names = parameters.droppable(request)
    if names and names[0] not in ("max_tokens", "max_completion_tokens"):
        _leave_out(dialect, names[0])
        return names[0]
    if _lower_json_mode(dialect, request):
        return "response_format"
    if names:
        _leave_out(dialect, names[0])
        return names[0]
    return ""


def _lower_json_mode(dialect: Dialect, request: Mapping[str, Any]) -> bool:
    wanted = request.get("response_format")
    asked = wanted.get("type") if isinstance(wanted, dict) else None
    for mode in (JsonMode.JSON_SCHEMA, JsonMode.JSON_OBJECT):
        if asked == mode.value:
            if dialect.json_mode is mode:
                dialect.json_mode = mode.lower()
            return True
    return False
