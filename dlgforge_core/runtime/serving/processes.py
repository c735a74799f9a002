"""Server processes that end with the process that started them, whatever ends it.

A server is started through a small supervisor: this very file, run as a program. Between the starter and the
supervisor runs a pipe; the kernel closes it when the starter dies, `kill -9` included, and the supervisor
then ends the server and everything the server started. The pipe is the primary means because
`PR_SET_PDEATHSIG` fires when the *thread* that started a child ends, and Ray and Dagster start things from
threads that come and go. From the supervisor down that is no matter, as it has one thread: there
`PR_SET_PDEATHSIG` covers the supervisor's own `kill -9`. A supervisor is needed because a server may not be
able to watch for itself (llama.cpp holds Python's lock while it loads; vLLM reads no pipe).

As a program it uses the standard library alone, so that it starts in milliseconds in any environment.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO

ORPHAN_GRACE_S = 1.0
PR_SET_PDEATHSIG = 1  # the signal that a process gets when the thread that started it ends
_PARENT_CHECK_S = 0.5
_MAX_LINE = 8192
_HELD = 1024
"""Characters of a long line that are kept back, in which a secret may begin."""
_PR_SET_CHILD_SUBREAPER = 36


class ServerProcess:
    """A running server of ours, in a session of its own, that does not outlive this process.

    `argv` is run without a shell; never put a secret there. `stdin` is written to the server's standard
    input, which then stays open for as long as both live: the place for secrets (64 KiB at most, what a pipe
    holds). `env` replaces the environment when given. `secrets` are blanked out of what is kept and shown.
    `on_stdout` is called with every line of standard output, on a thread of its own. Raises OSError when the
    supervisor cannot be started; a server that cannot be started shows as an exit with status 127 and a log
    that says why.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        stdin: str = "",
        env: Mapping[str, str] | None = None,
        grace_s: float = 5.0,
        log_lines: int = 200,
        secrets: Sequence[str] = (),
        on_stdout: Callable[[str], None] | None = None,
    ) -> None:
        self._grace_s = grace_s
        self._secrets = [s for s in secrets if s]
        self._log: deque[str] = deque(maxlen=log_lines)
        self._stop_lock = threading.Lock()
        # -I and -S: nothing of the caller's environment can slow or break the supervisor.
        supervisor = [sys.executable, "-I", "-S", os.path.abspath(__file__), str(os.getpid()), str(grace_s)]
        self._process = subprocess.Popen(
            [*supervisor, *argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=None if env is None else dict(env),
            start_new_session=True,  # Ctrl-C in a terminal is for us, who then stop the server in order
            text=True,
            encoding="utf-8",
            errors="replace",
        )
        assert self._process.stdin
        assert self._process.stdout
        assert self._process.stderr
        self._readers = [
            self._read(self._process.stdout, on_stdout),
            self._read(self._process.stderr, None),
        ]
        if stdin:
            with contextlib.suppress(BrokenPipeError):  # it ended already: poll() and tail() tell
                self._process.stdin.write(stdin)
                self._process.stdin.flush()

    def _read(self, stream: IO[str], on_line: Callable[[str], None] | None) -> threading.Thread:
        def read() -> None:
            with stream:
                for line in lines_without(self._secrets, stream):
                    if on_line is not None:
                        on_line(line)
                    self._log.append(line)

        thread = threading.Thread(target=read, name="server-log", daemon=True)
        thread.start()
        return thread

    @property
    def pid(self) -> int:
        """Process id of the supervisor, which leads the server's process tree."""
        return self._process.pid

    def poll(self) -> int | None:
        """None while the server runs; else its exit status, negative for a signal."""
        status = self._process.poll()
        return 128 - status if status is not None and status > 128 else status

    def tail(self, lines: int = 20) -> str:
        """Return the end of what the server wrote. Complete once the server has ended."""
        if self._process.poll() is not None:
            for reader in self._readers:
                reader.join(timeout=5.0)
        return "\n".join(list(self._log)[-lines:])

    def stop(self) -> None:
        """End the server and all it started: SIGTERM, `grace_s` seconds later SIGKILL. Idempotent."""
        with self._stop_lock:
            self._process.terminate()
            try:
                self._process.wait(self._grace_s + 5.0)
            except subprocess.TimeoutExpired:
                self._process.kill()  # the server goes with its supervisor, by PR_SET_PDEATHSIG
                self._process.wait()
            if self._process.stdin and not self._process.stdin.closed:
                with contextlib.suppress(BrokenPipeError):
                    self._process.stdin.close()


def lines_without(secrets: Sequence[str], stream: IO[str]) -> Iterator[str]:
    """Yield a stream's lines without the secrets; long ones in pieces, of which none ends within a secret."""
    # Not above: as a program this file uses the standard library alone.
    from dlgforge_core.common.secrets import redact

    held = ""
    for piece in iter(lambda: stream.readline(_MAX_LINE), ""):
        text = redact(held + piece, secrets)
        end = len(text) if text.endswith("\n") else max(0, len(text) - _HELD)
        held = text[end:]
        if end:
            yield text[:end].rstrip("\n")
    if held:
        yield held


def prctl(option: int, value: int) -> None:
    """Set a property of this process on Linux; elsewhere nothing, where the pipe alone must do."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def _children() -> list[int]:
    """Return the processes whose parent is this one; as a subreaper that includes orphans of our server."""
    try:
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            return [int(pid) for pid in file.read().split()]
    except OSError:
        return []


def _end(server: subprocess.Popen[bytes], grace_s: float) -> None:
    """SIGTERM to the server's group, and after `grace_s` SIGKILL to whatever is left of its tree."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        server.wait(grace_s)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()
    deadline = time.monotonic() + 1.0
    while (orphans := _children()) and time.monotonic() < deadline:
        for pid in orphans:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        time.sleep(0.01)


def supervise(starter: int, grace_s: float, argv: Sequence[str]) -> int:
    """Run `argv` until it ends, the starter ends or a SIGTERM comes; returns the exit status."""
    stopping = False

    def on_sigterm(_signum: int, _frame: object) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGTERM, on_sigterm)
    # A handler, not SIG_IGN: an ignored signal would stay ignored in the server.
    signal.signal(signal.SIGINT, lambda _signum, _frame: None)
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write)  # SIGTERM and SIGCHLD end the select below at once
    signal.signal(signal.SIGCHLD, lambda _signum, _frame: None)
    prctl(_PR_SET_CHILD_SUBREAPER, 1)
    me = os.getpid()

    def before_exec() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != me:
            os._exit(1)

    try:
        server = subprocess.Popen(
            list(argv), stdin=subprocess.PIPE, preexec_fn=before_exec, start_new_session=True
        )
    except OSError as error:
        print(f"cannot run {argv[0]}: {error}", file=sys.stderr)
        return 127
    assert server.stdin
    while server.poll() is None:
        # The pipe's other end may have been inherited by a forked process of the starter's: look at the
        # parent as well, which names the process that started us, whichever of its threads it was.
        if stopping or os.getppid() != starter:
            break
        ready, _, _ = select.select([0, wake_read], [], [], _PARENT_CHECK_S)
        if wake_read in ready:
            os.read(wake_read, 4096)
        if 0 in ready:
            data = os.read(0, 65536)
            if not data:
                break
            with contextlib.suppress(BrokenPipeError):
                server.stdin.write(data)
                server.stdin.flush()
    _end(server, grace_s if stopping else min(grace_s, ORPHAN_GRACE_S))
    return server.returncode if server.returncode >= 0 else 128 - server.returncode


if __name__ == "__main__":
    sys.exit(supervise(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]))
