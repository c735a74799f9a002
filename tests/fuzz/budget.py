"""How long the fuzz suite looks: some examples a test, or DLGFORGE_FUZZ_S seconds for each test."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings

FUZZ_S = float(os.environ.get("DLGFORGE_FUZZ_S", "0"))
EXAMPLES = 500 if FUZZ_S else 40
MAX_S = 5.0
"""Of one answer or document, with room for a busy machine."""


def fuzz(test: Callable[[], None]) -> Callable[[], None]:
    """Make a property of a bounded number of examples, tried anew for as long as DLGFORGE_FUZZ_S says."""
    bounded = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))(test)

    def run() -> None:
        ends = time.monotonic() + FUZZ_S
        bounded()
        while time.monotonic() < ends:
            bounded()

    run.__name__, run.__doc__, run.__module__ = test.__name__, test.__doc__, test.__module__
    return run


def quickly(call: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """Return what `call` returns; fails when it takes longer than MAX_S of CPU time."""
    started = time.process_time()
    try:
        return call(*arguments, **named)
    finally:
        taken = time.process_time() - started
        assert taken < MAX_S, f"{call} took {taken:.1f} s"
