"""Slower cores than the machine has, and so more of them: each process is held to a share of one.

By the kernel's CPU controller (cgroups, version 1 or 2), which root may use: Linux's sched-bwc.txt and
cgroup-v2.txt. All processes that share the work have to be held, so that their proportions stay.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path

PERIOD_US = 10_000
_ROOT = Path("/sys/fs/cgroup")


def hold(pids: Sequence[int], share: float) -> None:
    """Hold each process to its share of a core. Raises SystemExit where this machine does not allow it."""
    quota = round(PERIOD_US * share)
    try:
        for pid in pids:
            if (_ROOT / "cpu" / "cpu.cfs_quota_us").exists():
                group = _made(_ROOT / "cpu", pid)
                (group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
                (group / "cpu.cfs_quota_us").write_text(str(quota))
            else:
                (_ROOT / "cgroup.subtree_control").write_text("+cpu")
                group = _made(_ROOT, pid)
                (group / "cpu.max").write_text(f"{quota} {PERIOD_US}")
            (group / "cgroup.procs").write_text(str(pid))
    except OSError as error:
        raise SystemExit(
            f"--share needs the right to make control groups of the CPU (root): {error}"
        ) from None


def let_go(timeout_s: float = 10.0) -> None:
    """Remove the groups of processes that have ended."""
    until = time.monotonic() + timeout_s
    while (groups := [*_ROOT.glob("cpu/dlgforge-bench-*"), *_ROOT.glob("dlgforge-bench-*")]) and (
        time.monotonic() < until
    ):
        for group in groups:
            with contextlib.suppress(OSError):  # a process is still ending
                group.rmdir()
        time.sleep(0.05)


def _made(parent: Path, pid: int) -> Path:
    group = parent / f"dlgforge-bench-{pid}"
    group.mkdir(exist_ok=True)
    return group
