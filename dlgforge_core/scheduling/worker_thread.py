"""A worker on an event loop and a thread of its own, beside the caller's thread."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Generic, Protocol, TypeVar

from dlgforge_core.scheduling.background import LoopThread, WorkResult

R = TypeVar("R", bound=WorkResult)


class LoopWorker(Protocol):
    """What works on the event loop."""

    def stop(self, reason: str) -> None:
        """Cut off the calls, let go of what is claimed, and end."""

    def stats(self) -> Mapping[str, Any]:
        """Return what was counted so far, as plain data."""


class LoopWorkerThread(Generic[R]):
    """Runs one worker beside the caller's thread, which stays free to report and to be interrupted.

    `run` works to the end; it hands the worker over once there is one.
    """

    def __init__(self, run: Callable[[Callable[[LoopWorker], None]], Coroutine[Any, Any, R]]) -> None:
        self._worker: LoopWorker | None = None
        self._stop_reason: str | None = None
        self._thread = LoopThread(lambda: run(self._started), "dlgforge-worker")

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def wait(self, timeout_s: float) -> bool:
        """Whether the worker has ended within `timeout_s` seconds."""
        return self._thread.wait(timeout_s)

    def stop(self, reason: str) -> None:
        """Ask the worker to cut off its calls, let go of what it has claimed and end."""
        self._stop_reason = reason
        self._thread.call_soon(self._stop_now)

    def _stop_now(self) -> None:
        if self._worker is not None and self._stop_reason is not None:
            self._worker.stop(self._stop_reason)

    def stats(self) -> Mapping[str, Any] | None:
        """Return what the worker has counted so far; None before it has started."""
        return self._worker.stats() if self._worker is not None else None

    def result(self) -> R:
        """How the worker ended; raises what it failed with. Call once `wait` has returned True."""
        return self._thread.result()

    def _started(self, worker: LoopWorker) -> None:
        self._worker = worker
        self._stop_now()
