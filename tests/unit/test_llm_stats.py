"""Counting calls and latencies."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlgforge_core.llm.stats import CallStats, FailureKind, LatencyHistogram

_LATENCIES = st.lists(st.floats(0.001, 1000.0), min_size=1, max_size=200)


@given(_LATENCIES, st.sampled_from([50, 90, 99]))
def test_percentiles_are_off_by_half_a_bucket_at_most(latencies: list[float], percent: int) -> None:
    histogram = LatencyHistogram()
    for latency in latencies:
        histogram.add(latency)
    true = sorted(latencies)[math.ceil(len(latencies) * percent / 100) - 1]
    assert histogram.percentile(percent) == pytest.approx(true, rel=0.046)


@given(_LATENCIES, _LATENCIES)
def test_merging_is_counting_together(first: list[float], second: list[float]) -> None:
    one, other, both = LatencyHistogram(), LatencyHistogram(), LatencyHistogram()
    for latency in first:
        one.add(latency)
        both.add(latency)
    for latency in second:
        other.add(latency)
        both.add(latency)
    one.merge(other)
    assert one.buckets == both.buckets
    assert one.count == both.count
    assert one.mean == pytest.approx(both.mean)


def test_a_histogram_stays_small_whatever_it_is_given() -> None:
    histogram = LatencyHistogram()
    for exponent in range(-40, 40):
        histogram.add(10.0**exponent)
    histogram.add(0.0)
    assert len(histogram.buckets) < 100
    assert max(histogram.buckets) <= 255


def test_stats_survive_json_and_add_up() -> None:
    stats = CallStats()
    for endpoint in ("a", "b"):
        for role in ("qa_judge", "kb_responder"):
            counts = stats.of(endpoint, role)
            counts.calls += 2
            counts.retries += 1
            counts.prompt_tokens += 10
            counts.failures[FailureKind.TIMEOUT] += 1
            counts.latency.add(0.5)
    copy = CallStats.from_json(json.loads(json.dumps(stats.to_json())))
    assert copy.to_json() == stats.to_json()
    copy.merge(stats)
    assert copy.total().calls == 16
    assert copy.total().failures == {"timeout": 8}
    assert {r: c.calls for r, c in copy.by_role().items()} == {"kb_responder": 8, "qa_judge": 8}
    assert {e: c.prompt_tokens for e, c in copy.by_endpoint().items()} == {"a": 40, "b": 40}
    assert stats.total().calls == 8  # merging copies
