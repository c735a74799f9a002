"""Supervisor of the embedded Postgres: runs the server for as long as any process uses it.

Started detached by `dlgforge_core.database.embedded`, without site packages: it imports the standard library
only, so that it is up within some 30 ms. Its life is decided by locks that the kernel frees in whatever way
their holders end, `kill -9` included:

- every user process holds the users lock shared; the supervisor may stop the server once it gets that lock
  exclusively, and a user that comes meanwhile waits for the same lock;
- the supervisor holds the supervisor lock for its life, so that there is one supervisor, and users can tell.
"""

import contextlib
import fcntl
import hashlib
import os
import pwd
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable

from dlgforge_core.common.file_lock import try_lock
from dlgforge_core.common.owned_files import make_owned_folder, open_owned, read_owned, replace_owned
from dlgforge_core.database.embedded_account import Account, SupervisorError, server_account

PORT = 5432
DATABASE = "dlgforge"
ROLE = "dlgforge"
START_TIMEOUT_S = 120.0  # crash recovery replays the write-ahead log first
ALREADY_RUNS = 3  # exit status: another supervisor holds the lock

_POLL_S = 0.2
_FAST_STOP_S = 30.0
_MAX_RESTARTS_A_MINUTE = 5
_PR_SET_PDEATHSIG = 1
_PID_FILE_BYTES = 16 * 1024
_SOCKET_PATH_BYTES = 103  # sun_path holds 108 bytes on Linux, 104 on macOS, each with a final NUL
_SERVER_SETTINGS = {
    "listen_addresses": "",  # the unix socket only
    "unix_socket_permissions": "0700",
    "port": str(PORT),
    "max_connections": "200",
    "timezone": "UTC",
    "jit": "off",  # many short statements: compiling them costs more than it saves
    "wal_level": "minimal",  # nothing replicates from this server
    "max_wal_senders": "0",
    "log_checkpoints": "off",
    "huge_pages": "off",
    "cluster_name": "dlgforge",
}


class HomePaths:
    """Where the embedded server's files lie in `home`."""

    def __init__(self, home: str) -> None:
        self.home = home
        self.data = os.path.join(home, "postgres")
        self.new_data = os.path.join(home, "postgres.new")
        self.log = os.path.join(home, "postgres.log")
        self.state = os.path.join(home, "postgres.socket")  # names the socket's folder; there while ready
        self.users_lock = os.path.join(home, "postgres.users.lock")
        self.start_lock = os.path.join(home, "postgres.start.lock")
        self.reserve = os.path.join(home, "postgres.reserve")  # room for last words on a full disk
        self.supervisor_lock = os.path.join(home, "postgres.keeper.lock")


