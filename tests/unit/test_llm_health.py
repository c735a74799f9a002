"""Circuit and limit of one endpoint, on a clock of the test's own; and the choice among several."""

import asyncio
import traceback
from collections import Counter
from typing import Any

import pytest

from dlgforge_core.config import RoutingStrategy
from dlgforge_core.errors import ConfigError, RunStoppedError
from dlgforge_core.llm.balancing import rendezvous_score
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.llm.health import EndpointState, HealthTracker
from dlgforge_core.llm.router import Router, Slot, Wanted
from dlgforge_core.llm.stats import FailureKind
from dlgforge_core.llm.transport import EndpointTransport


def state_of(tracker: HealthTracker) -> EndpointState:
    """Return the state as it is now: a call, since a type checker takes an attribute to stay what it was."""
    return tracker.state


def endpoint(name: str = "a", **settings: Any) -> Endpoint:
    return Endpoint(name, f"http://{name}/v1", **settings)


def answer(tracker: HealthTracker, times: int = 1) -> None:
    for _ in range(times):
        tracker.answered(0.0, saturated=True)


def test_the_limit_doubles_in_a_round_trip_up_to_max_in_flight() -> None:
    tracker = HealthTracker(endpoint(max_in_flight=200))
    assert tracker.limit == 64
    answer(tracker, 64)
    assert tracker.limit == 128
    answer(tracker, 128)
    assert tracker.limit == 200


def test_the_limit_does_not_grow_while_nobody_wants_more() -> None:
    tracker = HealthTracker(endpoint())
    for _ in range(100):
        tracker.answered(0.0, saturated=False)
    assert tracker.limit == 64


def test_a_stray_429_costs_one_call_and_many_find_what_the_endpoint_bears() -> None:
    tracker = HealthTracker(endpoint())
    tracker.in_flight = 30
    tracker.overloaded(0.0, "429", None)
    assert tracker.limit == 63
    for left in range(29, 7, -1):
        tracker.in_flight = left
        tracker.overloaded(0.0, "429", None)
    assert tracker.limit == 8
    assert tracker.state is EndpointState.CLOSED
    answer(tracker, 16)
    assert 8.5 < tracker.limit <= 9.5


def test_time_outs_of_one_congestion_cut_the_limit_once() -> None:
    tracker = HealthTracker(endpoint(), failures_to_open=100)
    tracker.in_flight = 60
    for _ in range(10):
        tracker.failed(10.0, FailureKind.TIMEOUT, "slow", started=0.0)
    assert tracker.limit == pytest.approx(64 * 0.7)
    tracker.failed(20.0, FailureKind.TIMEOUT, "slow", started=11.0)
    assert tracker.limit == pytest.approx(64 * 0.7 * 0.7)


def test_retry_after_pauses_the_endpoint_and_holds_growth_back() -> None:
    tracker = HealthTracker(endpoint())
    tracker.overloaded(100.0, "429", 3.0)
    assert not tracker.has_room(102.9)
    assert tracker.has_room(103.0)
    before = tracker.limit
    tracker.answered(110.0, saturated=True)
    assert tracker.limit == before
    tracker.answered(131.0, saturated=True)
    assert tracker.limit > before


def test_patience_does_not_count_the_pause_that_was_asked_for() -> None:
    tracker = HealthTracker(endpoint())
    assert tracker.patience_ends(60.0) is None
    tracker.overloaded(100.0, "429", 90.0)
    assert tracker.patience_ends(60.0) == 250.0
    tracker.overloaded(191.0, "429", 30.0)
    assert tracker.patience_ends(60.0) == 250.0, "one that only asks for pauses does not get them for ever"
    assert not tracker.asks_too_much(191.0)
    tracker.overloaded(200.0, "429", 3600.0)
    assert tracker.asks_too_much(200.0)
    assert "a pause of 3600 s" in tracker.reason
    tracker.answered(201.0, saturated=False)
    tracker.failed(300.0, FailureKind.TIMEOUT, "slow", started=299.0)
    assert tracker.patience_ends(60.0) == 360.0


def fail(tracker: HealthTracker, dialogue: str, kind: FailureKind = FailureKind.SERVER_ERROR) -> bool:
    return tracker.failed(0.0, kind, "500", started=0.0, dialogue=dialogue)


