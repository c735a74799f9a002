"""Values of Python functions that are tools: arguments as annotated, results and states as plain JSON."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import orjson
from pydantic import PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, to_jsonable_python

from dlgforge_core.common.secrets import redact_body
from dlgforge_core.tool_events import ToolProblem
from dlgforge_core.tools.executor import ToolError


class Arguments:
    """What a function's arguments are made of: a dataclass of an object, a date of a text, as annotated."""

    def __init__(self, function: Callable[..., Any]) -> None:
        try:
            hints = typing.get_type_hints(function, include_extras=True)
        except (NameError, TypeError):
            hints = {}  # with `parameters` of its own, a function may have any annotations
        self._adapters: dict[str, TypeAdapter[Any]] = {}
        for name in inspect.signature(function).parameters:
            try:
                self._adapters[name] = TypeAdapter(hints[name])
            except (KeyError, PydanticUserError, NameError, TypeError):
                continue

    def converted(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments as the function takes them. Raises ToolError, with a message for the model."""
        made = dict(arguments)
        for name in self._adapters.keys() & arguments.keys():
            try:
                made[name] = self._adapters[name].validate_python(arguments[name])
            except ValidationError as error:
                first = error.errors(include_url=False)[0]
                where = ".".join(map(str, (name, *first["loc"])))
                problem = f"invalid arguments: {where}: {first['msg']}"
                raise ToolError(problem, ToolProblem.INVALID_ARGUMENTS) from None
        return made


def plain_result(result: Any, secrets: Sequence[str]) -> Any:
    """Return a result as plain JSON, without secrets; what has no form there stays as it is."""
    if isinstance(result, Iterator):
        return result  # it may have no end
    try:
        return _plain(to_jsonable_python(result), secrets)
    except (PydanticSerializationError, TypeError, ValueError, RecursionError):
        return result


def plain_state(state: Any, secrets: Sequence[str]) -> dict[str, Any]:
    """Return a state as plain JSON, without secrets, as it will be read again. Raises TypeError."""
    if not isinstance(state, dict):
        raise TypeError("the state after the call is no object")
    plain: dict[str, Any] = _plain(state, secrets)
    return plain


def _plain(value: Any, secrets: Sequence[str]) -> Any:
    return orjson.loads(redact_body(orjson.dumps(value), secrets))
