"""Waiting for something to become so, and failing with words when it does not."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_FIRST_POLL_S, _LONGEST_POLL_S = 0.01, 0.25


def wait_until(condition: Callable[[], T | None], timeout_s: float, what: str = "it") -> T:
    """Return the first true value of `condition`.

    Fails after `timeout_s` seconds, naming `what` was waited for.
    """
    deadline = time.monotonic() + timeout_s
    pause = _FIRST_POLL_S  # grows: some conditions cost a query
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s:g} s"
        time.sleep(pause)
        pause = min(1.2 * pause, _LONGEST_POLL_S)
    return value


def seconds_until(condition: Callable[[], object], timeout_s: float, what: str = "it") -> float:
    """How many seconds it takes until the condition holds. Fails after `timeout_s`."""
    started = time.monotonic()
    wait_until(condition, timeout_s, what)
    return time.monotonic() - started
