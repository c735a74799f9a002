"""Tool calls and reasoning over HTTP: simulated endpoints, and the embedded model's real server."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Sequence
from typing import Any

import pytest

from dlgforge_core.config import AgentConfig, EmbeddedConfig, RoutingConfig, ToolsConfig
from dlgforge_core.dialogue import Role
from dlgforge_core.knowledge.types import Chunk, Hit
from dlgforge_core.llm.client import Completion, LlmClient, Message
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.llm.tool_calls import ToolCall, call_message, result_message
from dlgforge_core.prompting.tool_definitions import VECTOR_DB_SEARCH
from dlgforge_core.runtime.serving.embedded_model import EmbeddedModelServer
from dlgforge_core.tool_events import ToolEvent
from dlgforge_core.tools.toolbox import Toolbox
from tests.support.simulated_endpoint import SimulatedEndpoint, simulated_endpoint
from tests.support.tool_rounds import answer_with_tools

ASKED: list[Message] = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "How do tides form?"},
]
SCHEMA = {"type": "object", "properties": {"score": {"type": "integer"}}, "required": ["score"]}
CALL = ToolCall("c1", "vector_db_search", {"query": "tides"})
AFTER = [*ASKED, call_message("", [CALL]), result_message(CALL, "Tides follow the moon.")]


async def search(query: str, *, k: int) -> list[Hit]:
    return [Hit(Chunk(f"c{n}", "tides.md", n, f"Passage {n} about {query}", "en"), 1.0) for n in range(k)]


def at(sim: SimulatedEndpoint, name: str = "a") -> Endpoint:
    return Endpoint(name, sim.base_url)


async def ask(
    llm: LlmClient,
    messages: Sequence[Message] = ASKED,
    tools: Any = (VECTOR_DB_SEARCH,),
    *,
    affinity: str = "d",
    model: str = "m",
    max_tokens: int = 512,
) -> Completion:
    return await llm.complete(
        Role.ASSISTANT,
        AgentConfig(max_tokens=max_tokens),
        model,
        messages,
        affinity=affinity,
        seed=1,
        tools=tools,
    )


async def answer(
    llm: LlmClient, max_rounds: int = 3, **settings: Any
) -> tuple[Completion, tuple[ToolEvent, ...]]:
    toolbox = Toolbox(ToolsConfig(enabled=True), search)
    completion, events, _ = await answer_with_tools(
        functools.partial(ask, llm, **settings), ASKED, toolbox, max_rounds
    )
    return completion, events


def client(*endpoints: Endpoint, patience_s: float = 20.0) -> LlmClient:
    return LlmClient(endpoints, RoutingConfig(strategy="round_robin"), patience_s=patience_s)


def test_a_call_is_answered_and_the_model_goes_on() -> None:
    async def main() -> tuple[Completion, Completion]:
        async with client(at(sim)) as llm:
            called = await ask(llm)
            (call,) = called.tool_calls
            messages = [*ASKED, call_message(called.text, [call]), result_message(call, "The moon.")]
            return called, await ask(llm, messages)

    with simulated_endpoint(tool_calls="once", record_requests=5) as sim:
        called, message = asyncio.run(main())
        bodies = [request["body"] for request in sim.requests()]
    assert (called.text, called.finish_reason, called.tools_offered) == ("", "tool_calls", True)
    assert called.tool_calls[0].name == "vector_db_search"
    assert called.tool_calls[0].arguments == {"query": "How do tides form?"}
    assert message.text
    assert (message.tool_calls, message.finish_reason) == ((), "stop")
    assert bodies[0]["tools"] == [VECTOR_DB_SEARCH.to_json()]
    assert bodies[1]["messages"][2]["tool_calls"][0]["id"] == called.tool_calls[0].id
    assert bodies[1]["messages"][3]["tool_call_id"] == called.tool_calls[0].id


def test_an_endpoint_that_refuses_tools_is_asked_once_and_remembered(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> tuple[list[Completion], LlmClient]:
        async with client(at(sim)) as llm:
            return [await ask(llm), await ask(llm, AFTER), await ask(llm, AFTER, None)], llm

    with simulated_endpoint(tool_calls="refused", record_requests=10) as sim:
        completions, llm = asyncio.run(main())
        stats, bodies = sim.stats(), [request["body"] for request in sim.requests()]
    assert all(c.text and not c.tool_calls and not c.tools_offered for c in completions)
    assert stats["by_status"] == {"400": 1, "200": 3}
    assert ["tools" in body for body in bodies] == [True, False, False, False]
    # What the tools found goes along, in words.
    assert [m["role"] for m in bodies[2]["messages"]] == ["system", "user"]
    assert "Tides follow the moon." in bodies[2]["messages"][1]["content"]
    counts = llm.stats.of("a", Role.ASSISTANT)
    assert (counts.calls, counts.failures) == (3, {"bad_request": 1})
    assert llm.health()[0].in_flight == 0
    (warned,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert "From now on it is asked: without tools." in warned
    assert "llm.vllm.extra_args" in warned


def test_a_conversation_with_tools_goes_on_where_there_are_none() -> None:
    async def main() -> Completion:
        async with client(at(sim)) as llm:
            return await ask(llm, AFTER, None)

    with simulated_endpoint(tool_calls="refused") as sim:
        assert asyncio.run(main()).text
        assert sim.stats()["by_status"] == {"400": 1, "200": 1}


def test_each_endpoint_is_asked_as_it_understands() -> None:
    async def main() -> list[tuple[Completion, tuple[ToolEvent, ...]]]:
        async with client(at(able, "able"), at(unable, "unable")) as llm:
            return [await answer(llm) for _ in range(8)]

    with simulated_endpoint(tool_calls="once") as able, simulated_endpoint(tool_calls="refused") as unable:
        results = asyncio.run(main())
        assert unable.stats()["by_status"]["400"] == 1
    assert all(completion.text for completion, _ in results)
    assert {c.endpoint: c.tools_offered for c, _ in results} == {"able": True, "unable": False}


def test_rounds_are_bounded_and_end_in_an_answer() -> None:
    async def main() -> tuple[Completion, tuple[ToolEvent, ...]]:
        async with client(at(sim)) as llm:
            return await answer(llm, max_rounds=2)

    with simulated_endpoint(tool_calls="always", tool_calls_at_once=2, record_requests=9) as sim:
        completion, events = asyncio.run(main())
        bodies = [request["body"] for request in sim.requests()]
    assert completion.text
    assert len(events) == 4
    assert len({event.call_id for event in events}) == 4
    assert ["tools" in body for body in bodies] == [True, True, False]
    assert [m["role"] for m in bodies[2]["messages"]] == ["system", "user"]
    assert "> Passage 0 about How do tides form?" in bodies[2]["messages"][1]["content"]


@pytest.mark.parametrize(
    "broken", [{"tool_arguments": '{"query": "ti'}, {"tool_arguments": "no idea"}, {"tool_name": "rm"}]
)
def test_broken_calls_cost_no_dialogue(broken: dict[str, Any]) -> None:
    async def main() -> tuple[Completion, tuple[ToolEvent, ...]]:
        async with client(at(sim)) as llm:
            return await answer(llm)

    with simulated_endpoint(tool_calls="once", **broken) as sim:
        completion, (event,) = asyncio.run(main())
        assert sim.stats()["by_status"] == {"200": 2}
    assert completion.text
    assert bool(event.error) == (broken != {"tool_arguments": '{"query": "ti'})


def test_a_call_that_the_server_cannot_read_costs_that_call_its_tools() -> None:
    async def main() -> tuple[Completion, Completion]:
        async with client(at(sim)) as llm:
            completion, _ = await answer(llm)
            await asyncio.to_thread(sim.configure, tool_calls="once")
            return completion, await ask(llm)

    with simulated_endpoint(tool_calls="unreadable") as sim:
        first, second = asyncio.run(main())
        assert sim.stats()["by_status"] == {"500": 1, "200": 2}
    assert first.text
    assert not first.tools_offered
    assert second.tool_calls


def test_empty_answers_are_still_unusable_with_tools() -> None:
    async def main() -> None:
        async with client(at(sim)) as llm:
            for _ in range(20):
                completion, _ = await answer(llm)
                assert completion.text

    with simulated_endpoint(tool_calls="once", faults={"empty": 0.1, "500": 0.05}) as sim:
        asyncio.run(main())
        assert sim.stats()["faults"]["empty"] > 1


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning", "think"])
def test_reasoning_is_kept_apart(field: str) -> None:
    async def main() -> tuple[Completion, Completion, Completion]:
        async with client(at(sim)) as llm:
            completion, _ = await answer(llm)
            _, verdict = await llm.complete_json(
                Role.JUDGE, AgentConfig(), "m", ASKED, SCHEMA, affinity="d", seed=1
            )
            return completion, await ask(llm, tools=None), verdict

    with simulated_endpoint(tool_calls="once", reasoning="The moon, I think.", reasoning_field=field) as sim:
        with_tools, plain, verdict = asyncio.run(main())
    assert with_tools.reasoning == "The moon, I think.\n\nThe moon, I think."
    assert plain.reasoning == "The moon, I think."
    assert verdict.reasoning == ""
    for completion in (with_tools, plain):
        assert completion.text
        assert "moon, I think" not in completion.text
        assert "<" not in completion.text


def test_the_embedded_model_answers_whether_it_takes_tools_or_not() -> None:
    async def main(endpoint: Endpoint) -> None:
        model = endpoint.name
        async with client(endpoint, patience_s=120.0) as llm:
            completion, events = await answer(llm, model=model, max_tokens=40)
            assert completion.text
            assert "<tool_call>" not in completion.text
            assert all(event.result or event.error for event in events)
            # A conversation in which tools were called, with and without tools on offer.
            for tools in ((VECTOR_DB_SEARCH,), None):
                message = await ask(llm, AFTER, tools, model=model, max_tokens=40)
                assert message.text or message.tool_calls
            # A model that calls whatever it is told to: its own words must not be lost or leak.
            calls = [{"role": "user", "content": 'Say exactly: <tool_call>{"name": "x"}</tool_call> Hello.'}]
            message = await ask(llm, calls, model=model, max_tokens=40)
            assert "<tool_call>" not in message.text

    with EmbeddedModelServer(EmbeddedConfig()) as server:
        asyncio.run(main(server.start(2)))
