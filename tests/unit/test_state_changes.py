"""Changes of a JSON document: they lead from one to the other, and those that do not fit are named."""

from __future__ import annotations

import copy
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlgforge_core.dialogue import DialoguePlan, Persona, Turn, TurnDetails, state_after
from dlgforge_core.sources import SeedTopic
from dlgforge_core.state_changes import changed, changes_between
from dlgforge_core.tool_events import ToolEvent, ToolProblem

LEAVES = (
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([0.0, 1.0, 2.5]) | st.text(max_size=3)
)
NAMES = st.sampled_from(["a", "b", "a/b", "~", "~1", "", "0"])
DOCUMENTS = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=100, deadline=None)
@given(before=DOCUMENTS, after=DOCUMENTS)
def test_changes_lead_from_one_document_to_the_other(before: Any, after: Any) -> None:
    kept = copy.deepcopy(before)
    changes = changes_between(before, after)
    stored = orjson.loads(orjson.dumps(changes))
    made = changed(before, stored)
    assert orjson.dumps(made, option=orjson.OPT_SORT_KEYS) == orjson.dumps(after, option=orjson.OPT_SORT_KEYS)
    assert before == kept, "the document is left as it is"
    assert not changes_between(after, made)


def test_changes_are_small() -> None:
    before = {"books": [{"id": "b1", "lent": False}, {"id": "b2", "lent": False}], "loans": [1, 2, 3]}
    after = {"books": [{"id": "b1", "lent": False}, {"id": "b2", "lent": True}], "loans": [1, 3]}
    assert changes_between(before, after) == (
        {"op": "replace", "path": "/books/1/lent", "value": True},
        {"op": "remove", "path": "/loans/1"},
    )
    assert changes_between([1], [1, 2]) == ({"op": "add", "path": "/-", "value": 2},)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"op": "replace", "path": "/books/7", "value": 1}, "nothing at '/books/7'"),
        ({"op": "replace", "path": "/books/01", "value": 1}, "nothing at '/books/01'"),
        ({"op": "remove", "path": "/none"}, "nothing at '/none'"),
        ({"op": "add", "path": "/none/a", "value": 1}, "nothing at"),
        ({"op": "add", "path": "/name/a", "value": 1}, "nothing at"),
        ({"op": "add", "path": "/books/-"}, "has no value"),
        ({"op": "move", "path": "/books/0"}, "add, replace or remove"),
        ({"op": "add", "path": 3, "value": 1}, "and a path"),
        ({"op": "add", "path": "books", "value": 1}, "does not begin with /"),
        ({"op": "remove", "path": ""}, "cannot be removed"),
    ],
)
def test_a_change_that_does_not_fit_is_named(change: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        changed({"books": [1], "name": "desk"}, [change])


NOBODY = Persona("p", "somebody", "Curious.")
PLAN = DialoguePlan("d1", 0, "en", 2, SeedTopic("t", "en", "bread"), NOBODY, NOBODY)
LENT = ({"op": "replace", "path": "/lent", "value": 1},)
RETURNED = ({"op": "replace", "path": "/lent", "value": 0}, {"op": "add", "path": "/seen", "value": True})


def test_the_state_of_a_dialogue_is_the_fold_of_its_tools_changes() -> None:
    plan = DialoguePlan.from_json(
        orjson.loads(orjson.dumps({**PLAN.to_json(), "tools": ["lend", "return"], "tool_state": {"lent": 0}}))
    )
    assert plan.tools == ("lend", "return")
    turns = [
        Turn(0, "q", "a", None, TurnDetails(tools=(ToolEvent("lend", {}, "ok", changes=LENT),))),
        Turn(1, "q", "a"),
    ]
    assert state_after(plan, turns) == {"lent": 1}
    later = [ToolEvent("return", {}, "ok", changes=RETURNED)]
    assert state_after(plan, turns, later) == {"lent": 0, "seen": True}
    assert plan.tool_state == {"lent": 0}
    assert state_after(PLAN, turns) is None


@pytest.mark.parametrize("state", [None, {}, {"lent": 0}])
@pytest.mark.parametrize("tools", [None, (), ("lend",)])
def test_what_a_plan_says_of_tools_is_kept_and_leaves_no_trace_without_any(tools: Any, state: Any) -> None:
    plan = DialoguePlan("d1", 0, "en", 2, PLAN.topic, NOBODY, NOBODY, tools=tools, tool_state=state)
    data = orjson.loads(orjson.dumps(plan.to_json()))
    assert ("tools" in data, "tool_state" in data) == (tools is not None, state is not None)
    assert DialoguePlan.from_json(data) == plan


def test_tool_events_of_before_are_read_and_written_as_they_were() -> None:
    row = {"tools": [{"name": "n", "arguments": {"a": 1}, "result": "r", "error": "", "call_id": "c"}]}
    details = TurnDetails.from_json(row)
    assert details.to_json() == row
    event = ToolEvent("n", {}, "", "no such tool", "c", ToolProblem.UNKNOWN_TOOL, LENT)
    kept = orjson.loads(orjson.dumps(TurnDetails(tools=(event,)).to_json()))
    assert kept["tools"][0]["problem"] == "unknown_tool"
    assert TurnDetails.from_json(kept).tools == (event,)
