"""The simulated endpoint does what its options say: tests and benches stand on it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlgforge_core.config import JudgeConfig
from dlgforge_core.dialogue import DialoguePlan, Persona, Turn
from dlgforge_core.prompting import dialogue_prompts as prompts
from dlgforge_core.prompting import verdict_prompts, verdict_reading
from dlgforge_core.sources import SeedTopic
from dlgforge_core.verdicts import Judgement
from tests.support.http import CLIENT
from tests.support.simulated.classify import Classifier
from tests.support.simulated.content import answer, question
from tests.support.simulated.memory import PrefixCache
from tests.support.simulated.options import Options
from tests.support.simulated.schema import fill
from tests.support.simulated_endpoint import SimulatedEndpoint, simulated_endpoint

pytestmark = pytest.mark.alone

USER = "You are a user simulator: ask one question about gardens."
ASSISTANT = "You are a helpful assistant. Answer the user."
SCHEMA = {
    "type": "object",
    "properties": {"score": {"type": "integer", "minimum": 3, "maximum": 5}, "label": {"enum": ["a", "b"]}},
    "required": ["score", "label"],
    "additionalProperties": False,
}
VERDICT = {"type": "json_schema", "json_schema": {"name": "verdict", "strict": True, "schema": SCHEMA}}


def body(text: str = "Hello", system: str = ASSISTANT, **more: Any) -> dict[str, Any]:
    messages = [{"role": "system", "content": system}, {"role": "user", "content": text}]
    return {"model": "m", "messages": messages, **more}


def post(sim: SimulatedEndpoint, request: dict[str, Any], **more: Any) -> httpx.Response:
    return CLIENT.post(f"{sim.base_url}/chat/completions", json=request, **more)


def content(response: httpx.Response) -> str:
    assert response.status_code == 200, response.text
    return str(response.json()["choices"][0]["message"]["content"])


async def _post_all(sim: SimulatedEndpoint, requests: list[dict[str, Any]], at_once: int) -> list[Any]:
    slots = asyncio.Semaphore(
        at_once
    )  # a pool of connections looks at all that wait for one, again and again
    limits = httpx.Limits(max_connections=at_once)
    async with httpx.AsyncClient(base_url=sim.base_url, limits=limits, timeout=10) as client:

        async def call(request: dict[str, Any]) -> httpx.Response:
            async with slots:
                return await client.post("/chat/completions", json=request)

        return await asyncio.gather(*map(call, requests), return_exceptions=True)


def post_all(sim: SimulatedEndpoint, requests: list[dict[str, Any]], at_once: int = 16) -> list[Any]:
    return asyncio.run(_post_all(sim, requests, at_once))


def numbered(count: int, **more: Any) -> list[dict[str, Any]]:
    return [body(f"Question {number}", **more) for number in range(count)]


# Access


def test_api_key(sim: SimulatedEndpoint) -> None:
    shown = sim.configure(api_key="right")
    assert shown["api_key"] is True
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        response = post(sim, body(), headers=headers)
        assert response.status_code == 401
        assert response.json()["error"]["code"] == "invalid_api_key"
        assert CLIENT.get(f"{sim.base_url}/models", headers=headers).status_code == 401
    headers = {"Authorization": "Bearer right"}
    assert content(post(sim, body(), headers=headers))
    assert CLIENT.get(f"{sim.base_url}/models", headers=headers).status_code == 200


def test_models(sim: SimulatedEndpoint) -> None:
    sim.configure(models=["m", "n"])
    listed = CLIENT.get(f"{sim.base_url}/models").json()
    assert [model["id"] for model in listed["data"]] == ["m", "n"]
    assert post(sim, body()).json()["model"] == "m"
    refused = post(sim, body() | {"model": "other"})
    assert refused.status_code == 404
    assert refused.json()["error"]["code"] == "model_not_found"


def test_bad_requests_are_refused_and_the_connection_lives_on(sim: SimulatedEndpoint) -> None:
    with httpx.Client(base_url=sim.base_url) as client:
        for bad in (
            b"no json",
            b"[]",
            b'{"model": "m"}',
            b'{"model": "m", "messages": []}',
            b'{"model": [], "messages": 1}',
        ):
            assert client.post("/chat/completions", content=bad).status_code == 400
        assert client.post("/chat/completions", json=body(stream=True)).status_code == 400
        assert client.get("/nowhere").status_code == 404
        assert client.post("/chat/completions", json=body()).status_code == 200
    assert sim.stats()["connections"] == 2  # one for all the calls, one for the stats


def test_context_length(sim: SimulatedEndpoint) -> None:
    sim.configure(context_tokens=20)
    assert post(sim, body()).status_code == 200
    refused = post(sim, body("word " * 30))
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "context_length_exceeded")


# What is said


def test_roles_are_distinguished(sim: SimulatedEndpoint) -> None:
    assert content(post(sim, body(system=USER))).endswith("?")
    assert content(post(sim, body())).endswith(".")
    post(sim, body(response_format=VERDICT))
    post(sim, body(system="You are a judge. Reply only with a JSON object."))
    post(sim, body(system="You are an expert. Explain to a user how JSON differs from YAML."))
    sim.configure(role_models={"asker": "qa_generator"})
    assert content(post(sim, body() | {"model": "asker"})).endswith("?")
    stats = sim.stats()
    assert stats["by_role"] == {"qa_generator": 2, "kb_responder": 2, "qa_judge": 2}
    assert stats["by_kind"] == {"text": 4, "json_schema": 1, "json_text": 1}
    assert stats["by_model"] == {"m": 5, "asker": 1}
    assert stats["by_status"] == {"200": 6}


def test_our_own_prompts_are_distinguished() -> None:
    topic = SeedTopic("t", "fr", "How users parse JSON", "Which library should a customer use for JSON?")
    plan = DialoguePlan(
        dialogue_id="d",
        ordinal=0,
        language="fr",
        n_turns=2,
        topic=topic,
        user_persona=Persona("u", "Newcomer", "You are new to this and impatient."),
        assistant_persona=Persona("a", "Teacher", "You are a patient teacher who helps users to understand."),
    )
    turns = [Turn(0, "Which library?", "That one.", Judgement(8, ("clear",)))]
    classifier, judge = Classifier(Options()), JudgeConfig()
    for role, messages in (
        ("qa_generator", prompts.user_simulator(plan, turns)),
        ("kb_responder", prompts.assistant(plan, turns, "Which JSON library?")),
        ("qa_judge", verdict_prompts.turn_judge(plan, judge, turns, Turn(len(turns), "Which?", "That one."))),
        ("qa_judge", verdict_prompts.conversation_judge(plan, judge, turns)),
    ):
        request = classifier.classify("m", list(messages), None)
        assert request.role == role
        if request.schema:
            verdict_reading.judgement_from(fill(request.schema, 7), judge)


def test_texts_are_unique_and_reproducible(sim: SimulatedEndpoint) -> None:
    requests = numbered(100, system=USER) + [body("same", system=USER)] * 20
    first = Counter(content(r) for r in post_all(sim, requests))
    assert max(first.values()) == 1
    sim.reset()
    assert Counter(content(r) for r in post_all(sim, requests[::-1], at_once=3)) == first
    sim.configure(seed=1)
    assert content(post(sim, requests[0])) not in first


def test_seed_by_counter(sim: SimulatedEndpoint) -> None:
    sim.configure(seed_by="counter")
    first = content(post(sim, body("one")))
    sim.reset()
    assert content(post(sim, body("two"))) == first


def test_duplicate_rate(sim: SimulatedEndpoint) -> None:
    sim.configure(duplicate_rate=0.25)
    texts = [content(r) for r in post_all(sim, numbered(400, system=USER))]
    assert len(texts) - len(set(texts)) == pytest.approx(100, abs=3)
    assert sim.stats()["duplicates"] == len(texts) - len(set(texts))


def test_answer_words_max_tokens_and_template(sim: SimulatedEndpoint) -> None:
    sim.configure(answer_words=73)
    assert len(content(post(sim, body())).split()) == 73
    cut = post(sim, body(max_tokens=11)).json()
    assert cut["choices"][0]["finish_reason"] == "length"
    assert cut["usage"]["completion_tokens"] == 11
    sim.configure(text_template="{role}, {model}: {text}")
    assert content(post(sim, body())).startswith("kb_responder, m: ")


@given(st.integers(0, 2**64 - 1), st.integers(1, 400))
def test_answer_has_as_many_words_as_asked_for(key: int, words: int) -> None:
    assert len(answer(key, words).split()) == words


def test_questions_differ() -> None:
    assert len({question(key) for key in range(50_000)}) == 50_000
    assert len({answer(key, 40) for key in range(5_000)}) == 5_000


# Verdicts


def test_verdict_follows_the_schema_wherever_it_stands(sim: SimulatedEndpoint) -> None:
    in_text = f"Reply with JSON only, following this schema: {json.dumps(SCHEMA)}"
    for request in (
        body(response_format=VERDICT),
        body(system=in_text, response_format={"type": "json_object"}),
        body(system=in_text),
        body(in_text),
    ):
        jsonschema.validate(json.loads(content(post(sim, request))), SCHEMA)
    broken = {"type": "json_schema", "json_schema": {"name": "v", "schema": {"$ref": "#/$defs/none"}}}
    assert post(sim, body(response_format=broken)).json()["error"]["code"] == "invalid_json_schema"
    free = json.loads(content(post(sim, body(response_format={"type": "json_object"}))))
    assert set(free) == {"score", "reasons", "comment"}
    sim.configure(verdict={"score": 4})
    assert json.loads(content(post(sim, body(response_format=VERDICT))))["score"] == 4


@pytest.mark.parametrize(
    ("support", "accepted"),
    [("json_schema", {"json_schema", "json_object"}), ("json_object", {"json_object"}), ("none", set())],
)
def test_json_schema_support(sim: SimulatedEndpoint, support: str, accepted: set[str]) -> None:
    sim.configure(json_schema_support=support)
    for wanted in (VERDICT, {"type": "json_object"}):
        response = post(sim, body(response_format=wanted))
        assert (response.status_code == 200) == (wanted["type"] in accepted)
        if response.status_code != 200:
            assert response.status_code == 400
            assert response.json()["error"]["param"] == "response_format"


_scalars = st.one_of(
    st.tuples(st.integers(-50, 50), st.integers(0, 20)).map(
        lambda b: {"type": "integer", "minimum": b[0], "maximum": b[0] + b[1]}
    ),
    st.integers(-50, 50).map(lambda n: {"type": "integer", "exclusiveMinimum": n}),
    st.integers(-50, 50).map(lambda n: {"type": "number", "exclusiveMaximum": n}),
    st.integers(1, 9).map(lambda n: {"type": "integer", "multipleOf": n, "minimum": -7}),
    st.integers(0, 60).map(lambda n: {"type": "string", "minLength": n, "maxLength": n + 3}),
    st.lists(st.one_of(st.text(), st.integers(), st.none()), min_size=1).map(lambda v: {"enum": v}),
    st.sampled_from(
        [{"type": "boolean"}, {"type": "null"}, {"const": "x"}, {"type": ["null", "string"]}, {}]
    ),
)
_names = st.text("abcdef", min_size=1, max_size=4)
_schemas = st.recursive(
    _scalars,
    lambda inner: st.one_of(
        st.tuples(inner, st.integers(0, 4)).map(
            lambda p: {"type": "array", "items": p[0], "minItems": p[1], "maxItems": p[1] + 1}
        ),
        st.dictionaries(_names, inner, max_size=4).map(
            lambda p: {"type": "object", "properties": p, "required": list(p), "additionalProperties": False}
        ),
        st.lists(inner, min_size=1, max_size=3).map(lambda p: {"anyOf": p}),
    ),
    max_leaves=8,
)


@settings(max_examples=150)
@given(_schemas, st.integers(0, 2**64 - 1))
def test_filled_schema_is_valid(schema: dict[str, Any], n: int) -> None:
    jsonschema.Draft202012Validator(schema).validate(fill(schema, n))


def test_fill_resolves_references_ends_recursion_and_rotates() -> None:
    node = {
        "type": "object",
        "properties": {
            "label": {"allOf": [{"$ref": "#/$defs/label"}]},
            "children": {"type": "array", "items": {"$ref": "#/$defs/node"}},
            "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
        },
        "required": ["label", "next"],
    }
    labels = {"type": "string", "enum": ["a", "b", "c"]}
    schema = {"$ref": "#/$defs/node", "$defs": {"node": node, "label": labels}}
    values = [fill(schema, n) for n in range(60)]
    for value in values:
        jsonschema.validate(value, schema)
    assert {value["label"] for value in values} == {"a", "b", "c"}
    unique = {"type": "array", "items": labels, "uniqueItems": True, "minItems": 3, "maxItems": 3}
    assert all(sorted(fill(unique, n)) == ["a", "b", "c"] for n in range(60))


# Service time, slots and capacity


def test_constant_latency_and_slow_factor(sim: SimulatedEndpoint) -> None:
    sim.configure(latency_s=0.05, latency_by_role={"qa_judge": 0.0}, slow_factor=2)
    begin = time.monotonic()
    post(sim, body())
    assert time.monotonic() - begin > 0.095
    post(sim, body(response_format=VERDICT))
    assert sim.stats()["nominal_service_s_sum"] == pytest.approx(0.1)


def test_lognormal_latency_is_reproducible(sim: SimulatedEndpoint) -> None:
    sim.configure(latency_s=0.01, latency_sigma=0.5)
    totals = []
    for at_once in (32, 5):
        sim.reset()
        post_all(sim, numbered(200), at_once=at_once)
        stats = sim.stats()
        totals.append(stats["nominal_service_s_sum"])
        assert stats["service_s_sum"] >= 0.95 * totals[-1]
    assert totals[0] == pytest.approx(totals[1], rel=1e-9)
    assert totals[0] / 200 == pytest.approx(0.01, rel=0.15)
    assert totals[0] != pytest.approx(200 * 0.01, rel=1e-6)


def test_slots_queue_further_calls(sim: SimulatedEndpoint) -> None:
    sim.configure(latency_s=0.2, slots=3)
    responses = post_all(sim, numbered(12), at_once=12)
    assert all(r.status_code == 200 for r in responses)
    stats = sim.stats()
    assert (stats["serving_max"], stats["in_flight_max"], stats["in_flight"]) == (3, 12, 0)
    assert stats["span_s"] >= 4 * 0.2
    # All twelve were there before the first was done: each round but two waited for those before it.
    assert stats["queue_wait_s_sum"] >= 3 * (0.2 + 0.4)
    assert stats["utilisation"] == pytest.approx(stats["service_s_sum"] / (stats["span_s"] * 3))
    assert 0 < stats["nominal_utilisation"] <= stats["utilisation"] <= 1.001


def test_a_client_that_leaves_frees_its_slot(sim: SimulatedEndpoint) -> None:
    sim.configure(latency_s=30, latency_by_role={"qa_judge": 0}, slots=1)

    async def scene() -> int:
        async with httpx.AsyncClient(base_url=sim.base_url) as client:
            slow = asyncio.create_task(client.post("/chat/completions", json=body(), timeout=0.3))
            await asyncio.sleep(0.1)
            queued = client.post("/chat/completions", json=body(response_format=VERDICT), timeout=5)
            answers = await asyncio.gather(slow, queued, return_exceptions=True)
            assert isinstance(answers[0], httpx.ReadTimeout)
            assert isinstance(answers[1], httpx.Response)
            return answers[1].status_code

    assert asyncio.run(scene()) == 200
    stats = sim.stats()
    assert (stats["aborted"], stats["served"], stats["in_flight"], stats["serving"]) == (1, 1, 0, 0)


def test_capacity_refuses_at_once(sim: SimulatedEndpoint) -> None:
    sim.configure(latency_s=1.0, capacity=4, retry_after_s=1.5)
    responses = post_all(sim, numbered(10), at_once=10)
    assert Counter(r.status_code for r in responses) == {200: 4, 429: 6}
    refused = [r for r in responses if r.status_code == 429]
    assert refused[0].headers["retry-after"] == "1.5"
    assert refused[0].json()["error"]["code"] == "rate_limit_exceeded"
    assert max(r.elapsed for r in refused) < min(r.elapsed for r in responses if r.status_code == 200)
    assert sim.stats()["faults"] == {"capacity": 6}


# Faults


def test_shares_of_faults_are_near_exact(sim: SimulatedEndpoint) -> None:
    shares = {"429": 0.02, "500": 0.05, "503": 0.03, "empty": 0.1}
    sim.configure(faults=shares)
    responses = post_all(sim, numbered(500))
    counted = sim.stats()["faults"]
    for name, share in shares.items():
        assert counted[name] == pytest.approx(500 * share, abs=3), name
    statuses = Counter(str(r.status_code) for r in responses)
    assert {name: statuses[name] for name in ("429", "500", "503")} == {
        name: counted[name] for name in ("429", "500", "503")
    }
    assert sum(1 for r in responses if r.status_code == 200 and not content(r)) == counted["empty"]


@pytest.mark.parametrize("fault", ["cut", "reset"])
def test_broken_connections(sim: SimulatedEndpoint, fault: str) -> None:
    sim.configure(faults={fault: 1})
    with pytest.raises(httpx.RemoteProtocolError if fault == "cut" else httpx.ReadError):
        post(sim, body())
    assert sim.stats()["faults"] == {fault: 1}


def test_hang_never_answers_and_takes_no_slot(sim: SimulatedEndpoint) -> None:
    sim.configure(faults={"hang": 1}, slots=1)
    for _ in range(2):
        with pytest.raises(httpx.ReadTimeout):
            post(sim, body(), timeout=0.15)
    stats = sim.stats()
    assert (stats["faults"], stats["aborted"], stats["serving_max"]) == ({"hang": 2}, 2, 0)


def test_spoilt_answers(sim: SimulatedEndpoint) -> None:
    sim.configure(faults={"garbage": 1})
    garbage = post(sim, body())
    assert garbage.status_code == 200
    with pytest.raises(ValueError, match="Expecting value"):
        garbage.json()
    sim.configure(faults={"refusal": 1})
    message = post(sim, body()).json()["choices"][0]["message"]
    assert message["content"] is None
    assert message["refusal"]
    sim.configure(faults={"length": 1})
    assert post(sim, body()).json()["choices"][0]["finish_reason"] == "length"


def test_bad_json_strikes_verdicts_only(sim: SimulatedEndpoint) -> None:
    sim.configure(faults={"bad_json": 1})
    for schema in (SCHEMA, {"type": "integer"}, {"type": "array"}, {"type": "object"}):
        wanted = {"type": "json_schema", "json_schema": {"name": "v", "schema": schema}}
        with pytest.raises(json.JSONDecodeError):
            json.loads(content(post(sim, body(response_format=wanted))))
    assert content(post(sim, body()))
    assert sim.stats()["faults"] == {"bad_json": 4}


def test_down_resets_everything_until_it_is_up(sim: SimulatedEndpoint) -> None:
    with httpx.Client(base_url=sim.base_url) as client:
        assert client.get("/models").status_code == 200
        sim.configure(down=True)
        for _ in range(2):
            with pytest.raises(httpx.TransportError):
                client.get("/models")
            with pytest.raises(httpx.TransportError):
                client.post("/chat/completions", json=body())
        sim.configure(down=False)
        assert client.post("/chat/completions", json=body()).status_code == 200


def test_down_breaks_calls_under_way(sim: SimulatedEndpoint) -> None:
    sim.configure(latency_s=30)

    async def scene() -> Any:
        call = asyncio.create_task(_post_all(sim, [body()], 1))
        for _ in range(500):
            if (await asyncio.to_thread(sim.stats))["in_flight"]:
                break
            await asyncio.sleep(0.01)
        await asyncio.to_thread(sim.configure, down=True)
        return (await call)[0]

    assert isinstance(asyncio.run(scene()), httpx.ReadError)
    assert sim.stats()["in_flight"] == 0


# Prefix cache and records


def test_prefix_cache_counts_shared_messages(sim: SimulatedEndpoint) -> None:
    first = body("one two three", system="a b c d e")
    assert post(sim, first).json()["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    longer = {**first, "messages": [*first["messages"], {"role": "assistant", "content": "four five"}]}
    usage = post(sim, longer).json()["usage"]
    assert (usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"]) == (10, 8)
    other_model = post(sim, longer | {"model": "n"}).json()["usage"]
    assert other_model["prompt_tokens_details"]["cached_tokens"] == 0
    stats = sim.stats()
    assert (stats["prompt_tokens"], stats["cached_tokens"]) == (28, 8)
    assert stats["cache_hit_rate"] == pytest.approx(8 / 28)
    assert stats["unique_conversations"] == 2


def test_prefix_cache_is_bounded_and_drops_the_least_recently_used() -> None:
    cache = PrefixCache(max_entries=3)

    def cached(text: str) -> int:
        found = cache.look_up("m", [{"role": "user", "content": text}]).cached_tokens
        assert len(cache) <= 3
        return found

    for text in ("a", "b", "c"):
        assert cached(text) == 0
    assert cached("a") == 1
    assert cached("d") == 0  # pushes b out
    assert (cached("a"), cached("b")) == (1, 0)


def test_record_requests(sim: SimulatedEndpoint) -> None:
    sim.configure(record_requests=2)
    for number in range(3):
        post(sim, body(f"number {number}"), headers={"Authorization": "Bearer x"} if number else {})
    recorded = sim.stats()["requests"]
    assert [r["body"]["messages"][1]["content"] for r in recorded] == ["number 1", "number 2"]
    assert all(r["authorization"] is True for r in recorded)


def test_metrics_and_health(sim: SimulatedEndpoint) -> None:
    post(sim, body())
    root = sim.base_url.removesuffix("/v1")
    assert "vllm:num_requests_running 0\n" in CLIENT.get(f"{root}/metrics").text
    assert CLIENT.get(f"{root}/health").status_code == 200


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"latency": 1}, "unknown options: latency"),
        ({"faults": {"explode": 0.1}}, "unknown fault 'explode'"),
        ({"faults": {"500": 0.7, "503": 0.7}}, r"add up to 1\.4"),
        ({"slots": 0}, "slots = 0"),
        ({"duplicate_rate": 1.5}, r"duplicate_rate = 1\.5"),
        ({"json_schema_support": "maybe"}, "choose from json_schema"),
        ({"text_template": "{nobody}"}, "text_template"),
        ({"faults": 3}, "wrong type"),
    ],
)
def test_options_that_cannot_be(sim: SimulatedEndpoint, options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        sim.configure(**options)
    with pytest.raises(ValueError, match=match), simulated_endpoint(**options):
        pass


# The process


def _start(*arguments: str) -> tuple[subprocess.Popen[bytes], dict[str, Any]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.simulated_endpoint", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout is not None
    return process, json.loads(process.stdout.readline())


@pytest.mark.parametrize("how", ["stdin", "sigterm"])
def test_ends_when_stdin_closes_or_on_sigterm(how: str) -> None:
    process, ready = _start("--options", '{"models": ["m"]}')
    try:
        assert CLIENT.get(f"{ready['base_url']}/models").json()["data"][0]["id"] == "m"
        assert process.stdin is not None
        if how == "stdin":
            process.stdin.close()
        else:
            process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 0
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def test_ends_with_a_starter_that_was_killed() -> None:
    code = (
        "import os, time\n"
        "from tests.support.simulated_endpoint import simulated_endpoint\n"
        "with simulated_endpoint() as sim:\n"
        "    print(sim.process.pid, flush=True)\n"
        "    time.sleep(60)\n"
    )
    root = Path(__file__).parents[2]
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=root) as starter:
        assert starter.stdout is not None
        endpoint = psutil.Process(int(starter.stdout.readline()))
        starter.kill()
    _, alive = psutil.wait_procs([endpoint], timeout=5)
    for process in alive:
        process.kill()
    assert not alive


def test_kill_and_key_not_in_arguments() -> None:
    with simulated_endpoint(api_key="secret-key", latency_s=0.0) as sim:
        assert "secret-key" not in " ".join(psutil.Process(sim.process.pid).cmdline())
        assert post(sim, body(), headers={"Authorization": "Bearer secret-key"}).status_code == 200
        sim.kill()
        with pytest.raises(httpx.ConnectError):
            post(sim, body())
    assert sim.process.returncode == -signal.SIGKILL
    with simulated_endpoint(port=sim.port) as again:
        assert again.base_url == sim.base_url
        assert content(post(again, body()))
    with pytest.raises(ProcessLookupError):
        os.kill(again.process.pid, 0)
