"""Values that satisfy a JSON schema, as a server with guided decoding would give."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

_FORMATS = {
    "date": "2024-05-17",
    "date-time": "2024-05-17T09:30:00Z",
    "time": "09:30:00Z",
    "email": "user@example.com",
    "uri": "https://example.com/",
    "uuid": "3f0c2f6e-1d7b-4d55-9a51-0c8f4b7a2e19",
    "ipv4": "192.0.2.1",
}
_WORDS = ("clear", "helpful", "brief", "sound", "direct", "thin", "exact", "fair", "dense", "plain")
_DEEP = 6  # from here on only what is required is filled, so that recursive schemas end


def fill(schema: Mapping[str, Any], n: int) -> Any:
    """Return a value valid under `schema`; which one (of an enum, of a range) depends on `n` alone.

    Covers $ref within the schema, const, enum, allOf, anyOf, oneOf, all types, bounds, lengths, item
    counts, uniqueItems and common formats. `pattern` is not honoured.
    """
    return _Filler(schema, n).value(schema, 0)


class _Filler:
    def __init__(self, root: Mapping[str, Any], n: int) -> None:
        self._root = root
        self._state = (n ^ 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF

    def _pick(self, count: int) -> int:
        """Return the next number below `count` of a linear congruential generator."""
        self._state = (self._state * 6364136223846793005 + 1442695040888963407) & 0xFFFFFFFFFFFFFFFF
        return (self._state >> 33) % count

    def value(self, schema: Any, depth: int) -> Any:
        if not isinstance(schema, Mapping):  # `true`: anything goes
            return "text"
        if "$ref" in schema:
            return self.value(self._resolve(schema["$ref"]), depth + 1)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return schema["enum"][self._pick(len(schema["enum"]))]
        if "allOf" in schema:
            return self.value(self._merged(schema), depth)
        for key in ("anyOf", "oneOf"):
            if key in schema:
                return self.value(self._branch(schema[key], depth), depth + 1)
        return getattr(self, f"_{self._type(schema)}")(schema, depth)

    def _resolve(self, pointer: str) -> Any:
        found: Any = self._root
        for part in pointer.removeprefix("#").split("/")[1:]:
            found = found[part.replace("~1", "/").replace("~0", "~")]
        return found

    def _merged(self, schema: Mapping[str, Any]) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        for part in [{k: v for k, v in schema.items() if k != "allOf"}, *schema["allOf"]]:
            whole = self._resolve(part["$ref"]) if "$ref" in part else part
            for key, value in whole.items():
                if key == "properties":
                    merged[key] = {**merged.get(key, {}), **value}
                elif key == "required":
                    merged[key] = [*merged.get(key, []), *value]
                else:
                    merged[key] = value
        return merged

    def _branch(self, branches: list[Any], depth: int) -> Any:
        if depth >= _DEEP:
            flat = [b for b in branches if isinstance(b, Mapping) and not {"$ref", "properties"} & b.keys()]
            return (flat or branches)[0]
        return branches[self._pick(len(branches))]

    @staticmethod
    def _type(schema: Mapping[str, Any]) -> str:
        kind = schema.get("type")
        if isinstance(kind, list):
            kind = next((k for k in kind if k != "null"), "null")
        if kind:
            return str(kind)
        for key, implied in (("properties", "object"), ("items", "array"), ("minimum", "integer")):
            if key in schema:
                return implied
        return "string"

    def _null(self, schema: Mapping[str, Any], depth: int) -> None:
        return None

    def _boolean(self, schema: Mapping[str, Any], depth: int) -> bool:
        return self._pick(2) == 0

    def _integer(self, schema: Mapping[str, Any], depth: int) -> int:
        step = schema.get("multipleOf", 1)
        low, high = self._bounds(schema, step)
        first, last = math.ceil(low / step), math.floor(high / step)
        return int((first + self._pick(max(1, last - first + 1))) * step)

    def _number(self, schema: Mapping[str, Any], depth: int) -> float:
        if "multipleOf" in schema:
            return self._integer(schema, depth)
        low, high = self._bounds(schema, 0)
        return float(low + (high - low) * (1 + self._pick(99)) / 101)

    @staticmethod
    def _bounds(schema: Mapping[str, Any], step: float) -> tuple[float, float]:
        """Inclusive bounds for whole steps; with step 0 the ends themselves may be excluded."""
        lows = [schema[k] for k in ("minimum",) if k in schema]
        lows += [schema[k] + step for k in ("exclusiveMinimum",) if k in schema]
        highs = [schema[k] for k in ("maximum",) if k in schema]
        highs += [schema[k] - step for k in ("exclusiveMaximum",) if k in schema]
        span = 10 * (step or 1)
        low = max(lows) if lows else min(0, min(highs) - span) if highs else 0
        return low, min(highs) if highs else low + span

    def _string(self, schema: Mapping[str, Any], depth: int) -> str:
        if schema.get("format") in _FORMATS:
            return _FORMATS[schema["format"]]
        text = " ".join(_WORDS[self._pick(len(_WORDS))] for _ in range(4))
        return text.ljust(schema.get("minLength", 0), "x")[: schema.get("maxLength")]

    def _array(self, schema: Mapping[str, Any], depth: int) -> list[Any]:
        least = schema.get("minItems", 0)
        wanted = least if depth >= _DEEP else max(least, min(schema.get("maxItems", 3), 1 + self._pick(3)))
        heads = schema.get("prefixItems", [])
        values: list[Any] = []
        for attempt in range(16 * wanted):
            if len(values) == wanted:
                break
            position = len(values)
            item = heads[position] if position < len(heads) else schema.get("items", True)
            if item is False:
                break
            value = self.value(item, depth + 1)
            if isinstance(value, str) and item is True:
                value = f"text {attempt}"
            if not (schema.get("uniqueItems") and value in values):
                values.append(value)
        return values

    def _object(self, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        required = schema.get("required", [])
        properties = schema.get("properties", {})
        names = [n for n in properties if depth < _DEEP or n in required]
        names += [n for n in required if n not in properties]
        return {name: self.value(properties.get(name, True), depth + 1) for name in names}
