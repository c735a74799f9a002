"""The LLM client against simulated endpoints in processes of their own: spread, faults, recovery, limits."""

import asyncio
import contextlib
import datetime
import logging
import socket
import ssl
import time
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from dlgforge_core.config import AgentConfig, RoutingConfig
from dlgforge_core.dialogue import DropReason, Role
from dlgforge_core.errors import RunStoppedError
from dlgforge_core.llm.check import check_endpoints
from dlgforge_core.llm.client import CallError, Completion, LlmClient, Message, RequestRefusedError
from dlgforge_core.llm.endpoints import Endpoint
from tests.support.ports import closed_port
from tests.support.simulated_endpoint import SimulatedEndpoint, simulated_endpoint
from tests.support.waiting import wait_until

pytestmark = pytest.mark.alone

SCHEMA = {
    "type": "object",
    "properties": {"score": {"type": "integer", "minimum": 0, "maximum": 10}, "comment": {"type": "string"}},
    "required": ["score", "comment"],
    "additionalProperties": False,
}
KEY = "sk-very-secret-0123456789"


@pytest.fixture(name="sim")
def _sim() -> Iterator[SimulatedEndpoint]:
    with simulated_endpoint(latency_s=0.01) as endpoint:
        yield endpoint


@pytest.fixture
def pair() -> Iterator[tuple[SimulatedEndpoint, SimulatedEndpoint]]:
    with simulated_endpoint(latency_s=0.02) as a, simulated_endpoint(latency_s=0.02) as b:
        yield a, b


def at(sim: SimulatedEndpoint, name: str = "a", **settings: Any) -> Endpoint:
    return Endpoint(name, sim.base_url, **settings)


@contextlib.asynccontextmanager
async def client(*endpoints: Endpoint, patience_s: float = 20.0, **routing: Any) -> AsyncIterator[LlmClient]:
    async with LlmClient(endpoints, RoutingConfig(**routing), patience_s=patience_s) as made:
        yield made


def prompt(index: int, words: int = 5) -> list[Message]:
    return [
        {"role": "system", "content": "You are a helpful assistant." + " and kind" * words},
        {"role": "user", "content": f"Tell me about {index}."},
    ]


async def ask(llm: LlmClient, index: int = 0, affinity: str = "", model: str = "m") -> Completion:
    return await llm.complete(
        Role.ASSISTANT, AgentConfig(), model, prompt(index), affinity=affinity or f"d{index}", seed=index
    )


async def ask_many(llm: LlmClient, n: int, at_once: int) -> list[Completion | CallError]:
    """`n` calls, `at_once` under way; RunStoppedError ends them all."""
    indices = iter(range(n))
    results: list[Completion | CallError] = []

    async def work() -> None:
        for index in indices:
            try:
                results.append(await ask(llm, index))
            except CallError as error:
                results.append(error)

    await asyncio.gather(*(work() for _ in range(at_once)))
    return results


async def verdict(llm: LlmClient, index: int = 0) -> tuple[dict[str, object], Completion]:
    return await llm.complete_json(
        Role.JUDGE, AgentConfig(), "m", prompt(index), SCHEMA, affinity=f"d{index}", seed=index
    )


def completions(results: list[Completion | CallError]) -> list[Completion]:
    assert not [r for r in results if isinstance(r, CallError)]
    return [r for r in results if isinstance(r, Completion)]


# Plain calls


def test_a_completion_tells_its_text_tokens_and_source(sim: SimulatedEndpoint) -> None:
    async def main() -> tuple[Completion, Completion, LlmClient]:
        async with client(at(sim)) as llm:
            return await ask(llm, 1), await ask(llm, 1), llm

    first, second, llm = asyncio.run(main())
    assert first.text
    assert (first.endpoint, first.model, first.finish_reason) == ("a", "m", "stop")
    assert first.prompt_tokens > 0
    assert first.completion_tokens > 0
    assert first.latency_s >= 0.01
    assert second.cached_tokens == second.prompt_tokens
    counts = llm.stats.of("a", Role.ASSISTANT)
    assert (counts.calls, counts.retries) == (2, 0)
    assert counts.prompt_tokens == first.prompt_tokens + second.prompt_tokens
    assert 0.009 < counts.latency.percentile(50) < 1.0


