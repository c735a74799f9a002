"""Counts and times of a simulated endpoint, from its start or the last reset."""

from __future__ import annotations

import resource
import time
from collections import Counter, deque
from typing import Any

_MAX_CONVERSATIONS = 262_144  # so that memory stays bounded; beyond it the count stays put


class Stats:
    """What happened. Times are seconds; `now` is time.monotonic()."""

    def __init__(self, record_requests: int = 0) -> None:
        self.calls = 0
        self.by_role: Counter[str] = Counter()
        self.by_kind: Counter[str] = Counter()
        self.by_model: Counter[str] = Counter()
        self.by_status: Counter[int] = Counter()
        self.faults: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.duplicates = 0
        self.aborted = 0
        self.served = 0
        self.service_s_sum = 0.0
        self.nominal_service_s_sum = 0.0
        self.queue_wait_s_sum = 0.0
        self.first_start: float | None = None
        self.last_end: float | None = None
        self.in_flight_max = 0
        self.serving_max = 0
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.completion_tokens = 0
        self.connections = 0
        self.embedded = 0  # texts
        self.reranked = 0  # documents
        self.searches = 0
        self.requests: deque[dict[str, Any]] = deque(maxlen=record_requests)
        self._conversations: set[int] = set()
        self._conversations_by_role: Counter[str] = Counter()
        self._cpu_start = time.process_time()

    def conversation(self, key: int, role: str) -> None:
        """Count the conversation `key` belongs to, once."""
        if key not in self._conversations and len(self._conversations) < _MAX_CONVERSATIONS:
            self._conversations.add(key)
            self._conversations_by_role[role] += 1

    def to_json(self, slots: int | None) -> dict[str, Any]:
        """As plain data. `utilisation` is None without slots or before anything was served.

        `service_s_sum` is how long slots were held; `nominal_service_s_sum` what was drawn for the answers
        that were finished, which a busy machine cannot stretch.
        """
        span = self.last_end - self.first_start if self.first_start is not None and self.last_end else 0.0
        return {
            "calls": self.calls,
            "served": self.served,
            "aborted": self.aborted,
            "by_role": dict(self.by_role),
            "by_kind": dict(self.by_kind),
            "by_model": dict(self.by_model),
            "by_status": {str(status): count for status, count in self.by_status.items()},
            "faults": dict(self.faults),
            "errors": dict(self.errors),
            "duplicates": self.duplicates,
            "in_flight_max": self.in_flight_max,
            "serving_max": self.serving_max,
            "service_s_sum": self.service_s_sum,
            "nominal_service_s_sum": self.nominal_service_s_sum,
            "queue_wait_s_sum": self.queue_wait_s_sum,
            "span_s": span,
            "utilisation": self.service_s_sum / (span * slots) if slots and span else None,
            "nominal_utilisation": self.nominal_service_s_sum / (span * slots) if slots and span else None,
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "completion_tokens": self.completion_tokens,
            "cache_hit_rate": self.cached_tokens / self.prompt_tokens if self.prompt_tokens else None,
            "unique_conversations": len(self._conversations),
            "unique_conversations_by_role": dict(self._conversations_by_role),
            "connections": self.connections,
            "embedded": self.embedded,
            "reranked": self.reranked,
            "searches": self.searches,
            "cpu_s": time.process_time() - self._cpu_start,
            "rss_max_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "requests": list(self.requests),
        }
