"""Postgres servers for tests: one over TCP with a password, and homes for the embedded one.

from tests.support.postgres import embedded_home, tcp_postgres  # as a fixture and a context manager
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import psutil
import psycopg
import pytest

from dlgforge_core.database.embedded import find_install, release_embedded
from dlgforge_core.database.embedded_account import Account, server_account
from dlgforge_core.runtime.serving.processes import PR_SET_PDEATHSIG, prctl
from dlgforge_core.store.run_store import RunStore
from tests.support.ports import free_port
from tests.support.waiting import wait_until

_DEADLINE_S = 30.0


@dataclass
class TcpPostgres:
    """A server on one address that lets its user in with a password only (SCRAM).

    `enter` is called in its process first: to have the network of another machine, say. `settings`, as
    "name=value", win over those that suit a test.
    """

    folder: Path
    port: int
    host: str = "127.0.0.1"
    enter: Callable[[], None] = lambda: None
    settings: tuple[str, ...] = ()
    user: str = "tester"
    # With every character that a URI gives a meaning to.
    password: str = field(default_factory=lambda: "p@ss:/?#%& +'\"é" + secrets.token_hex(6), repr=False)
    database: str = "postgres"
    _process: subprocess.Popen[bytes] | None = None

    @property
    def dsn(self) -> str:
        return self.dsn_with()

    def dsn_with(self, password: str | None = None, database: str | None = None) -> str:
        """Return the DSN, with another password or database than the right one."""
        secret = quote(self.password if password is None else password, safe="")
        return f"postgresql://{self.user}:{secret}@{self.host}:{self.port}/{database or self.database}"

    def start(self) -> None:
        """Run the server and wait until it takes connections."""
        settings = (
            f"listen_addresses={self.host}",
            "unix_socket_directories=",
            "fsync=off",
            f"port={self.port}",
            *self.settings,
        )
        arguments = [part for setting in settings for part in ("-c", setting)]
        log = (self.folder / "log").open("ab")
        self._process = subprocess.Popen(
            [find_install() / "bin" / "postgres", "-D", self.folder / "data", *arguments],
            stdout=subprocess.DEVNULL,
            stderr=log,
            start_new_session=True,
            preexec_fn=lambda: _prepare_child(_account(self.folder), self.enter),
        )
        log.close()
        deadline = time.monotonic() + _DEADLINE_S
        while True:
            # Until it answers: one that is starting takes connections, and refuses them.
            with contextlib.suppress(psycopg.OperationalError), psycopg.connect(self.dsn, connect_timeout=5):
                return
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self.folder / "log").read_text()[-2000:])
            time.sleep(0.01)

    @property
    def pid(self) -> int:
        """The process that the others of the server are children of."""
        assert self._process is not None
        return self._process.pid

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Every process of the server stands still: connections are taken by the kernel, nobody answers."""
        assert self._process is not None
        server = psutil.Process(self._process.pid)
        server.suspend()  # first, so that it starts no more
        stopped = [server, *server.children(recursive=True)]
        for process in stopped[1:]:
            process.suspend()
        try:
            yield
        finally:
            for process in reversed(stopped):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.resume()

    def crash(self) -> None:
        """SIGKILL to every process of the server; `start` has it recover."""
        assert self._process is not None
        server = psutil.Process(self._process.pid)
        processes = server.children(recursive=True)
        server.kill()
        self._process.wait(_DEADLINE_S)
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, _DEADLINE_S)
        self._process = None

    def stop(self) -> None:
        """Stop the server; `start` runs it again on the same data and port."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(_DEADLINE_S)
            self._process = None

    @contextlib.contextmanager
    def standby(self) -> Iterator[TcpPostgres]:
        """Run a standby that follows the server by streaming replication, on a port of its own."""
        folder = Path(tempfile.mkdtemp(prefix="dlgforge-pg-standby-"))
        copy = TcpPostgres(folder, free_port(), user=self.user, password=self.password)
        account = _account(folder)
        if account is not None:
            shutil.chown(folder, account.uid, account.gid)
        options = ["-R", "-c", "fast", "-h", "127.0.0.1", "-p", str(self.port), "-U", self.user]
        try:
            subprocess.run(
                [find_install() / "bin" / "pg_basebackup", "-D", folder / "data", *options],
                check=True,
                env={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC", "PGPASSWORD": self.password},
                preexec_fn=lambda: _prepare_child(account),
            )
            copy.start()
            yield copy
        finally:
            copy.stop()
            shutil.rmtree(folder, ignore_errors=True)

    def promote(self, port: int) -> None:
        """Make a standby the primary, and have it found at `port`."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute("SELECT pg_promote()")
        self.stop()
        self.port = port
        self.start()


@contextlib.contextmanager
def tcp_postgres(
    host: str = "127.0.0.1", enter: Callable[[], None] = lambda: None, settings: tuple[str, ...] = ()
) -> Iterator[TcpPostgres]:
    """Run a Postgres server of its own on a random port of an address; it is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="dlgforge-pg-"))
    server = TcpPostgres(folder, free_port(), host, enter, settings)
    try:
        (folder / "password").write_text(server.password + "\n")
        account = _account(folder)
        if account is not None:
            shutil.chown(folder, account.uid, account.gid)
            shutil.chown(folder / "password", account.uid, account.gid)
        options = ["--auth=scram-sha-256", f"--pwfile={folder / 'password'}", "--encoding=UTF8", "--locale=C"]
        subprocess.run(
            [find_install() / "bin" / "initdb", "-N", "-D", folder / "data", "-U", server.user, *options],
            check=True,
            stdout=subprocess.DEVNULL,
            env={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},
            preexec_fn=lambda: _prepare_child(account),
        )
        with (folder / "data" / "pg_hba.conf").open("a", encoding="ascii") as rules:
            rules.write("host all all samenet scram-sha-256\n")
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def embedded_home(tmp_path: Path) -> Iterator[Path]:
    """Yield an empty home for the embedded Postgres, whose server is gone afterwards."""
    home = tmp_path / "home"
    yield home
    release_embedded(home)
    wait_until_stopped(home)


def postmaster_pid(home: Path) -> int | None:
    """Pid of the embedded server of `home`, or None when it has stopped or been killed."""
    try:
        pid = int((home / "postgres" / "postmaster.pid").read_text().splitlines()[0])
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if state == "Z" else pid


def wait_until_stopped(home: Path, timeout_s: float = 10.0) -> None:
    """Wait until no server runs in `home`; fails the test when one still does."""
    wait_until(lambda: postmaster_pid(home) is None, timeout_s, f"the server of {home} stops")


def wait_for_sessions_to_end(
    store: RunStore, application: str = "dlgforge worker", *, n_left: int = 0, timeout_s: float = 10.0
) -> None:
    """Wait until at most `n_left` sessions of that name remain: what a dead process sent is settled then."""
    with store.connection() as connection:

        def ended() -> bool:
            row = connection.execute(
                "SELECT count(*) FROM pg_stat_activity "
                "WHERE application_name = %s AND datname = current_database()",
                (application,),
            ).fetchone()
            return row is not None and row[0] <= n_left

        wait_until(ended, timeout_s, f"the end of the sessions of {application!r}")


def _account(folder: Path) -> Account | None:
    return server_account(str(folder), str(folder / "data"), str(find_install()))


def _prepare_child(account: Account | None, enter: Callable[[], None] = lambda: None) -> None:
    enter()
    if account is not None:
        account.become()
    prctl(PR_SET_PDEATHSIG, signal.SIGQUIT)  # the server goes when the tests are killed
