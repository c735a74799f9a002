"""Goals that are checked: what counts as the expected calls and state, and what is told when it is not so."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlgforge_core.config import GenerationConfig, JudgeConfig, LlmConfig, validate
from dlgforge_core.config.acceptance import AcceptConfig
from dlgforge_core.config.expectations import ExpectConfig
from dlgforge_core.conversation.acceptance import Acceptance
from dlgforge_core.conversation.goal_checks import _assigned, checked_goal, difference
from dlgforge_core.conversation.outcomes import Answered, Asked, Committed, UserLeft
from dlgforge_core.conversation.script import Script
from dlgforge_core.conversation.state import State, fold
from dlgforge_core.conversation.steps import Commit, Finish
from dlgforge_core.dialogue import Dialogue, DialoguePlan, Turn, TurnDetails
from dlgforge_core.errors import ConfigError
from dlgforge_core.judging.judges import WHOLE, judges_goal
from dlgforge_core.planning.fingerprint import content_fingerprint
from dlgforge_core.planning.personas import read_personas
from dlgforge_core.planning.plan import plan_run
from dlgforge_core.planning.seeds import read_seeds
from dlgforge_core.tool_events import ToolEvent, ToolProblem
from dlgforge_core.verdicts import GoalVerdict
from tests.support.dialogues import make_dialogue

FIND = ToolEvent("find_book", {"title": "Emma"}, "b1")
LEND = ToolEvent("lend", {"book": "b1", "days": 14}, "ok")
REFUSED = ToolEvent("lend", {"book": "b2", "days": 14}, error="b2 is lent")
STATE = {"books": {"b1": {"lent_to": "m7", "tags": ["novel"]}, "b2": {"lent_to": None}}, "fees": 0}


def checked(expect: dict[str, Any], *events: ToolEvent, state: dict[str, Any] | None = None) -> GoalVerdict:
    turns = [Turn(i, "q", "a", details=TurnDetails(tools=(event,))) for i, event in enumerate(events)]
    return checked_goal(validate(ExpectConfig, expect, "test"), turns, state)


@pytest.mark.parametrize(
    ("expect", "reason"),
    [
        ({"calls": [{"name": "lend"}]}, "1 expected call was made."),
        ({"calls": [{"name": "lend", "arguments": {"days": 14.0}}, {"name": "find_book"}]}, "2 expected"),
        ({"calls": [{"name": "lend", "arguments": {"days": "14"}}]}, "1 expected call was made."),
        (
            {"calls": [{"name": "find_book"}, {"name": "lend"}], "ordered": True},
            "2 expected calls were",
        ),
        ({"calls": [{"name": "lend", "outcome": "error"}]}, "1 expected call was made."),
        ({"calls": [{"name": "find_book"}, {"name": "lend"}], "exactly": True}, "no other succeeded."),
        ({"calls": [{"name": "lend", "json_schema": {"required": ["days"]}}]}, "1 expected call was made."),
        ({"forbidden": [{"name": "delete"}]}, "No forbidden call was made."),
        (
            {"forbidden": [{"name": "lend", "arguments": {"book": "b2"}, "outcome": "success"}]},
            "No forbidden",
        ),
        ({"state": {"contains": {"books": {"b1": {"lent_to": "m7"}}}}}, "The state is as expected."),
        ({"state": {"equals": STATE}}, "The state is as expected."),
        ({"state": {"json_schema": {"properties": {"fees": {"maximum": 0}}}}}, "The state is as expected."),
    ],
)
def test_a_goal_is_met(expect: dict[str, Any], reason: str) -> None:
    verdict = checked(expect, FIND, REFUSED, LEND, state=STATE)
    assert verdict.met
    assert reason in verdict.reason


@pytest.mark.parametrize(
    ("expect", "reason"),
    [
        ({"calls": [{"name": "pay"}]}, "there is no call of pay"),
        (
            {"calls": [{"name": "lend", "arguments": {"book": "b2"}}]},
            'there is no call of lend with {"book":"b2"}; the last one had {"book":"b1","days":14}',
        ),
        (
            {"calls": [{"name": "find_book"}, {"name": "find_book"}]},
            "there is no call of find_book where it was expected, but elsewhere",
        ),
        (
            {"calls": [{"name": "lend"}, {"name": "find_book"}], "ordered": True},
            "there is no call of find_book where it was expected, but elsewhere",
        ),
        ({"calls": [{"name": "lend", "arguments": {"days": True}}]}, "there is no call of lend with"),
        ({"calls": [{"name": "lend", "json_schema": {"required": ["card"]}}]}, "by its schema; the last one"),
        ({"calls": [{"name": "find_book", "outcome": "error"}]}, "that is refused: it succeeded"),
        (
            {"calls": [{"name": "lend"}], "exactly": True},
            'the call find_book({"title":"Emma"}) was not expected',
        ),
        (
            {"forbidden": [{"name": "lend", "arguments": {"book": "b2"}}]},
            'the call lend({"book":"b2","days":14}) was made, which is forbidden',
        ),
        (
            {"state": {"contains": {"books": {"b1": {"lent_to": None}}}}},
            'the state.books.b1.lent_to is "m7", and not null',
        ),
        (
            {"state": {"contains": {"books": {"b1": {"tags": []}}}}},
            "the state.books.b1.tags has 1 items",
        ),
        ({"state": {"contains": {"loans": {}}}}, "the state has no loans"),
        ({"state": {"equals": {"fees": 0}}}, "the state has books as well"),
        ({"state": {"json_schema": {"properties": {"fees": {"minimum": 1}}}}}, "its schema: fees: 0 is less"),
    ],
)
def test_a_goal_is_missed_for_a_reason(expect: dict[str, Any], reason: str) -> None:
    verdict = checked(expect, FIND, REFUSED, LEND, state=STATE)
    assert not verdict.met
    assert reason in verdict.reason


def test_a_call_that_met_a_fault_was_neither_made_nor_refused() -> None:
    calls = [{"name": "lend", "outcome": outcome} for outcome in ("success", "error", "any")]
    for event in (
        replace(LEND, result="", problem=ToolProblem.FAULT),
        replace(LEND, result="", error="no result within 20 s", problem=ToolProblem.FAULT),
    ):
        assert [checked({"calls": [call]}, event).met for call in calls] == [False, False, True]
        assert checked({"exactly": True}, event).met
    assert "it failed" in checked({"calls": calls[:1]}, event).reason


def test_every_problem_is_reported_in_few_words() -> None:
    expect = {"calls": [{"name": "pay"}], "forbidden": [{"name": "lend"}]}
    assert checked(expect).reason == "there is no call at all, and no call of pay"
    long = ToolEvent("lend", {"book": "b" * 5000})
    verdict = checked({**expect, "exactly": True}, *([long] * 40))
    assert verdict.reason.startswith("there is no call of pay; the call lend(")
    assert len(verdict.reason) == 600


numbers = st.lists(st.lists(st.integers(0, 4), max_size=4, unique=True), max_size=5)


@settings(max_examples=60, deadline=None)
@given(numbers)
def test_as_many_expected_calls_as_can_get_one_of_their_own(fits: list[list[int]]) -> None:
    taken = _assigned(fits)
    given_away = [number for number in taken if number is not None]
    assert len(set(given_away)) == len(given_away)
    assert all(number is None or number in fits[i] for i, number in enumerate(taken))
    spare = [-1] * len(fits)
    most = (
        max(
            sum(number in fits[i] for i, number in enumerate(order))
            for order in permutations([*range(5), *spare], len(fits))
        )
        if len(fits) < 4
        else len(given_away)
    )
    assert len(given_away) == most


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=80, deadline=None)
@given(json_values, json_values, st.booleans())
def test_plain_data_is_equal_to_itself_alone(one: Any, other: Any, partly: bool) -> None:
    assert not difference(one, one, partly=partly)
    if isinstance(one, dict):
        assert not difference({}, one, partly=True)
        assert bool(difference({}, one)) == bool(one)
    if type(one) is type(other) and one != other and not partly and not isinstance(one, dict | list):
        assert difference(one, other)


GOAL = {"text": "Borrow {{ topic }}", "expect": {"calls": [{"name": "vector_db_search"}]}}


LENDING = {
    "parameters": {"type": "object", "properties": {"book": {"type": "string"}}},
    "table": [{"result": "ok"}],
}
TOOLS = {
    "enabled": True,
    "functions": [{"name": name, "description": name, **LENDING} for name in ("lend", "renew", "pay", "ask")],
}


def configured(goal: dict[str, Any] = GOAL, **sections: Any) -> GenerationConfig:
    run = {"total_samples": 4, "target_languages": ["en"], **sections.pop("run", {})}
    conversation = {"goals": [goal], **sections.pop("conversation", {})}
    given = {"run": run, "conversation": conversation, "tools": {"enabled": True}, **sections}
    return validate(GenerationConfig, given, "test")


def planned(generation: GenerationConfig) -> list[DialoguePlan]:
    (plan,) = plan_run(generation, LlmConfig(), read_personas(), read_seeds("", strict=True)).plans
    return list(plan.dialogues())


def test_the_plan_holds_what_is_expected_with_its_texts_filled_in() -> None:
    tools = {**TOOLS, "state": {"initial": [{"value": {"books": {"{{ attributes.book }}": {}}}}]}}
    expect = {
        "calls": [{"name": "vector_db_search", "arguments": {"query": "{{ topic }}", "top_k": 3}}],
        "state": {"contains": {"books": {"{{ attributes.book }}": {"lent": True}}}},
    }
    attributes = {"book": {"values": ["b1"]}}
    for plan in planned(configured({**GOAL, "expect": expect}, attributes=attributes, tools=tools)):
        assert plan.expects == {
            "calls": [{"name": "vector_db_search", "arguments": {"query": plan.topic.topic, "top_k": 3}}],
            "state": {"contains": {"books": {"b1": {"lent": True}}}},
        }
        assert DialoguePlan.from_json(plan.to_json()) == plan
        assert not plan.goal_is_judged
        assert not judges_goal(WHOLE, plan, ())
    for plan in planned(configured({"text": "Borrow"})):
        assert plan.goal_is_judged
        assert "expects" not in plan.to_json()


def test_a_dialogue_has_the_tools_that_its_goal_speaks_of() -> None:
    expect = {"calls": [{"name": "pay"}], "forbidden": [{"name": "lend"}]}
    tools = {**TOOLS, "per_dialogue": {"drawn": 1, "always": ["ask"]}}
    for plan in planned(configured({**GOAL, "expect": expect}, tools=tools)):
        assert {"lend", "pay", "ask"} <= set(plan.tools or ())
    for plan in planned(configured({"text": "Borrow"}, tools=tools)):
        assert len(plan.tools or ()) == 2


def test_what_is_expected_counts_for_the_fingerprint() -> None:
    def fingerprint(goal: dict[str, Any]) -> str:
        return content_fingerprint(configured(goal), LlmConfig(), read_personas())

    plain = {"text": "Borrow"}
    assert fingerprint(plain) == fingerprint({**plain, "expect": {}})
    assert len({fingerprint({**plain, "expect": e}) for e in ({}, GOAL["expect"], {"exactly": True})}) == 3


@pytest.mark.parametrize(
    ("goal", "sections", "problem"),
    [
        (
            GOAL,
            {"tools": {}},
            "conversation.goals.0.expect: it is seen from calls of tools, and",
        ),
        ({**GOAL, "text": ""}, {}, "conversation.goals.0.text: it is empty, and expect is not"),
        (
            {**GOAL, "expect": {"forbidden": [{"name": "web_search"}]}},
            {},
            "goals.0.expect.forbidden.0.name: 'web_search' is no tool of the recipe; ",
        ),
        (
            {**GOAL, "expect": {"calls": [{"name": "led"}]}},
            {"tools": TOOLS},
            "goals.0.expect.calls.0.name: 'led' is no tool of the recipe; did you mean 'lend'",
        ),
        (
            {**GOAL, "expect": {"calls": [{"name": "lend", "arguments": {"bok": "b1"}}]}},
            {"tools": TOOLS},
            "goals.0.expect.calls.0.arguments: lend has no parameter 'bok'; did you mean 'book'",
        ),
        (
            {**GOAL, "expect": {"state": {"contains": {"fees": 0}}}},
            {},
            "conversation.goals.0.expect.state: tools have no state; set tools.state.initial",
        ),
        (
            {**GOAL, "expect": {"calls": [{"name": "x", "json_schema": {"type": "objekt"}}]}},
            {},
            "conversation.goals.0.expect.calls.0.json_schema: it is no JSON schema: type: 'objekt' is",
        ),
        (
            {**GOAL, "expect": {"state": {"json_schema": {"properties": {"a": {"properties": {True: {}}}}}}}},
            {},
            "state.json_schema: its key True is no text; write it in quotes",
        ),
        (
            {**GOAL, "expect": {"state": {"json_schema": {"$ref": "http://127.0.0.1/x.json"}}}},
            {},
            "state.json_schema: $ref = 'http://127.0.0.1/x.json' leads elsewhere",
        ),
        (
            {
                **GOAL,
                "expect": {"calls": [{"name": "x", "json_schema": {"properties": {"a": {"pattern": "("}}}}]},
            },
            {},
            "json_schema: it is no JSON schema: properties.a.pattern: '(' is not a 'regex'",
        ),
        (
            {**GOAL, "expect": {"calls": [{"nam": "x"}]}},
            {},
            "calls.0.nam: unknown key; did you mean",
        ),
        ({**GOAL, "expect": {"calls": [{"name": "{{ tpic }}"}]}}, {}, "tpic"),
        (
            {**GOAL, "expect": {"forbidden": [{"name": "{{ attributes.tool }}"}]}},
            {},
            "conversation.goals.0.expect: ",
        ),
        (
            {"text": "Borrow"},
            {"judge": {"mode": "off"}, "run": {"accept": {"goal_met": True}}},
            "run.accept.goal_met: a dialogue is accepted when it is finished, but with judge.mode = 'off'",
        ),
    ],
)
def test_what_cannot_be_expected_is_an_error(
    goal: dict[str, Any], sections: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ConfigError) as error:
        configured(goal, **sections)
    assert problem in str(error.value)


def test_a_checked_goal_needs_no_judge_to_be_accepted() -> None:
    accept = {"accept": {"goal_met": True}}
    generation = configured(judge={"mode": "off"}, run=accept)
    script = Script.of(generation, has_tools=True)
    assert script == Script.of(configured({"text": "Borrow"}, judge={"mode": "off"}), has_tools=True)
    acceptance = Acceptance(AcceptConfig(goal_met=True), JudgeConfig())
    plan = planned(generation)[0]
    missed = Dialogue(plan, make_dialogue().turns, goal=GoalVerdict(False, "There is no call."))
    assert acceptance.shortcomings(missed) == {"goal_met": "the user missed the goal: There is no call."}


FOUND = ToolEvent("vector_db_search", {"query": "x"}, "found")


@pytest.mark.parametrize("events", [(FOUND,), ()])
@pytest.mark.parametrize("leaves", [False, True])
def test_the_script_checks_the_goal_when_the_dialogue_ends(
    events: tuple[ToolEvent, ...], leaves: bool
) -> None:
    generation = configured(
        run={"n_turns": 2, "min_turns": 1}, conversation={"ends": "user"}, judge={"mode": "off"}
    )
    script, plan = Script.of(generation, has_tools=True), planned(generation)[0]
    answered = Answered("So.", TurnDetails(tools=events))
    state = fold(State.of(plan), [Asked("Why?"), answered])
    step = script.next(state)
    assert isinstance(step, Commit)
    assert (step.final, step.goal) == (False, None)
    state = state.after(Committed(step.turn))
    state = state.after(UserLeft()) if leaves else fold(state, [Asked("And?"), Answered("Too.")])
    end = script.next(state)
    assert isinstance(end, Finish if leaves else Commit)
    assert end.goal is not None
    assert end.goal.met is bool(events)