def test_reasoning_is_not_part_of_the_answer() -> None:
    async def main() -> Completion:
        async with client(at(sim)) as llm:
            return await ask(llm)

    with simulated_endpoint(text_template="<think>Who asks? {text}</think>\n\n Well: {text} ") as sim:
        stated = asyncio.run(main()).text
    assert stated.startswith("Well:")
    assert "think" not in stated


def test_never_more_in_flight_than_max_in_flight(sim: SimulatedEndpoint) -> None:
    async def main() -> None:
        async with client(at(sim, max_in_flight=7)) as llm:
            completions(await ask_many(llm, 300, 50))

    asyncio.run(main())
    assert sim.stats()["in_flight_max"] == 7


def test_all_slots_are_used_from_the_first_moments() -> None:
    async def main() -> None:
        async with client(at(sim)) as llm:
            completions(await ask_many(llm, 256, 64))

    # Long enough for a busy machine to fill the slots in a small part of it.
    with simulated_endpoint(latency_s=1.0, slots=64) as sim:
        asyncio.run(main())
        stats = sim.stats()
    assert stats["in_flight_max"] == 64
    assert stats["utilisation"] > 0.8


def test_a_cancelled_call_gives_its_slot_back() -> None:
    async def main() -> None:
        async with client(at(sim, max_in_flight=1)) as llm:
            slow = asyncio.create_task(ask(llm, 1))
            waiting = asyncio.create_task(ask(llm, 2))
            await asyncio.sleep(0.2)
            waiting.cancel()
            slow.cancel()
            await asyncio.wait([slow, waiting])
            sim.configure(latency_s=0.0)
            assert llm.health()[0].in_flight == 0
            assert (await asyncio.wait_for(ask(llm, 3), 30)).text

    with simulated_endpoint(latency_s=30.0) as sim:
        asyncio.run(main())


# Several endpoints


def test_the_other_machine_is_watched_while_a_call_is_under_way(sim: SimulatedEndpoint) -> None:
    """Else a call waits out its whole time for one that has vanished; see tests/cluster/test_silence.py."""
    sim.configure(latency_s=30.0)

    async def run() -> None:
        async with client(Endpoint("a", sim.base_url)) as llm:
            call = asyncio.create_task(ask(llm))
            await asyncio.to_thread(wait_until, lambda: sim.stats()["in_flight"], 60, "the call is served")
            timers = _timers_to(sim.port)
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
        assert timers == ["02"], "the kernel's timer is that of keep-alives"

    asyncio.run(run())


def _timers_to(port: int) -> list[str]:
    """Return which timers run for connections from here to a port of 127.0.0.1: proc_pid_net(5)."""
    lines = Path("/proc/self/net/tcp").read_text().splitlines()[1:]
    rows = [line.split() for line in lines]
    return [row[5].split(":")[0] for row in rows if row[2] == f"0100007F:{port:04X}" and row[3] == "01"]


def test_one_of_two_endpoints_dead_all_calls_succeed_by_the_other(sim: SimulatedEndpoint) -> None:
    async def main(port: int) -> LlmClient:
        dead = Endpoint("dead", f"http://127.0.0.1:{port}/v1")
        async with client(dead, at(sim)) as llm:
            assert {c.endpoint for c in completions(await ask_many(llm, 600, 32))} == {"a"}
            return llm

    with closed_port() as port:
        llm = asyncio.run(main(port))
    # It fails at once, which must not make it look fast: it is left alone after the first few calls.
    assert llm.stats.by_endpoint()["dead"].failures["connection"] <= 40
    assert llm.health()[0].state == "open"
    assert "refused" in llm.health()[0].reason


def test_an_endpoint_that_dies_and_returns_is_used_again(
    pair: tuple[SimulatedEndpoint, SimulatedEndpoint],
) -> None:
    a, b = pair

    async def main() -> None:
        async with client(at(a), at(b, "b")) as llm:
            completions(await ask_many(llm, 100, 16))
            await asyncio.to_thread(b.configure, down=True)
            while_down = completions(await ask_many(llm, 400, 16))
            assert Counter(c.endpoint for c in while_down)["a"] > 380
            await asyncio.to_thread(b.configure, down=False)
            await asyncio.sleep(5.0)
            after = Counter(c.endpoint for c in completions(await ask_many(llm, 400, 16)))
            assert after["b"] > 120

    asyncio.run(main())


