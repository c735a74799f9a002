"""Operations of OpenAPI documents as tools: what documents in use have, and what cannot be a tool."""

from __future__ import annotations

from typing import Any

import pytest

from dlgforge_core.common.json_schema import check_schema, problem_of
from dlgforge_core.config.openapi import function_of

SCHEMAS: dict[str, Any] = {
    "Id": {"type": "integer", "minimum": 0, "exclusiveMinimum": True},
    "Kind": {"type": "string", "enum": ["a", "b"], "nullable": True},
    "Base": {
        "type": "object",
        "required": ["id", "example"],
        "properties": {
            "id": {"type": "string", "readOnly": True},
            "example": {"type": "string", "example": "an example"},
            "xml": {"type": "boolean", "default": False},
        },
    },
    "Order": {
        "allOf": [
            {"$ref": "#/components/schemas/Base"},
            {"required": ["lines"], "properties": {"lines": {"type": "array", "items": {"type": "string"}}}},
        ],
        "properties": {
            "kind": {"$ref": "#/components/schemas/Kind", "description": "Which kind."},
            "base": {"nullable": True, "allOf": [{"$ref": "#/components/schemas/Base"}]},
            "secret": {"type": "string", "writeOnly": True},
        },
    },
    "Tree": {"type": "object", "properties": {"next": {"$ref": "#/components/schemas/Tree"}}},
}


def document(operation: dict[str, Any], path: str = "/orders/{id}", **item: Any) -> dict[str, Any]:
    return {
        "openapi": "3.0.3",
        "servers": [{"url": "https://{region}.example/v1", "variables": {"region": {"default": "eu"}}}],
        "paths": {path: {"post": {"operationId": "send", **operation}, **item}},
        "components": {"schemas": SCHEMAS},
    }


def body(schema: dict[str, Any], media_type: str = "application/json") -> dict[str, Any]:
    return {"requestBody": {"content": {media_type: {"schema": schema}}}}


def reference(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


ID = {"name": "id", "in": "path", "required": True, "schema": reference("Id")}


def test_a_body_of_several_parts_is_one_object_of_what_may_be_sent() -> None:
    made = function_of(document({**body(reference("Order")), "parameters": [ID]}), "send")
    parameters = made["parameters"]
    check_schema(parameters)
    assert set(parameters["properties"]) == {"id", "example", "xml", "lines", "kind", "base", "secret"}
    assert parameters["required"] == ["id", "example", "lines"]
    assert parameters["properties"]["id"] == {"type": "integer", "exclusiveMinimum": 0}
    assert parameters["properties"]["example"] == {"type": "string"}
    assert parameters["properties"]["kind"]["description"] == "Which kind."
    right = {"id": 1, "example": "x", "lines": [], "kind": None, "base": None}
    assert problem_of(right, parameters) == ""
    assert problem_of({**right, "id": 0}, parameters)
    assert problem_of({**right, "base": {"example": 5}}, parameters)
    assert made["http"]["url"] == "https://eu.example/v1/orders/{id}"


def test_parameters_of_an_operation_win_over_those_of_its_path() -> None:
    limit = {"name": "limit", "in": "query", "required": True, "schema": {"type": "integer"}}
    mine = [ID, {**limit, "required": False}, {"name": "X-Trace", "in": "header", "schema": {}}]
    deep = {"name": "filter", "in": "query", "style": "deepObject", "schema": {"type": "object"}}
    text = {"name": "q", "in": "query", "content": {"application/json": {"schema": {"type": "object"}}}}
    shared = document({"parameters": [*mine, deep, text]}, parameters=[ID, limit])
    made = function_of(shared, "send")
    assert made["parameters"]["required"] == ["id"]
    assert list(made["parameters"]["properties"]) == ["id", "limit", "q"]
    assert made["parameters"]["properties"]["q"] == {"type": "object"}


@pytest.mark.parametrize(
    ("operation", "problem"),
    [
        (body({"oneOf": [reference("Order"), reference("Base")]}), "no object with fields"),
        (body({"type": "array"}), "no object with fields"),
        (body({"type": "object", "additionalProperties": True}), "no fields with names"),
        (body(reference("Tree")), "refers to itself; write `parameters` yourself"),
        (body(reference("Order"), "application/xml"), "its body is no application/json"),
        (
            {"parameters": [ID, {**ID, "in": "query"}]},
            "'id' is an argument in the path and in the query as well",
        ),
        (
            {"parameters": [{"name": "f", "in": "query", "required": True, "style": "deepObject"}]},
            "has the style deepObject",
        ),
        ({"parameters": [{"name": "X-Key", "in": "header", "required": True}]}, "http.headers_env"),
        ({"parameters": [{"$ref": "other.yaml#/Id"}]}, "bundle it into one file"),
    ],
)
def test_what_cannot_be_sent_is_an_error(operation: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=f"^send: .*{problem}"):
        function_of(document(operation), "send")


def test_with_parameters_of_the_recipe_only_the_address_is_read() -> None:
    query = {"name": "dry", "in": "query", "schema": reference("Tree")}
    operation = {**body(reference("Tree")), "parameters": [ID, query]}
    made = function_of(document(operation), "send", given=["parameters"])
    assert "parameters" not in made
    assert made["http"]["query"] == ["dry"]


def test_answers_are_what_they_may_hold_and_trees_are_any() -> None:
    def result(schema: dict[str, Any], media_type: str = "application/json") -> Any:
        answer = {"200": {"description": "", "content": {media_type: {"schema": schema}}}}
        return function_of(document({"parameters": [ID], "responses": answer}), "send").get("result")

    assert result(reference("Tree")) is None
    found = result(reference("Order"), "application/vnd.shop+json; charset=utf-8")
    assert set(found["properties"]) == {"kind", "base"}
    assert set(found["allOf"][0]["properties"]) == {"id", "example", "xml"}


def test_servers_are_those_of_the_operation_and_other_versions_are_no_documents() -> None:
    own = [{"url": "https://own.example"}]
    assert function_of(document({"servers": own}), "send")["http"]["url"].startswith("https://own.")
    assert function_of(document({}, servers=own), "send")["http"]["url"].startswith("https://own.")
    escaped = document({"parameters": [{"$ref": "#/paths/~1orders~1%7Bid%7D/parameters/0"}]}, parameters=[ID])
    assert function_of(escaped, "send")["parameters"]["required"] == ["id"]
    for version, problem in (({"swagger": "2.0"}, "Swagger 2.0"), ({"openapi": "2.0"}, "not of OpenAPI 3")):
        with pytest.raises(ValueError, match=problem):
            function_of({**document({}), **version}, "send")
