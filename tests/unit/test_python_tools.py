"""Functions in Python as tools: their annotations, and what they return, raise and leave in the state."""

from __future__ import annotations

import logging
from typing import Any

import orjson
import pytest

from dlgforge_core.tool_events import ToolProblem
from dlgforge_core.tools.declarations import declared
from tests.unit.test_tool_executors import call, execute, tools

KEY = "sk-4711-of-the-catalogue"
MODULE = """
import datetime, enum, os
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Annotated, Any, Literal, Optional
from pydantic import AfterValidator, BaseModel, Field
from typing_extensions import TypedDict

class Size(enum.Enum):
    SMALL = "small"
    LARGE = "large"

@dataclass
class Line:
    item: str
    count: int = 1

@dataclass
class Order:
    lines: list[Line]
    size: Size = Size.SMALL
    note: Optional[str] = None

class Address(TypedDict, total=False):
    city: str
    title: str

class Receipt(BaseModel):
    total: Decimal
    day: datetime.date

Tags = set[str]

def order(order: Order, title: str, to: Address, day: datetime.date | None = None, tags: Tags = frozenset()):
    '''Order.'''
    return {"items": [line.item for line in order.lines], "size": order.size.name, "year": day and day.year,
            "to": to.get("city"), "tags": sorted(tags), "counts": sum(line.count for line in order.lines)}

def not_a(word: str) -> str:
    if word.startswith("a"):
        raise ValueError("words with a are not known")
    return word

def long(words: Annotated[str, Field(min_length=3), AfterValidator(not_a)], mode: Literal["a", "b"] = "a"):
    return words

def receipt():
    return Receipt(total="1.50", day=datetime.date(2024, 5, 1))

def several():
    return (1, {2}, Size.LARGE, Line("pen"), b"x")

def endless():
    n = 0
    while True:
        yield n

def dated(state):
    state["day"] = datetime.date(2024, 5, 1)

def numbered(state):
    state["by"] = {1: "x"}

def holding(state):
    state["what"] = {1, 2}

def paired(state):
    state["pair"] = (1, 2)

def replaced(state):
    state.clear()
    state["n"] = float("nan")

def shows():
    return {"key": os.environ["CATALOGUE_KEY"], "nested": ["Bearer " + os.environ["CATALOGUE_KEY"]]}

def keeps(state):
    state["key"] = os.environ["CATALOGUE_KEY"]

def tells():
    raise ValueError("no access with " + os.environ["CATALOGUE_KEY"])

def breaks():
    raise RuntimeError("no access with " + os.environ["CATALOGUE_KEY"])

def leaves():
    raise SystemExit("no access with " + os.environ["CATALOGUE_KEY"])
"""
NAMES = (
    *("order", "long", "receipt", "several", "dated", "numbered", "holding", "paired", "replaced"),
    *("shows", "keeps", "tells", "breaks", "leaves", "endless"),
)
OWN = tools(
    *({"python": f"own:{name}", "timeout_s": 5.0} for name in NAMES[:-1]),
    {"python": "own:endless", "timeout_s": 0.2},
    modules={"own": MODULE},
    state={"initial": [{"value": {}}]},
)
ORDER = {"lines": [{"item": "pen", "count": 2}, {"item": "ink"}]}


def test_arguments_are_what_the_annotations_say() -> None:
    given: dict[str, Any] = {"order": ORDER, "title": "Dr", "to": {"city": "Bern"}}
    plain, full = execute(
        OWN,
        call("order", **given),
        call(
            "order", **{**given, "order": {**ORDER, "size": "large"}, "day": "2024-05-01", "tags": ["b", "a"]}
        ),
    )
    items = {"items": ["pen", "ink"], "to": "Bern", "counts": 3}
    assert orjson.loads(plain.result) == {**items, "size": "SMALL", "year": None, "tags": []}
    assert orjson.loads(full.result) == {**items, "size": "LARGE", "year": 2024, "tags": ["a", "b"]}


def test_the_schema_says_what_annotations_say() -> None:
    schema = {one.name: one.parameters for one in declared(OWN, {})}["order"]
    assert schema["required"] == ["order", "title", "to"]
    assert set(schema["properties"]) == {"order", "title", "to", "day", "tags"}
    assert "title" in schema["$defs"]["Address"]["properties"]
    assert schema["$defs"]["Line"]["required"] == ["item"]
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"order": {"lines": [{}]}}, "'item' is a required property"),
        ({"order": {**ORDER, "size": "huge"}}, "'huge' is not one of"),
        ({"order": ORDER, "day": "tomorrow"}, "invalid arguments: day: "),
        ({"order": ORDER, "day": 5}, "5 is not valid under any of the given schemas"),
    ]
    events = execute(OWN, *(call("order", **{"title": "", "to": {}, **given}) for given, _ in wrong))
    for event, (_, problem) in zip(events, wrong, strict=True):
        assert problem in event.error
        assert event.problem is ToolProblem.INVALID_ARGUMENTS


def test_what_an_annotation_refuses_is_an_error_of_the_argument() -> None:
    short, refused, wrong, long = execute(
        OWN,
        *(call("long", words=text) for text in ("x", "abc")),
        call("long", words="xyz", mode="c"),
        call("long", words="xyz"),
    )
    assert "'x' is too short" in short.error
    assert refused.error == "invalid arguments: words: Value error, words with a are not known"
    assert "'c' is not one of ['a', 'b']" in wrong.error
    assert {e.problem for e in (short, refused, wrong)} == {ToolProblem.INVALID_ARGUMENTS}
    assert long.result == "xyz"


def test_results_and_states_are_plain_json_at_once() -> None:
    names = ("receipt", "several", "dated", "paired", "replaced")
    receipt, several, dated, paired, replaced = execute(OWN, *map(call, names), state={"n": 1})
    assert orjson.loads(receipt.result) == {"total": "1.50", "day": "2024-05-01"}
    assert orjson.loads(several.result) == [1, [2], "large", {"item": "pen", "count": 1}, "x"]
    assert dated.changes == ({"op": "add", "path": "/day", "value": "2024-05-01"},)
    assert paired.changes == ({"op": "add", "path": "/pair", "value": [1, 2]},)
    assert replaced.changes == ({"op": "replace", "path": "/n", "value": None},)
    for event in execute(OWN, call("numbered"), call("holding"), state={"n": 1}):
        assert (event.problem, event.changes) == (ToolProblem.ERROR, ())
    assert execute(OWN, call("endless"))[0].error == "the result cannot be shown"


def test_secrets_of_the_environment_reach_neither_model_nor_record_nor_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CATALOGUE_KEY", KEY)
    with caplog.at_level(logging.DEBUG):
        shows, *others = events = execute(OWN, *map(call, NAMES[-6:-1]), state={})
    assert orjson.loads(shows.result) == {"key": "***", "nested": ["Bearer ***"]}
    assert others[1].error == "no access with ***"
    assert KEY not in repr(events)
    assert KEY not in caplog.text
    assert "no access with ***" in caplog.text