def test_weights_are_respected(pair: tuple[SimulatedEndpoint, SimulatedEndpoint]) -> None:
    a, b = pair

    async def main(strategy: str) -> float:
        async with client(at(a, weight=3.0), at(b, "b", weight=1.0), strategy=strategy) as llm:
            counts = Counter(c.endpoint for c in completions(await ask_many(llm, 800, 32)))
            return counts["a"] / counts["b"]

    assert asyncio.run(main("round_robin")) == pytest.approx(3.0, rel=0.05)
    assert asyncio.run(main("weighted_least_inflight")) == pytest.approx(3.0, rel=0.2)


def test_a_dialogue_stays_at_its_endpoint_moves_when_that_dies_and_returns(
    pair: tuple[SimulatedEndpoint, SimulatedEndpoint],
) -> None:
    a, b = pair

    async def dialogue(llm: LlmClient, name: str, homes: Counter[tuple[str, str]]) -> None:
        for index in range(8):
            homes[name, (await ask(llm, index, name)).endpoint] += 1

    async def main() -> None:
        async with client(at(a), at(b, "b"), strategy="prefix_affinity") as llm:
            homes: Counter[tuple[str, str]] = Counter()
            await asyncio.gather(*(dialogue(llm, f"d{n}", homes) for n in range(64)))
            at_home = sum(max(homes[f"d{n}", "a"], homes[f"d{n}", "b"]) for n in range(64))
            assert at_home / (64 * 8) > 0.95
            per_endpoint = Counter(e for (_, e), n in homes.items() for _ in range(n))
            assert min(per_endpoint.values()) > 0.3 * 64 * 8
            name = next(f"d{n}" for n in range(64) if homes[f"d{n}", "b"] == 8)
            await asyncio.to_thread(b.configure, down=True)
            assert {(await ask(llm, i, name)).endpoint for i in range(8)} == {"a"}
            await asyncio.to_thread(b.configure, down=False)
            await asyncio.sleep(5.0)
            assert {(await ask(llm, i, name)).endpoint for i in range(8)} == {"b"}

    asyncio.run(main())


# Nothing works


def test_all_endpoints_dead_stops_within_patience_and_says_why(sim: SimulatedEndpoint) -> None:
    async def main(port: int) -> str:
        dead = Endpoint("dead", f"http://127.0.0.1:{port}/v1")
        async with client(dead, at(sim, "resetting"), patience_s=2.0) as llm:
            stops = await asyncio.gather(*(ask(llm, n) for n in range(50)), return_exceptions=True)
            assert {type(stop) for stop in stops} == {RunStoppedError}
            with pytest.raises(RunStoppedError):
                await ask(llm)
            return str(stops[0])

    sim.configure(down=True)
    started = time.monotonic()
    with closed_port() as port:
        message = asyncio.run(main(port))
    assert 2.0 <= time.monotonic() - started < 30.0, "patience is over, and not much later"
    assert "2 s" in message
    assert "dead (http://127.0.0.1" in message
    assert "refused" in message
    assert "resetting" in message


def test_calls_wait_for_an_endpoint_that_restarts_and_none_is_lost() -> None:
    async def main(sim: SimulatedEndpoint) -> None:
        async with client(at(sim), patience_s=30.0, max_attempts=2) as llm:
            completions(await ask_many(llm, 20, 4))
            await asyncio.to_thread(sim.configure, down=True)
            calls = asyncio.create_task(ask_many(llm, 40, 8))
            await asyncio.sleep(1.5)
            assert not calls.done()
            await asyncio.to_thread(sim.configure, down=False)
            results = await asyncio.wait_for(calls, 15)
            # Those that were caught by the fall may have used up their two attempts; all others succeed.
            assert sum(isinstance(r, CallError) for r in results) <= 8

    with simulated_endpoint(latency_s=0.01) as sim:
        asyncio.run(main(sim))


def test_trials_of_a_failing_endpoint_do_not_use_up_a_calls_attempts() -> None:
    async def main() -> LlmClient:
        async with client(at(sim), patience_s=30.0, max_attempts=2) as llm:
            call = asyncio.create_task(ask(llm))
            await asyncio.sleep(2.0)
            await asyncio.to_thread(sim.configure, faults={})
            assert (await asyncio.wait_for(call, 15)).text
            return llm

    with simulated_endpoint(faults={"500": 1.0}) as sim:
        llm = asyncio.run(main())
    assert llm.stats.total().retries > 2


