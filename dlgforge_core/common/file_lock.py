"""Locks on files (flock): tried, or waited for with an end, and the name of who holds one.

The standard library alone: the embedded Postgres' supervisor imports this.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from pathlib import Path

_POLL_S = 0.02


def try_lock(fd: int, operation: int) -> bool:
    """Take a flock without waiting; say whether it was got."""
    try:
        fcntl.flock(fd, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def wait_for_lock(fd: int, timeout_s: float, operation: int = fcntl.LOCK_EX) -> bool:
    """Take the lock on an open file; say whether it was got in time."""
    deadline = time.monotonic() + timeout_s
    while not try_lock(fd, operation):
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)
    return True


def holders(fd: int) -> str:
    """Return the processes that hold a lock on an open file, for a message.

    Elsewhere than on Linux, how to ask.
    """
    inode = os.fstat(fd).st_ino
    found = []
    with contextlib.suppress(OSError):
        for line in Path("/proc/locks").read_text().splitlines():
            fields = line.split()
            # 1: FLOCK  ADVISORY  WRITE 1234 00:2f:56789 0 EOF; one that waits has -> in its second field
            if fields[1] == "FLOCK" and fields[5].rpartition(":")[2] == str(inode):
                found.append(_process(fields[4]))
    return ", ".join(found) or "unknown; `fuser` or `lsof` may tell"


def _process(pid: str) -> str:
    command = b""
    with contextlib.suppress(OSError):
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    shown = command.replace(b"\0", b" ").decode(errors="replace").strip()[:100]
    return f"process {pid} ({shown})" if shown else f"process {pid}"
