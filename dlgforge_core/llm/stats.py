"""Counting calls, tokens and latencies by endpoint and role, in memory that does not grow with the run."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self

from dlgforge_core.usage import RoleUsage, Spending


class FailureKind(StrEnum):
    """What went wrong with one HTTP call or its answer."""

    RATE_LIMITED = "rate_limited"  # 429, or 503 with Retry-After
    TIMEOUT = "timeout"
    CONNECTION = "connection"  # cannot connect, reset, body cut short
    SERVER_ERROR = "server_error"  # 5xx
    ABORTED = "aborted"  # a completion that broke off
    UNKNOWN_END = "unknown_end"  # a completion with a finish_reason that nobody knows
    INVALID_BODY = "invalid_body"  # 200, but not a chat completion
    BAD_REQUEST = "bad_request"  # 400 and its kin
    TOOL_CALL = "tool_call"  # the server could not read the tool call that the model made
    KEY_REFUSED = "key_refused"  # 401, 402, 403, 407, no quota
    WRONG_ADDRESS = "wrong_address"  # 404 on the path, redirects
    UNKNOWN_MODEL = "unknown_model"
    EMPTY = "empty"  # a completion without text
    CUT = "cut"  # a completion that ran into max_tokens
    GARBAGE = "garbage"  # a completion that is not text
    INVALID_JSON = "invalid_json"  # a completion that does not follow the schema
    LEAKED_KEY = "leaked_key"  # the text of a completion holds the key that it was asked for with
    REFUSED = "refused"  # the model or a content filter declined


_BUCKETS_PER_DOUBLING = 8
_SMALLEST_S = 0.0005


class LatencyHistogram:
    """Latencies in logarithmic buckets, 9 % wide, from 0.5 ms up: bounded, and mergeable across processes."""

    __slots__ = ("buckets", "count", "total_s")

    def __init__(self) -> None:
        self.buckets: dict[int, int] = {}
        self.count = 0
        self.total_s = 0.0

    def add(self, seconds: float) -> None:
        """Count one latency."""
        index = 0
        if seconds > _SMALLEST_S:
            index = min(255, 1 + int(math.log2(seconds / _SMALLEST_S) * _BUCKETS_PER_DOUBLING))
        self.buckets[index] = self.buckets.get(index, 0) + 1
        self.count += 1
        self.total_s += seconds

    def merge(self, other: LatencyHistogram) -> None:
        """Add all of `other`'s latencies."""
        for index, n in other.buckets.items():
            self.buckets[index] = self.buckets.get(index, 0) + n
        self.count += other.count
        self.total_s += other.total_s

    def percentile(self, percent: float) -> float:
        """Return the latency in seconds that `percent` (0 to 100) of the calls did not exceed.

        0.0 without calls. Off by at most half a bucket, 4.5 %.
        """
        wanted = self.count * percent / 100
        seen = 0
        for index in sorted(self.buckets):
            seen += self.buckets[index]
            if seen >= wanted:
                return _SMALLEST_S * math.exp2((index - 0.5) / _BUCKETS_PER_DOUBLING)
        return 0.0

    @property
    def mean(self) -> float:
        """The mean latency in seconds; 0.0 without calls."""
        return self.total_s / self.count if self.count else 0.0

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        buckets = {str(index): n for index, n in sorted(self.buckets.items())}
        return {"buckets": buckets, "total_s": self.total_s}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Return the inverse of `to_json`."""
        made = cls()
        made.buckets = {int(index): int(n) for index, n in data["buckets"].items()}
        made.count = sum(made.buckets.values())
        made.total_s = float(data["total_s"])
        return made


@dataclass(slots=True)
class Counts:
    """Figures of one endpoint and role, or sums of several.

    `calls` were answered with a completion, usable or not; `retries` are HTTP calls made because an earlier
    one failed or its answer was unusable. Latency is that of the answered calls. `dollars` is what all of it
    cost but for `unpriced` completions, whose price is not known.
    """

    calls: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    dollars: float = 0.0
    unpriced: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    latency: LatencyHistogram = field(default_factory=LatencyHistogram)

    def add_usage(self, used: RoleUsage) -> None:
        """Count the tokens of a completion, and what it cost."""
        self.prompt_tokens += used.prompt_tokens
        self.completion_tokens += used.completion_tokens
        self.cached_tokens += used.cached_tokens
        self.dollars += used.dollars
        self.unpriced += used.unpriced

    @property
    def spending(self) -> Spending:
        """What the calls cost."""
        return Spending(self.dollars, self.unpriced)

    def merge(self, other: Counts) -> None:
        """Add `other`'s figures."""
        self.calls += other.calls
        self.retries += other.retries
        self.prompt_tokens += other.prompt_tokens
        self.completion_tokens += other.completion_tokens
        self.cached_tokens += other.cached_tokens
        self.dollars += other.dollars
        self.unpriced += other.unpriced
        self.failures.update(other.failures)
        self.latency.merge(other.latency)

    def to_json(self) -> dict[str, Any]:
        """As plain data, with the latency percentiles in seconds ready to be shown."""
        return {
            "calls": self.calls,
            "retries": self.retries,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "cached_tokens": self.cached_tokens,
            "dollars": self.dollars,
            "unpriced": self.unpriced,
            "failures": dict(sorted(self.failures.items())),
            "latency_s": {
                "mean": round(self.latency.mean, 4),
                **{f"p{p}": round(self.latency.percentile(p), 4) for p in (50, 90, 99)},
            },
            "latency": self.latency.to_json(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Return the inverse of `to_json`."""
        return cls(
            calls=data["calls"],
            retries=data["retries"],
            prompt_tokens=data["prompt_tokens"],
            completion_tokens=data["completion_tokens"],
            cached_tokens=data["cached_tokens"],
            dollars=data.get("dollars", 0.0),
            unpriced=data.get("unpriced", data["calls"]),  # an earlier version knew no price
            failures=Counter(data["failures"]),
            latency=LatencyHistogram.from_json(data["latency"]),
        )


class CallStats:
    """Figures by (endpoint, role)."""

    def __init__(self) -> None:
        self.by_key: dict[tuple[str, str], Counts] = {}

    def of(self, endpoint: str, role: str) -> Counts:
        """Return the figures of one endpoint and role, to be read or added to."""
        counts = self.by_key.get((endpoint, role))
        if counts is None:
            counts = self.by_key[(endpoint, role)] = Counts()
        return counts

    @property
    def tokens(self) -> int:
        """Tokens of all calls, in and out."""
        return sum(c.prompt_tokens + c.completion_tokens for c in self.by_key.values())

    @property
    def dollars(self) -> float:
        """What all calls cost whose price is known."""
        return sum(c.dollars for c in self.by_key.values())

    @property
    def spending(self) -> Spending:
        """What all calls cost."""
        return self.total().spending

    def merge(self, other: CallStats) -> None:
        """Add all of `other`'s figures."""
        for (endpoint, role), counts in other.by_key.items():
            self.of(endpoint, role).merge(counts)

    def total(self) -> Counts:
        """Return the sum over all endpoints and roles."""
        return _sum(self.by_key.values())

    def by_role(self) -> dict[str, Counts]:
        """Sum over the endpoints, by role."""
        roles = sorted({role for _, role in self.by_key})
        return {role: _sum(c for (_, r), c in self.by_key.items() if r == role) for role in roles}

    def by_endpoint(self) -> dict[str, Counts]:
        """Sum over the roles, by endpoint."""
        names = sorted({name for name, _ in self.by_key})
        return {name: _sum(c for (n, _), c in self.by_key.items() if n == name) for name in names}

    def to_json(self) -> list[dict[str, Any]]:
        """As plain data: one item for each endpoint and role."""
        return [
            {"endpoint": endpoint, "role": role, **counts.to_json()}
            for (endpoint, role), counts in sorted(self.by_key.items())
        ]

    @classmethod
    def from_json(cls, data: Iterable[Mapping[str, Any]]) -> Self:
        """Return the inverse of `to_json`."""
        made = cls()
        for item in data:
            made.of(item["endpoint"], item["role"]).merge(Counts.from_json(item))
        return made


def merged_calls(stats: Iterable[Mapping[str, Any]]) -> CallStats:
    """Return the calls of several workers' published stats, added up."""
    total = CallStats()
    for item in stats:
        total.merge(CallStats.from_json(item.get("calls", ())))
    return total


def _sum(parts: Iterable[Counts]) -> Counts:
    total = Counts()
    for part in parts:
        total.merge(part)
    return total
