"""The embedded Postgres with real processes: shared, kept while used, stopped after, taken up after kills."""

import contextlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from dlgforge_core.database.database import Database
from dlgforge_core.database.dsn import Reach, reach
from dlgforge_core.database.embedded import dlgforge_home, embedded_dsn, release_embedded
from dlgforge_core.database.embedded_account import Account
from dlgforge_core.database.embedded_watch import WATCH_S
from dlgforge_core.database.ping import ping_blocking
from dlgforge_core.errors import StoreError
from dlgforge_core.store.run_store import RunStore
from tests.support.postgres import embedded_home, postmaster_pid, wait_until_stopped
from tests.support.processes import runs
from tests.support.waiting import wait_until

__all__ = ["embedded_home"]

_USER = """
import signal, sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job inherits it ignored
from dlgforge_core.database.embedded import embedded_dsn
print(embedded_dsn(Path(sys.argv[1])), flush=True)
sys.stdin.read()
"""

Starter = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start_user() -> Iterator[Starter]:
    """Start processes that use the embedded server of a home until their standard input ends."""
    started: list[subprocess.Popen[str]] = []

    def start(home: Path, **options: Any) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-c", _USER, str(home)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            **options,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            assert stream is not None
            stream.close()


def _dsn(user: "subprocess.Popen[str]") -> str:
    assert user.stdout is not None
    return user.stdout.readline().strip()


def _leave(user: "subprocess.Popen[str]") -> None:
    assert user.stdin is not None
    user.stdin.close()
    assert user.wait(10) == 0


def _supervisor_pids(home: Path) -> list[int]:
    pids = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            arguments = (entry / "cmdline").read_bytes().split(b"\0")
            if any(b"embedded_supervisor" in part for part in arguments) and os.fsencode(home) in arguments:
                pids.append(int(entry.name))
    return pids


def _fill(dsn: str) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute("CREATE TABLE kept (value text)")
        connection.execute("INSERT INTO kept VALUES ('here')")


def _read(dsn: str) -> str:
    with psycopg.connect(dsn) as connection:
        row = connection.execute("SELECT value FROM kept").fetchone()
    assert row is not None
    return str(row[0])


def test_serves_this_process_durably_and_over_the_socket_only(embedded_home: Path) -> None:
    dsn = embedded_dsn(embedded_home)
    ping_blocking(dsn, 30.0)
    assert reach(dsn) is Reach.SOCKET
    with psycopg.connect(dsn) as connection:
        row = connection.execute(
            "SELECT current_database(), current_setting('listen_addresses'), current_setting('fsync'), "
            "current_setting('synchronous_commit'), current_setting('server_encoding')"
        ).fetchone()
    assert row == ("dlgforge", "", "on", "on", "UTF8")
    assert stat.S_IMODE((embedded_home / "postgres").stat().st_mode) == 0o700


def test_processes_that_start_together_share_one_server(embedded_home: Path, start_user: Starter) -> None:
    users = [start_user(embedded_home) for _ in range(3)]
    pids = set()
    for dsn in [_dsn(user) for user in users]:
        with psycopg.connect(dsn) as connection:
            row = connection.execute("SELECT pg_postmaster_start_time()").fetchone()
            pids.add(row)
    assert len(pids) == 1
    assert len(_supervisor_pids(embedded_home)) == 1


def test_stops_when_the_last_user_ends(embedded_home: Path, start_user: Starter) -> None:
    first, second = start_user(embedded_home), start_user(embedded_home)
    dsn = _dsn(first)
    _dsn(second)
    _leave(first)
    time.sleep(1.0)
    ping_blocking(dsn, 30.0)
    _leave(second)
    wait_until_stopped(embedded_home, 30)
    wait_until(lambda: not _supervisor_pids(embedded_home), 30, "its keepers end")


def test_a_user_that_comes_while_the_server_stops_gets_a_new_one(
    embedded_home: Path, start_user: Starter
) -> None:
    for delay_s in (0.0, 0.1, 0.2, 0.3):
        user = start_user(embedded_home)
        ping_blocking(_dsn(user), 30.0)
        _leave(user)
        time.sleep(delay_s)


def test_kill_9_of_the_user_lets_the_server_stop(embedded_home: Path, start_user: Starter) -> None:
    user = start_user(embedded_home)
    _dsn(user)
    user.kill()
    wait_until_stopped(embedded_home, 30)


def _supervisor(home: Path) -> int:
    (pid,) = _supervisor_pids(home)
    return pid


