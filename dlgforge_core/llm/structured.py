"""Structured output: asking for JSON in a way the endpoint understands, and finding it."""

from __future__ import annotations

import ast
import contextlib
import functools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any, TypeVar

import orjson

T = TypeVar("T")

MAX_STARTS = 64  # opening braces tried in one answer


class JsonMode(StrEnum):
    """How an endpoint is asked for JSON, the surest way first."""

    JSON_SCHEMA = "json_schema"
    JSON_OBJECT = "json_object"
    TEXT = "text"

    def lower(self) -> JsonMode:
        """Return the next way to try when this one is refused."""
        return JsonMode.JSON_OBJECT if self is JsonMode.JSON_SCHEMA else JsonMode.TEXT


def response_format(mode: JsonMode, schema: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the request's `response_format`, or None in plain text mode."""
    if mode is JsonMode.TEXT:
        return None
    if mode is JsonMode.JSON_OBJECT:
        return {"type": "json_object"}
    wanted: dict[str, Any] = {"name": str(schema.get("title") or "answer"), "schema": schema}
    if _may_be_strict(schema):
        wanted["strict"] = True
    return {"type": "json_schema", "json_schema": wanted}


def _may_be_strict(schema: Mapping[str, Any]) -> bool:
    # OpenAI refuses `strict` unless every property is required and no others are allowed.
    properties = schema.get("properties")
    return (
        schema.get("additionalProperties") is False
        and isinstance(properties, Mapping)
        and set(schema.get("required", ())) == set(properties)
    )


def with_words(messages: Sequence[dict[str, Any]], words: str) -> list[dict[str, Any]]:
    """`messages` with words about the form of the answer at the end of the last one."""
    last = messages[-1]
    return [*messages[:-1], {**last, "content": f"{last['content']}\n\n{words}"}]


def instruction_for(schema: Mapping[str, Any]) -> str:
    """Return what to tell a model that is not held to the schema by its server."""
    return (
        "Answer with one JSON object and nothing else. It must follow this JSON schema:\n"
        + orjson.dumps(schema).decode()
    )


def correction(
    messages: Sequence[dict[str, Any]], answer: str, problem: str, again: str
) -> list[dict[str, Any]]:
    """Return the conversation that asks for a bad answer to be put right; it begins as `messages` does.

    `again` says how it is to be given.
    """
    if not answer.strip():
        return list(messages)
    return [
        *messages,
        {"role": "assistant", "content": answer[:4000]},
        {
            "role": "user",
            "content": f"That answer cannot be used: {problem}. Answer again, {again}.",
        },
    ]


def parse(text: str, read: Callable[[dict[str, Any]], T]) -> T:
    """Return what `read` makes of the first JSON object in `text` that it can use.

    `read` raises ValueError for an object it cannot use. Raises ValueError, with a message written for the
    model that made the text, when there is none that it can.
    """
    problem: ValueError | None = None
    for value in objects(text):
        try:
            return read(value)
        except ValueError as error:
            problem = problem or error
    raise problem or ValueError("it holds no complete JSON object")


def objects(text: str) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects in `text`, those within others left out; `text` itself when it is one.

    Those that are almost JSON, with commas too many, in single quotes or with Python's names, are read, too.
    """
    try:
        whole = orjson.loads(text)
    except ValueError:
        whole = None
    if isinstance(whole, dict):
        yield whole
        return
    decoder = json.JSONDecoder(strict=False)
    start = text.find("{")
    for _ in range(MAX_STARTS):
        if start < 0:
            return
        try:
            value, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            value, end = _almost_json(text, start)
        if isinstance(value, dict):
            yield value
        start = text.find("{", end)


def _almost_json(text: str, start: int) -> tuple[Any, int]:
    """Return what is almost an object at `start`, and where it ends; else None and where to go on."""
    end = _end_of_object(text, start)
    if not end:
        return None, start + 1
    written = text[start:end]
    for form in (written, written.translate(_TYPEWRITTEN)):
        plain = _SPARE_COMMA.sub(lambda match: match[1] or match[2], form)
        for read in (functools.partial(json.loads, strict=False), ast.literal_eval):
            with contextlib.suppress(ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
                if isinstance(value := read(plain), dict) and all(isinstance(name, str) for name in value):
                    return value, end
    return None, start + 1


def _end_of_object(text: str, start: int) -> int:
    """Where the object that begins at `start` ends, in MAX_ALMOST_CHARS at most; else 0."""
    depth, quote = 0, ""
    for match in _STRUCTURE.finditer(text, start, start + MAX_ALMOST_CHARS):
        mark = match[0]
        if quote:
            quote = "" if mark == quote else quote
        elif mark in ("'", '"'):
            # An apostrophe within a word opens nothing.
            if mark == '"' or not text[match.start() - 1].isalnum():
                quote = mark
        elif mark == "{":
            depth += 1
        elif mark == "}":
            depth -= 1
            if not depth:
                return match.end()
    return 0


MAX_ALMOST_CHARS = 8000
_STRUCTURE = re.compile(r"""\\.|[{}"']""", re.DOTALL)
_SPARE_COMMA = re.compile(r"""("(?:[^"\\]|\\.)*")|,\s*([}\]])""", re.DOTALL)
_TYPEWRITTEN = str.maketrans("\u201c\u201d\u201e\u2018\u2019", '"""\'\'')


_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}


def check(value: Any, schema: Mapping[str, Any], path: str = "the answer") -> Any:
    """`value`, if it follows the essentials of `schema`: types, required, enum, bounds, items.

    A whole number written as 7.0 becomes 7. Raises ValueError naming what does not follow.
    """
    kind = schema.get("type")
    if kind == "integer" and isinstance(value, float) and value.is_integer():
        value = int(value)
    if kind in _TYPES and (
        not isinstance(value, _TYPES[kind]) or (isinstance(value, bool) and kind != "boolean")
    ):
        raise ValueError(f"{path} must be of type {kind}")
    if "enum" in schema and value not in schema["enum"]:
        raise ValueError(f"{path} must be one of {orjson.dumps(schema['enum']).decode()}")
    if isinstance(value, dict):
        return _check_object(value, schema, path)
    if isinstance(value, list):
        if len(value) < schema.get("minItems", 0):
            raise ValueError(f"{path} must hold {schema['minItems']} items at least")
        items = schema.get("items", {})
        return [check(item, items, f"{path}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, int | float):
        least, most = schema.get("minimum", value), schema.get("maximum", value)
        if not least <= value <= most:
            raise ValueError(f"{path} must be from {least} to {most}")
    return value


def _check_object(value: dict[str, Any], schema: Mapping[str, Any], path: str) -> dict[str, Any]:
    properties = schema.get("properties", {})
    missing = [repr(name) for name in schema.get("required", ()) if name not in value]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}")
    return {
        name: check(item, properties[name], f"{name} in {path}") if name in properties else item
        for name, item in value.items()
    }
