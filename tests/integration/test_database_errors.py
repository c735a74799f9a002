"""Failures of Postgres are StoreErrors with the remedy: missing rights, full disks, read-only servers."""

from __future__ import annotations

import itertools
import pickle
import re
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from dlgforge_core.config import PostgresConfig, RayConfig, Recipe
from dlgforge_core.database.database import Database
from dlgforge_core.database.dsn import DsnSource, ResolvedDsn
from dlgforge_core.database.migrate import migrations
from dlgforge_core.database.privileges import WORK_GRANTS, quoted
from dlgforge_core.errors import StoreError, UnstorableError
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.preflight.postgres import check_postgres
from dlgforge_core.preflight.report import Result, Row
from dlgforge_core.store.run_store import RunStore
from dlgforge_dagster.storage import DlgforgeStorage
from tests.support.postgres import TcpPostgres, tcp_postgres
from tests.support.runs import calls, planned, spec, work
from tests.support.simulated_endpoint import SimulatedEndpoint

pytestmark = pytest.mark.anyio
SECRET = "hunter2"
_numbers = itertools.count()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def server() -> Iterator[TcpPostgres]:
    """Yield a server that asks for passwords."""
    with tcp_postgres() as made:
        connection = Database(made.dsn).reconnecting("dlgforge test", 30.0)
        connection.run(lambda c: c.execute("SELECT 1"))  # it listens before it is up
        connection.close()
        yield made


@pytest.fixture
def owner(server: TcpPostgres) -> Iterator[str]:
    """DSN of an empty database on that server, as its owner."""
    name = f"rights_{next(_numbers)}"
    execute(server.dsn, f"CREATE DATABASE {name}")
    yield server.dsn_with(database=name)
    execute(server.dsn, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(params=["plain", 'My "Role'])
def role(request: pytest.FixtureRequest, server: TcpPostgres) -> str:
    """Return a role that may do no more than connect."""
    name = f"{request.param}{next(_numbers)}"
    with psycopg.connect(server.dsn, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(name), SECRET))
    return name


def as_role(owner: str, role: str) -> Database:
    return Database(make_conninfo(owner, user=role, password=SECRET))


def name_of(dsn: str) -> str:
    return str(conninfo_to_dict(dsn)["dbname"])


def run_grants(dsn: str, message: str) -> list[str]:
    """Run the statements that a message names, as the owner; returns them."""
    grants = re.findall(r"GRANT [^;]+;", message)
    with psycopg.connect(dsn, autocommit=True) as admin:
        for grant in grants:
            admin.execute(grant.encode())
    return grants


