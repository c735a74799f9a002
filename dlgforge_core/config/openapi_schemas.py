"""Schemas of OpenAPI documents (3.x) as JSON schemas that need no document around them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from dlgforge_core.json_pointer import pointer_parts

_MAX_DEPTH = 60
_MAX_PARTS = 20_000
# Annotations of OpenAPI's that are no JSON schema.
_OWN = ("xml", "externalDocs", "discriminator", "example", "nullable", "readOnly", "writeOnly")
_BY_NAME = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
"""Keywords whose keys are names, whatever they look like."""
_DATA = ("default", "enum", "const", "examples", "required")
_LIMITS = {"exclusiveMinimum": "minimum", "exclusiveMaximum": "maximum"}
REQUEST, ANSWER = "readOnly", "writeOnly"
"""What is no part of it."""


class Resolver:
    """Puts what references stand for in their places, as far as that has a bounded size.

    Fields that are `left_out`, REQUEST or ANSWER, are no part of objects.
    """

    def __init__(self, document: Mapping[str, Any], left_out: str = REQUEST) -> None:
        self._document = document
        self._left_out = left_out
        self._parts = 0

    def schema(self, part: Any, within: tuple[str, ...] = (), depth: int = 0) -> Any:
        """Return a schema without references; `within` are those that led to it. Raises ValueError."""
        self._parts += 1
        if self._parts > _MAX_PARTS or depth > _MAX_DEPTH:
            raise ValueError("its schemas are too large, or nested too deeply; write `parameters` yourself")
        if isinstance(part, list):
            return [self.schema(item, within, depth + 1) for item in part]
        if not isinstance(part, Mapping):
            return part
        reference = part.get("$ref")
        if isinstance(reference, str):
            if reference in within:
                raise ValueError(f"{reference!r} refers to itself; write `parameters` yourself")
            target = at(self._document, reference)
            made = self.schema(target, (*within, reference), depth + 1)
            beside = {"description": part["description"]} if part.get("description") else {}
            made = {**made, **beside} if isinstance(made, Mapping) else made
        else:
            made = {
                str(key): self._value(str(key), item, within, depth)
                for key, item in part.items()
                if key not in _OWN
            }
            made = _without_boolean_limits(made)
            self._leave_out(part, made)
        return _or_null(made) if part.get("nullable") is True and isinstance(made, dict) else made

    def _value(self, key: str, item: Any, within: tuple[str, ...], depth: int) -> Any:
        if key in _DATA:
            return item
        if key in _BY_NAME and isinstance(item, Mapping):
            return {str(name): self.schema(one, within, depth + 2) for name, one in item.items()}
        return self.schema(item, within, depth + 1)

    def _leave_out(self, part: Mapping[str, Any], made: dict[str, Any]) -> None:
        given = part.get("properties")
        if not isinstance(given, Mapping) or not isinstance(made.get("properties"), dict):
            return
        gone = {str(name) for name, one in given.items() if self._is_left_out(one)}
        made["properties"] = {name: one for name, one in made["properties"].items() if name not in gone}
        if isinstance(made.get("required"), list):
            made["required"] = [name for name in made["required"] if name not in gone]

    def _is_left_out(self, part: Any) -> bool:
        found = followed(self._document, part)
        return isinstance(found, Mapping) and found.get(self._left_out) is True


def followed(document: Mapping[str, Any], part: Any) -> Any:
    """Return what a part is, where it is a reference, without looking inside. Raises ValueError."""
    for _ in range(_MAX_DEPTH):
        reference = part.get("$ref") if isinstance(part, Mapping) else None
        if not isinstance(reference, str):
            return part
        part = at(document, reference)
    raise ValueError("a reference leads from one to the next without an end")


def at(document: Mapping[str, Any], reference: str) -> Any:
    """Return what a reference stands for. Raises ValueError."""
    if not reference.startswith("#/"):
        raise ValueError(f"$ref {reference!r} leads out of the document; bundle it into one file")
    found: Any = document
    for name in pointer_parts(unquote(reference[1:])):
        if isinstance(found, list) and name.isdecimal() and int(name) < len(found):
            found = found[int(name)]
            continue
        if not isinstance(found, Mapping) or name not in found:
            raise ValueError(f"$ref {reference!r} leads nowhere")
        found = found[name]
    return found


def fields_of(schema: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the fields of an object, those of all its `allOf` together, and which of them are required.

    Raises ValueError for a schema that is no object with fields, or one of several.
    """
    if schema.get("type", "object") != "object" or any(key in schema for key in ("oneOf", "anyOf")):
        raise ValueError("its body is no object with fields; write `parameters` yourself")
    fields, required = dict(schema.get("properties") or {}), list(schema.get("required") or ())
    for part in schema.get("allOf") or ():
        more, needed = fields_of(part)
        fields, required = {**more, **fields}, [*required, *needed]
    return fields, list(dict.fromkeys(name for name in required if name in fields))


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    kind = schema.get("type")
    if kind is None:
        described = {"description": schema["description"]} if "description" in schema else {}
        return {**described, "anyOf": [schema, {"type": "null"}]} if schema else schema
    kinds = kind if isinstance(kind, list) else [kind]
    made = {**schema, "type": [*kinds, "null"] if "null" not in kinds else kinds}
    if isinstance(schema.get("enum"), list) and None not in schema["enum"]:
        made["enum"] = [*schema["enum"], None]
    return made


def _without_boolean_limits(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema whose exclusive limits are numbers: in OpenAPI 3.0 they say whether others exclude."""
    made = dict(schema)
    for exclusive, limit in _LIMITS.items():
        if isinstance(made.get(exclusive), bool):
            excludes = made.pop(exclusive)
            if excludes and limit in made:
                made[exclusive] = made.pop(limit)
    return made