def is_current(fd: int, path: str) -> bool:
    """Say whether `path` still names the open file: it does not once the home was deleted."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False


class Server:
    """The Postgres server of one home: created, started or taken over, watched and stopped."""

    def __init__(self, paths: HomePaths, install: str) -> None:
        self._paths = paths
        self._install = install
        self._account = server_account(paths.home, paths.data, install)
        self._child: subprocess.Popen[bytes] | None = None
        self._pid: int | None = None
        self.socket_dir = ""

    def start(self) -> None:
        """Create the cluster when there is none, run the server and wait until it is ready.

        A server that a killed supervisor left behind is taken over. Raises SupervisorError.
        """
        deadline = time.monotonic() + START_TIMEOUT_S
        self._child, self._pid = None, self._running_postmaster()
        if self._pid is not None and self._adopt(deadline):
            return
        if not os.path.exists(self._paths.data):
            self._create_cluster()
        self.socket_dir = self._choose_socket_dir()
        self._clear_the_way()
        self._write_access_rules()
        settings = {**_SERVER_SETTINGS, "unix_socket_directories": self.socket_dir}
        arguments = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        self._child = self._popen("postgres", ["-D", self._paths.data, *arguments], lasting=True)
        self._pid = self._child.pid
        while self._status() != "ready":
            if self._child.poll() is not None:
                raise SupervisorError(f"postgres ended with status {self._child.returncode}")
            if time.monotonic() > deadline:
                raise SupervisorError(f"postgres was not ready after {START_TIMEOUT_S:.0f} s")
            time.sleep(0.005)

    def is_alive(self) -> bool:
        """Say whether the server's first process lives."""
        if self._child is not None:
            return self._child.poll() is None
        return self._pid is not None and self._is_our_postgres(self._pid)

    def stop(self) -> None:
        """Stop the server: fast at first, which ends sessions and writes a checkpoint, then harder."""
        for number, patience_s in (
            (signal.SIGINT, _FAST_STOP_S),
            (signal.SIGQUIT, 5.0),
            (signal.SIGKILL, 5.0),
        ):
            if self._pid is None or not self.is_alive():
                break
            os.kill(self._pid, number)
            deadline = time.monotonic() + patience_s
            while self.is_alive() and time.monotonic() < deadline:
                time.sleep(0.01)
        if self.socket_dir and self.socket_dir != self._paths.data:
            # Another server of the same home may have come, or the folder is gone.
            with contextlib.suppress(OSError):
                os.rmdir(self.socket_dir)

    def _adopt(self, deadline: float) -> bool:
        """Wait for a running server to be ready; False when it was ending, and has ended."""
        while self.is_alive():
            if self._status() == "ready":
                self.socket_dir = self._pid_file()[4]
                if os.path.exists(os.path.join(self.socket_dir, f".s.PGSQL.{PORT}")):
                    return True
                self.stop()  # it listens where nobody finds it
            if time.monotonic() > deadline:
                raise SupervisorError(f"the running server, pid {self._pid}, was not ready in time")
            time.sleep(0.01)
        return False

    def _pid_file(self) -> list[str]:
        """Return the lines of postmaster.pid: pid, data, start, port, socket folder, address, key, status."""
        try:
            path = os.path.join(self._paths.data, "postmaster.pid")
            return read_owned(path, _PID_FILE_BYTES).decode(errors="replace").splitlines()
        except FileNotFoundError:
            return []

    def _status(self) -> str:
        lines = self._pid_file()
        return lines[7].strip() if len(lines) > 7 and lines[0] == str(self._pid) else ""

    def _running_postmaster(self) -> int | None:
        lines = self._pid_file()
        if not lines or not lines[0].isdigit() or not self._is_our_postgres(int(lines[0])):
            return None
        return int(lines[0])

    def _is_our_postgres(self, pid: int) -> bool:
        """Say whether `pid` is a Postgres process of this data: a stale pid may be anybody's by now."""
        if not os.path.exists("/proc/self/cwd"):
            try:
                os.kill(pid, 0)
            except OSError:
                return False
            return True
        try:
            with open(f"/proc/{pid}/comm") as comm:
                name = comm.read().strip()
            return name == "postgres" and os.readlink(f"/proc/{pid}/cwd") == os.path.realpath(
                self._paths.data
            )
        except OSError:
            return False

    def _clear_the_way(self) -> None:
        """Wait for the sessions of a killed server to end, and remove what it left that Postgres stumbles on.

        Postgres itself takes no notice of lock files whose pid is free. Where the pid was given anew, or is a
        dead process that nobody has collected, which in containers stays so, it would refuse to start.
        """
        if not os.path.exists("/proc/self/cwd"):
            return
        deadline = time.monotonic() + 10.0
        while any(self._is_our_postgres(int(name)) for name in os.listdir("/proc") if name.isdigit()):
            if time.monotonic() > deadline:
                raise SupervisorError(f"sessions of an earlier server in {self._paths.data} do not end")
            time.sleep(0.02)
        socket_lock = os.path.join(self.socket_dir, f".s.PGSQL.{PORT}.lock")
        for path in (os.path.join(self._paths.data, "postmaster.pid"), socket_lock):
            with contextlib.suppress(FileNotFoundError):
                pid = read_owned(path, _PID_FILE_BYTES).split(b"\n", 1)[0].strip().decode(errors="replace")
                if not pid.isdigit() or os.path.exists(f"/proc/{pid}"):
                    os.unlink(path)

    def _create_cluster(self) -> None:
        """Make the data folder aside and put it in place complete, so that a half-made one is never used."""
        new = self._paths.new_data
        if os.path.lexists(new):
            import shutil

            shutil.rmtree(new)
        make_owned_folder(new, *self._uid_and_gid())
        locale = ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        self._run("initdb", ["-D", new, "-U", ROLE, "--auth=peer", *locale, "--no-instructions"])
        single_user = ["--single", "-D", new, "-c", "exit_on_error=on", "-c", "log_checkpoints=off"]
        # By default the schema of the role's own name comes first: Dagster would make its tables in ours.
        setup = (
            f"ALTER DATABASE postgres RENAME TO {DATABASE};\nALTER ROLE {ROLE} SET search_path TO public;\n"
        )
        self._run("postgres", [*single_user, "template1"], setup)
        os.rename(new, self._paths.data)

    def _write_access_rules(self) -> None:
        """Let in, through the socket, the operating system's accounts that own this home, and root."""
        uids = {0, os.geteuid(), os.stat(self._paths.home).st_uid}
        names = []
        for uid in uids:
            try:
                names.append(pwd.getpwuid(uid).pw_name.replace('"', '""'))
            except KeyError:
                continue
        rules = {
            "pg_hba.conf": "local all all peer map=dlgforge\n",
            "pg_ident.conf": "".join(f'dlgforge "{name}" {ROLE}\n' for name in names),
        }
        for name, text in rules.items():
            replace_owned(os.path.join(self._paths.data, name), text)

    def _choose_socket_dir(self) -> str:
        """Return the folder of the socket: the data folder, or a short one where its path is too long."""
        data = self._paths.data
        fits = len(os.fsencode(os.path.join(data, f".s.PGSQL.{PORT}.lock"))) <= _SOCKET_PATH_BYTES
        if fits and "," not in data:  # the setting and DSNs take a comma for a separator
            return data
        runtime = os.environ.get("XDG_RUNTIME_DIR", "")
        base = "/tmp" if self._account is not None or not os.path.isdir(runtime) else runtime
        folder = os.path.join(base, "dlgforge-" + hashlib.sha256(os.fsencode(data)).hexdigest()[:16])
        uid, gid = self._uid_and_gid()
        with contextlib.suppress(FileExistsError):
            make_owned_folder(folder, uid, gid)
        found = os.lstat(folder)
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != uid or found.st_mode & 0o077:
            raise SupervisorError(
                f"{folder}, meant for the socket, is not a folder that only uid {uid} may enter"
            )
        return folder

    def _uid_and_gid(self) -> tuple[int, int]:
        """Return the user and the group that the server runs as."""
        if self._account is None:
            return os.geteuid(), os.getegid()
        return self._account.uid, self._account.gid

    def _popen(
        self,
        program: str,
        arguments: list[str],
        lasting: bool = False,
        stdin: int = subprocess.DEVNULL,
    ) -> subprocess.Popen[bytes]:
        """Run a program of Postgres; a `lasting` one ends in order when this process is killed."""
        prepare = _Preparation(self._account, ends_with=os.getpid() if lasting else None)
        return subprocess.Popen(
            [os.path.join(self._install, "bin", program), *arguments],
            stdin=stdin,
            cwd="/",
            # Nothing of the user's environment: PGDATA or PGOPTIONS there are for another server. TZ spares
            # initdb the search for the zone.
            env={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},
            # Its own session: a signal to the supervisor's group must not reach it.
            start_new_session=lasting,
            preexec_fn=prepare,
        )

    def _run(self, program: str, arguments: list[str], text: str = "") -> None:
        process = self._popen(program, arguments, stdin=subprocess.PIPE)
        process.communicate(text.encode())
        if process.returncode != 0:
            raise SupervisorError(f"{program} ended with status {process.returncode}")