def execute(dsn: str, statement: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute(statement.encode())


def test_a_role_that_may_not_create_the_schema_is_given_the_grant(owner: str, role: str) -> None:
    database = as_role(owner, role)
    with pytest.raises(StoreError, match=r"may not create the schema dlgforge in database") as caught:
        database.migrate()
    assert SECRET not in str(caught.value)
    assert not caught.value.transient
    assert len(run_grants(owner, str(caught.value))) == 1
    assert len(database.migrate()) == len(migrations())
    assert database.migrate() == []


def test_a_schema_made_for_the_role_is_enough(owner: str, role: str) -> None:
    execute(owner, f"CREATE SCHEMA dlgforge AUTHORIZATION {quoted(role)}")
    assert len(as_role(owner, role).migrate()) == len(migrations())


def test_with_the_grants_of_the_message_a_role_of_least_rights_does_a_whole_run(
    owner: str, role: str, sim: SimulatedEndpoint
) -> None:
    Database(owner).migrate()
    execute(owner, "REVOKE TEMPORARY ON DATABASE " + name_of(owner) + " FROM PUBLIC")
    database = as_role(owner, role)
    with pytest.raises(StoreError, match="lacks rights on the schema dlgforge") as caught:
        database.migrate()
    assert len(run_grants(owner, str(caught.value))) == 4
    assert database.migrate() == []
    store = RunStore(database)
    run = planned(store, 3)
    result = work(spec(store, run, Endpoint("simulated", sim.base_url)))
    assert result.counts.done == 3
    assert calls(store, run).total().calls > 0
    assert store.progress(run.run_id).complete


def test_an_upgrade_that_only_the_owner_can_do_names_the_owner(owner: str, role: str) -> None:
    Database(owner).migrate()
    last = max(version for version, _ in migrations())
    database = as_role(owner, role)
    with pytest.raises(StoreError) as caught:
        database.migrate()
    run_grants(owner, str(caught.value))
    execute(owner, f"DELETE FROM dlgforge.schema_migrations WHERE version = {last}")
    with pytest.raises(
        StoreError, match=r"may not make or upgrade the tables .* belongs to role \w+: run any"
    ):
        database.migrate()


def test_a_right_that_was_taken_away_meanwhile_is_named(owner: str, role: str) -> None:
    Database(owner).migrate()
    store = RunStore(as_role(owner, role))
    with pytest.raises(StoreError) as caught:
        store.migrate()
    run_grants(owner, str(caught.value))
    assert store.run_ids() == []
    execute(owner, f"REVOKE SELECT ON dlgforge.generation_runs FROM {quoted(role)}")
    with pytest.raises(
        StoreError, match="permission denied for table generation_runs; as the owner"
    ) as caught:
        store.run_ids()
    assert SECRET not in str(caught.value)
    run_grants(owner, str(caught.value))
    assert store.run_ids() == []


def test_dagster_storage_of_a_role_without_rights_names_the_grants(owner: str, role: str) -> None:
    database = as_role(owner, role)
    with pytest.raises(StoreError, match="permission denied for schema public") as caught:
        DlgforgeStorage(dsn=database.dsn)
    assert SECRET not in str(caught.value)
    run_grants(owner, str(caught.value))
    storage = DlgforgeStorage(dsn=database.dsn)
    assert storage._run_storage.get_runs() == []


def test_dagster_storage_explains_a_full_disk(owner: str) -> None:
    storage = DlgforgeStorage(dsn=owner)
    execute(owner, FULL.format(schema="public", table="runs", code="53100"))
    with pytest.raises(StoreError, match=r"Dagster's storage at .* failed: .*its disk is full: free space"):
        storage._run_storage.delete_run("a")
    execute(owner, f"ALTER DATABASE {name_of(owner)} SET default_transaction_read_only TO on")
    with pytest.raises(StoreError, match="it takes no writes: name the primary"):
        DlgforgeStorage(dsn=owner)._run_storage.delete_run("a")


# SQLSTATEs

FULL = """
CREATE FUNCTION {schema}.fail() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = '{code}'; END $$;
CREATE TRIGGER fail BEFORE DELETE ON {schema}.{table} EXECUTE FUNCTION {schema}.fail()
"""


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        ("53100", "disk is full: free space"),
        ("53200", "out of memory"),
        ("53400", "lacks a resource"),
        ("57P03", "try again in a moment"),
        ("58030", "its disk fails"),
        ("XX001", "restore a backup"),
        ("P0001", "could not extend file"),
    ],
)
async def test_a_server_in_need_says_what_would_help(store: RunStore, code: str, remedy: str) -> None:
    execute(store.database.dsn, FULL.format(schema="dlgforge", table="seed_batches", code=code))
    with pytest.raises(StoreError, match=remedy):
        store.forget_seed_batches(["a"])
    reconnecting = store.database.reconnecting("dlgforge test", 0.1)
    with pytest.raises(StoreError, match=remedy):
        reconnecting.run(lambda c: c.execute("DELETE FROM seed_batches"))
    reconnecting.close()
    later = store.database.reconnecting_async("dlgforge test", 0.1)
    with pytest.raises(StoreError, match=remedy):
        await later.run(lambda c: c.execute("DELETE FROM seed_batches"))
    await later.aclose()


def test_a_read_only_server_is_waited_for_and_then_named(store: RunStore) -> None:
    name = name_of(store.database.dsn)
    elsewhere = make_conninfo(store.database.dsn, dbname="dlgforge")
    execute(elsewhere, f"ALTER DATABASE {name} SET default_transaction_read_only TO on")
    with pytest.raises(StoreError, match=r"it takes no writes: name the primary in the DSN"):
        store.forget_seed_batches(["a"])
    connection = store.database.reconnecting("dlgforge test", 10.0)
    attempts: list[int] = []

    def write(opened: psycopg.Connection) -> None:
        attempts.append(1)
        if len(attempts) == 2:
            execute(elsewhere, f"ALTER DATABASE {name} RESET default_transaction_read_only")
        opened.execute("DELETE FROM seed_batches")

    connection.run(write)
    assert len(attempts) == 3, "it goes on when the server takes writes again"
    connection.close()


