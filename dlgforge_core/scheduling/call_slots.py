"""Call slots: a semaphore that lets the caller with most work left go first."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from types import TracebackType


def claim_threshold(concurrency: int, most: int) -> int:
    """For how many more of `most` dialogues there must be room before new ones are claimed.

    A claim costs a round trip: take several at once, but never let slots run dry for it.
    """
    return max(1, min(concurrency // 4, most // 8))


Capacity = Callable[[str], tuple[Hashable, int]]
"""Of a caller: a key for the endpoints that it asks, and how many calls these bear at once, 1 or more."""


@dataclass(slots=True)
class _Pool:
    """The calls to the same endpoints: those that hold a slot, and those that wait for one."""

    caller: str
    held: int = 0
    waiting: list[tuple[int, int, asyncio.Future[None]]] = field(default_factory=list)

    @property
    def first(self) -> tuple[int, int, asyncio.Future[None]] | None:
        """The one that goes next, if any waits."""
        while self.waiting and self.waiting[0][2].done():  # cancelled
            heapq.heappop(self.waiting)
        return self.waiting[0] if self.waiting else None


class CallSlots:
    """At most `size` calls at once; a free slot goes to the waiting call with the highest priority.

    Longest remaining first keeps slots busy to the end: a dialogue's calls are a chain, so the longest
    chain bounds the span. Calls of equal priority go in the order they came. Where callers have different
    endpoints, `capacity` keeps those of one from taking all slots to wait for it: no more go there than it
    bears, and what it bears no longer, since it fails or pauses, is others' as long as that lasts.
    """

    def __init__(self, size: int, capacity: Capacity = lambda caller: (None, 1)) -> None:
        if size < 1:
            raise ValueError(f"size = {size}; at least one slot is needed")
        self.size = size
        self._capacity = capacity
        self._pools: dict[Hashable, _Pool] = {}
        self._pool_of: dict[str, _Pool] = {}
        self._sequence = 0
        self._closed = False

    @property
    def all_wanted(self) -> bool:
        """Whether every slot is taken and calls wait for the next one."""
        return any(pool.first for pool in self._pools.values()) and not self._free

    def close(self) -> None:
        """Grant no further slot: who waits or asks is cancelled, calls under way go on to their end."""
        self._closed = True
        for pool in self._pools.values():
            for _, _, future in pool.waiting:
                future.cancel()
            pool.waiting.clear()

    def slot(self, priority: int, caller: str = "") -> _Slot:
        """Return a context manager that holds one slot; a greater `priority` goes first."""
        return _Slot(self, priority, caller)

    def look_again(self) -> None:
        """Grant what is free now that endpoints may bear less: the slots of calls that wait for them."""
        while waiting := [p for p in self._pools.values() if p.waiting and p.first]:
            if not self._free:
                return
            wanting = [p for p in waiting if p.held < self._most(p)]
            if not wanting:
                return
            chosen = min(wanting, key=lambda p: p.waiting[0])
            _, _, future = heapq.heappop(chosen.waiting)
            future.set_result(None)
            chosen.held += 1

    def _pool(self, caller: str) -> _Pool:
        pool = self._pool_of.get(caller)
        if pool is None:
            key, _ = self._capacity(caller)
            pool = self._pool_of[caller] = self._pools.setdefault(key, _Pool(caller))
        return pool

    @property
    def _free(self) -> int:
        return max(0, self.size - sum(min(pool.held, self._most(pool)) for pool in self._pools.values()))

    def _most(self, pool: _Pool) -> int:
        """How many slots its calls may hold."""
        if len(self._pools) < 2:
            return self.size
        _, bears = self._capacity(pool.caller)
        # A few more, so that none of its endpoints idles while a call backs off or a slot changes hands.
        return bears + 1 + bears // 4

    async def _acquire(self, pool: _Pool, priority: int) -> None:
        if self._closed:
            raise asyncio.CancelledError
        if not pool.first and pool.held < self._most(pool) and self._free:
            pool.held += 1
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sequence += 1
        heapq.heappush(pool.waiting, (-priority, self._sequence, future))
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():  # granted and cancelled at the same moment
                self._release(pool)
            raise

    def _release(self, pool: _Pool) -> None:
        """Free a slot, and pass on what is free at once: nobody who comes now may overtake."""
        pool.held -= 1
        self.look_again()


class _Slot:
    __slots__ = ("_caller", "_pool", "_priority", "_slots")

    def __init__(self, slots: CallSlots, priority: int, caller: str) -> None:
        self._slots = slots
        self._priority = priority
        self._caller = caller

    async def __aenter__(self) -> None:
        self._pool = self._slots._pool(self._caller)
        await self._slots._acquire(self._pool, self._priority)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._slots._release(self._pool)
