"""Database: the one door to Postgres. Every error that leaves it is a StoreError."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import psycopg

from dlgforge_core.config import PostgresConfig
from dlgforge_core.database.connection import Connection, connect
from dlgforge_core.database.failures import shown_cause, store_error
from dlgforge_core.database.locks import HeldLock, Key, try_lock
from dlgforge_core.database.migrate import migrate
from dlgforge_core.database.pooling import check_sessions
from dlgforge_core.database.reconnecting import AsyncReconnectingConnection, OnOpen, ReconnectingConnection

_POLL_S = 1.0


@dataclass(frozen=True, slots=True)
class Database:
    """Access to one Postgres: connections, locks and migrations. It holds nothing open, and can be pickled.

    What fails in it, and within its context managers, is raised as a StoreError that says what is wrong and
    what would help. The DSN may hold a password: never log it.
    """

    dsn: str = field(repr=False)
    settings: PostgresConfig = field(default_factory=PostgresConfig, repr=False)

    @contextmanager
    def connection(self, application: str = "dlgforge") -> Iterator[Connection]:
        """Yield a connection in autocommit mode, closed at the end."""
        with self.errors(), self._connect(application) as connection:
            yield connection

    def reconnecting(
        self, application: str, patience_s: float, stopping: threading.Event | None = None
    ) -> ReconnectingConnection:
        """Return a connection, not open yet, that outlives breaks of up to `patience_s` seconds."""
        return ReconnectingConnection(self.dsn, self.settings, application, patience_s, stopping)

    def reconnecting_async(
        self,
        application: str,
        patience_s: float,
        on_open: OnOpen | None = None,
        on_lost: Callable[[], None] = lambda: None,
    ) -> AsyncReconnectingConnection:
        """Return the same for event loops; see `AsyncReconnectingConnection` for `on_open` and `on_lost`."""
        return AsyncReconnectingConnection(self.dsn, self.settings, application, patience_s, on_open, on_lost)

    def try_lock(self, keys: Sequence[Key]) -> HeldLock | None:
        """Return the first of these advisory locks that is free, held; None when none is."""
        with self.errors():
            return try_lock(self._connect, keys)

    @contextmanager
    def lock(self, keys: Sequence[Key], on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
        """One of these advisory locks, held; `on_wait` is called once when it has to be waited for."""
        waiting = False
        while (held := self.try_lock(keys)) is None:
            if not waiting:
                on_wait()
                waiting = True
            time.sleep(_POLL_S)
        try:
            yield
        finally:
            held.release()

    def migrate(self) -> list[int]:
        """Bring the schema up to date; returns the versions applied now.

        Raises StoreError also when the role of the DSN lacks rights, naming the GRANTs that give them, when
        a pooler lends sessions by transaction, and when workers of an earlier version are at work.
        """
        with self.connection() as connection:
            check_sessions(connection, self._connect)
            return migrate(connection)

    def check_sessions(self) -> None:
        """Raise StoreError when a pooler lends sessions by transaction."""
        with self.connection() as connection:
            check_sessions(connection, self._connect)

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Raise what psycopg raises within as a StoreError."""
        try:
            yield
        except psycopg.Error as error:
            raise store_error(error, self.dsn, self.settings) from shown_cause(error)

    def _connect(self, application: str = "dlgforge") -> Connection:
        return connect(self.dsn, self.settings, application)
