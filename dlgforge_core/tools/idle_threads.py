"""Threads that are used again once they have nothing to do, and never waited for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue


class IdleThreads:
    """Runs each piece of work at once, on an idle thread or on a new one.

    Not a `ThreadPoolExecutor`: its threads are waited for when the process ends, and work that never ends
    would keep others waiting. Work must not raise.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._idle: list[SimpleQueue[Callable[[], None] | None]] = []
        self._lock = threading.Lock()
        self._closed = False

    def run(self, work: Callable[[], None]) -> None:
        """Begin a piece of work."""
        with self._lock:
            queue = self._idle.pop() if self._idle else None
        if queue is None:
            queue = SimpleQueue()
            threading.Thread(target=self._serve, args=(queue,), name=self._name, daemon=True).start()
        queue.put(work)

    def close(self) -> None:
        """End the idle threads now, and busy ones when their work has ended."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for queue in idle:
            queue.put(None)

    def _serve(self, queue: SimpleQueue[Callable[[], None] | None]) -> None:
        while (work := queue.get()) is not None:
            work()
            del work  # what it holds is not kept while idle
            with self._lock:
                if self._closed:
                    return
                self._idle.append(queue)
