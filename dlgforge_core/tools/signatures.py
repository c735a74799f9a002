"""Signatures of Python functions as declarations of tools: description and JSON schema of the arguments."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ConfigDict, Field, PydanticUserError, create_model

from dlgforge_core.errors import ConfigError

STATE = "state"
"""The parameter that gets the dialogue's state, and is no argument of the model's."""

_VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_POSITIONAL = inspect.Parameter.POSITIONAL_ONLY
_SECTION = re.compile(r"^(Args|Arguments|Parameters|Returns|Raises|Yields|Examples?|Notes?)\s*:\s*$")
_ARGUMENT = re.compile(r"^(\*{0,2}\w+)\s*(?:\([^)]*\))?\s*:\s*(.*)$")
_FIELD = re.compile(r"^:param\s+(?:\S+\s+)?(\w+)\s*:\s*(.*)$")


def wants_state(function: Callable[..., Any]) -> bool:
    """Whether a function takes the dialogue's state."""
    return STATE in inspect.signature(function).parameters


def declared_by(function: Callable[..., Any], path: str) -> tuple[str, dict[str, Any]]:
    """Return a function's description, of its docstring, and the JSON schema of its arguments.

    Raises ConfigError, by its `path`, for parameters that cannot be given by name.
    """
    description, arguments = _documented(inspect.getdoc(function) or "")
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except Exception as error:
        raise ConfigError(f"tools: {path!r}: its annotations cannot be read: {error}") from None
    fields: dict[str, Any] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if name == STATE:
            continue
        if parameter.kind in _VARIABLE or parameter.kind is _POSITIONAL:
            raise ConfigError(
                f"tools: {path!r}: its parameter {parameter} cannot be given by name; declare plain "
                "parameters, or set `parameters` and take those"
            )
        default = ... if parameter.default is inspect.Parameter.empty else parameter.default
        # Given without a description, Field would take away that of an annotation.
        described: dict[str, Any] = {"description": arguments[name]} if name in arguments else {}
        fields[name] = (hints.get(name, Any), Field(default, **described))
    try:
        model = create_model("Arguments", __config__=ConfigDict(extra="forbid"), **fields)
        schema = _without_titles(model.model_json_schema())
    except (PydanticUserError, NameError, TypeError, ValueError) as error:
        raise ConfigError(f"tools: {path!r}: its parameters have no JSON schema: {error}") from None
    return description, {"type": "object", "properties": {}, **schema}


def _documented(text: str) -> tuple[str, dict[str, str]]:
    """Return the description in a docstring, and what it says of the parameters by name.

    Read are the sections of Google's style and the fields of Sphinx's.
    """
    words: list[str] = []
    arguments: dict[str, str] = {}
    section, last = "", ""
    for line in text.splitlines():
        bare = line.strip()
        if found := _SECTION.match(bare):
            section, last = found[1], ""
        elif found := _FIELD.match(bare):
            arguments[found[1]] = found[2]
        elif section in ("Args", "Arguments", "Parameters"):
            if (found := _ARGUMENT.match(bare)) and not (last and line.startswith(" " * 8)):
                last = found[1].lstrip("*")
                arguments[last] = found[2]
            elif last and bare:
                arguments[last] = f"{arguments[last]} {bare}".strip()
        elif not section and not bare.startswith(":"):
            words.append(bare)
    return " ".join(" ".join(words).split()), arguments


def _without_titles(schema: Any) -> Any:
    """Return a schema without the titles that are nothing but the fields' names."""
    if isinstance(schema, list):
        return [_without_titles(item) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    return {
        name: {key: _without_titles(one) for key, one in item.items()}
        if name in ("properties", "$defs") and isinstance(item, Mapping)
        else _without_titles(item)
        for name, item in schema.items()
        if not (name == "title" and isinstance(item, str)) and not (name == "default" and item is None)
    }
