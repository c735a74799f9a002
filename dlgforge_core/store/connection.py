"""How connections to the run state are opened."""

from __future__ import annotations

from typing import Any

import psycopg

from dlgforge_core.config import PostgresConfig
from dlgforge_core.store.migrate import SCHEMA

AsyncConnection = psycopg.AsyncConnection[Any]


def connect_arguments(config: PostgresConfig, application: str) -> dict[str, Any]:
    """Keyword arguments for psycopg's connect, common to all connections.

    TCP keep-alives make a peer that vanished show within about half a minute.
    """
    return {
        "connect_timeout": max(1, round(config.connect_timeout_s)),
        "application_name": application,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
    }


def session_setup(config: PostgresConfig) -> str:
    """SQL each new session starts with; a statement, not `options`, which poolers refuse."""
    return (
        f"SET search_path TO {SCHEMA}; SET statement_timeout TO {round(config.statement_timeout_s * 1000)}; "
        "SET TIME ZONE 'UTC'"
    )


def connect(dsn: str, config: PostgresConfig, application: str = "dlgforge") -> psycopg.Connection:
    """A synchronous connection in autocommit mode, set to the run state's schema."""
    connection = psycopg.connect(dsn, autocommit=True, **connect_arguments(config, application))
    connection.execute(session_setup(config).encode())
    return connection


async def connect_async(dsn: str, config: PostgresConfig, application: str = "dlgforge") -> AsyncConnection:
    """An asynchronous connection in autocommit mode, set to the run state's schema."""
    connection = await psycopg.AsyncConnection.connect(
        dsn, autocommit=True, **connect_arguments(config, application)
    )
    await connection.execute(session_setup(config).encode())
    return connection
