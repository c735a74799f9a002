"""Figures of one vLLM server, read from its `/metrics`."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ReplicaMetrics:
    """What one server has done since it last started. Counts of tokens; rates in tokens a second."""

    name: str
    requests_running: float = 0.0
    requests_waiting: float = 0.0
    prompt_tokens: float = 0.0
    generation_tokens: float = 0.0
    generation_tokens_per_s: float = 0.0
    """Over the time since the last reading, or since the server started."""
    prefix_cache_queries: float = 0.0
    """Prompt tokens that were looked up in the prefix cache."""
    prefix_cache_hits: float = 0.0
    """Those of them that were found."""

    @property
    def prefix_cache_hit_rate(self) -> float:
        """Share of prompt tokens that were cached, 0 to 1."""
        return self.prefix_cache_hits / self.prefix_cache_queries if self.prefix_cache_queries else 0.0

    def line(self) -> str:
        """In one line, for progress."""
        return (
            f"{self.name}: {self.generation_tokens_per_s:.1f} tokens/s, prefix cache "
            f"{100 * self.prefix_cache_hit_rate:.1f} %, {self.requests_running:.0f} running, "
            f"{self.requests_waiting:.0f} waiting"
        )


def sums_by_name(text: str) -> dict[str, float]:
    """Return the samples of a Prometheus text page, added up over their labels (vLLM labels by engine)."""
    sums: dict[str, float] = defaultdict(float)
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        name, _, rest = line.partition("{") if "{" in line else line.partition(" ")
        value = rest.rpartition("}")[2].split() if "{" in line else rest.split()
        if value:
            try:
                sums[name] += float(value[0])
            except ValueError:
                continue
    return dict(sums)


def replica_metrics(name: str, page: str, seconds: float, tokens_before: float) -> ReplicaMetrics:
    """From a `/metrics` page, read `seconds` after one that counted `tokens_before` generated tokens."""
    sums = sums_by_name(page)

    def of(metric: str) -> float:
        return sums.get(f"vllm:{metric}", 0.0)

    generated = of("generation_tokens_total")
    new = generated - tokens_before if generated >= tokens_before else generated  # it began anew
    return ReplicaMetrics(
        name=name,
        requests_running=of("num_requests_running"),
        requests_waiting=of("num_requests_waiting"),
        prompt_tokens=of("prompt_tokens_total"),
        generation_tokens=generated,
        generation_tokens_per_s=new / seconds if seconds > 0 else 0.0,
        prefix_cache_queries=of("prefix_cache_queries_total"),
        prefix_cache_hits=of("prefix_cache_hits_total"),
    )
