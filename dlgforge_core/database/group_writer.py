"""Group commit: many small writes of one worker share a transaction; each is acknowledged when durable."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Op = TypeVar("Op")
MAX_GROUP = 512


@dataclass(slots=True)
class _Pending(Generic[Op]):
    op: Op
    done: asyncio.Future[object]


class GroupWriter(Generic[Op]):
    """Collects operations and hands them to `write` in groups.

    While one group is being written the next one gathers, so groups grow with the load by themselves;
    `linger_s` says, before each write, for how many seconds more operations may join, which saves round
    trips. `write` returns one result for each operation, in order; a result that is an exception is
    raised to the one who submitted that operation.
    """

    def __init__(
        self,
        write: Callable[[Sequence[Op]], Awaitable[Sequence[object]]],
        linger_s: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._write = write
        self._linger_s = linger_s
        self._queue: list[_Pending[Op]] = []
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._lingering: asyncio.Task[None] | None = None
        self._closing = False

    def start(self) -> None:
        """Begin to write; needs a running event loop."""
        self._task = asyncio.create_task(self._run(), name="group-writer")

    async def submit(self, op: Op) -> object:
        """Queue one operation; returns its result once it is durable, or raises its failure."""
        if self._closing:
            raise asyncio.CancelledError
        pending = _Pending(op, asyncio.get_running_loop().create_future())
        self._queue.append(pending)
        self._wake.set()
        return await pending.done

    async def close(self) -> None:
        """Write what is queued, then stop."""
        self._closing = True
        self._wake.set()
        if self._lingering is not None:
            self._lingering.cancel()
        if self._task is not None:
            await self._task
            self._task = None

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            if not self._closing and len(self._queue) < MAX_GROUP:
                await self._linger()
            group, self._queue = self._queue[:MAX_GROUP], self._queue[MAX_GROUP:]
            if not self._queue:
                self._wake.clear()
            if group:
                await self._write_group(group)
            if self._closing and not self._queue:
                return

    async def _linger(self) -> None:
        seconds = self._linger_s()
        if seconds <= 0:
            await asyncio.sleep(0)  # whoever is ready in this turn of the event loop joins
            return
        self._lingering = asyncio.create_task(asyncio.sleep(seconds))
        await asyncio.wait([self._lingering])
        self._lingering = None

    async def _write_group(self, group: Sequence[_Pending[Op]]) -> None:
        try:
            results = await self._write([pending.op for pending in group])
        except Exception as error:
            results = [error] * len(group)
        for pending, result in zip(group, results, strict=True):
            if pending.done.done():  # its dialogue was cancelled meanwhile
                continue
            if isinstance(result, Exception):
                pending.done.set_exception(result)
            else:
                pending.done.set_result(result)
