"""Which of the endpoints that have room takes a call: by load, in turns, or by the dialogue's prefix."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from hashlib import blake2b

from dlgforge_core.config import RoutingStrategy
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.llm.health import EndpointState, HealthTracker

BOUNDED_LOAD = 1.25
BOUNDED_LOAD_SLACK = 4  # calls above the mean that are no overload, however small the mean is


class Balancer:
    """Chooses among endpoints by a strategy, and remembers whom it chose."""

    def __init__(self, endpoints: Sequence[Endpoint], strategy: RoutingStrategy) -> None:
        self._strategy = strategy
        self._turn = {e.name: 0.0 for e in endpoints}  # of round robin: credit; else: when last chosen
        self._chosen = itertools.count(1)

    def choose(
        self, free: Sequence[HealthTracker], affinity: str, every: Sequence[HealthTracker]
    ) -> HealthTracker:
        """One of `free`, those of `every` endpoint that have room; `affinity` names the dialogue."""
        if self._strategy == "round_robin":
            return self._round_robin(free)
        if self._strategy == "prefix_affinity":
            return self._by_affinity(free, affinity, every)
        return self._least_in_flight(free)

    def _least_in_flight(self, free: Sequence[HealthTracker]) -> HealthTracker:
        def load(tracker: HealthTracker) -> tuple[float, float]:
            # An endpoint that fails often is free often: what fails counts against its weight.
            weight = tracker.endpoint.weight * (1.0 - tracker.failure_rate) ** 2
            return (tracker.in_flight + 1) / weight, self._turn[tracker.endpoint.name]

        chosen = min(free, key=load)
        self._turn[chosen.endpoint.name] = next(self._chosen)
        return chosen

    def _round_robin(self, free: Sequence[HealthTracker]) -> HealthTracker:
        # Smooth weighted round robin, as in nginx: everyone earns its weight, who is chosen pays them all.
        total = 0.0
        for tracker in free:
            self._turn[tracker.endpoint.name] += tracker.endpoint.weight
            total += tracker.endpoint.weight
        chosen = max(free, key=lambda t: self._turn[t.endpoint.name])
        self._turn[chosen.endpoint.name] -= total
        return chosen

    def _by_affinity(
        self, free: Sequence[HealthTracker], affinity: str, every: Sequence[HealthTracker]
    ) -> HealthTracker:
        ranked = sorted(free, key=lambda t: rendezvous_score(affinity, t.endpoint), reverse=True)
        usable = [t for t in every if t.state is EndpointState.CLOSED] or ranked
        weights = sum(t.endpoint.weight for t in usable)
        load = 1 + sum(t.in_flight for t in usable)
        for tracker in ranked:
            mean = load * tracker.endpoint.weight / weights
            if tracker.in_flight < max(BOUNDED_LOAD * mean, mean + BOUNDED_LOAD_SLACK):
                return tracker
        return self._least_in_flight(free)


def rendezvous_score(affinity: str, endpoint: Endpoint) -> float:
    """Rank of an endpoint for a dialogue (weighted rendezvous hashing): the highest of all is its home."""
    digest = blake2b(f"{affinity}\0{endpoint.name}".encode(), digest_size=8).digest()
    unit = (int.from_bytes(digest, "big") + 0.5) / 2.0**64
    return -endpoint.weight / math.log(unit)
