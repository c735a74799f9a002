"""What a request holds beside the dialogue, as it arrives: headers and further parameters; and where."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import traceback
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from dlgforge_core.config import LlmConfig, RoutingConfig, validate
from dlgforge_core.dialogue import Role
from dlgforge_core.errors import ConfigError, RunStoppedError
from dlgforge_core.llm.check import check_endpoints
from dlgforge_core.llm.client import Completion, LlmClient
from dlgforge_core.llm.endpoints import Endpoint, endpoints_from_config
from dlgforge_core.llm.transport import EndpointTransport
from tests.support.simulated_endpoint import simulated_endpoint

KEY = "azure-secret-0123456789"
PROMPT = [{"role": "user", "content": "Tell me about seeds."}]
NO_THINKING = {"chat_template_kwargs": {"enable_thinking": False}, "presence_penalty": 0.5, "stop": ["##"]}
SCHEMA = {"type": "object", "properties": {"score": {"type": "integer"}}, "required": ["score"]}


def llm_of(**settings: Any) -> LlmConfig:
    return validate(LlmConfig, {"backend": "openai", "model": "m", **settings}, "c")


async def ask(
    endpoints: Sequence[Endpoint], llm: LlmConfig, *roles: Role, patience_s: float = 5.0
) -> list[Completion]:
    async with LlmClient(endpoints, llm.routing, patience_s=patience_s) as client:
        return [
            await client.complete(
                role, llm.agents.of(role), llm.model_of(role), PROMPT, affinity=f"d{n}", seed=n
            )
            for n, role in enumerate(roles)
        ]


@contextlib.asynccontextmanager
async def heads() -> AsyncIterator[tuple[str, list[str]]]:
    """Yield a server that keeps the head of each request; its address and the heads."""
    seen: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        seen.append(head)
        body = '{"choices": [{"message": {"content": "Well."}, "finish_reason": "stop"}]}'
        reported = f"Content-Length: {len(body)}\r\nConnection: close\r\n"
        writer.write(f"HTTP/1.1 200 OK\r\n{reported}\r\n{body}".encode())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", seen


def headers(head: str) -> dict[str, str]:
    lines = (line.split(": ", 1) for line in head.splitlines()[1:] if line)
    return {name.lower(): value for name, value in lines}


def test_headers_arrive_and_a_key_header_takes_the_place_of_the_common_key() -> None:
    env = {"OPENAI_API_KEY": "sk-openai", "AZURE_KEY": KEY, "ORG": "org-1", "GATEWAY": f"Bearer {KEY}"}
    settings: list[dict[str, Any]] = [
        {"headers_env": {"api-key": "AZURE_KEY"}},
        {"headers_env": {"OpenAI-Organization": "ORG"}},
        {"headers_env": {"Authorization": "GATEWAY"}},
        {"routing": {"endpoints": [{"headers_env": {"api-key": "AZURE_KEY"}, "api_key_env": "ORG"}]}},
        {
            "headers_env": {"X-Api-Key": "AZURE_KEY"},
            "routing": {"endpoints": [{}, {"headers_env": {"o": "ORG"}}]},
        },
        {
            "headers_env": {"authorization": "GATEWAY", "user-agent": "ORG"},
            "routing": {"endpoints": [{"api_key_env": "ORG"}, {}]},
        },
    ]

    async def main() -> list[str]:
        async with heads() as (url, seen):
            for one in settings:
                named = one.get("routing", {}).get("endpoints", [])
                for number, endpoint in enumerate(named):
                    endpoint.update(base_url=f"{url}/v1", name=f"e{number}")
                llm = llm_of(**one) if named else llm_of(**one, base_url=f"{url}/openai/d?api-version=1")
                for at in endpoints_from_config(llm, env):
                    await ask([at], llm, Role.ASSISTANT)
            return seen

    seen = asyncio.run(main())
    assert seen[0].startswith("POST /openai/d/chat/completions?api-version=1 HTTP/1.1")
    reported = [headers(head) for head in seen]
    names = ("authorization", "api-key", "x-api-key", "openai-organization", "o")
    assert [{name: one[name] for name in names if name in one} for one in reported] == [
        {"api-key": KEY},
        {"authorization": "Bearer sk-openai", "openai-organization": "org-1"},
        {"authorization": f"Bearer {KEY}"},
        {"authorization": "Bearer org-1", "api-key": KEY},
        {"x-api-key": KEY},
        {"authorization": "Bearer sk-openai", "o": "org-1"},
        {"authorization": "Bearer org-1"},
        {"authorization": f"Bearer {KEY}"},
    ]
    assert [head.lower().count("\r\nuser-agent: ") for head in seen] == [1] * len(seen)
    assert [head.lower().count("\r\nauthorization: ") for head in seen[-2:]] == [1, 1]
    assert reported[-1]["user-agent"] == "org-1"


def test_an_azure_deployment_is_asked_with_its_key_which_shows_nowhere(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> RunStoppedError:
        llm = llm_of(base_url=f"{sim.base_url}?api-version=2024-10-21", headers_env={"api-key": "AZURE_KEY"})
        (endpoint,) = endpoints_from_config(llm, {"AZURE_KEY": f" {KEY}\n", "OPENAI_API_KEY": "another"})
        (completion,) = await ask([endpoint], llm, Role.ASSISTANT)
        assert completion.text
        assert await check_endpoints([endpoint], [sim_model]) == []
        assert KEY not in repr(endpoint) + str(endpoint.public())
        async with LlmClient([endpoint], RoutingConfig(), patience_s=1.0) as client:
            assert KEY not in repr(client._attempts.transports[endpoint.name].__dict__)
        await asyncio.to_thread(sim.configure, api_key="other")
        assert "its key was refused" in (await check_endpoints([endpoint], [sim_model]))[0]
        with pytest.raises(RunStoppedError) as stop:
            await ask([endpoint], llm, Role.ASSISTANT)
        return stop.value

    caplog.set_level(logging.DEBUG)
    sim_model = "m"
    with simulated_endpoint(api_key=KEY, models=[sim_model]) as sim:
        error = asyncio.run(main(), debug=True)
    assert "the key was refused" in str(error)
    assert KEY not in "".join(traceback.format_exception(error))
    assert KEY not in "".join(map(logging.Formatter().format, caplog.records))


def test_what_a_server_repeats_of_a_header_is_not_shown_and_other_words_stay() -> None:
    endpoint = Endpoint("a", "http://h/v1", headers=(("X-Token", f"Bearer {KEY}"), ("X-Team", "research")))
    message = EndpointTransport(endpoint).redact(f"Bearer {KEY} of research is no good")
    assert message == "Bearer *** of research is no good"


def test_a_header_without_its_variable_is_reported_by_name() -> None:
    with pytest.raises(ConfigError, match="h: AZURE_KEY is not set"):
        endpoints_from_config(llm_of(base_url="http://h/v1", headers_env={"api-key": "AZURE_KEY"}), {})


def test_further_parameters_arrive_with_the_calls_of_their_role_alone() -> None:
    llm = llm_of(agents={"kb_responder": {"extra_body": NO_THINKING}})
    with simulated_endpoint(record_requests=9) as sim:
        asyncio.run(ask([Endpoint("a", sim.base_url)], llm, Role.ASSISTANT, Role.USER_SIMULATOR))
        first, second = (request["body"] for request in sim.requests("/chat/completions"))
    assert {name: first[name] for name in NO_THINKING} == NO_THINKING
    assert first["model"] == "m"
    assert first["seed"] == 0
    assert not NO_THINKING.keys() & second.keys()


def test_a_judge_at_another_provider_is_asked_there_with_its_own_key() -> None:
    with (
        simulated_endpoint(models=["writer"], api_key="key-of-ours") as ours,
        simulated_endpoint(models=["judge"], api_key="key-of-theirs") as theirs,
    ):
        llm = llm_of(
            model="writer",
            agents={"qa_judge": {"model": "judge"}},
            routing={
                "endpoints": [
                    {"name": "ours", "base_url": ours.base_url, "api_key_env": "OURS"},
                    {
                        "name": "theirs",
                        "base_url": f"{theirs.base_url}?api-version=1",
                        "headers_env": {"api-key": "THEIRS"},
                    },
                ]
            },
        )
        endpoints = endpoints_from_config(llm, {"OURS": "key-of-ours", "THEIRS": "key-of-theirs"})
        roles = [Role.USER_SIMULATOR, Role.ASSISTANT, Role.JUDGE] * 5
        completions = asyncio.run(ask(endpoints, llm, *roles))
        answered = [sim.stats()["calls"] for sim in (ours, theirs)]
    assert [c.endpoint for c in completions] == ["ours", "ours", "theirs"] * 5
    # Where a model is served is found out by asking: once at the wrong one each.
    assert answered == [10 + 1, 5 + 1]