def _is_whole(home: Path, dsn: str) -> bool:
    """Whether one supervisor runs a server that answers."""
    if len(_supervisor_pids(home)) != 1:
        return False
    with contextlib.suppress(psycopg.OperationalError):
        return _read(dsn) == "here"
    return False


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_supervisor_is_started_anew_by_whoever_uses_the_server(
    embedded_home: Path, start_user: Starter, number: signal.Signals
) -> None:
    first, second = start_user(embedded_home), start_user(embedded_home)
    dsn = _dsn(first)
    assert _dsn(second) == dsn
    _fill(dsn)
    _leave(first)  # whichever of them has done what
    killed = _supervisor(embedded_home)
    os.kill(killed, number)
    wait_until(lambda: killed not in _supervisor_pids(embedded_home), 30, "it is gone")
    wait_until(lambda: _is_whole(embedded_home, dsn), 30, "another one is there, on the same address")
    _leave(second)
    wait_until_stopped(embedded_home, 10.0)
    wait_until(lambda: not _supervisor_pids(embedded_home), 30, "its supervisor ends")


def test_supervisor_and_server_killed_together_are_started_anew(
    embedded_home: Path, start_user: Starter
) -> None:
    user = start_user(embedded_home)
    dsn = _dsn(user)
    _fill(dsn)
    server = postmaster_pid(embedded_home)
    assert server is not None
    for pid in (_supervisor(embedded_home), server):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: postmaster_pid(embedded_home) not in (None, server), 30, "another server runs")
    wait_until(lambda: _is_whole(embedded_home, dsn), 30, "it answers, on the same address")
    _leave(user)
    wait_until_stopped(embedded_home, 10.0)


def test_nothing_stays_when_the_supervisor_and_all_users_are_killed_at_once(
    embedded_home: Path, start_user: Starter
) -> None:
    user = start_user(embedded_home)
    _fill(_dsn(user))
    for pid in (user.pid, _supervisor(embedded_home)):
        os.kill(pid, signal.SIGKILL)
    user.wait()
    wait_until_stopped(embedded_home, 30.0)
    assert _read(embedded_dsn(embedded_home)) == "here"


def test_a_supervisor_that_is_gone_after_the_release_stays_so(embedded_home: Path) -> None:
    embedded_dsn(embedded_home)
    release_embedded(embedded_home)
    wait_until_stopped(embedded_home)
    time.sleep(3 * WATCH_S)
    assert postmaster_pid(embedded_home) is None
    assert not _supervisor_pids(embedded_home)


def test_kill_9_of_everything_loses_nothing(embedded_home: Path, start_user: Starter) -> None:
    user = start_user(embedded_home)
    _fill(_dsn(user))
    server = postmaster_pid(embedded_home)
    assert server is not None
    for pid in (user.pid, *_supervisor_pids(embedded_home), server):
        os.kill(pid, signal.SIGKILL)
    user.wait()
    wait_until(lambda: not runs(server), 30)  # a server that is dying may still take a connection
    assert (embedded_home / "postgres" / "postmaster.pid").exists()  # nobody could clean up
    assert _read(embedded_dsn(embedded_home)) == "here"


def test_kill_9_of_the_server_is_healed_by_the_supervisor(embedded_home: Path) -> None:
    dsn = embedded_dsn(embedded_home)
    _fill(dsn)
    server = postmaster_pid(embedded_home)
    assert server is not None
    os.kill(server, signal.SIGKILL)
    wait_until(lambda: postmaster_pid(embedded_home) not in (None, server), 30)
    assert _read(embedded_dsn(embedded_home)) == "here"


def test_a_stale_pid_file_with_a_pid_in_use_is_no_obstacle(embedded_home: Path) -> None:
    _fill(embedded_dsn(embedded_home))
    release_embedded(embedded_home)
    wait_until_stopped(embedded_home)
    sleeper = subprocess.Popen(["sleep", "60"])
    try:
        # As after a restart of the machine, when the old server's pid has gone to somebody else.
        pid_file = embedded_home / "postgres" / "postmaster.pid"
        pid_file.write_text(f"{sleeper.pid}\n{embedded_home}/postgres\n1\n5432\n/tmp\n\n1 1\nready   \n")
        assert _read(embedded_dsn(embedded_home)) == "here"
        assert sleeper.poll() is None
    finally:
        sleeper.kill()
        sleeper.wait()


