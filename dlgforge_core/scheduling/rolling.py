"""The rolling loop: many items open at once, each replaced as it ends, without a barrier anywhere."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Generic, TypeVar

from dlgforge_core.scheduling.call_slots import CallSlots, claim_threshold
from dlgforge_core.scheduling.garbage import long_lived_objects_set_aside

T = TypeVar("T")


class Rolling(Generic[T]):
    """Keeps up to `most` items open, none of which owns one of the call slots they share.

    `carry` sees an item through; an error that it raises ends the loop, as `failure`. Belongs to one event
    loop.
    """

    def __init__(
        self,
        carry: Callable[[T], Coroutine[Any, Any, None]],
        slots: CallSlots,
        most: int,
        *,
        poll_s: float = 1.0,
    ) -> None:
        self.failure: BaseException | None = None
        self._carry = carry
        self._slots = slots
        self._most = most
        self._worthwhile = claim_threshold(slots.size, most)
        self._poll_s = poll_s
        self._open: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._stopping = False
        self._draining = False
        self._dry_at = float("-inf")
        """When there was last less than was asked for."""
        self._replenished = False

    @property
    def n_open(self) -> int:
        """How many items are open."""
        return len(self._open)

    async def run(
        self, more: Callable[[int], Awaitable[Sequence[T]]], finished: Callable[[], Awaitable[bool]]
    ) -> None:
        """Carry what `more(n)` gives, at most n items at a time, until `finished` or `stop`.

        A source that gave less than it was asked for is asked again after a while, or once nothing is open.
        `finished` is asked when nothing is open and nothing came.
        """
        with long_lived_objects_set_aside():
            await self._roll(more, finished)

    async def _roll(
        self, more: Callable[[int], Awaitable[Sequence[T]]], finished: Callable[[], Awaitable[bool]]
    ) -> None:
        loop = asyncio.get_running_loop()
        while not self._stopping:
            self._changed.clear()
            room = self._most - len(self._open)
            if room >= self._worthwhile and loop.time() - self._dry_at >= self._poll_s:
                self._replenished = False
                found = await more(room)
                for item in found:
                    self._begin(item)
                if len(found) < room and not self._replenished:
                    self._dry_at = loop.time()
                if not self._open and await finished():
                    return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), self._poll_s)
            if not self._open:
                self._dry_at = float("-inf")

    def replenished(self) -> None:
        """Ask the source again at once: there may be more than it last had."""
        self._dry_at = float("-inf")
        self._replenished = True
        self._changed.set()

    def stop(self, *, drain: bool = False) -> None:
        """Begin nothing more; with `drain` the calls under way are waited for, else they are cut off."""
        self._draining = drain and self.failure is None
        if self._draining:
            self._slots.close()
        self._stopping = True
        self._changed.set()

    def fail(self, error: BaseException) -> None:
        """Stop because of `error`; the first one is kept."""
        self.failure = self.failure or error
        self.stop()

    async def let_go(self) -> None:
        """End what is open."""
        tasks = list(self._open)
        if not self._draining:
            for task in tasks:
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def add(self, item: T) -> None:
        """Open one item more, whatever there is room for; nothing once it is stopped."""
        if not self._stopping:
            self._begin(item)

    def _begin(self, item: T) -> None:
        task = asyncio.create_task(self._carry(item))
        self._open.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._open.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.fail(error)
        self._changed.set()
