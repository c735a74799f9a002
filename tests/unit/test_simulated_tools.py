"""Tool calls, reasoning, embeddings, reranking and web search of the simulated endpoint."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import httpx
import pytest

from tests.support.http import CLIENT
from tests.support.simulated_endpoint import SimulatedEndpoint

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "vector_db_search",
            "parameters": {
                "type": "object",
                "properties": {"query": {"type": "string"}, "top_k": {"type": "integer"}},
                "required": ["query"],
            },
        },
    }
]


def post(sim: SimulatedEndpoint, path: str, request: Any, **more: Any) -> httpx.Response:
    return CLIENT.post(sim.root_url + path, json=request, **more)


def ask(sim: SimulatedEndpoint, *more_messages: dict[str, Any], **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "How do tides form?"}, *more_messages]
    response = post(sim, "/v1/chat/completions", {"model": "m", "messages": messages, **more})
    assert response.status_code == 200, response.text
    choice: dict[str, Any] = response.json()["choices"][0]
    return choice


def test_tools_are_ignored_unless_configured_otherwise(sim: SimulatedEndpoint) -> None:
    choice = ask(sim, tools=TOOLS)
    assert choice["finish_reason"] == "stop"
    assert "tool_calls" not in choice["message"]


def test_a_call_and_text_after_its_result(sim: SimulatedEndpoint) -> None:
    sim.configure(tool_calls="once")
    assert ask(sim)["message"]["content"]  # no tools are offered
    choice = ask(sim, tools=TOOLS)
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    (call,) = choice["message"]["tool_calls"]
    assert call["function"]["name"] == "vector_db_search"
    assert json.loads(call["function"]["arguments"]) == {"query": "How do tides form?"}
    assert ask(sim, tools=TOOLS, seed=5) == choice  # by the messages alone
    result = {"role": "tool", "tool_call_id": call["id"], "content": "The moon."}
    after = (choice["message"], result)
    assert ask(sim, *after, tools=TOOLS)["message"]["content"]
    sim.configure(tool_calls="always", tool_calls_at_once=2)
    assert len(ask(sim, *after, tools=TOOLS)["message"]["tool_calls"]) == 2
    assert ask(sim, *after)["finish_reason"] == "stop"
    assert ask(sim, tools=TOOLS, tool_choice="none")["finish_reason"] == "stop"


def test_some_conversations_get_tool_calls(sim: SimulatedEndpoint) -> None:
    sim.configure(tool_calls="once", tool_call_share=0.5)
    kinds = [
        post(
            sim,
            "/v1/chat/completions",
            {"model": "m", "messages": [{"role": "user", "content": str(n)}], "tools": TOOLS},
        ).json()["choices"][0]["finish_reason"]
        for n in range(60)
    ]
    assert 10 < kinds.count("tool_calls") < 50
    assert sim.stats()["by_kind"]["tool_call"] == kinds.count("tool_calls")


def test_tools_and_their_messages_are_refused(sim: SimulatedEndpoint) -> None:
    sim.configure(tool_calls="refused")
    asked: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
    refused = post(sim, "/v1/chat/completions", {**asked, "tools": TOOLS})
    assert refused.status_code == 400
    assert "--enable-auto-tool-choice" in refused.json()["error"]["message"]
    asked["messages"].append({"role": "tool", "tool_call_id": "1", "content": "x"})
    assert post(sim, "/v1/chat/completions", asked).status_code == 400


def test_calls_can_be_broken(sim: SimulatedEndpoint) -> None:
    sim.configure(tool_calls="once", tool_name="rm", tool_arguments='{"query": "x')
    (call,) = ask(sim, tools=TOOLS)["message"]["tool_calls"]
    assert call["function"] == {"name": "rm", "arguments": '{"query": "x'}


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning", "think"])
def test_reasoning_beside_the_text(sim: SimulatedEndpoint, field: str) -> None:
    sim.configure(reasoning="Who asks?", reasoning_field=field)
    message = ask(sim)["message"]
    if field == "think":
        assert message["content"].startswith("<think>\nWho asks?\n</think>\n\n")
    else:
        assert message[field] == "Who asks?"
        assert "Who asks" not in message["content"]


def vectors(sim: SimulatedEndpoint, texts: list[str], **more: Any) -> Any:
    answer = post(sim, "/v1/embeddings", {"model": "e", "input": texts, **more}).json()
    assert [item["index"] for item in answer["data"]] == list(range(len(texts)))
    return [item["embedding"] for item in answer["data"]]


def test_embeddings_bring_texts_with_common_words_together(sim: SimulatedEndpoint) -> None:
    tides, moon, bread, empty = vectors(
        sim, ["tides follow the moon", "the moon pulls tides", "bread needs yeast", ""]
    )

    def cosine(a: list[float], b: list[float]) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True))

    assert cosine(tides, tides) == pytest.approx(1.0)
    assert cosine(empty, empty) == pytest.approx(1.0)
    assert cosine(tides, moon) > 0.5 > cosine(tides, bread)
    assert len(tides) == 64
    assert len(vectors(sim, ["x"], dimensions=8)[0]) == 8
    packed = base64.b64decode(vectors(sim, ["tides follow the moon"], encoding_format="base64")[0])
    assert struct.unpack("<64f", packed) == pytest.approx(tides)
    assert sim.stats()["embedded"] == 6


def test_embeddings_refuse_what_is_too_much(sim: SimulatedEndpoint) -> None:
    sim.configure(embedding_batch=2)
    assert post(sim, "/v1/embeddings", {"model": "e", "input": ["a", "b", "c"]}).status_code == 400
    assert post(sim, "/v1/embeddings", {"model": "e", "input": []}).status_code == 400
    sim.configure(retrieval_faults={"503": 0.5, "429": 0.5})
    codes = [post(sim, "/v1/embeddings", {"model": "e", "input": "a"}).status_code for _ in range(20)]
    assert set(codes) == {503, 429}


def test_rerank_puts_common_words_first(sim: SimulatedEndpoint) -> None:
    documents = ["bread and yeast", "the moon and its tides", "a moon"]
    request = {"model": "r", "query": "moon tides", "documents": documents}
    results = post(sim, "/v1/rerank", request).json()["results"]
    assert [(r["index"], r["relevance_score"]) for r in results] == [(1, 1.0), (2, 0.5), (0, 0.0)]
    assert results[0]["document"]["text"] == documents[1]
    assert len(post(sim, "/rerank", {**request, "top_n": 1}).json()["results"]) == 1


def test_web_search_wants_its_key(sim: SimulatedEndpoint) -> None:
    assert sim.configure(search_key="right")["search_key"] is True
    assert post(sim, "/search", {"q": "tides"}).status_code == 403
    found = post(sim, "/search", {"q": "tides", "num": 3}, headers={"X-API-KEY": "right"}).json()
    assert len(found["organic"]) == 3
    assert {"title", "link", "snippet"} <= found["organic"][0].keys()


def test_requests_are_kept_for_the_tester(sim: SimulatedEndpoint) -> None:
    sim.configure(record_requests=3)
    for n in range(3):
        vectors(sim, [str(n)])
    ask(sim)
    assert [r["body"]["input"] for r in sim.requests("/embeddings")] == [["1"], ["2"]]
    assert sim.requests()[-1]["path"] == "/v1/chat/completions"
