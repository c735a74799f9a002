"""Prompts of the tool simulator: a model that plays a tool, and what is made of its answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from dlgforge_core.common.json_schema import problem_of
from dlgforge_core.config.functions import FunctionConfig
from dlgforge_core.dialogue import DialoguePlan, Role
from dlgforge_core.llm.forms import Form, Written
from dlgforge_core.llm.structured import parse
from dlgforge_core.llm.tool_calls import Message
from dlgforge_core.prompting.parts import beginning, everywhere, inline
from dlgforge_core.prompting.quoting import neutralise
from dlgforge_core.prompting.templates import SHIPPED, Templates
from dlgforge_core.state_changes import OPERATIONS, Change, changed, changes_between
from dlgforge_core.tool_events import ToolEvent

MAX_EARLIER = 20
"""Calls before this one that the model is shown, the last ones."""
_ERROR, _RESULT, _CHANGES = "error", "result", "changes"
_CHANGE_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "op": {"type": "string", "enum": list(OPERATIONS)},
        "path": {"type": "string"},
        "value": {},
    },
    "required": ["op", "path"],
}


@dataclass(frozen=True, slots=True)
class SimulatedResult:
    """What a simulated tool gives: a result and what it changes, or an error."""

    result: Any = None
    changes: tuple[Change, ...] = ()
    error: str = ""


def tool_simulator(
    plan: DialoguePlan,
    function: FunctionConfig,
    arguments: Mapping[str, Any],
    *,
    state: Mapping[str, Any] | None = None,
    earlier: Sequence[ToolEvent] = (),
    instructions: str = "",
    templates: Templates = SHIPPED,
) -> list[Message]:
    """Return the prompt for the result of a call.

    The system message is the tool's; the state and the calls before, with which the result is to agree, come
    with the call.
    """
    role, common = Role.TOOL_SIMULATOR, everywhere(plan)
    system = templates.render(
        role,
        "system",
        tool=function.called,
        purpose=inline(function.description),
        behaviour=function.instructions,
        has_state=state is not None,
        result_schema=_json(function.result) if function.result else "",
        topic=inline(plan.topic.topic),
        instructions=instructions,
        **common,
    )
    asked = templates.render(
        role,
        "call",
        tool=function.called,
        arguments=neutralise(_json(arguments)),
        state=neutralise(_json(state)) if state is not None else "",
        calls="\n".join(map(_event_text, earlier[-MAX_EARLIER:])),
        **common,
    )
    return [*beginning(system), {"role": "user", "content": asked}]


def simulated_form(
    result: Mapping[str, Any], state: Mapping[str, Any] | None, state_schema: Mapping[str, Any]
) -> Form[SimulatedResult]:
    """Return the form of an answer: an error or a result by its schema, and changes of a state that is there.

    Changes that do not fit the state, or break its schema, are not taken.
    """
    own = {name: value for name, value in result.items() if name not in ("$defs", "$schema", "title")}
    properties = {
        _ERROR: {"type": "string"},
        _RESULT: own,
        **({_CHANGES: {"type": "array", "items": _CHANGE_SCHEMA}} if state is not None else {}),
    }
    schema = {
        "title": "tool_result",
        "type": "object",
        "properties": properties,
        "required": list(properties),
        **({"$defs": result["$defs"]} if "$defs" in result else {}),
    }

    def read(data: Mapping[str, Any]) -> SimulatedResult:
        return _read(data, result, state, state_schema)

    def read_written(written: Written) -> SimulatedResult:
        return parse(written.text, read)

    return Form(schema, read_written)


def _read(
    data: Mapping[str, Any],
    schema: Mapping[str, Any],
    state: Mapping[str, Any] | None,
    state_schema: Mapping[str, Any],
) -> SimulatedResult:
    """Return what an answer says. Raises ValueError, written for the model."""
    error = data.get(_ERROR) or ""
    if not isinstance(error, str):
        raise ValueError("error must be a text, empty where the call succeeds")
    if error.strip():
        return SimulatedResult(error=error.strip())
    if _RESULT not in data:
        raise ValueError("it has no result; give one, or an error")
    if problem := problem_of(data[_RESULT], schema):
        raise ValueError(f"the result does not follow its schema: {problem}")
    if state is None:
        return SimulatedResult(data[_RESULT])
    changes = data.get(_CHANGES) or []
    if not isinstance(changes, list) or not all(isinstance(one, dict) for one in changes):
        raise ValueError("changes must be a list of objects with op, path and value")
    after = changed(state, changes)
    if not isinstance(after, dict):
        raise ValueError("the state after these changes is no object")
    if problem := problem_of(after, state_schema):
        raise ValueError(f"the state after these changes does not follow its schema: {problem}")
    return SimulatedResult(data[_RESULT], changes_between(state, after))


def _event_text(event: ToolEvent) -> str:
    return f"{event.name} {neutralise(_json(event.arguments))} -> {event.content}"


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()
