"""What each endpoint did in a run, and how it was at the end, from what the workers published."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dlgforge_core.llm.stats import Counts, merged_calls

# From well to bad. Each worker judges for itself; an endpoint is as bad as the worst that is said of it.
_STATES = {"closed": "well", "half_open": "on trial", "open": "left alone"}
_SAME_END_S = 30.0  # workers that were heard this long before the last one are of the same session


@dataclass(frozen=True, slots=True)
class EndpointFigures:
    """One endpoint over all sessions of a run.

    `seconds`: for how long any worker was at work, 0.0 when it is not known. `state`: "well", "on trial" or
    "left alone" at the end, with the reason; empty when no worker told one.
    """

    name: str
    counts: Counts
    seconds: float
    state: str = ""
    reason: str = ""
    lessons: tuple[str, ...] = ()
    """What it was asked for otherwise than by default, since it refuses that."""

    @property
    def tokens_per_s(self) -> float:
        """Tokens made per second of wall clock; 0.0 when the time is not known."""
        return self.counts.completion_tokens / self.seconds if self.seconds > 0 else 0.0


def endpoint_figures(workers: Iterable[Mapping[str, Any]]) -> list[EndpointFigures]:
    """Figures by endpoint, by name, from workers' stats as `Worker.stats` gives them.

    Reads `calls` and, where they are there, `endpoints` (health), `started_at` and `updated_at` (Unix time).
    """
    stats = list(workers)
    counts, states, seconds = merged_calls(stats).by_endpoint(), _states(stats), _seconds(stats)
    return [
        EndpointFigures(
            name, counts.get(name, Counts()), seconds, *states.get(name, ("", "")), _lessons(stats, name)
        )
        for name in sorted({*counts, *states})
    ]


def _states(stats: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str, str]]:
    """State and reason by endpoint, as the workers of the latest session told them."""
    published = [item for item in stats if item.get("endpoints")]
    last = max((item["updated_at"] for item in published), default=0.0)
    order = list(_STATES)
    worst: dict[str, tuple[int, str]] = {}
    for item in published:
        if item["updated_at"] < last - _SAME_END_S:
            continue
        for health in item["endpoints"]:
            standing = (order.index(health["state"]), health["reason"])
            worst[health["endpoint"]] = max(standing, worst.get(health["endpoint"], standing))
    return {name: (_STATES[order[n]], reason if n else "") for name, (n, reason) in worst.items()}


def _lessons(stats: Sequence[Mapping[str, Any]], name: str) -> tuple[str, ...]:
    learned = {
        lesson
        for item in stats
        for health in item.get("endpoints") or ()
        if health["endpoint"] == name
        for lesson in health.get("lessons", ())
    }
    return tuple(sorted(learned))


def _seconds(stats: Sequence[Mapping[str, Any]]) -> float:
    """How long any worker was at work: those side by side count once."""
    spans = sorted((item["started_at"], item["updated_at"]) for item in stats if "started_at" in item)
    total, end = 0.0, float("-inf")
    for start, stop in spans:
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return float(total)
