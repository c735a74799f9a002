"""Reconnecting: a connection that broke is opened again, and what ran on it runs once more."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import psycopg

from dlgforge_core.config import PostgresConfig
from dlgforge_core.database.connection import AsyncConnection, Connection, connect, connect_async
from dlgforge_core.database.failures import shown_cause, store_error
from dlgforge_core.database.hangup import HangupWatch

T = TypeVar("T")
OnOpen = Callable[[AsyncConnection, bool], Awaitable[None]]

# Failures of a server that goes away, restarts, is not up yet or is no primary any more; a statement's
# time-out is one as well.
_FAILURES = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    psycopg.errors.ReadOnlySqlTransaction,
    ConnectionError,
)
_ERRORS = (psycopg.Error, ConnectionError)
# After these the connection is as good as before.
_HARMLESS = (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure)
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 2.0


class _Pauses:
    """Between the attempts at one piece of work: ever longer, until the patience is at its end.

    Patience begins with the first failure: a server that stands still shows only after the time that a
    statement may take, and what fails over in that time is to be found again.
    """

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._deadline: float | None = None
        self._next_s = _FIRST_PAUSE_S

    def after(self, error: Exception, *, stopping: bool = False) -> float | None:
        """Seconds to wait after this failure; None when there is no use in waiting."""
        if not isinstance(error, _FAILURES) or isinstance(error, psycopg.errors.QueryCanceled):
            return None
        if self._deadline is None:
            self._deadline = time.monotonic() + self._patience_s
        if stopping or time.monotonic() > self._deadline:
            return None
        pause_s, self._next_s = self._next_s, min(_LONGEST_PAUSE_S, self._next_s * 2)
        return pause_s


class ReconnectingConnection:
    """A connection that is opened again when it breaks, for up to `patience_s` seconds; then StoreError.

    What is run on it may run twice. For one thread at a time. `stopping` ends the patience.
    """

    def __init__(
        self,
        dsn: str,
        config: PostgresConfig,
        application: str,
        patience_s: float,
        stopping: threading.Event | None = None,
    ) -> None:
        self._dsn, self._config, self._application = dsn, config, application
        self._patience_s = patience_s
        self._stopping = stopping or threading.Event()
        self._connection: Connection | None = None

    def run(self, work: Callable[[Connection], T]) -> T:
        """Return the result of `work`. Raises StoreError for whatever Postgres does not carry out."""
        pauses = _Pauses(self._patience_s)
        while True:
            try:
                if self._connection is None or self._connection.closed:
                    self._connection = connect(self._dsn, self._config, self._application)
                return work(self._connection)
            except _ERRORS as error:
                pause_s = pauses.after(error, stopping=self._stopping.is_set())
                if pause_s is None:
                    raise store_error(error, self._dsn, self._config) from shown_cause(error)
                if not isinstance(error, _HARMLESS):
                    self.close()
                self._stopping.wait(pause_s)

    def close(self) -> None:
        """Close it; `run` opens it again."""
        if self._connection is not None:
            self._connection.close()


class AsyncReconnectingConnection:
    """`ReconnectingConnection` for an event loop; what its tasks run on it takes turns.

    `on_open` gets every connection that was opened before anything runs on it, and whether there was one
    before. It must not call `run`. `on_lost` is told when a connection has broken, at once also if nothing
    ran on it; it is opened again when something runs.
    """

    def __init__(
        self,
        dsn: str,
        config: PostgresConfig,
        application: str,
        patience_s: float,
        on_open: OnOpen | None = None,
        on_lost: Callable[[], None] = lambda: None,
    ) -> None:
        self._dsn, self._config, self._application = dsn, config, application
        self._patience_s = patience_s
        self._on_open, self._on_lost = on_open, on_lost
        self._connection: AsyncConnection | None = None
        self._hangup: HangupWatch | None = None
        self._turn = asyncio.Lock()

    async def run(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Return the result of `work`. Raises StoreError for whatever Postgres does not carry out."""
        async with self._turn:
            pauses = _Pauses(self._patience_s)
            while True:
                try:
                    return await work(await self._opened())
                except _ERRORS as error:
                    pause_s = pauses.after(error)
                    if pause_s is None:
                        raise store_error(error, self._dsn, self._config) from shown_cause(error)
                    if not isinstance(error, _HARMLESS):
                        if self._hangup is not None:  # else it was told before
                            self._on_lost()
                        await self.aclose()
                    await asyncio.sleep(pause_s)

    async def _opened(self) -> AsyncConnection:
        before = self._connection
        if before is not None and not before.closed:
            return before
        fresh = await connect_async(self._dsn, self._config, self._application)
        try:
            if self._on_open is not None:
                await self._on_open(fresh, before is not None)
        except BaseException:
            await fresh.close()
            raise
        self._connection = fresh
        self._hangup = HangupWatch(fresh.fileno(), self._hung_up)
        return fresh

    def look(self) -> None:
        """Have `on_lost` told now if the connection has broken, and nobody has noticed yet."""
        if self._hangup is not None:
            self._hangup.look()

    def _hung_up(self) -> None:
        self._hangup = None
        self._on_lost()

    async def aclose(self) -> None:
        """Close it; `run` opens it again."""
        if self._hangup is not None:
            self._hangup.close()
            self._hangup = None
        if self._connection is not None:
            await self._connection.close()
