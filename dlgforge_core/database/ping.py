"""Ping: whether a Postgres answers `SELECT 1` in time, and if not, why."""

from __future__ import annotations

import asyncio
import threading

import psycopg

from dlgforge_core.database.dsn import check_dsn
from dlgforge_core.database.failures import connection_error
from dlgforge_core.errors import StoreError


class PingError(StoreError):
    """The server did not answer `SELECT 1`; `transient` when waiting may help."""


async def ping(dsn: str, timeout_s: float) -> None:
    """Run `SELECT 1` within `timeout_s` seconds, or raise PingError with the cause and what would help."""
    dsn = check_dsn(dsn)
    try:
        async with asyncio.timeout(timeout_s):
            connection = await psycopg.AsyncConnection.connect(dsn, autocommit=True)
            try:
                await connection.execute("SELECT 1")
            finally:
                await connection.close()
    except (psycopg.Error, TimeoutError) as error:
        # Without the cause: psycopg's own exception may quote the DSN.
        raise _ping_error(dsn, error, timeout_s) from None


def ping_blocking(dsn: str, timeout_s: float) -> None:
    """`ping` for code that is not async; it may run where an event loop runs already."""
    outcome: list[BaseException | None] = []

    def work() -> None:
        try:
            asyncio.run(ping(dsn, timeout_s))
        except BaseException as error:
            outcome.append(error)
        else:
            outcome.append(None)

    # A daemon thread, for a name server that never answers must hold neither us nor the end of the process.
    thread = threading.Thread(target=work, name="dlgforge-ping", daemon=True)
    thread.start()
    thread.join(timeout_s + 1.0)
    error = outcome[0] if outcome else _ping_error(check_dsn(dsn), TimeoutError(), timeout_s)
    if error is not None:
        raise error


def _ping_error(dsn: str, error: Exception, timeout_s: float) -> PingError:
    found = connection_error(dsn, error, timeout_s)
    return PingError(str(found), transient=found.transient)