def test_an_endpoint_that_hangs_is_a_time_out_and_stops_the_run() -> None:
    async def main() -> str:
        async with client(at(sim, timeout_s=0.3), patience_s=1.5) as llm:
            with pytest.raises(RunStoppedError) as stop:
                await asyncio.gather(*(ask(llm, n) for n in range(8)))
            return str(stop.value)

    with simulated_endpoint(faults={"hang": 1.0}) as sim:
        started = time.monotonic()
        assert "no answer within 0.3 s" in asyncio.run(main())
        assert time.monotonic() - started < 30


def test_an_endpoint_that_only_says_429_stops_the_run_within_patience() -> None:
    async def main() -> str:
        async with client(at(sim), patience_s=1.5) as llm:
            with pytest.raises(RunStoppedError) as stop:
                await asyncio.gather(*(ask(llm, n) for n in range(8)))
            return str(stop.value)

    with simulated_endpoint(faults={"429": 1.0}, retry_after_s=1) as sim:
        started = time.monotonic()
        assert "429: Rate limit reached" in asyncio.run(main())
        assert 2.4 <= time.monotonic() - started < 30


@pytest.mark.parametrize("pause_s", [1.5, 2.5])
def test_a_pause_as_long_as_the_patience_is_waited_for(pause_s: float) -> None:
    async def main() -> None:
        async with client(at(sim), patience_s=1.5) as llm:
            call = asyncio.create_task(ask(llm))
            await asyncio.sleep(0.5)
            await asyncio.to_thread(sim.configure, faults={})
            assert (await call).text

    with simulated_endpoint(faults={"429": 1.0}, retry_after_s=pause_s) as sim:
        asyncio.run(main())
        assert sim.stats()["calls"] == 2


def test_a_pause_of_hours_stops_at_once_and_is_named(sim: SimulatedEndpoint) -> None:
    async def main() -> str:
        async with client(at(limited, "limited"), at(sim), strategy="round_robin") as llm:
            assert {c.endpoint for c in completions(await ask_many(llm, 20, 2))} == {"a"}
        async with client(at(limited, "limited"), patience_s=60.0) as llm:
            with pytest.raises(RunStoppedError) as stop:
                await ask(llm)
            return str(stop.value)

    with simulated_endpoint(faults={"429": 1.0}, retry_after_s=7200) as limited:
        started = time.monotonic()
        stated = asyncio.run(main())
    assert "a pause of 7200 s" in stated
    assert time.monotonic() - started < 30


def test_a_pause_of_hours_is_tried_out_once_the_calls_beside_it_have_ended() -> None:
    async def main() -> None:
        async with client(at(sim, max_in_flight=2)) as llm:
            completions(await asyncio.wait_for(ask_many(llm, 4, 2), 20))

    reply = {"every": 2, "times": 1, "status": 429, "headers": {"retry-after": "3600"}, "body": {}}
    with simulated_endpoint(latency_s=0.5, canned=[reply]) as sim:
        asyncio.run(main())
        assert sim.stats()["faults"]["canned"] == 1


def test_a_wrong_key_stops_at_once_and_is_not_repeated() -> None:
    async def main() -> str:
        async with client(at(sim, api_key=KEY)) as llm:
            with pytest.raises(RunStoppedError) as stop:
                await asyncio.gather(*(ask(llm, n) for n in range(8)))
            return str(stop.value)

    with simulated_endpoint(api_key="another") as sim:
        started = time.monotonic()
        message = asyncio.run(main())
        assert time.monotonic() - started < 30, "before patience is over"
        assert sim.stats()["calls"] <= 8
    assert "key was refused" in message
    assert sim.base_url in message
    assert KEY not in message


@pytest.mark.parametrize("status", ["401", "403", "404"])
def test_a_refusal_by_an_endpoint_that_has_answered_may_pass(status: str) -> None:
    async def main() -> str:
        async with client(at(sim), patience_s=4.0) as llm:
            completions(await ask_many(llm, 20, 4))
            await asyncio.to_thread(sim.configure, faults={status: 1.0})
            calls = asyncio.create_task(ask_many(llm, 20, 4))
            await asyncio.sleep(1.0)
            assert not calls.done()
            await asyncio.to_thread(sim.configure, faults={})
            completions(await asyncio.wait_for(calls, 15))
            await asyncio.to_thread(sim.configure, faults={status: 1.0})
            with pytest.raises(RunStoppedError) as stop:
                await ask_many(llm, 20, 4)
            return str(stop.value)

    with simulated_endpoint(latency_s=0.01) as sim:
        stated = asyncio.run(main())
    assert "for 4 s" in stated
    assert status in stated


