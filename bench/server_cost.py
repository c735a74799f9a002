"""What work costs a Postgres server: CPU of its processes, WAL, rows, sizes, and what sessions wait for."""

from __future__ import annotations

import collections
import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import psutil
import psycopg

from tests.support.postgres import TcpPostgres, tcp_postgres

# Of a server for many workers, on a machine of a few GB; fsync as in use.
SETTINGS = (
    "fsync=on",
    "max_connections=2200",
    "shared_buffers=512MB",
    "max_wal_size=8GB",
    "jit=off",
    "track_wal_io_timing=off",
)

_COUNTERS = """
SELECT (SELECT wal_bytes::float8 FROM pg_stat_wal),
       d.xact_commit, d.tup_inserted, d.tup_updated, d.tup_deleted
FROM pg_stat_database d WHERE d.datname = current_database()
"""

_SIZES = """
SELECT relname, pg_table_size(oid), pg_indexes_size(oid) FROM pg_class
WHERE relkind = 'r' AND relnamespace = 'dlgforge'::regnamespace
"""

_WAITS = """
SELECT coalesce(wait_event_type || ':' || wait_event, 'CPU') FROM pg_stat_activity
WHERE state = 'active' AND backend_type = 'client backend' AND pid <> pg_backend_pid()
"""


@dataclass(frozen=True)
class Cost:
    """What the server has done in a stretch of time."""

    seconds: float
    backends_cpu_s: float
    """CPU of the sessions."""
    other_cpu_s: float
    """CPU of the server's other processes: the WAL writer, the checkpointer, autovacuum."""
    wal_bytes: float
    commits: float
    inserted: float
    updated: float
    deleted: float

    @property
    def cpu_s(self) -> float:
        """CPU of all the server's processes."""
        return self.backends_cpu_s + self.other_cpu_s

    def minus(self, before: Cost) -> Cost:
        """Return what came after `before`."""
        return Cost(*(getattr(self, name) - getattr(before, name) for name in self.__dataclass_fields__))


@dataclass
class Server:
    """A server of the bench's own, and a session of its own that looks on."""

    postgres: TcpPostgres
    watch: psycopg.Connection
    _ended: dict[int, float] = field(default_factory=dict)

    def cost(self) -> Cost:
        """Return what the server has done since its start, the session that looks on left out."""
        backends, rest = self._cpu()
        row = self.watch.execute(_COUNTERS).fetchone()
        assert row is not None
        return Cost(time.monotonic(), backends, rest, *map(float, row))

    def _cpu(self) -> tuple[float, float]:
        postmaster = psutil.Process(self.postgres.pid)
        backends = 0.0
        own = postmaster.cpu_times()
        rest = own.user + own.system + own.children_user + own.children_system
        for child in postmaster.children():
            with contextlib.suppress(psutil.NoSuchProcess):
                times = child.cpu_times()
                title = " ".join(child.cmdline())
                if child.pid == self.watch.info.backend_pid:
                    continue
                if f"postgres: {self.postgres.user} " in title:
                    backends += times.user + times.system
                else:
                    rest += times.user + times.system
        return backends, rest

    def sizes(self) -> dict[str, tuple[int, int]]:
        """Return bytes of each table, and of its indexes."""
        return {name: (int(table), int(indexes)) for name, table, indexes in self.watch.execute(_SIZES)}

    def connections(self) -> int:
        """Return the number of sessions, that of the bench left out."""
        row = self.watch.execute(
            "SELECT count(*) - 1 FROM pg_stat_activity WHERE backend_type = 'client backend'"
        ).fetchone()
        return int(row[0]) if row else 0


@contextlib.contextmanager
def measured_server(*settings: str) -> Iterator[Server]:
    """Run an empty server with `SETTINGS`, over which `settings` win."""
    with (
        tcp_postgres(settings=(*SETTINGS, *settings)) as postgres,
        psycopg.connect(postgres.dsn, autocommit=True) as watch,
    ):
        watch.execute("SET search_path TO dlgforge")
        yield Server(postgres, watch)


@contextlib.contextmanager
def sampled_waits(server: Server, every_s: float = 0.05) -> Iterator[collections.Counter[str]]:
    """Count meanwhile what the sessions that are at work wait for, by samples."""
    waits: collections.Counter[str] = collections.Counter()
    done = threading.Event()

    def sample() -> None:
        while not done.wait(every_s):
            waits.update(row[0] for row in server.watch.execute(_WAITS))
            waits["samples"] += 1

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield waits
    finally:
        done.set()
        thread.join()
