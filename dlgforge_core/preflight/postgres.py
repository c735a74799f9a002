"""Postgres before a run: whether the run state can be kept there, and connections are left."""

from __future__ import annotations

from collections.abc import Callable

from dlgforge_core.config import PostgresConfig, Recipe
from dlgforge_core.config.runtime import RayConfig
from dlgforge_core.database.connection import Connection
from dlgforge_core.database.database import Database
from dlgforge_core.database.dsn import ResolvedDsn, redact_dsn
from dlgforge_core.database.migrate import migrations
from dlgforge_core.database.ping import ping_blocking
from dlgforge_core.database.privileges import SCHEMA, privilege_problem
from dlgforge_core.errors import StoreError
from dlgforge_core.preflight.report import Row, failed, ok, warning
from dlgforge_core.runtime.distributed.bootstrap import worker_count

OLDEST_VERSION = 13
"""The oldest major version of Postgres whose SQL the run state keeps to."""
CONNECTIONS_OF_WORKER = 4
CONNECTIONS_OF_RUN = 10
"""Of Dagster and what looks after a run."""

Reporter = Callable[[Row], None]

_STATE = """
SELECT current_setting('server_version'), current_setting('server_version_num')::int / 10000,
       current_setting('transaction_read_only')::bool, current_setting('max_connections')::int
           - current_setting('superuser_reserved_connections')::int
           - coalesce(nullif(current_setting('reserved_connections', true), ''), '0')::int,
       (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'),
       d.datconnlimit, r.rolconnlimit,
       (SELECT count(*) FROM pg_stat_activity WHERE datname = d.datname),
       (SELECT count(*) FROM pg_stat_activity WHERE usename = r.rolname)
FROM pg_database d, pg_roles r WHERE d.datname = current_database() AND r.rolname = current_user
"""


def check_postgres(
    resolve: Callable[[], ResolvedDsn],
    settings: PostgresConfig,
    recipe: Recipe,
    ray: RayConfig,
    report: Reporter,
) -> None:
    """Report on the database of the run state: its DSN, whether it answers, version, rights, connections."""
    try:
        found = resolve()
        report(ok("postgres", "DSN", f"{redact_dsn(found.dsn)} ({found.source.value})"))
        ping_blocking(found.dsn, settings.connect_timeout_s)
        database = Database(found.dsn, settings)
        database.check_sessions()
        with database.connection("dlgforge check") as connection:
            report(ok("postgres", "reachable", "answers SELECT 1"))
            _look(connection, connections_needed(recipe, ray), report)
    except StoreError as error:
        cause, _, remedy = str(error).rpartition("; ")
        report(failed("postgres", "reachable", cause or remedy, remedy if cause else ""))


def connections_needed(recipe: Recipe, ray: RayConfig) -> int:
    """Return about how many connections a run takes, Dagster's included."""
    return CONNECTIONS_OF_RUN + CONNECTIONS_OF_WORKER * worker_count(recipe.run.distributed, ray)


def _look(connection: Connection, needed: int, report: Reporter) -> None:
    row = connection.execute(_STATE).fetchone()
    assert row is not None
    version, major, read_only, most, used, *limits = row
    if major >= OLDEST_VERSION:
        report(ok("postgres", "version", str(version)))
    else:
        remedy = f"use Postgres {OLDEST_VERSION} or later"
        report(failed("postgres", "version", f"{version} is older than {OLDEST_VERSION}", remedy))
    report(_rights(connection, read_only=read_only))
    of_database, of_role, in_database, as_role = limits
    left = [("max_connections", most - used)]
    left += [("the database's CONNECTION LIMIT", of_database - in_database)] if of_database >= 0 else []
    left += [("the role's CONNECTION LIMIT", of_role - as_role)] if of_role >= 0 else []
    what, free = min(left, key=lambda one: one[1])
    finding = f"{free} left, and a run takes about {needed}"
    if free >= needed:
        report(ok("postgres", "connections", finding))
    else:
        bad = failed if free <= 0 else warning
        remedy = f"raise {what}, let fewer clients use the server, or lower ray.workers.replicas"
        report(bad("postgres", "connections", finding, remedy))


def _rights(connection: Connection, *, read_only: bool) -> Row:
    """Return whether the role may do what a run does; nothing is made or changed."""
    if read_only:
        remedy = "name the primary in the DSN, or have the role's default_transaction_read_only off"
        return failed("postgres", "rights", "the server takes reads alone: it is a standby", remedy)
    known = migrations()[-1][0]
    there = connection.execute("SELECT to_regclass(%s)", (f"{SCHEMA}.schema_migrations",)).fetchone()
    exists = there is not None and there[0] is not None
    problem = privilege_problem(connection, migrating=not exists and not _owns_schema(connection))
    if problem:
        return _refused(problem)
    if not exists:
        return ok("postgres", "rights", "a run makes the tables of the run state")
    row = connection.execute(f"SELECT max(version) FROM {SCHEMA}.schema_migrations").fetchone()
    version = int(row[0] or 0) if row is not None else 0
    if version > known:
        finding = f"the run state is at version {version}, and this dlgforge knows {known} alone"
        return failed("postgres", "rights", finding, "upgrade dlgforge")
    if version < known and not _owns_schema(connection):
        return _refused(privilege_problem(connection, migrating=True))
    upgraded = f"; a run brings it up to version {known}" if version < known else ""
    return ok("postgres", "rights", f"the run state is at version {version}{upgraded}")


def _refused(problem: str) -> Row:
    cause, _, remedy = problem.partition(": ")
    return failed("postgres", "rights", cause, remedy)


def _owns_schema(connection: Connection) -> bool:
    row = connection.execute(
        "SELECT pg_has_role(current_user, nspowner, 'USAGE') FROM pg_namespace WHERE nspname = %s", (SCHEMA,)
    ).fetchone()
    return row is not None and bool(row[0])
