"""Migrations of the schema `dlgforge`: numbered SQL files, each applied once, under an advisory lock."""

from __future__ import annotations

import re
from importlib import resources
from typing import Any

import psycopg

from dlgforge_core.database import lock_keys
from dlgforge_core.database.privileges import SCHEMA, privilege_problem
from dlgforge_core.errors import StoreError


def migrations() -> list[tuple[int, str]]:
    """Version and SQL of every shipped migration, in order."""
    folder = resources.files("dlgforge_core.database").joinpath("migrations")
    return sorted(
        (int(match[1]), entry.read_text("utf-8"))
        for entry in folder.iterdir()
        if (match := re.fullmatch(r"(\d{4})_\w+\.sql", entry.name))
    )


def migrate(connection: psycopg.Connection[Any]) -> list[int]:
    """Bring the schema up to date in one transaction; returns the versions applied now.

    Processes that start together wait for one another. Raises StoreError when the database was migrated
    by a newer dlgforge, when workers of an earlier one are at work and there is something to migrate, or when
    the connection's role lacks rights that dlgforge needs, naming the GRANTs.
    """
    try:
        applied = _migrate(connection)
    except psycopg.errors.InsufficientPrivilege as error:
        problem = privilege_problem(connection) or privilege_problem(connection, migrating=True)
        raise StoreError(problem or str(error).strip(), transient=False) from None
    if problem := privilege_problem(connection):
        raise StoreError(problem, transient=False)
    return applied


def _migrate(connection: psycopg.Connection[Any]) -> list[int]:
    shipped = migrations()
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (lock_keys.MIGRATIONS,))
        # Asked for first: CREATE ... IF NOT EXISTS needs the right to create even with nothing to do.
        if not _exists(connection):
            if not _schema_exists(connection):
                connection.execute(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")
            connection.execute(
                f"CREATE TABLE {SCHEMA}.schema_migrations "
                "(version integer PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())"
            )
        rows = connection.execute(f"SELECT version FROM {SCHEMA}.schema_migrations").fetchall()
        applied = {int(row[0]) for row in rows}
        if applied and max(applied) > shipped[-1][0]:
            raise StoreError(
                f"the database's schema {SCHEMA!r} is at version {max(applied)}, this dlgforge knows only "
                f"{shipped[-1][0]}; upgrade dlgforge",
                transient=False,
            )
        new = [(version, sql) for version, sql in shipped if version not in applied]
        if new:
            if applied:
                _refuse_beside_workers(connection, max(applied), shipped[-1][0])
            connection.execute(f"SET LOCAL search_path TO {SCHEMA}")
        for version, sql in new:
            connection.execute(sql.encode())
            connection.execute("INSERT INTO schema_migrations (version) VALUES (%s)", (version,))
    return [version for version, _ in new]


def _refuse_beside_workers(connection: psycopg.Connection[Any], version: int, wanted: int) -> None:
    # Their statements are those of the version that they were started with.
    row = connection.execute(
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted AND classid = %s "
        "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
        (lock_keys.WORKERS,),
    ).fetchone()
    if row is not None and row[0]:
        raise StoreError(
            f"the database's schema {SCHEMA!r} is to be brought from version {version} to {wanted}, and "
            f"workers of an earlier dlgforge are at work on it ({row[0]}); wait until their run has ended, "
            "or terminate it, and run the same again"
        )


def _exists(connection: psycopg.Connection[Any]) -> bool:
    row = connection.execute("SELECT to_regclass(%s)", (f"{SCHEMA}.schema_migrations",)).fetchone()
    return row is not None and row[0] is not None


def _schema_exists(connection: psycopg.Connection[Any]) -> bool:
    row = connection.execute("SELECT FROM pg_namespace WHERE nspname = %s", (SCHEMA,)).fetchone()
    return row is not None
