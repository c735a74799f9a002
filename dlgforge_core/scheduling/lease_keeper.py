"""The life of a worker that holds a lease: work rolls while the lease is kept, and ends with it in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

from dlgforge_core.scheduling.rolling import Rolling

T = TypeVar("T")
U = TypeVar("U")
U_co = TypeVar("U_co", covariant=True)

_log = logging.getLogger(__name__)

_RELOCK_S = 1.0  # how often a worker whose lock was lost tries to take it again
_LONGEST_PAUSE_S = 5.0


class Leased(Protocol[U_co]):
    """What a worker has claimed, and may lose."""

    @property
    def locked(self) -> bool:
        """Whether the worker's lock is held."""

    async def register(self) -> None:
        """Begin anew, under another number."""

    async def heartbeat(self, stats: Mapping[str, Any]) -> bool:
        """Renew the lease and publish what was counted; False when the lease had been lost."""

    async def take_over_and_count_usage(self) -> U_co:
        """Free what dead workers held; return what the other workers have used."""


class LeaseKeeper(Generic[T, U]):
    """Has a worker's items carried, and keeps its lease meanwhile. Belongs to one event loop.

    `on_used` is told now and then what the other workers have used, `on_lost` that the worker was taken for
    dead: everything that it had open is let go of, and it begins anew.
    """

    def __init__(
        self,
        leased: Leased[U],
        rolling: Rolling[T],
        lease_s: float,
        stats: Callable[[], Mapping[str, Any]],
        on_used: Callable[[U], None],
        on_lost: Callable[[], None] = lambda: None,
    ) -> None:
        self.doubt = asyncio.Event()
        """To be set when the lease should be renewed at once."""
        self._leased = leased
        self._rolling = rolling
        self._pause_s = min(_LONGEST_PAUSE_S, lease_s / 3)
        self._stats = stats
        self._on_used, self._on_lost = on_used, on_lost

    async def run(
        self, more: Callable[[int], Awaitable[Sequence[T]]], finished: Callable[[], Awaitable[bool]]
    ) -> None:
        """Carry what `more` gives, as `Rolling.run` does, and publish the last counts.

        Raises what stopped the work.
        """
        keeping = asyncio.create_task(self._keep(), name="lease")
        keeping.add_done_callback(self._ended)
        try:
            # First what others began and left behind, then the rest.
            self._on_used(await self._leased.take_over_and_count_usage())
            await self._rolling.run(more, finished)
        finally:
            await self._rolling.let_go()  # under the lease, for calls that are waited for may take long
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
        await self._leased.heartbeat(self._stats())
        if self._rolling.failure is not None:
            raise self._rolling.failure

    async def _keep(self) -> None:
        while True:
            self._on_used(await self._leased.take_over_and_count_usage())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.doubt.wait(), self._pause_s if self._leased.locked else _RELOCK_S)
            self.doubt.clear()
            if not await self._leased.heartbeat(self._stats()):
                _log.warning("the lease was lost: other workers took over; starting afresh")
                # First let go, then register: a task of before must not write under the new lease.
                await self._rolling.let_go()
                self._on_lost()
                await self._leased.register()

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._rolling.fail(error)
