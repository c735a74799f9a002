"""Call slots: a semaphore that lets the caller with most work left go first."""

from __future__ import annotations

import asyncio
import heapq
from types import TracebackType


def claim_threshold(concurrency: int, most: int) -> int:
    """For how many more of `most` dialogues there must be room before new ones are claimed.

    A claim costs a round trip: take several at once, but never let slots run dry for it.
    """
    return max(1, min(concurrency // 4, most // 8))


class CallSlots:
    """At most `size` calls at once; a free slot goes to the waiting call with the highest priority.

    Longest remaining first keeps slots busy to the end: a dialogue's calls are a chain, so the longest
    chain bounds the span. Calls of equal priority go in the order they came.
    """

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ValueError(f"size = {size}; at least one slot is needed")
        self.size = size
        self._free = size
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._sequence = 0
        self._closed = False

    @property
    def all_wanted(self) -> bool:
        """Whether every slot is taken and calls wait for the next one."""
        waiting = self._waiting
        while waiting and waiting[0][2].done():  # cancelled
            heapq.heappop(waiting)
        return bool(waiting)

    def close(self) -> None:
        """Grant no further slot: who waits or asks is cancelled, calls under way go on to their end."""
        self._closed = True
        for _, _, future in self._waiting:
            future.cancel()
        self._waiting.clear()

    def slot(self, priority: int) -> _Slot:
        """Return a context manager that holds one slot; a greater `priority` goes first."""
        return _Slot(self, priority)

    async def _acquire(self, priority: int) -> None:
        if self._closed:
            raise asyncio.CancelledError
        if self._free and not self._waiting:
            self._free -= 1
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sequence += 1
        heapq.heappush(self._waiting, (-priority, self._sequence, future))
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():  # granted and cancelled at the same moment
                self._release()
            raise

    def _release(self) -> None:
        while self._waiting:
            _, _, future = heapq.heappop(self._waiting)
            if not future.done():
                future.set_result(None)  # the slot passes on without becoming free
                return
        self._free += 1


class _Slot:
    __slots__ = ("_priority", "_slots")

    def __init__(self, slots: CallSlots, priority: int) -> None:
        self._slots = slots
        self._priority = priority

    async def __aenter__(self) -> None:
        await self._slots._acquire(self._priority)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._slots._release()
