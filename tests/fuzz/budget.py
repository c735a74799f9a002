"""How long the fuzz suite looks: some examples a test, or DLGFORGE_FUZZ_S seconds for each test."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings

FUZZ_S = float(os.environ.get("DLGFORGE_FUZZ_S", "0"))
EXAMPLES = 40
MAX_S = 5.0
"""Of one answer or document, with room for a busy machine."""

bounded = settings(
    max_examples=10_000_000 if FUZZ_S else EXAMPLES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
"""For every fuzz test; with `within_budget` inside it, an hour by hand ends after an hour."""


class Budget:
    """Lets a test's further examples pass at once when its time is up."""

    def __init__(self) -> None:
        self._started: float | None = None

    def is_spent(self) -> bool:
        """Whether DLGFORGE_FUZZ_S are over since the first call; never in CI."""
        self._started = self._started or time.monotonic()
        return bool(FUZZ_S) and time.monotonic() - self._started > FUZZ_S


def quickly(call: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """What `call` returns; fails when it takes longer than MAX_S of CPU time."""
    started = time.process_time()
    try:
        return call(*arguments, **named)
    finally:
        taken = time.process_time() - started
        assert taken < MAX_S, f"{call} took {taken:.1f} s"
