"""A dialogue whose tools change a state: whatever it is cut off in, no recorded call is made again."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import orjson
import pytest
from pydantic import SecretStr

from dlgforge_core.config import AgentsConfig, AnswersConfig, JudgeConfig, ToolsConfig, validate
from dlgforge_core.conversation.script import Script
from dlgforge_core.conversation.steps import Done, Dropped
from dlgforge_core.dialogue import DropReason, Role, state_after
from dlgforge_core.errors import RunStoppedError
from dlgforge_core.generation.dialogue_context import DialogueContext
from dlgforge_core.generation.dialogue_run import DialogueRun
from dlgforge_core.llm.client import CallError, Completion, LlmClient, Message
from dlgforge_core.llm.forms import Form, Written
from dlgforge_core.llm.tool_calls import ToolCall
from dlgforge_core.scheduling.call_slots import CallSlots
from dlgforge_core.tool_events import ToolProblem
from dlgforge_core.tools.declarations import declared
from dlgforge_core.tools.toolbox import Toolbox
from tests.unit.test_dialogue_run import PLAN, Store


class CrashError(RunStoppedError):
    """The process is gone: unlike a failure of a tool, nobody takes it for the tool's."""


@dataclass
class World:
    """Counts what happens outside of the dialogue, model calls and side effects, and crashes after one."""

    crash_at: int = -1
    done: list[str] = field(default_factory=list)

    def happen(self, what: str) -> None:
        self.done.append(what)
        if len(self.done) - 1 == self.crash_at:
            raise CrashError


WORLD = World()


def add(amount: int, state: dict[str, Any]) -> dict[str, int]:
    """Add to the total."""
    state["total"] += amount
    WORLD.happen(f"add {amount}")
    if amount > 100:
        raise ValueError("that is too much")
    return {"total": state["total"]}


TOOLS = validate(
    ToolsConfig,
    {
        "enabled": True,
        "functions": [
            {"python": "tests.unit.test_tool_dialogue:add"},
            {
                "name": "label",
                "description": "Labels the total.",
                "simulated": True,
                "parameters": {"type": "object", "properties": {"text": {"type": "string"}}},
                "result": {"type": "string"},
            },
        ],
        "state": {
            "json_schema": {"required": ["total"], "properties": {"total": {"type": "integer"}}},
            "initial": [{"value": {"total": 0, "labels": []}}],
        },
    },
    "tools",
)
SCRIPT = Script(3, tool_rounds=3)
ROUNDS: list[list[tuple[str, dict[str, Any]]]] = [
    [("add", {"amount": 1}), ("label", {"text": "one"}), ("add", {"amount": "x"}), ("add", {"amount": 1})],
    [("add", {"amount": 500}), ("add", {"amount": 2})],
]
PLANNED = replace(PLAN, tools=("add", "label"), tool_state={"total": 0, "labels": []})


class Client:
    """An assistant that makes the calls of ROUNDS for each answer, and a model that plays `label`."""

    def __init__(self, failure: CallError | None = None) -> None:
        self.failure = failure

    async def complete(
        self,
        role: Role,
        agent: Any,
        model: str,
        messages: Sequence[Message],
        *,
        tools: Any = None,
        **rest: Any,
    ) -> Completion:
        WORLD.happen(f"{role.value} {rest['seed']} {len(messages)}")
        asked = max(n for n, message in enumerate(messages) if message["role"] == "user")
        made = sum(bool(message.get("tool_calls")) for message in messages[asked:])
        calls: tuple[ToolCall, ...] = ()
        if role is Role.ASSISTANT and tools and made < len(ROUNDS):
            calls = tuple(ToolCall(f"c{n}", name, given) for n, (name, given) in enumerate(ROUNDS[made]))
        text = "" if calls else f"{role.value} {rest['seed']}?"
        return Completion(text, "stop", 1, 1, None, "a", model, 0.1, calls, bool(tools))

    async def complete_form(
        self, role: Role, agent: Any, model: str, messages: Sequence[Message], form: Form[Any], **rest: Any
    ) -> tuple[Any, None]:
        assert role is Role.TOOL_SIMULATOR
        if self.failure is not None:
            raise self.failure
        WORLD.happen(f"{role.value} {rest['seed']} {messages[-1]['content']}")
        changes = [{"op": "add", "path": "/labels/-", "value": "one"}]
        answer = orjson.dumps({"error": "", "result": "done", "changes": changes}).decode()
        return form.read(Written(answer, answer, "", False, cast(Any, None))), None

    async def complete_json(self, *args: Any, **rest: Any) -> Any:
        raise AssertionError("nothing is judged")


