"""Processes as the tests see them from outside, and drivers run as programs of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil


@contextmanager
def program(
    source: str, *arguments: str, env: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Run Python source as a program; it is killed at the end if it still runs."""
    process = subprocess.Popen(
        [sys.executable, "-c", source, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env={k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "RAY_AUTH_MODE")} | (env or {}),
    )
    try:
        yield process
    finally:
        kill(process)


def line_of(process: subprocess.Popen[str], prefix: str) -> str:
    """Return the rest of the first line the program prints that begins with `prefix`."""
    assert process.stdout
    for line in process.stdout:
        if line.startswith(prefix):
            return line.removeprefix(prefix).strip()
    raise AssertionError(f"the program ended with {process.wait()} and never printed {prefix!r}")


def descendants(pid: int) -> list[psutil.Process]:
    """All processes below `pid`; remembered by start time, so that a pid used again is not mistaken."""
    return psutil.Process(pid).children(recursive=True)


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that still run."""
    return [p for p in processes if _alive(p)]


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # between the two looks
        return False


def command_line(process: psutil.Process) -> str:
    """Its command line and name; empty when it has ended in the meantime."""
    try:
        return f"{' '.join(process.cmdline())} {process.name()}"
    except psutil.Error:
        return ""


def runs(pid: int) -> bool:
    """Whether there is a process `pid` that has not ended."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def kill(process: subprocess.Popen[Any]) -> None:
    """SIGKILL; it is gone, and its pipes are closed, when this returns."""
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
