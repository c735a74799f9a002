"""Ends what is left of a local Ray cluster of ours when the process that started it is gone.

Ray's own processes mostly end with their driver, but after a `kill -9` the agents of the raylet stay for a
minute, waiting for a cluster that is gone. `RayReaper` starts this very file as a small program and holds a
pipe to it; the kernel closes the pipe when the driver dies, whatever kills it, and the program then ends the
raylet, its agents and whatever was started below it, and deletes the cluster's folder. When the raylet alone
dies, its remains go as well.

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
from dataclasses import dataclass, field

GRACE_S = 1.0
"""Seconds that the cluster has to end by itself."""
_CHECK_S = 1.0
_KEEP = "keep\n"


class RayReaper:
    """Watches for this process over the cluster whose files are in `folder`, from before it is started.

    `in_use` is a descriptor that it keeps open as long as it runs. Raises OSError when the program cannot be
    started.
    """

    def __init__(self, folder: str, in_use: int) -> None:
        self._raylet = (0, "")
        # -I and -S: nothing of the caller's environment can slow or break it.
        program = [sys.executable, "-I", "-S", os.path.abspath(__file__)]
        self._process = subprocess.Popen(
            [*program, folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={},
            pass_fds=[in_use],
            start_new_session=True,  # Ctrl-C in a terminal must not end it before us
        )

    def watch(self, raylet_pid: int, node_id: str, others: Iterable[int] = ()) -> None:
        """Tell it what the cluster that was started consists of: its raylet, its node and other processes."""
        self._raylet = (raylet_pid, start_time(raylet_pid))
        known = ",".join(f"{pid}:{started}" for pid in others if (started := start_time(pid)))
        self._tell(f"{raylet_pid} {node_id} {known}\n")

    def keep_folder(self) -> None:
        """Have it leave the folder where it is: somebody may want the logs."""
        self._tell(_KEEP)

    def _tell(self, line: str) -> None:
        assert self._process.stdin
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(line.encode())
            self._process.stdin.flush()

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


@dataclass
class _Cluster:
    """What is known of the cluster: at first its folder alone, and once it runs its processes."""

    folder: str
    raylet: tuple[int, str] = (0, "")
    markers: tuple[bytes, ...] = ()
    known: dict[int, str] = field(default_factory=dict)
    keeps_folder: bool = False

    def hear(self, line: str) -> None:
        """Take in a line of the driver's."""
        if line + "\n" == _KEEP:
            self.keeps_folder = True
            return
        raylet, node_id, others = line.split(" ")
        self.raylet = (int(raylet), start_time(int(raylet)))
        self.markers = (f"RAY_RAYLET_PID={raylet}".encode(), f"RAY_NODE_ID={node_id}".encode())
        pairs = (item.split(":") for item in others.split(",") if item)
        self.known = {int(pid): started for pid, started in pairs} | dict([self.raylet])

    def remains(self, *, known: bool = True) -> Iterator[int]:
        """Yield its processes, without `known` those alone that its raylet started."""
        for entry in os.listdir("/proc"):
            if not entry.isdigit() or int(entry) == os.getpid():
                continue
            pid = int(entry)
            started = start_time(pid)
            if started and ((known and self.known.get(pid) == started) or self._has(pid)):
                yield pid

    def _has(self, pid: int) -> bool:
        try:
            if self.markers:
                with open(f"/proc/{pid}/environ", "rb") as file:
                    return any(variable in self.markers for variable in file.read().split(b"\0"))
            with open(f"/proc/{pid}/cmdline", "rb") as file:  # it was being started
                return os.fsencode(self.folder) + b"/" in file.read()
        except OSError:
            return False  # another user's, or gone

    def reap(self, *, known: bool = True) -> None:
        """End what `remains` of it, after a time in which it may end by itself."""
        deadline = time.monotonic() + GRACE_S
        while time.monotonic() < deadline and any(True for _ in self.remains(known=known)):
            time.sleep(0.1)
        for _ in range(3):  # what was being started while we looked is found by the next look
            for pid in self.remains(known=known):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)


def _watch(folder: str) -> None:
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    cluster = _Cluster(folder)
    heard = b""
    while True:
        ready, _, _ = select.select([0], [], [], _CHECK_S)
        if ready:
            more = os.read(0, 65536)
            if not more:
                break
            *lines, heard = (heard + more).split(b"\n")
            for line in lines:
                cluster.hear(line.decode())
        pid, started = cluster.raylet
        if started and start_time(pid) != started:
            # The driver lives and may still want the head's log: only the raylet's own remains go.
            cluster.raylet = (0, "")
            cluster.reap(known=False)
    cluster.reap()
    if not cluster.keeps_folder:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    _watch(sys.argv[1])