def test_a_key_refused_by_one_endpoint_takes_out_only_that_one(
    sim: SimulatedEndpoint, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with client(at(locked, "locked"), at(sim)) as llm:
            assert {c.endpoint for c in completions(await ask_many(llm, 60, 8))} == {"a"}

    with simulated_endpoint(api_key="another") as locked:
        asyncio.run(main())
    taken_out = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert len(taken_out) == 1
    assert "locked" in taken_out[0].getMessage()


def test_an_unknown_model_stops_at_once_or_is_asked_for_elsewhere(sim: SimulatedEndpoint) -> None:
    async def main() -> str:
        async with client(at(other, "other"), at(sim), strategy="round_robin") as llm:
            assert {c.endpoint for c in completions(await ask_many(llm, 20, 4))} == {"a"}
            assert (await ask(llm, model="known")).text
        async with client(at(other, "other")) as llm:
            assert (await ask(llm, model="known")).text
            with pytest.raises(RunStoppedError) as stop:
                await asyncio.gather(*(ask(llm, n) for n in range(8)))
            assert (await ask(llm, model="known")).text
            return str(stop.value)

    with simulated_endpoint(models=["known"]) as other:
        message = asyncio.run(main())
    assert "no endpoint serves the model m" in message
    assert "does not exist" in message


def test_a_wrong_address_says_so(sim: SimulatedEndpoint) -> None:
    async def main() -> None:
        async with client(Endpoint("a", sim.base_url.replace("/v1", "/v2"))) as llm:
            with pytest.raises(RunStoppedError, match="is base_url right"):
                await ask(llm)

    asyncio.run(main())


# Overload and faults


def test_the_limit_comes_down_to_what_an_endpoint_bears_and_goes_up_again() -> None:
    async def main() -> None:
        async with client(at(sim)) as llm:
            completions(await ask_many(llm, 400, 64))
            assert 6 <= llm.health()[0].limit <= 10
            found = llm.stats.total().failures["rate_limited"]
            completions(await ask_many(llm, 400, 64))
            assert 6 <= llm.health()[0].limit <= 10
            # Once it is known, few calls are refused.
            assert llm.stats.total().failures["rate_limited"] - found < 60
            await asyncio.to_thread(sim.configure, capacity=None, slots=None)
            completions(await ask_many(llm, 2000, 64))
            assert llm.health()[0].limit > 30

    with simulated_endpoint(latency_s=0.03, capacity=8, slots=8) as sim:
        asyncio.run(main())
        assert sim.stats()["served"] == 2800


def test_retry_after_is_honoured() -> None:
    async def main() -> float:
        async with client(at(sim)) as llm:
            call = asyncio.create_task(ask(llm))
            await asyncio.sleep(0.2)
            await asyncio.to_thread(sim.configure, faults={})
            started = time.monotonic()
            await call
            return time.monotonic() - started

    with simulated_endpoint(faults={"429": 1.0}, retry_after_s=1.5) as sim:
        assert 1.1 <= asyncio.run(main()) < 3.0
        assert sim.stats()["calls"] == 2


def test_every_call_ends_in_a_completion_or_a_true_reason_with_a_tenth_of_the_answers_faulty() -> None:
    faults = {
        "429": 0.015, "500": 0.015, "503": 0.015, "garbage": 0.015, "cut": 0.01, "empty": 0.01,
        "length": 0.01, "reset": 0.01,
    }  # fmt: skip

    async def main() -> LlmClient:
        async with client(at(sim)) as llm:
            results = await ask_many(llm, 1500, 32)
            assert len(results) == 1500
            errors = [r for r in results if isinstance(r, CallError)]
            # Two unusable answers in a row to one call: about 0.02 ** 2 of the calls.
            assert len(errors) < 10
            assert {e.reason for e in errors} <= {DropReason.INVALID_OUTPUT, DropReason.ENDPOINT_ERROR}
            assert all(r.text and r.text[-1] in ".?!" for r in results if isinstance(r, Completion))
            return llm

    with simulated_endpoint(latency_s=0.01, faults=faults) as sim:
        llm = asyncio.run(main())
        seen = sim.stats()["faults"]
    counted = llm.stats.total().failures
    kinds = {"429": "rate_limited", "garbage": "invalid_body", "empty": "empty", "length": "cut"}
    assert {kind: counted[kind] for kind in kinds.values()} == {kinds[name]: seen[name] for name in kinds}
    assert counted["server_error"] == seen["500"] + seen["503"]
    assert counted["connection"] == seen["cut"] + seen["reset"]


def test_an_endpoint_that_always_fails_gives_up_a_call_only_when_attempts_are_spent() -> None:
    async def main() -> CallError:
        async with client(at(sim), max_attempts=3, patience_s=60.0) as llm:
            results = await ask_many(llm, 60, 4)
            errors = [r for r in results if isinstance(r, CallError)]
            assert errors
            assert any(isinstance(r, Completion) for r in results)
            return errors[0]

    with simulated_endpoint(latency_s=0.002, faults={"500": 0.5}) as sim:
        error = asyncio.run(main())
    assert error.reason is DropReason.ENDPOINT_ERROR
    # Failures while the endpoint is found at fault cost no attempt, but are listed.
    assert str(error).count("500: The server had an error") >= 3


def test_empty_answers_are_asked_for_once_more_then_given_up() -> None:
    async def main() -> str:
        async with client(at(sim)) as llm:
            with pytest.raises(CallError) as error:
                await ask(llm)
            assert error.value.reason is DropReason.INVALID_OUTPUT
            assert llm.stats.total().retries == 1
            return str(error.value)

    with simulated_endpoint(faults={"empty": 1.0}) as sim:
        assert "asked twice" in asyncio.run(main())
        assert sim.stats()["calls"] == 2


def test_a_refusal_drops_the_dialogue_as_refused() -> None:
    async def main() -> CallError:
        async with client(at(sim)) as llm:
            with pytest.raises(CallError) as error:
                await ask(llm)
            return error.value

    with simulated_endpoint(faults={"refusal": 1.0}) as sim:
        error = asyncio.run(main())
    assert error.reason is DropReason.REFUSED
    assert "can't help" in str(error)


def test_a_context_overflow_is_not_repeated() -> None:
    async def main() -> CallError:
        async with client(at(sim)) as llm:
            with pytest.raises(CallError) as error:
                await ask(llm)
            return error.value

    with simulated_endpoint(context_tokens=5) as sim:
        error = asyncio.run(main())
        assert sim.stats()["calls"] == 1
    assert error.reason is DropReason.CONTEXT_OVERFLOW
    assert "maximum context length is 5 tokens" in str(error)


def test_a_system_message_is_folded_where_the_model_takes_none() -> None:
    async def main() -> None:
        async with client(at(sim)) as llm:
            for index in range(3):
                assert (await ask(llm, index)).text
            await verdict(llm, 4)

    with simulated_endpoint(system_role=False, record_requests=10) as sim:
        asyncio.run(main())
        sent = [r["body"]["messages"] for r in sim.requests()]
    assert [[m["role"] for m in messages] for messages in sent] == [["system", "user"]] + [["user"]] * 4
    assert sent[1][0]["content"] == f"{sent[0][0]['content']}\n\n{sent[0][1]['content']}"


def test_an_endpoint_that_refuses_whatever_it_is_asked_is_left_to_the_others(sim: SimulatedEndpoint) -> None:
    async def main() -> None:
        async with client(at(picky, "picky"), at(sim), strategy="round_robin") as llm:
            assert {c.endpoint for c in completions(await ask_many(llm, 60, 4))} == {"a"}

    with simulated_endpoint(faults={"400": 1.0}) as picky:
        asyncio.run(main())
        assert 10 <= picky.stats()["calls"] < 20


def test_a_refused_request_is_reported_by_its_call_while_it_may_be_about_that_alone() -> None:
    async def main() -> list[BaseException]:
        async with client(at(sim)) as llm:
            return [await first_error(llm) for _ in range(11)]

    async def first_error(llm: LlmClient) -> BaseException:
        with pytest.raises((CallError, RunStoppedError)) as error:
            await ask(llm)
        return error.value

    with simulated_endpoint(faults={"400": 1.0}) as sim:
        errors = asyncio.run(main())
        assert sim.stats()["calls"] == 10 + 6, "the first looks for a form that is taken"
    assert all(isinstance(e, RequestRefusedError) for e in errors[:9])
    assert all(isinstance(e, RunStoppedError) for e in errors[9:])
    assert "every call of kb_responder" in str(errors[-1])


# Structured output


@pytest.mark.parametrize(
    ("support", "asked", "kind"),
    [
        ("json_schema", 1, "json_schema"),
        ("json_object", 2, "json_object"),
        ("none", 3, "json_text"),
    ],
)
def test_json_is_asked_for_as_the_endpoint_understands_it(support: str, asked: int, kind: str) -> None:
    async def main() -> None:
        async with client(at(sim)) as llm:
            for index in range(5):
                value, _ = await verdict(llm, index)
                assert isinstance(value["score"], int)

    with simulated_endpoint(json_schema_support=support) as sim:
        asyncio.run(main())
        stats = sim.stats()
    assert stats["calls"] == 4 + asked  # what was refused is remembered
    assert stats["by_kind"] == {kind: 5}


def test_invalid_json_is_shown_to_the_model_once_then_given_up() -> None:
    async def main() -> CallError:
        async with client(at(sim)) as llm:
            with pytest.raises(CallError) as error:
                await verdict(llm)
            return error.value

    with simulated_endpoint(faults={"bad_json": 1.0}, record_requests=10) as sim:
        error = asyncio.run(main())
        requests = [r["body"]["messages"] for r in sim.stats()["requests"]]
    assert error.reason is DropReason.INVALID_OUTPUT
    assert [len(messages) for messages in requests] == [2, 4]
    assert requests[1][:2] == requests[0]
    assert requests[1][2]["role"] == "assistant"
    assert "no complete JSON object" in requests[1][3]["content"]


def test_some_invalid_json_costs_no_verdict() -> None:
    async def main() -> LlmClient:
        async with client(at(sim)) as llm:
            for index in range(100):  # one after the other, so that no two faults strike one verdict
                await verdict(llm, index)
            return llm

    with simulated_endpoint(faults={"bad_json": 0.1}) as sim:
        counts = asyncio.run(main()).stats.of("a", Role.JUDGE)
    assert counts.failures["invalid_json"] == counts.retries == counts.calls - 100 > 0


def test_a_reader_decides_what_can_be_used(sim: SimulatedEndpoint) -> None:
    seen: list[int] = []

    def read(data: dict[str, object]) -> int:
        assert isinstance(data["score"], int)
        seen.append(data["score"])
        if len(seen) == 1:
            raise ValueError("the score is not to my taste")
        return data["score"]

    async def main() -> int:
        async with client(at(sim)) as llm:
            score, completion = await llm.complete_json(
                Role.JUDGE, AgentConfig(), "m", prompt(1), SCHEMA, read, affinity="d"
            )
            assert completion.prompt_tokens > 2 * 10
            return score

    sim.configure(record_requests=10)
    assert asyncio.run(main()) == seen[1]
    assert "not to my taste" in sim.stats()["requests"][1]["body"]["messages"][-1]["content"]


# Secrets


def test_the_key_is_in_no_log_record_no_repr_and_no_error(caplog: pytest.LogCaptureFixture) -> None:
    async def main(port: int) -> RunStoppedError:
        dead = Endpoint("dead", f"http://127.0.0.1:{port}/v1", KEY)
        async with client(at(sim, api_key=KEY), dead, patience_s=3.0) as llm:
            completions(await ask_many(llm, 40, 8))
            assert KEY not in repr(vars(llm))
            assert KEY not in repr(llm._attempts.transports["dead"].__dict__)
            await asyncio.to_thread(sim.configure, api_key="another")
            with pytest.raises(RunStoppedError) as stop:
                await ask_many(llm, 8, 8)
            return stop.value

    caplog.set_level(logging.DEBUG)
    faults = {"500": 0.2, "cut": 0.1}
    with simulated_endpoint(api_key=KEY, faults=faults) as sim, closed_port() as port:
        error = asyncio.run(main(port), debug=True)
    assert "key was refused" in str(error)
    assert KEY not in "".join(traceback.format_exception(error))
    formatter = logging.Formatter()
    assert len(caplog.records) > 2
    assert not [r for r in caplog.records if KEY in formatter.format(r)]


@contextlib.asynccontextmanager
async def canned(
    status: str, body: str, headers: str = "", tls: ssl.SSLContext | None = None
) -> AsyncIterator[Endpoint]:
    """Yield a server that answers everything with the same words."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            length = f"Content-Length: {len(body)}\r\nConnection: close\r\n"
            writer.write(f"HTTP/1.1 {status}\r\n{headers}{length}\r\n{body}".encode())
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    async with server:
        port = server.sockets[0].getsockname()[1]
        yield Endpoint("a", f"{'https' if tls else 'http'}://127.0.0.1:{port}/v1", KEY)


@pytest.mark.parametrize("status", ["400 Bad Request", "401 Unauthorized", "500 Oops", "200 OK", "302 Found"])
def test_a_key_that_a_server_repeats_is_not_shown(status: str) -> None:
    async def main() -> str:
        headers = f"Location: http://elsewhere/?key={KEY}\r\n" if status.startswith("302") else ""
        async with (
            canned(status, f'{{"error": {{"message": "Bearer {KEY} is no good"}}}}', headers) as endpoint,
            client(endpoint, max_attempts=2, patience_s=0.5) as llm,
        ):
            with pytest.raises((CallError, RunStoppedError)) as error:
                await ask(llm)
            assert KEY not in str(llm.health())
            problems = await check_endpoints([endpoint], ["m"])
            assert len(problems) == 1
            return str(error.value) + problems[0]

    stated = asyncio.run(main())
    assert "***" in stated
    assert KEY not in stated


# TLS


def _certificate(folder: Path) -> tuple[Path, Path]:
    """Return a certificate for 127.0.0.1 that nobody but itself has signed, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem, key_pem = folder / "certificate.pem", folder / "key.pem"
    pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_pem.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return pem, key_pem


def test_a_certificate_that_cannot_be_verified_is_reported_with_what_helps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pem, key = _certificate(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pem, key)

    async def main() -> str:
        async with canned("200 OK", '{"data": [{"id": "m"}]}', tls=context) as endpoint:
            problems = await check_endpoints([endpoint], ["m"])
            return problems[0] if problems else ""

    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    stated = asyncio.run(main())
    assert "its certificate cannot be verified (self-signed certificate)" in stated
    assert "SSL_CERT_FILE" in stated
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    assert asyncio.run(main()) == ""


def test_https_to_a_port_that_speaks_http_is_reported(sim: SimulatedEndpoint) -> None:
    there = Endpoint("a", sim.base_url.replace("http:", "https:"))
    (problem,) = asyncio.run(check_endpoints([there], ["m"]))
    assert "no TLS connection can be made" in problem
    assert "does the server speak https" in problem


# Looking before calling


def test_check_endpoints_names_every_bad_one() -> None:
    async def main(port: int) -> list[str]:
        good = Endpoint("good", sim.base_url, "right")
        return await check_endpoints(
            [
                good,
                Endpoint("keyless", sim.base_url),
                Endpoint("wrong-key", sim.base_url, KEY),
                Endpoint("elsewhere", sim.base_url.replace("/v1", ""), "right"),
                Endpoint("dead", f"http://127.0.0.1:{port}/v1"),
                Endpoint("hangs", f"http://127.0.0.1:{mute.getsockname()[1]}/v1"),
            ],
            ["m1"],
            timeout_s=1.0,
        )

    with (
        simulated_endpoint(models=["m1", "m2"], api_key="right") as sim,
        closed_port() as port,
        socket.create_server(("127.0.0.1", 0)) as mute,
    ):
        problems = asyncio.run(main(port))
    stated = {line.split(" ", 1)[0]: line for line in problems}
    assert list(stated) == ["keyless", "wrong-key", "elsewhere", "dead", "hangs"]
    assert "none is set" in stated["keyless"]
    assert "key was refused" in stated["wrong-key"]
    assert KEY not in stated["wrong-key"]
    assert "/v1" in stated["elsewhere"]
    assert "refused" in stated["dead"]
    assert "no answer within 1 s" in stated["hangs"]


def test_check_endpoints_lists_what_is_served_instead() -> None:
    with simulated_endpoint(models=["m1", "m2"]) as sim:
        problems = asyncio.run(check_endpoints([at(sim)], ["m1", "m3"]))
    assert problems == [f"a ({sim.base_url}): does not serve m3; it serves: m1, m2"]
