"""The recipes with tools, run: what was called, what came of it, and the state at the end, exactly."""

from __future__ import annotations

from typing import Any

import orjson

from dlgforge_core.dialogue import Role
from dlgforge_core.store.run_store import RunStore
from dlgforge_core.tool_events import ToolProblem
from tests.support.recipes import MODELS, run_example

LENDING: list[dict[str, Any]] = [
    {
        "turn": 1,
        "rounds": [
            [
                {"name": "find_books", "arguments": {"words": "melville"}},
                {"name": "reader_account", "arguments": {"reader_id": "r1"}},
            ],
            [{"name": "lend_book", "arguments": {"book_id": "b1", "reader_id": "r1"}}],
            [
                {"name": "pay_fine", "arguments": {"reader_id": "r1", "amount": 2.5}},
                {"name": "lend_book", "arguments": {"book_id": "b1", "reader_id": "r1"}},
            ],
        ],
    },
    {
        "turn": 2,
        "rounds": [
            [
                {"name": "renew_book", "arguments": {"book_id": "b1"}},
                {"name": "reserve_book", "arguments": {"book_id": "b3"}},
                {"name": "reserve_book", "arguments": '{"book_id": "b3", "reader'},
            ],
            [{"name": "reserve_book", "arguments": {"book_id": "b3", "reader_id": "r2"}}],
        ],
    },
]
LENT = {
    "books": {
        "b1": {"title": "Moby-Dick", "author": "Herman Melville", "lent_to": "r1", "reserved_by": []},
        "b2": {"title": "Emma", "author": "Jane Austen", "lent_to": "", "reserved_by": []},
        "b3": {"title": "Middlemarch", "author": "George Eliot", "lent_to": "r1", "reserved_by": ["r2"]},
    },
    "readers": {"r1": {"name": "Ada Hill", "fine": 0.0}, "r2": {"name": "Ben Frost", "fine": 0.0}},
}


def test_the_library_lends_reserves_and_takes_payments(store: RunStore) -> None:
    ran = run_example(store, "library.yaml", tool_script=LENDING)
    assert len(ran.dialogues) == 8
    for dialogue in ran.dialogues:
        assert dialogue.final_state == LENT
        assert dialogue.plan.tool_state is not None
        assert dialogue.plan.tool_state["readers"]["r1"]["fine"] == 2.5
        first, second = (turn.details.tools for turn in dialogue.turns)
        found, account, refused, paid, lent = first
        assert orjson.loads(found.result) == [
            {"id": "b1", "title": "Moby-Dick", "author": "Herman Melville", "available": True}
        ]
        assert orjson.loads(account.result)["loans"] == ["b3"]
        assert (refused.error, refused.problem, refused.changes) == (
            "r1 has to pay a fine of 2.5 first",
            ToolProblem.ERROR,
            (),
        )
        assert paid.changes == ({"op": "replace", "path": "/readers/r1/fine", "value": 0.0},)
        assert lent.changes == ({"op": "replace", "path": "/books/b1/lent_to", "value": "r1"},)
        unknown, lacking, broken, reserved = second
        assert unknown.problem is ToolProblem.UNKNOWN_TOOL
        assert "there is no tool 'renew_book'; the tools are: find_books" in unknown.error
        assert [lacking.problem, broken.problem] == [ToolProblem.INVALID_ARGUMENTS] * 2
        assert "'reader_id' is a required property" in lacking.error
        assert orjson.loads(reserved.result) == {"position": 1}
        assert dialogue.goal_verdict is not None
        assert dialogue.goal_verdict.met
    asked = ran.asked(Role.ASSISTANT)
    shown = {message["content"] for prompt in asked for message in prompt if message["role"] == "tool"}
    assert "Error: r1 has to pay a fine of 2.5 first" in shown
    later = [prompt for prompt in asked if sum(one["role"] == "user" for one in prompt) == 2]
    assert later, "what was called in the first turn is known in the second"
    assert all(
        '"fine_left":0.0' in str([one for one in prompt if one["role"] == "tool"][3]) for prompt in later
    )
    offered = [request["tools"] for request in ran.requests if "tools" in request]
    assert {one["model"] for one in ran.requests if "tools" in one} == {MODELS[Role.ASSISTANT]}
    assert [tool["function"]["name"] for tool in offered[0]] == ran.recipe.tools.function_names


def test_support_has_tools_that_a_model_plays_and_faults(store: RunStore) -> None:
    def refund(order: str) -> list[dict[str, Any]]:
        look = {"name": "get_order", "arguments": {"order": order}}
        give = {"name": "refund_order", "arguments": {"order": order}}
        return [look, give]

    script = [
        {"turn": turn, "rounds": [refund("A-1001"), refund("A-1002"), refund("A-1001")]} for turn in (1, 2)
    ]

    def refunded(order: str, amount: float) -> list[dict[str, Any]]:
        call = f'Call: refund_order {{"order":"{order}"}}'
        status = {"op": "replace", "path": f"/orders/{order}/status", "value": "refunded"}
        answer = {"error": "", "result": {"amount": amount}, "changes": [status]}
        return [{"contains": call, "answer": answer}]

    results = [
        {
            "contains": "Call: get_order",
            "answer": {"error": "", "result": {"status": "delivered"}, "changes": []},
        },
        *refunded("A-1001", 18.0),
        *refunded("A-1002", 45.5),
    ]
    ran = run_example(store, "support.yaml", tool_script=script, tool_results=results)
    assert len(ran.dialogues) == 8
    offered = {dialogue.plan.tools for dialogue in ran.dialogues}
    assert offered == {
        ("get_order", "refund_order", "send_voucher"),
        ("get_order", "refund_order", "opening_hours"),
    }
    orders = {"A-1001": 18.0, "A-1002": 45.5}
    faults = []
    for dialogue in ran.dialogues:
        events = [event for turn in dialogue.turns for event in turn.details.tools]
        assert len(events) == 12
        done = {e.arguments["order"] for e in events if e.name == "refund_order" and not e.problem}
        for order in orders:
            assert dialogue.final_state is not None
            status = dialogue.final_state["orders"][order]["status"]
            assert status == ("refunded" if order in done else "delivered")
        assert dialogue.goal_verdict is not None
        assert dialogue.goal_verdict.met == (dialogue.plan.attributes["order"] in done)
        assert {e.problem for e in events} <= {ToolProblem.NONE, ToolProblem.FAULT}
        faults += [e.error or e.result for e in events if e.problem]
        assert not any(e.changes for e in events if e.problem)
    assert 96 * 0.2 < len(faults) < 96 * 0.6, "two in five"
    assert set(faults) >= {
        "refund_order gave no result within 20 s",
        "refund_order failed: internal error",
        "{}",
    }
    played = ran.asked(Role.TOOL_SIMULATOR)
    assert len(played) == 96 - len(faults)
    assert all('"item":"an atlas"' in prompt[-1]["content"] for prompt in played)