def test_ctrl_c_ends_the_user_but_not_the_server(embedded_home: Path, start_user: Starter) -> None:
    interrupted = start_user(embedded_home, start_new_session=True, stderr=subprocess.DEVNULL)
    dsn = _dsn(interrupted)
    other = start_user(embedded_home)
    _dsn(other)
    server = postmaster_pid(embedded_home)
    os.killpg(interrupted.pid, signal.SIGINT)
    assert interrupted.wait(10) != 0
    time.sleep(1.0)
    ping_blocking(dsn, 30.0)
    assert postmaster_pid(embedded_home) == server


def test_a_forked_child_keeps_the_server_for_itself(embedded_home: Path) -> None:
    script = (
        "import os, sys, time\nfrom pathlib import Path\n"
        "from dlgforge_core.database.embedded import embedded_dsn\n"
        "home = Path(sys.argv[1]); dsn = embedded_dsn(home)\n"
        "if os.fork() == 0:\n"
        "    time.sleep(2)\n"
        "    assert embedded_dsn(home) == dsn\n"
        "    import psycopg; psycopg.connect(dsn).close(); print('child ok', flush=True)\n"
    )
    # communicate() returns when the child too has closed its standard output.
    done = subprocess.run(
        [sys.executable, "-c", script, str(embedded_home)], capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "child ok\n", done.stderr
    wait_until_stopped(embedded_home, 30)


def test_a_deleted_home_is_made_anew_and_its_server_ends(embedded_home: Path) -> None:
    _fill(embedded_dsn(embedded_home))
    old = postmaster_pid(embedded_home)
    while embedded_home.exists():  # the server, which sees to its files, may come in between
        shutil.rmtree(embedded_home, ignore_errors=True)
    with psycopg.connect(embedded_dsn(embedded_home)) as connection:
        assert connection.execute("SELECT to_regclass('kept')").fetchone() == (None,)
    wait_until(lambda: not Path(f"/proc/{old}").exists(), 30)
    time.sleep(0.5)
    ping_blocking(embedded_dsn(embedded_home), 30.0)


def test_a_failed_start_shows_the_end_of_the_log(embedded_home: Path) -> None:
    embedded_dsn(embedded_home)
    release_embedded(embedded_home)
    wait_until_stopped(embedded_home)
    (embedded_home / "postgres" / "PG_VERSION").write_text("12\n")
    with pytest.raises(StoreError, match="database files are incompatible"):
        embedded_dsn(embedded_home)
    assert not _supervisor_pids(embedded_home)


def test_a_home_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="DLGFORGE_HOME"):
        embedded_dsn(tmp_path / "file" / "home")


@pytest.mark.parametrize("name", ["h" * 100, "with,comma", "with space é%20"])
def test_a_home_no_socket_could_lie_in(tmp_path: Path, name: str) -> None:
    home = tmp_path / name
    try:
        ping_blocking(embedded_dsn(home), 30.0)
    finally:
        release_embedded(home)
        wait_until_stopped(home)


def test_a_home_in_a_folder_closed_to_others(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    home = closed / "home"
    try:
        ping_blocking(embedded_dsn(home), 30.0)
        assert stat.S_IMODE(closed.stat().st_mode) == 0o700
    finally:
        release_embedded(home)
        wait_until_stopped(home)


@pytest.mark.skipif(os.geteuid() != 0, reason="the other tests run as an ordinary user already")
def test_an_ordinary_user_has_a_server_of_their_own(tmp_path: Path, start_user: Starter) -> None:
    nobody = 65534
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, nobody, nobody)
    # The capability lets them read an interpreter that may lie in root's own folder.
    user = start_user(home, preexec_fn=Account(nobody, nobody, 2).become)
    dsn = _dsn(user)
    assert (home / "postgres").stat().st_uid == nobody
    with psycopg.connect(dsn) as connection:  # and root may look into it
        connection.execute("SELECT 1")
    _leave(user)
    wait_until_stopped(home)


def test_home_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert dlgforge_home({"DLGFORGE_HOME": "/a", "DAGSTER_HOME": "/b"}) == Path("/a")
    assert dlgforge_home({"DLGFORGE_HOME": "", "DAGSTER_HOME": "/b"}) == Path("/b/.dlgforge")
    assert dlgforge_home({}) == tmp_path / ".dlgforge"


def test_tables_of_others_do_not_land_in_our_schema(embedded_home: Path) -> None:
    store = RunStore(Database(embedded_dsn(embedded_home)))
    store.migrate()
    with psycopg.connect(store.database.dsn) as connection:
        connection.execute("CREATE TABLE theirs (x integer)")
        query = "SELECT relnamespace::regnamespace::text FROM pg_class WHERE relname = 'theirs'"
        assert connection.execute(query).fetchone() == ("public",)
