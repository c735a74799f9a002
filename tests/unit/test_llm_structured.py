"""Finding and checking JSON in what a model said."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlgforge_core.llm.structured import (
    JsonMode,
    check,
    correction,
    instruction_for,
    parse,
    response_format,
    with_words,
)

SCHEMA = {
    "type": "object",
    "properties": {
        "score": {"type": "integer", "minimum": 0, "maximum": 10},
        "reasons": {"type": "array", "items": {"type": "string", "enum": ["a", "b"]}, "minItems": 1},
    },
    "required": ["score", "reasons"],
    "additionalProperties": False,
}
GOOD = {"score": 7, "reasons": ["a"]}


def read(text: str) -> dict[str, object]:
    return parse(text, lambda value: check(value, SCHEMA))


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(GOOD),
        f"Here you are:\n```json\n{json.dumps(GOOD, indent=2)}\n```\nAnything else?",
        f'The schema {{"type": "object"}} gives {json.dumps(GOOD)}',
        f"{{broken {json.dumps(GOOD)}",
        '{"score": 7.0, "reasons": ["a"]}',
    ],
)
def test_the_first_usable_object_is_found(text: str) -> None:
    assert read(text) == GOOD


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no complete JSON object"),
        ("[1, 2]", "no complete JSON object"),
        ('{"score": 7, "reas', "no complete JSON object"),
        ('{"score": 7}', "lacks 'reasons'"),
        ('{"score": 11, "reasons": ["a"]}', "score in the answer must be from 0 to 10"),
        ('{"score": true, "reasons": ["a"]}', "score in the answer must be of type integer"),
        ('{"score": "7", "reasons": ["a"]}', "of type integer"),
        ('{"score": NaN, "reasons": ["a"]}', "of type integer"),
        ('{"score": 7, "reasons": ["c"]}', 'must be one of ["a","b"]'),
        ('{"score": 7, "reasons": []}', "must hold 1 items"),
        ('{"score": 7, "reasons": "a"}', "of type array"),
        ('{"a":' * 5000, "no complete JSON object"),
    ],
)
def test_what_cannot_be_used_is_explained(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem.replace("[", r"\[")):
        read(text)


@given(st.text(alphabet='{}[]":,\\ anulltrue01.e-\n') | st.text())
def test_any_text_gives_an_object_or_a_value_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert isinstance(parse(text, lambda value: value), dict)


# Beyond 64 bits orjson reads a whole number as a float.
@given(
    st.text(alphabet="ab } \n"),
    st.dictionaries(st.text(), st.integers(-(2**63), 2**64 - 1) | st.text()),
    st.text(),
)
def test_an_object_is_found_after_any_text(before: str, value: dict[str, object], after: str) -> None:
    assert parse(f"{before}{json.dumps(value)}{after}", lambda found: found) == value


def json_schema(schema: dict[str, Any]) -> Any:
    wanted = response_format(JsonMode.JSON_SCHEMA, schema)
    assert wanted is not None
    return wanted["json_schema"]


def test_strict_is_asked_for_only_where_it_is_taken() -> None:
    assert json_schema(SCHEMA)["strict"] is True
    loose = {**SCHEMA, "required": ["score"]}
    assert "strict" not in json_schema(loose)
    assert response_format(JsonMode.TEXT, SCHEMA) is None


def test_prompts_grow_at_the_end_only() -> None:
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    grown = with_words(messages, instruction_for(SCHEMA))
    assert grown[0] == messages[0]
    assert grown[1]["content"].startswith("u\n\n")
    assert correction(messages, "bad", "it is bad", "better")[:2] == messages
    assert correction(messages, " ", "it is empty", "better") == messages
