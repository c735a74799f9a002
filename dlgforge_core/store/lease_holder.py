"""A worker's row, lock and lease in Postgres, whatever it claims: dialogues to make, or to judge."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Self, TypeVar

import orjson

from dlgforge_core.database.connection import AsyncConnection, timeline_of
from dlgforge_core.database.database import Database
from dlgforge_core.database.group_writer import GroupWriter
from dlgforge_core.errors import RunStoppedError, StoreError, UnstorableError
from dlgforge_core.store import statements as sql
from dlgforge_core.store.lease import Lease
from dlgforge_core.store.take_over import NOTE_LOST_LOCKS, TAKE_OVER

_log = logging.getLogger(__name__)

# How long writes gather while every call slot is taken and calls wait: the delay costs nothing then.
_LINGER_S = 0.02

W = TypeVar("W")


@dataclass(frozen=True, slots=True)
class Used:
    """What calls have used: tokens in and out, and US dollars."""

    tokens: int = 0
    dollars: float = 0.0


class LeaseHolder(Generic[W]):
    """One worker's side of the run state; an asynchronous context manager.

    Two connections: one holds the worker's lock and does claims and heartbeats, the other writes groups.
    A connection that breaks is opened again for up to `patience_s`; every write can be repeated. Then
    StoreError. The worker belongs to a run, or to a judging session.
    """

    def __init__(
        self,
        database: Database,
        write: Callable[[AsyncConnection, Sequence[W]], Awaitable[Sequence[object]]],
        *,
        application: str,
        lease_s: float,
        patience_s: float,
        run_id: str | None = None,
        session_id: str | None = None,
    ) -> None:
        self.write_is_awaited: Callable[[], bool] = lambda: True
        """Whether somebody waits for the next write; if not, writes gather a little longer."""
        self.counts_usage = True
        """Whether it matters what the other workers have used: only a budget is held against it."""
        self.lease = Lease(lease_s)
        """Whether calls may be made for what is claimed."""
        self._write = write
        self._of = {"run": run_id, "session": session_id}
        self._lease_s = lease_s
        self._worker_id = 0
        self._locked = False
        self._timeline: str | None = None
        self._relock: asyncio.Task[None] | None = None
        doubt = self.lease.doubt
        self._control = database.reconnecting_async(application, patience_s, self._control_opened, doubt)
        self._writing = database.reconnecting_async(application, patience_s, self._writing_opened, doubt)
        self.lease.look = self._look
        self._writer: GroupWriter[W] = GroupWriter(self._write_group, self._linger_s)

    @property
    def worker_id(self) -> int:
        """This worker's number in the table `workers`."""
        return self._worker_id

    @property
    def locked(self) -> bool:
        """Whether this worker's lock is held: without it only the lease keeps others away."""
        return self._locked

    async def __aenter__(self) -> Self:
        await self.register()
        self._writer.start()
        return self

    async def register(self) -> None:
        """Become a worker, under a new number; the start, or the way on after a lost lease.

        Raises RunStoppedError when the judging session that it belongs to has ended.
        """

        async def run(connection: AsyncConnection) -> tuple[int, bool] | None:
            asked_at = self.lease.now()
            place = {"host": socket.gethostname(), "pid": os.getpid(), "lease": self._lease_s}
            cursor = await connection.execute(sql.REGISTER_WORKER, {**self._of, **place})
            row = await cursor.fetchone()
            if row is None:
                return None
            self.lease.renewed(asked_at)
            return int(row[0]), bool(row[1])

        registered = await self._control.run(run)
        if registered is None:
            raise RunStoppedError("this judging session has ended: another one judges the same now")
        self._worker_id, self._locked = registered

    async def __aexit__(self, *exc: object) -> None:
        await self._writer.close()
        if self._relock is not None:
            await asyncio.gather(self._relock, return_exceptions=True)
        try:
            await self._control.run(self._end)
        finally:
            for connection in (self._control, self._writing):
                await connection.aclose()

    # Leases

    async def heartbeat(self, stats: Mapping[str, Any]) -> bool:
        """Renew the lease and publish what was counted; False when the lease had been lost."""

        async def run(connection: AsyncConnection) -> bool:
            asked_at = self.lease.now()
            cursor = await connection.execute(
                sql.HEARTBEAT,
                {"me": self._worker_id, "lease": self._lease_s, "stats": _stats_json(stats)},
            )
            await self._take_lock(connection)
            if cursor.rowcount == 1:
                self.lease.renewed(asked_at)
            return cursor.rowcount == 1

        return await self._control.run(run)

    async def take_over(self) -> int:
        """Free what workers hold that are dead or whose lease expired; returns how many claims."""

        async def run(connection: AsyncConnection) -> int:
            cursor = await connection.execute(TAKE_OVER, {"me": self._worker_id})
            row = await cursor.fetchone()
            return int(row[0]) if row else 0

        return await self._control.run(run)

    async def take_over_and_count_usage(self) -> Used:
        """`take_over`, then what the other workers of the run have published of what they used.

        Nothing where `counts_usage` is false: all workers reading of all others is a lot where they are many.
        """
        await self.take_over()
        if not self.counts_usage:
            return Used()

        async def run(connection: AsyncConnection) -> Used:
            cursor = await connection.execute(sql.USED, {**self._of, "me": self._worker_id})
            row = await cursor.fetchone()
            return Used(int(row[0]), float(row[1])) if row else Used()

        return await self._control.run(run)

    # Writes

    def _linger_s(self) -> float:
        return 0.0 if self.write_is_awaited() else _LINGER_S

    async def _write_group(self, ops: Sequence[W]) -> Sequence[object]:
        self.lease.writing(True)
        try:
            return await self._writing.run(lambda connection: self._write(connection, ops))
        except UnstorableError:
            if len(ops) == 1:
                raise
            # One bad value must not fail its neighbours: find it by writing each alone.
            return [(await self._each_alone(op)) for op in ops]
        finally:
            self.lease.writing(False)

    async def _each_alone(self, op: W) -> object:
        try:
            return (await self._write_group([op]))[0]
        except UnstorableError as error:
            return error

    # Connections

    async def _take_lock(self, connection: AsyncConnection) -> None:
        """Hold this worker's lock.

        Tried, not waited for: after a broken connection the server may still keep the old session for a
        while, and the lease's expiry holds meanwhile.
        """
        if self._locked:
            return
        await connection.execute(NOTE_LOST_LOCKS)
        cursor = await connection.execute(sql.TRY_WORKER_LOCK, {"me": self._worker_id})
        row = await cursor.fetchone()
        self._locked = bool(row and row[0])

    async def _take_lock_again(self) -> None:
        with contextlib.suppress(StoreError):  # the next heartbeat tries again, and tells how it ends
            await self._control.run(self._take_lock)

    def _look(self) -> None:
        self._control.look()
        self._writing.look()

    async def _end(self, connection: AsyncConnection) -> None:
        await connection.execute(sql.END_WORKER, {"me": self._worker_id})

    async def _look_for_fail_over(self, connection: AsyncConnection) -> None:
        """Give up what this worker holds where another server has taken over, and may lack its last writes.

        Then the lease is found to be lost, and the worker begins anew with what this server knows.
        """
        timeline = await timeline_of(connection)
        if self._worker_id and timeline != self._timeline:
            _log.warning("Postgres has failed over: going on from what the server in charge has")
            await self._end(connection)
        self._timeline = timeline

    async def _control_opened(self, connection: AsyncConnection, again: bool) -> None:
        await self._look_for_fail_over(connection)
        if self._worker_id:  # the lock went with the connection before
            self._locked = False
            await self._take_lock(connection)

    async def _writing_opened(self, connection: AsyncConnection, again: bool) -> None:
        await self._look_for_fail_over(connection)
        await connection.execute(sql.BY_KEY_ONLY)
        if again:  # perhaps the other one broke as well, unnoticed
            self._locked = False
            self._relock = asyncio.create_task(self._take_lock_again())


def _stats_json(stats: Mapping[str, Any]) -> str:
    # Enum members among the keys are strings, but not to orjson's quick path.
    return orjson.dumps(stats, option=orjson.OPT_NON_STR_KEYS).decode()
