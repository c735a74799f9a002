"""Postgres as people run it: a fail-over to a standby, no connection left, a pooler in between."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from dlgforge_core.database.database import Database
from dlgforge_core.database.embedded import find_install
from dlgforge_core.database.embedded_account import server_account
from dlgforge_core.errors import StoreError
from dlgforge_core.generation.worker_thread import WorkerThread
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.store.run_store import RunStore
from tests.chaos.harness import Book
from tests.chaos.test_workers import CONCURRENCY, plan, wait_until_half_way
from tests.support.ports import free_port
from tests.support.postgres import TcpPostgres, tcp_postgres
from tests.support.processes import kill
from tests.support.runs import MODEL, planned, spec
from tests.support.simulated_endpoint import SimulatedEndpoint, simulated_endpoint
from tests.support.waiting import wait_until

PGBOUNCER = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")


@contextlib.contextmanager
def at_work(store: RunStore, sim: SimulatedEndpoint, total: int = 60) -> Iterator[tuple[WorkerThread, Book]]:
    """Yield a worker that has made half of its turns; its run must end well."""
    run = planned(store, **plan(total))
    book = Book(store, run)
    worker = WorkerThread(spec(store, run, Endpoint("sim", sim.base_url)))
    worker.start()
    try:
        wait_until_half_way(store, run.run_id)
        yield worker, book
        assert worker.wait(120)
        worker.result()
    finally:
        worker.stop("the test is over")
        worker.wait(10)
    book.check_complete()


def execute(server: TcpPostgres, *statements: str) -> None:
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def value(server: TcpPostgres, query: str) -> object:
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        row = connection.execute(query.encode()).fetchone()
    return row[0] if row else None


def test_a_fail_over_to_a_synchronous_standby_costs_no_turn() -> None:
    with tcp_postgres() as primary, simulated_endpoint(models=[MODEL], latency_s=0.05) as sim:
        store = RunStore(Database(primary.dsn))
        store.migrate()
        with primary.standby() as standby:
            execute(primary, "ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()")
            in_step = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"
            wait_until(lambda: value(primary, in_step) == 1, 60, "the standby is in step")
            with at_work(store, sim) as (worker, book):
                turns = book.turns()
                primary.crash()
                assert not worker.wait(0.5)
                standby.promote(primary.port)
            assert turns.items() <= book.turns().items()
            again = sim.stats()["calls"] - book.needed
            assert again <= 2 * CONCURRENCY, "no calls but those under way are made again"


def test_what_a_standby_has_not_heard_of_is_made_again_and_nothing_twice() -> None:
    with (
        tcp_postgres() as primary,
        simulated_endpoint(models=[MODEL], latency_s=0.05) as sim,
        primary.standby() as standby,
    ):
        store = RunStore(Database(primary.dsn))
        store.migrate()
        caught_up = "SELECT count(*) FROM pg_stat_replication WHERE replay_lsn = pg_current_wal_lsn()"
        wait_until(lambda: value(primary, caught_up) == 1, 60, "the standby has the schema")
        with at_work(store, sim, total=180) as (_, book):
            execute(standby, "ALTER SYSTEM SET primary_conninfo = 'port=1'", "SELECT pg_reload_conf()")
            gone = "SELECT count(*) FROM pg_stat_replication"
            wait_until(lambda: value(primary, gone) == 0, 60, "the standby hears nothing")
            turns = len(book.turns())
            wait_until(lambda: len(book.turns()) >= turns + 30, 60, "more are committed")
            primary.crash()
            standby.promote(primary.port)
        assert sim.stats()["calls"] > book.needed


def as_role(server: TcpPostgres) -> TcpPostgres:
    """Return the same server, as a role that is no superuser."""
    execute(server, "CREATE ROLE maker LOGIN PASSWORD 'secret'", "GRANT CREATE ON DATABASE postgres TO maker")
    return TcpPostgres(server.folder, server.port, user="maker", password="secret")


def test_connections_that_run_out_are_waited_for_and_named() -> None:
    with tcp_postgres() as server, simulated_endpoint(models=[MODEL], latency_s=0.05) as sim:
        store = RunStore(Database(as_role(server).dsn))
        store.migrate()
        with at_work(store, sim) as (worker, book):
            execute(
                server,
                "ALTER ROLE maker CONNECTION LIMIT 0",
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'maker'",
            )
            with pytest.raises(StoreError, match="raise its max_connections"), store.connection():
                pass
            assert not worker.wait(2.0), "it waits for a connection"
            execute(server, "ALTER ROLE maker CONNECTION LIMIT -1")
        assert sim.stats()["calls"] == book.needed


@contextlib.contextmanager
def pgbouncer(server: TcpPostgres, mode: str) -> Iterator[str]:
    """Run PgBouncer before a server, in a pool mode; yields the DSN through it."""
    assert PGBOUNCER is not None
    folder, port = Path(tempfile.mkdtemp(prefix="dlgforge-pgbouncer-")), free_port()
    (folder / "pgbouncer.ini").write_text(
        "[databases]\n"
        f"postgres = host=127.0.0.1 port={server.port} user=maker password=secret\n"
        "[pgbouncer]\n"
        f"listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        f"auth_type = any\npool_mode = {mode}\n"
    )
    account = server_account(str(folder), str(folder), str(find_install()))
    if account is not None:
        shutil.chown(folder, account.uid, account.gid)
        shutil.chown(folder / "pgbouncer.ini", account.uid, account.gid)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [PGBOUNCER, folder / "pgbouncer.ini"],
            stdout=log,
            stderr=log,
            preexec_fn=account.become if account is not None else None,
        )
    dsn = f"postgresql://maker:secret@127.0.0.1:{port}/postgres"
    try:
        wait_until(lambda: _answers(dsn), 60, "PgBouncer takes connections")
        yield dsn
    finally:
        kill(process)
        shutil.rmtree(folder, ignore_errors=True)


def _answers(dsn: str) -> bool:
    with contextlib.suppress(psycopg.OperationalError), psycopg.connect(dsn):
        return True
    return False


@pytest.mark.skipif(PGBOUNCER is None, reason="PgBouncer is not installed: apt-get install pgbouncer")
@pytest.mark.parametrize("mode", ["transaction", "statement"])
def test_a_pooler_that_lends_sessions_by_transaction_is_refused_at_once(mode: str) -> None:
    with tcp_postgres() as server:
        as_role(server)
        refused = pytest.raises(StoreError, match=r"needs sessions of its own; .* pool_mode = session")
        with pgbouncer(server, mode) as dsn, refused:
            RunStore(Database(dsn)).migrate()
        assert value(server, "SELECT to_regnamespace('dlgforge') IS NULL")


@pytest.mark.skipif(PGBOUNCER is None, reason="PgBouncer is not installed: apt-get install pgbouncer")
def test_a_run_goes_through_a_pooler_that_lends_sessions_whole() -> None:
    with tcp_postgres() as server, simulated_endpoint(models=[MODEL], latency_s=0.05) as sim:
        as_role(server)
        with pgbouncer(server, "session") as dsn:
            store = RunStore(Database(dsn))
            store.migrate()
            with at_work(store, sim) as (_, book):
                pass
            assert sim.stats()["calls"] == book.needed