def test_a_statement_beyond_its_time_names_the_key(store: RunStore) -> None:
    hasty = Database(store.database.dsn, PostgresConfig(statement_timeout_s=0.1))
    with (
        pytest.raises(StoreError, match=r"longer than store\.postgres\.statement_timeout_s = 0\.1"),
        hasty.connection() as connection,
    ):
        connection.execute("SELECT pg_sleep(5)")


def test_whatever_psycopg_raises_leaves_as_a_store_error(store: RunStore) -> None:
    for statement in ("SELECT nothing_like_it", "SELECT 1/0", "INSERT INTO plans DEFAULT VALUES", "SYNTAX"):
        with (
            pytest.raises(StoreError, match="Postgres failed at postgresql://"),
            store.connection() as opened,
        ):
            opened.execute(statement.encode())
    with pytest.raises(UnstorableError, match="NUL"), store.connection() as connection:
        connection.execute("SELECT %s", ["a\0b"])
    with store.connection() as connection:
        closed = connection
    with pytest.raises(StoreError, match="Postgres failed"), store.connection():
        closed.execute("SELECT 1")
    with pytest.raises(KeyError), store.connection():
        raise KeyError("what is not Postgres' stays as it is")


def test_no_password_is_shown(store: RunStore) -> None:
    secret = Database(f"postgresql://u:{SECRET}@127.0.0.1:1/none")
    for fails in (secret.migrate, lambda: secret.try_lock([(1, 2)]), RunStore(secret).run_ids):
        with pytest.raises(StoreError, match="no connection to postgresql://u:") as caught:
            fails()
        assert SECRET not in str(caught.value)
        assert caught.value.__cause__ is None
    assert SECRET not in repr(secret)
    assert pickle.loads(pickle.dumps(secret)) == secret
    copied = pickle.loads(pickle.dumps(StoreError("no", transient=False)))
    assert not copied.transient


def looked_at(database: Database) -> dict[str, Row]:
    rows: list[Row] = []
    found = ResolvedDsn(database.dsn, DsnSource.CONFIG)
    check_postgres(lambda: found, PostgresConfig(), Recipe(), RayConfig(), rows.append)
    return {row.check: row for row in rows}


def test_a_preflight_tells_what_is_lacking_and_changes_nothing(owner: str, role: str) -> None:
    database = as_role(owner, role)
    execute(owner, f"ALTER ROLE {quoted(role)} CONNECTION LIMIT 3")
    found = looked_at(database)
    assert found["rights"].result is Result.FAILED
    assert "GRANT CREATE ON DATABASE" in found["rights"].remedy
    assert found["connections"].result is Result.WARNING
    assert found["connections"].finding == "2 left, and a run takes about 14"
    assert "the role's CONNECTION LIMIT" in found["connections"].remedy
    execute(owner, f"CREATE SCHEMA dlgforge AUTHORIZATION {quoted(role)}")
    assert looked_at(database)["rights"].finding == "a run makes the tables of the run state"
    database.migrate()
    newest = migrations()[-1][0]
    assert looked_at(database)["rights"].finding == f"the run state is at version {newest}"
    execute(owner, f"DELETE FROM dlgforge.schema_migrations WHERE version = {newest}")
    assert looked_at(database)["rights"].finding.endswith(f"a run brings it up to version {newest}")
    execute(owner, f"REASSIGN OWNED BY {quoted(role)} TO CURRENT_USER")
    for grant in WORK_GRANTS:
        execute(owner, grant.format(role=quoted(role)))
    assert "belongs to role" in f"{looked_at(database)['rights']}"
    execute(owner, f"ALTER ROLE {quoted(role)} SET default_transaction_read_only TO on")
    assert "takes reads alone" in looked_at(database)["rights"].finding
