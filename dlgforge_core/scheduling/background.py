"""A session: work that goes on beside the caller's thread, is reported, and ends whatever happens."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import uvloop

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

_STOP_TIMEOUT_S = 15.0


class Work(Protocol[T_co]):
    """What goes on beside the caller's thread."""

    def wait(self, timeout_s: float) -> bool:
        """Whether it has ended within `timeout_s` seconds."""

    def stop(self, reason: str) -> None:
        """Ask it to end."""

    def result(self) -> T_co:
        """Return what came out; raises what it failed with. Called once it has ended."""


@dataclass(frozen=True, slots=True)
class WorkResult:
    """How a worker, or all together, ended: `stop_reason` is None when nothing is left to do."""

    stop_reason: str | None


class Runner(Work[WorkResult], Protocol):
    """What carries the workers: a thread of this process, or actors on a Ray cluster."""

    def start(self) -> None:
        """Begin to work."""

    def stats(self) -> Mapping[str, Any] | None:
        """Return what the workers have counted so far, added up; None before they have started."""


def report_while(
    work: Work[T],
    report: Callable[[float], None],
    started: float,
    *,
    poll_s: float,
    first_report_s: float,
) -> T:
    """Return the result of `work`, for whose end it waits, calling `report` every few seconds.

    `report` gets the seconds since `started`, a time of `time.monotonic`. An interrupt (any exception
    raised in the waiting thread) stops the work and is raised again, as is what the work failed with.
    """
    next_report_s = first_report_s
    try:
        while not work.wait(poll_s):
            elapsed_s = time.monotonic() - started
            if elapsed_s >= next_report_s:
                report(elapsed_s)
                # To look must cost little, however much there is to count.
                took_s = time.monotonic() - started - elapsed_s
                next_report_s = elapsed_s + max(first_report_s, took_s * 20)
        return work.result()
    except BaseException:
        work.stop("interrupted")
        work.wait(_STOP_TIMEOUT_S)
        raise


class LoopThread(Generic[T]):
    """Runs one coroutine, on an event loop and a thread of its own; the caller's thread stays free."""

    def __init__(self, main: Callable[[], Coroutine[Any, Any, T]], name: str) -> None:
        self._main = main
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended: list[T] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin to run it."""
        self._thread.start()

    def wait(self, timeout_s: float) -> bool:
        """Whether it has ended within `timeout_s` seconds."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def call_soon(self, function: Callable[[], object]) -> None:
        """Call it on the loop; nothing happens while there is no loop yet, or no longer."""
        if self._loop is not None:
            # The loop may have been closed in between: then the work has ended.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(function)

    def result(self) -> T:
        """Return what the coroutine returned; raise what it raised. Call once `wait` has returned True."""
        if self._error is not None:
            raise self._error
        (value,) = self._ended
        return value

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                self._loop = runner.get_loop()
                self._ended.append(runner.run(self._main()))
        except BaseException as error:
            self._error = error