def carry(store: Store, client: Client | None = None, answers: AnswersConfig | None = None) -> object:
    several = answers or AnswersConfig()
    context = DialogueContext(
        script=replace(SCRIPT, candidates=several.candidates),
        store=store,
        client=cast(LlmClient, client or Client()),
        slots=CallSlots(1),
        seed=1,
        agents=AgentsConfig(),
        models=dict.fromkeys(Role, "m"),
        judge=JudgeConfig(mode="off"),
        toolbox=Toolbox(TOOLS, declared=declared(TOOLS, dict[str, SecretStr]())),
        answers=several,
    )
    return asyncio.run(DialogueRun(context, store.claim()).run())


def undisturbed() -> tuple[Store, list[str]]:
    WORLD.__init__()  # type: ignore[misc]
    store = Store(plan=PLANNED)
    assert carry(store) == Done()
    return store, list(WORLD.done)


def test_each_call_is_made_once_in_its_order() -> None:
    store, done = undisturbed()
    assert len([what for what in done if what.startswith("add")]) == 2 * 4
    asked = [what for what in done if not what.startswith("add")]
    assert len(asked) == len(set(asked)) == 12
    for number, turn in enumerate(store.turns):
        one, label, wrong, again, refused, two = turn.details.tools
        base = 4 * number
        assert orjson.loads(one.result) == {"total": base + 1}
        assert label.changes == ({"op": "add", "path": "/labels/-", "value": "one"},)
        assert wrong.problem is ToolProblem.INVALID_ARGUMENTS
        assert orjson.loads(again.result) == {"total": base + 2}, "a call that was made before is made again"
        assert (refused.error, refused.changes) == ("that is too much", ())
        assert orjson.loads(two.result) == {"total": base + 4}
    assert state_after(PLANNED, store.turns) == {"total": 8, "labels": ["one", "one"]}
    assert '"total":1,' in next(what for what in done if what.startswith("tool_simulator"))


def test_a_crash_costs_the_call_in_flight_and_no_effect_is_repeated_once_it_is_recorded() -> None:
    whole, everything = undisturbed()
    for crash_at in range(len(everything)):
        WORLD.__init__(crash_at)  # type: ignore[misc]
        store = Store(plan=PLANNED)
        try:
            ended = carry(store)
        except CrashError:
            ended = carry(store)
        assert ended == Done()
        assert WORLD.done[:crash_at] + WORLD.done[crash_at + 1 :] == everything, crash_at
        assert store.turns == whole.turns
        assert store.outcomes == []


def test_each_of_several_answers_has_the_state_for_itself() -> None:
    WORLD.__init__()  # type: ignore[misc]
    store = Store(plan=replace(PLANNED, n_turns=1))
    with pytest.raises(AssertionError, match="nothing is judged"):  # the comparison, once both are there
        carry(store, answers=AnswersConfig(candidates=2, temperatures=[0.1, 0.9]))
    progress = store.claim().state.progress
    for answer in progress.answers:
        assert answer.answer is not None
        assert state_after(PLANNED, [], answer.answer.details.tools) == {"total": 4, "labels": ["one"]}


def test_a_model_that_cannot_play_its_tool_costs_the_dialogue() -> None:
    WORLD.__init__()  # type: ignore[misc]
    store = Store(plan=PLANNED)
    ended = carry(store, Client(CallError(DropReason.INVALID_OUTPUT, "no JSON")))
    assert ended == Dropped(DropReason.INVALID_OUTPUT, "no JSON")
