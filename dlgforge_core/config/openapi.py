"""Operations of OpenAPI documents (3.x) as tools: what the model is told, and what is called."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from dlgforge_core.common.hints import hint
from dlgforge_core.config.openapi_schemas import ANSWER, Resolver, fields_of, followed

_METHODS = ("get", "post", "put", "patch", "delete")
_SERIALISED = ("form", "simple", None)
"""Styles of parameters that are sent as they are."""


@dataclass(frozen=True, slots=True)
class _Operation:
    document: Mapping[str, Any]
    name: str
    method: str
    path: str
    item: Mapping[str, Any]
    entry: Mapping[str, Any]


def function_of(
    document: Any, operation: str, server: str = "", given: Collection[str] = ()
) -> dict[str, Any]:
    """Return the data of a function, a recipe's, that calls the operation of this operationId.

    `server` is the address to call in place of the document's; `given` are keys that the recipe has itself,
    so that nothing in the document need be fit for them. Raises ValueError, which says what is missing.
    """
    if not isinstance(document, Mapping) or not isinstance(document.get("paths"), Mapping):
        raise ValueError("the file is no OpenAPI document: it has no paths")
    if not str(document.get("openapi", "3")).startswith("3"):
        raise ValueError("the document is not of OpenAPI 3")
    if "swagger" in document:
        raise ValueError(f"the document is of Swagger {document['swagger']}; convert it to OpenAPI 3")
    found = {one.name: one for one in _operations(document)}
    if operation not in found:
        known = hint(operation, found, "there are") if found else "no operation has an operationId"
        raise ValueError(f"there is no operation {operation!r}; {known}")
    try:
        return _function(found[operation], server, given)
    except (AttributeError, TypeError, KeyError):
        raise ValueError(f"{operation}: it is not written as OpenAPI 3 wants it") from None
    except ValueError as error:
        raise ValueError(f"{operation}: {error}") from None


def _function(one: _Operation, server: str, given: Collection[str]) -> dict[str, Any]:
    own = "parameters" in given
    properties, required, query = _parameters(one, own=own)
    body, needed = ({}, []) if own else _body(one)
    if both := sorted(set(body) & set(properties)):
        raise ValueError(f"{both[0]!r} is an argument and a field of the body as well")
    parameters = {
        "type": "object",
        "properties": {**properties, **body},
        "required": [*required, *needed],
        "additionalProperties": False,
    }
    description = one.entry.get("description") or one.entry.get("summary") or ""
    return {
        "name": one.name,
        "description": " ".join(str(description).split()),
        **({} if own else {"parameters": parameters}),
        **({"result": result} if "result" not in given and (result := _result(one)) else {}),
        "http": {
            "method": one.method.upper(),
            "url": f"{server or _server(one)}".rstrip("/") + one.path,
            **({"query": query} if query and one.entry.get("requestBody") else {}),
        },
    }


def _operations(document: Mapping[str, Any]) -> Iterator[_Operation]:
    for path, given in document["paths"].items():
        item = followed(document, given)
        for method in _METHODS:
            entry = item.get(method) if isinstance(item, Mapping) else None
            if isinstance(entry, Mapping) and entry.get("operationId"):
                yield _Operation(document, str(entry["operationId"]), method, str(path), item, entry)


def _server(one: _Operation) -> str:
    """Return the address of the operation, of its path, or of all; variables in it have their defaults."""
    for holder in (one.entry, one.item, one.document):
        servers = holder.get("servers")
        if isinstance(servers, list) and servers:
            url = servers[0].get("url")
            for name, variable in (servers[0].get("variables") or {}).items():
                url = url.replace(f"{{{name}}}", str(variable["default"]))
            if isinstance(url, str) and urlsplit(url).scheme:
                return url
            break
    raise ValueError("the document names no whole address under servers; set openapi.server")


def _parameters(one: _Operation, *, own: bool) -> tuple[dict[str, Any], list[str], list[str]]:
    """Return the schemas of the arguments by name, those that are required, and those of the query.

    With schemas of the recipe's `own` none are read.
    """
    properties: dict[str, Any] = {}
    required, query = list[str](), list[str]()
    places: dict[str, str] = {}
    for entry in _entries(one):
        name, place = str(entry["name"]), entry["in"]
        needed = bool(entry.get("required") or place == "path")
        if place in ("header", "cookie"):
            if needed:
                raise ValueError(f"the {place} {name!r} is required; give headers by http.headers_env")
            continue
        if problem := _unsendable(entry):
            if needed and not own:
                raise ValueError(f"the parameter {name!r} {problem}; write `http` and `parameters` yourself")
            continue
        if name in places:
            raise ValueError(f"{name!r} is an argument in the {places[name]} and in the {place} as well")
        places[name] = place
        if place == "query":
            query.append(name)
        if not own:
            properties[name] = _argument(one, entry)
        if needed:
            required.append(name)
    return properties, required, query


def _entries(one: _Operation) -> list[Mapping[str, Any]]:
    """Return the parameters of an operation: its own win over those of its path."""
    found: dict[tuple[Any, Any], Mapping[str, Any]] = {}
    for part in (*(one.item.get("parameters") or ()), *(one.entry.get("parameters") or ())):
        entry = followed(one.document, part)
        found[entry["name"], entry["in"]] = entry
    return list(found.values())


def _unsendable(entry: Mapping[str, Any]) -> str:
    """Return why a parameter cannot be sent; "" where it can."""
    if entry.get("style") not in _SERIALISED:
        return f"has the style {entry['style']}"
    schema = entry.get("schema")
    if entry["in"] == "query" and entry.get("explode") is False and isinstance(schema, Mapping):
        return "has explode: false"
    return ""


def _argument(one: _Operation, entry: Mapping[str, Any]) -> dict[str, Any]:
    content: Mapping[str, Any] = next(iter((entry.get("content") or {}).values()), {})
    schema = Resolver(one.document).schema(entry.get("schema") or content.get("schema") or {})
    return {**schema, **({"description": entry["description"]} if entry.get("description") else {})}


def _body(one: _Operation) -> tuple[dict[str, Any], list[str]]:
    """Return the fields of the JSON body, and those that are required."""
    body = followed(one.document, one.entry.get("requestBody") or {})
    if not body:
        return {}, []
    schema = _json_schema(body)
    if schema is None:
        raise ValueError("its body is no application/json")
    fields, needed = fields_of(Resolver(one.document).schema(schema))
    if not fields:
        raise ValueError("its body has no fields with names; write `parameters` yourself")
    return fields, needed if body.get("required", True) else []


def _json_schema(holder: Mapping[str, Any]) -> Any:
    """Return the schema of what a request or an answer holds as JSON; None where it holds none."""
    for media_type, content in (holder.get("content") or {}).items():
        name = str(media_type).partition(";")[0].strip().lower()
        if name == "application/json" or name.endswith("+json"):
            return content.get("schema") or {}
    return None


def _result(one: _Operation) -> Mapping[str, Any]:
    responses = one.entry.get("responses") or {}
    for status in ("200", 200, "201", 201):
        if status in responses:
            schema = _json_schema(followed(one.document, responses[status])) or {}
            try:
                made: Mapping[str, Any] = Resolver(one.document, ANSWER).schema(schema)
            except ValueError:
                return {}  # answers are often trees: any will do then
            return made
    return {}
