"""JSON schemas of recipes: whether one can be used, and what of a value does not follow it.

Nothing is fetched for them: a reference may lead to another part of the schema alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import orjson


def check_schema(schema: Mapping[str, Any]) -> None:
    """Raise ValueError, which says what is wrong and where, when it is no JSON schema."""
    if (key := next(_keys_that_are_no_text(schema), None)) is not None:
        raise ValueError(f"its key {key!r} is no text; write it in quotes")
    if schema and (problem := _problem_with(orjson.dumps(schema))):
        raise ValueError(problem)


def problem_of(value: Any, schema: Mapping[str, Any]) -> str:
    """Return what of a value does not follow a schema, or "" when it follows."""
    if not schema:
        return ""
    from jsonschema.exceptions import best_match
    from referencing.exceptions import Unresolvable

    try:
        error = best_match(_validator(orjson.dumps(schema)).iter_errors(value))
    except re.error as pattern:
        return f"the schema has a pattern that cannot be used: {pattern}"
    except Unresolvable as reference:
        return f"the schema has a $ref that leads nowhere: {reference}"
    return _located(error) if error is not None else ""


@lru_cache(maxsize=256)
def _problem_with(source: bytes) -> str:
    from jsonschema import Draft202012Validator, SchemaError

    schema = orjson.loads(source)
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        return f"it is no JSON schema: {_located(error)}"
    for keyword, value in _keywords(schema):
        if keyword == "$ref" and not value.startswith("#"):
            return f"$ref = {value!r} leads elsewhere; put what it names under $defs"
    return ""


@lru_cache(maxsize=256)
def _validator(schema: bytes) -> Any:
    # Here and not above: a tenth of a second of import that workers without schemas never need.
    from jsonschema import Draft202012Validator
    from referencing import Registry

    return Draft202012Validator(orjson.loads(schema), registry=Registry())


def _located(error: Any) -> str:
    path = ".".join(map(str, error.absolute_path))
    return f"{path}: {error.message}" if path else str(error.message)


def _keys_that_are_no_text(schema: Any) -> Iterator[Any]:
    """Yield keys that YAML takes for numbers, dates or truth values (`on`), wherever in a schema."""
    if isinstance(schema, Mapping):
        yield from (key for key in schema if not isinstance(key, str))
    for value in (
        schema.values() if isinstance(schema, Mapping) else schema if isinstance(schema, list) else ()
    ):
        yield from _keys_that_are_no_text(value)


def _keywords(schema: Any) -> Iterator[tuple[str, str]]:
    """Yield the keys of a schema that have texts, wherever in it."""
    if isinstance(schema, dict):
        yield from ((key, value) for key, value in schema.items() if isinstance(value, str))
    for value in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        yield from _keywords(value)