class _Preparation:
    """What a new process does before it becomes a program of Postgres.

    The server that `ends_with` this process gets the signal to stop, in order, from the kernel: else it would
    stay for good when this process and all users are killed at once. Where there is no such thing, the next
    user takes it over.
    """

    def __init__(self, account: Account | None, ends_with: int | None) -> None:
        self._account = account
        self._parent = ends_with
        self._prctl = _prctl() if ends_with is not None else None

    def __call__(self) -> None:
        if self._account is not None:
            self._account.become()
        if self._prctl is not None:  # after the change of accounts, which would undo it
            self._prctl(_PR_SET_PDEATHSIG, int(signal.SIGINT), 0, 0, 0)
            if os.getppid() != self._parent:
                os._exit(1)


def _prctl() -> Callable[..., int] | None:
    if not sys.platform.startswith("linux"):
        return None
    import ctypes

    return ctypes.CDLL(None, use_errno=True).prctl


class _Stop(Exception):
    """Somebody asked the supervisor to end."""


def keep(paths: HomePaths, install: str, users: int) -> None:
    """Run the server until nobody holds the users lock, the home is gone, or somebody ends the supervisor."""
    server = Server(paths, install)
    restarts: list[float] = []
    try:
        server.start()
        _announce(paths, server.socket_dir)
        while is_current(users, paths.users_lock) and not try_lock(users, fcntl.LOCK_EX):
            if not server.is_alive():
                restarts = [at for at in restarts if at > time.monotonic() - 60.0] + [time.monotonic()]
                if len(restarts) > _MAX_RESTARTS_A_MINUTE:
                    raise SupervisorError("the server keeps ending")
                _withdraw(paths)
                server.start()
                _announce(paths, server.socket_dir)
            time.sleep(_POLL_S)
    except _Stop:
        pass
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if is_current(users, paths.users_lock):  # else the name may be another supervisor's by now
            _withdraw(paths)
        server.stop()


def _announce(paths: HomePaths, socket_dir: str) -> None:
    replace_owned(paths.state, socket_dir, 0o644)


def _withdraw(paths: HomePaths) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(paths.state)


def _on_sigterm(number: int, frame: object) -> None:
    raise _Stop


def main(home: str, install: str) -> None:
    """Become the supervisor of `home`, detached from whoever started it."""
    os.umask(0o077)
    paths = HomePaths(home)
    supervisor = open_owned(paths.supervisor_lock, os.O_RDWR)
    if not try_lock(supervisor, fcntl.LOCK_EX):
        sys.exit(ALREADY_RUNS)
    _withdraw(paths)
    users = open_owned(paths.users_lock, os.O_RDWR)
    # The starter waits for this process only; its child has no parent whose end or tree-kill could reach it.
    if os.fork() != 0:
        os._exit(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _on_sigterm)
    try:
        keep(paths, install, users)
    except (SupervisorError, OSError) as error:
        print(f"dlgforge: {error}", file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)