def test_the_circuit_opens_backs_off_longer_each_time_and_closes_after_one_good_call() -> None:
    tracker = HealthTracker(endpoint())
    for index in range(5):
        assert tracker.state is EndpointState.CLOSED
        assert fail(tracker, f"d{index}", FailureKind.CONNECTION) == (index == 4)
    assert tracker.state is EndpointState.OPEN
    assert fail(tracker, "d5"), "what was under way when the endpoint was found at fault is no call's fault"
    assert not tracker.has_room(1e9)
    waits = [tracker.open_until]
    for _ in range(9):
        tracker.trial_begun()
        assert state_of(tracker) is EndpointState.HALF_OPEN
        assert not tracker.has_room(1e9), "no dialogue's call makes the trial"
        tracker.trial_failed(0.0, "still down")
        waits.append(tracker.open_until)
    assert 0.125 <= waits[0] <= 0.25
    assert waits[4] > waits[0]
    assert max(waits) <= 15.0
    tracker.trial_begun()
    tracker.trial_succeeded(0.0)
    assert state_of(tracker) is EndpointState.CLOSED
    assert tracker.has_room(0.0)
    assert tracker.failing_since is None


def test_one_dialogue_alone_does_not_open_the_circuit_however_often_it_fails() -> None:
    tracker = HealthTracker(endpoint())
    assert not any(fail(tracker, "poisoned") for _ in range(100))
    assert tracker.state is EndpointState.CLOSED
    assert fail(tracker, "another")
    assert state_of(tracker) is EndpointState.OPEN


def test_an_endpoint_has_answered_others_only_when_others_were_answered() -> None:
    tracker = HealthTracker(endpoint())
    tracker.answered(1.0, saturated=False, dialogue="a")
    tracker.answered(2.0, saturated=False, dialogue="b")
    tracker.answered(3.0, saturated=False, dialogue="b")
    assert tracker.has_answered(2.5, other_than="a")
    assert not tracker.has_answered(2.5, other_than="b")
    assert tracker.has_answered(0.5, other_than="b")
    tracker.trial_succeeded(4.0)
    assert tracker.has_answered(3.5, other_than="b")


def test_a_trial_that_succeeds_ends_a_pause() -> None:
    tracker = HealthTracker(endpoint())
    tracker.overloaded(0.0, "429", 5000.0)
    assert tracker.asks_too_much(1.0)
    tracker.trial_succeeded(1.0)
    assert tracker.has_room(1.0)


def test_a_tenth_of_the_calls_failing_does_not_open_the_circuit_and_most_of_them_do() -> None:
    tracker = HealthTracker(endpoint())
    for index in range(1000):
        if index % 10 == 0:
            fail(tracker, f"d{index}")
        else:
            answer(tracker)
    assert tracker.state is EndpointState.CLOSED
    for _ in range(30):
        for index in range(4):
            fail(tracker, f"d{index}")
        if state_of(tracker) is EndpointState.OPEN:
            return
        answer(tracker)
    pytest.fail("four of five calls fail, and the circuit stays closed")


# The router


WANTED = Wanted("kb_responder", "m")


async def never(endpoint: Endpoint) -> str:
    return "not there"


def router(strategy: RoutingStrategy, *endpoints: Endpoint, patience_s: float = 60.0) -> Router:
    return Router(endpoints, strategy, patience_s=patience_s, probe=never)


async def take(r: Router, affinity: str = "d", **kw: Any) -> Slot:
    return await asyncio.wait_for(r.acquire(r.ticket(), WANTED, affinity, **kw), 20)


def test_no_endpoint_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match="no endpoint"):
        router("round_robin")


def test_round_robin_is_smooth_and_weighted() -> None:
    async def main() -> str:
        r = router("round_robin", endpoint("a", weight=3.0), endpoint("b"))
        names = []
        for _ in range(8):
            slot = await take(r)
            names.append(slot.endpoint.name)
            r.answered(slot)
        return "".join(names)

    assert asyncio.run(main()) == "aabaaaba"


def test_least_in_flight_keeps_to_the_weights_and_spreads_ties() -> None:
    async def main() -> tuple[Counter[str], Counter[str]]:
        r = router("weighted_least_inflight", endpoint("a", weight=3.0), endpoint("b"))
        loaded = Counter([(await take(r)).endpoint.name for _ in range(80)])
        r = router("weighted_least_inflight", endpoint("a"), endpoint("b"), endpoint("c"))
        idle: Counter[str] = Counter()
        for _ in range(30):
            slot = await take(r)
            idle[slot.endpoint.name] += 1
            r.answered(slot)
        return loaded, idle

    loaded, idle = asyncio.run(main())
    assert loaded == {"a": 60, "b": 20}
    assert idle == {"a": 10, "b": 10, "c": 10}


def test_affinity_keeps_the_load_bounded() -> None:
    async def main() -> Counter[str]:
        r = router("prefix_affinity", endpoint("a"), endpoint("b"))
        return Counter([(await take(r, "the same dialogue")).endpoint.name for _ in range(80)])

    counts = asyncio.run(main())
    assert max(counts.values()) <= 0.5 * 1.25 * 80 + 1


