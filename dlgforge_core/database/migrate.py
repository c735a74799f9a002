"""Migrations of the schema `dlgforge`: numbered SQL files, each applied once, under an advisory lock."""

from __future__ import annotations

import re
from importlib import resources

import psycopg

from dlgforge_core.database import lock_keys
from dlgforge_core.errors import StoreError

SCHEMA = "dlgforge"


def migrations() -> list[tuple[int, str]]:
    """Version and SQL of every shipped migration, in order."""
    folder = resources.files("dlgforge_core.database").joinpath("migrations")
    return sorted(
        (int(match[1]), entry.read_text("utf-8"))
        for entry in folder.iterdir()
        if (match := re.fullmatch(r"(\d{4})_\w+\.sql", entry.name))
    )


def migrate(connection: psycopg.Connection) -> list[int]:
    """Bring the schema up to date in one transaction; returns the versions applied now.

    Processes that start together wait for one another. Raises StoreError when the database was migrated
    by a newer dlgforge.
    """
    shipped = migrations()
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (lock_keys.MIGRATIONS,))
        # Asked for first: CREATE ... IF NOT EXISTS needs the right to create even with nothing to do.
        if not _exists(connection):
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
                f"{shipped[-1][0]}; upgrade dlgforge"
            )
        new = [(version, sql) for version, sql in shipped if version not in applied]
        if new:
            connection.execute(f"SET LOCAL search_path TO {SCHEMA}")
        for version, sql in new:
            connection.execute(sql.encode())
            connection.execute("INSERT INTO schema_migrations (version) VALUES (%s)", (version,))
    return [version for version, _ in new]


def _exists(connection: psycopg.Connection) -> bool:
    row = connection.execute("SELECT to_regclass(%s)", (f"{SCHEMA}.schema_migrations",)).fetchone()
    return row is not None and row[0] is not None
