"""What one endpoint understands, learned from what it refuses."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import orjson

from dlgforge_core.dialogue import Role
from dlgforge_core.llm import tool_calls
from dlgforge_core.llm.server_errors import ErrorAnswer, is_system_refusal
from dlgforge_core.llm.structured import JsonMode


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


def adapt(dialect: Dialect, error: ErrorAnswer, sent: bytes) -> bool:
    """Learn from a 400 what the endpoint does not understand; whether asking again can help.

    `sent` is the refused request: what another call has learned meanwhile is used as well.
    """
    if is_system_refusal(error, sent) and (error.names("system") or not tool_calls.sent_with_tools(sent)):
        dialect.system_role = False
        return True
    if tool_calls.sent_with_tools(sent) and tool_calls.is_refusal(error.status, error.text):
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