def test_rendezvous_moves_only_the_dialogues_of_a_lost_endpoint_and_keeps_weights() -> None:
    endpoints = [endpoint("a", weight=2.0), endpoint("b"), endpoint("c")]

    def home(dialogue: int, among: list[Endpoint]) -> str:
        return max(among, key=lambda e: rendezvous_score(f"d{dialogue}", e)).name

    before = [home(d, endpoints) for d in range(2000)]
    after = [home(d, endpoints[:2]) for d in range(2000)]
    assert all(b == a for b, a in zip(before, after, strict=True) if b != "c")
    assert Counter(before)["a"] == pytest.approx(1000, rel=0.1)


def test_a_failed_endpoint_is_avoided_if_another_is_free() -> None:
    async def main() -> set[str]:
        r = router("round_robin", endpoint("a"), endpoint("b"))
        return {(await take(r, avoid=["a"])).endpoint.name for _ in range(5)}

    assert asyncio.run(main()) == {"b"}


def test_those_who_wait_are_served_in_the_order_they_came_retries_first() -> None:
    async def main() -> list[str]:
        r = router("round_robin", endpoint("a", max_in_flight=1))
        early = r.ticket()
        slot = await take(r)
        served: list[str] = []

        async def wait(name: str, ticket: int) -> None:
            mine = await r.acquire(ticket, WANTED, "d")
            served.append(name)
            await asyncio.sleep(0)
            r.answered(mine)

        tasks = [asyncio.create_task(wait(name, r.ticket())) for name in ("first", "second", "given up")]
        tasks.append(asyncio.create_task(wait("retry", early)))
        await asyncio.sleep(0.01)
        tasks.pop(2).cancel()
        r.answered(slot)
        await asyncio.wait_for(asyncio.gather(*tasks), 20)
        assert r.health()[0].in_flight == 0
        return served

    assert asyncio.run(main()) == ["retry", "first", "second"]


def test_waiting_calls_learn_of_the_end_of_patience() -> None:
    async def main() -> None:
        r = router("round_robin", endpoint("a"), endpoint("b"), patience_s=0.3)
        for slot in [await take(r, f"d{n}") for n in range(20)]:
            r.failed(slot, FailureKind.CONNECTION, "nobody home")
        waiting = [asyncio.create_task(take(r)) for _ in range(5)]
        for error in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(error, RunStoppedError)
            assert str(error).count("not there") == 2  # what the latest look said, for each endpoint
        await r.aclose()

    asyncio.run(main())


def test_a_slot_handed_to_a_call_that_was_cancelled_is_not_lost() -> None:
    async def main() -> int:
        r = router("round_robin", endpoint("a", max_in_flight=1))
        slot = await take(r)
        waiting = asyncio.create_task(r.acquire(r.ticket(), WANTED, "d"))
        await asyncio.sleep(0)
        r.answered(slot)  # hands the slot over ...
        waiting.cancel()  # ... before the other task has run
        await asyncio.wait([waiting])
        return r.health()[0].in_flight

    assert asyncio.run(main()) == 0


# Connections


def test_a_key_that_no_header_can_hold_is_refused_without_showing_it() -> None:
    with pytest.raises(ConfigError) as error:
        EndpointTransport(Endpoint("a", "http://127.0.0.1:1/v1", "ключ\n"))
    assert "ключ" not in str(error.value)


def test_loopback_is_never_reached_by_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://proxy.invalid:3128")
    monkeypatch.setenv("no_proxy", "internal.example")
    monkeypatch.setenv("NO_PROXY", "internal.example")

    def proxy(url: str) -> object:
        return EndpointTransport(Endpoint("a", url)).proxy

    for host in ("localhost", "localhost.", "gpu.localhost", "127.0.0.1", "127.1.2.3", "[::1]", "0.0.0.0"):
        assert proxy(f"http://{host}:8000/v1") is None
    assert proxy("http://internal.example/v1") is None
    assert proxy("https://api.example.com/v1") is not None


@pytest.mark.parametrize(
    ("value", "url"),
    [
        ("http://u:hunter2@proxy.invalid:3128", "http://proxy.invalid:3128"),
        ("u:hunter2@proxy.invalid:3128", "http://proxy.invalid:3128"),
        ("proxy.invalid:3128", "http://proxy.invalid:3128"),
        ("http://u:hunter2@proxy.invalid:31x8", None),
        ("socks5://u:hunter2@proxy.invalid:1", None),
        ("http://u:hunter2@", None),
    ],
)
def test_a_proxy_is_used_or_refused_without_its_password(
    monkeypatch: pytest.MonkeyPatch, value: str, url: str | None
) -> None:
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, value)
    endpoint = Endpoint("a", "https://api.example.com/v1")
    if url is not None:
        used = EndpointTransport(endpoint).proxy
        assert used is not None
        assert str(used) == url
        return
    with pytest.raises(ConfigError, match="HTTPS_PROXY") as error:
        EndpointTransport(endpoint)
    assert error.value.__cause__ is None
    assert "hunter2" not in "".join(traceback.format_exception(error.value))
