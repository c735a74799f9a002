"""Ends what is left of a local Ray cluster of ours when the process that started it is gone.

Ray's own processes mostly end with their driver, but after a `kill -9` the agents of the raylet stay for a
minute, waiting for a cluster that is gone. `RayReaper` starts this very file as a small program and holds a
pipe to it; the kernel closes the pipe when the driver dies, whatever kills it, and the program then ends the
raylet, its agents and whatever was started below it. When the raylet alone dies, its remains go as well.

As a program it uses the standard library alone, so that it starts in milliseconds.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator

GRACE_S = 1.0
"""Seconds that the cluster has to end by itself."""
_CHECK_S = 1.0


class RayReaper:
    """Watches the raylet `raylet_pid` for this process, and deletes `folder` when the cluster is gone.

    Raises OSError when the program cannot be started.
    """

    def __init__(self, raylet_pid: int, node_id: str, others: Iterable[int] = (), folder: str = "") -> None:
        self._raylet = (raylet_pid, start_time(raylet_pid))
        known = ",".join(f"{pid}:{started}" for pid in others if (started := start_time(pid)))
        # -I and -S: nothing of the caller's environment can slow or break it.
        program = [sys.executable, "-I", "-S", os.path.abspath(__file__)]
        self._process = subprocess.Popen(
            [*program, str(raylet_pid), node_id, known, folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={},
            start_new_session=True,  # Ctrl-C in a terminal must not end it before us
        )

    @property
    def pid(self) -> int:
        """Process id of the watching program."""
        return self._process.pid

    def raylet_runs(self) -> bool:
        """Whether the raylet is still there; without it nothing of the cluster works, nor comes back."""
        pid, started = self._raylet
        return start_time(pid) == started != ""

    def finish(self, timeout_s: float = 10.0) -> None:
        """Let it end what is left of the cluster now, and wait for it. Idempotent."""
        assert self._process.stdin
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def start_time(pid: int) -> str:
    """When a process started, in the kernel's ticks; empty when it is gone or a zombie.

    Together with the pid it names a process for good: pids are used again.
    """
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in ("Z", "X") else fields[19]


def _remains(markers: tuple[bytes, ...], known: dict[int, str]) -> Iterator[int]:
    """Yield the processes of the cluster: known by pid, or with its mark in their environment."""
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        pid = int(entry)
        started = start_time(pid)
        if not started:
            continue
        if known.get(pid) == started:
            yield pid
            continue
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                environ = file.read().split(b"\0")
        except OSError:
            continue  # another user's, or gone
        if any(variable in markers for variable in environ):
            yield pid


def _reap(markers: tuple[bytes, ...], known: dict[int, str]) -> None:
    deadline = time.monotonic() + GRACE_S
    while time.monotonic() < deadline and any(True for _ in _remains(markers, known)):
        time.sleep(0.1)
    for _ in range(3):  # what was being started while we looked is found by the next look
        for pid in _remains(markers, known):
            if pid != os.getpid():
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)


def _watch(raylet_pid: int, node_id: str, others: str, folder: str) -> None:
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    raylet = start_time(raylet_pid)
    markers = (f"RAY_RAYLET_PID={raylet_pid}".encode(), f"RAY_NODE_ID={node_id}".encode())
    known = {int(pid): started for pid, started in (item.split(":") for item in others.split(",") if item)}
    everything = known | {raylet_pid: raylet}
    while True:
        ready, _, _ = select.select([0], [], [], _CHECK_S)
        if ready and not os.read(0, 1024):
            _reap(markers, everything)
            if folder:
                shutil.rmtree(folder, ignore_errors=True)
            return
        if raylet and start_time(raylet_pid) != raylet:
            # The driver lives and may still want the head's log: only the raylet's own remains go.
            raylet = ""
            _reap(markers, {})


if __name__ == "__main__":
    _watch(int(sys.argv[1]), *sys.argv[2:5])
