"""What endpoints did and how they were, from what workers published."""

from __future__ import annotations

from typing import Any

from dlgforge_core.generation.endpoint_figures import endpoint_figures
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.llm.health import HealthTracker
from dlgforge_core.llm.stats import CallStats, FailureKind


def worker(
    start: float, end: float, calls: dict[str, int], open_because: dict[str, str] | None = None
) -> dict[str, Any]:
    """Stats of a worker that made so many calls, of 10 tokens and 2 s each, at endpoints by name."""
    counted = CallStats()
    health = []
    for name, n in calls.items():
        counts = counted.of(name, "kb_responder")
        for _ in range(n):
            counts.calls += 1
            counts.completion_tokens += 10
            counts.latency.add(2.0)
        tracker = HealthTracker(Endpoint(name=name, base_url=f"http://{name}:8000/v1"))
        if reason := (open_because or {}).get(name):
            counts.failures[FailureKind.TIMEOUT] += 5
            for _ in range(5):
                tracker.failed(end, FailureKind.TIMEOUT, reason, end)
        health.append(tracker.snapshot().to_json())
    return {"calls": counted.to_json(), "endpoints": health, "started_at": start, "updated_at": end}


def test_workers_side_by_side_count_once_and_pauses_not_at_all() -> None:
    stats = [worker(100, 110, {"a": 5}), worker(105, 120, {"a": 10, "b": 1}), worker(500, 510, {"a": 15})]
    a, b = endpoint_figures(stats)
    assert (a.name, a.counts.calls, a.seconds, a.tokens_per_s) == ("a", 30, 30.0, 10.0)
    assert (b.name, b.counts.calls, b.seconds) == ("b", 1, 30.0)
    assert abs(a.counts.latency.percentile(50) - 2.0) < 0.1


def test_an_endpoint_is_as_bad_as_the_worst_report_of_it_at_the_end() -> None:
    early = worker(0, 10, {"a": 1, "b": 1}, {"b": "timed out"})
    late = [worker(100, 200, {"a": 1, "b": 1}), worker(100, 195, {"a": 1, "b": 1}, {"a": "timed out"})]
    a, b = endpoint_figures([early, *late])
    assert (a.state, a.reason) == ("left alone", "timed out")
    assert (b.state, b.reason) == ("well", "")
    assert b.counts.failures == {"timeout": 5}, "what failed earlier is still counted"


def test_workers_that_tell_no_state_or_time_are_counted_all_the_same() -> None:
    stats = worker(0, 10, {"a": 3})
    (figures,) = endpoint_figures([{"calls": stats["calls"]}, {}])
    assert (figures.counts.calls, figures.state, figures.tokens_per_s) == (3, "", 0.0)
    assert endpoint_figures([]) == []
