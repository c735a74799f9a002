"""Limits of a child process that reads foreign files: what would take more ends it, and it alone."""

from __future__ import annotations

import contextlib
import resource
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

OUT_OF_MEMORY = 86
"""The exit status of a child that has met its limit of memory."""
_FAULTS = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE)
_PROGRAM = "import sys; sys.path[:] = sys.argv.pop().split('\\n'); from {} import main; main()"


def limited_command(module: str, seconds: float, memory_bytes: int) -> list[str]:
    """Return the command of a child process: `main` of a module, which is to set itself these limits.

    It finds modules where this process does.
    """
    limits = (str(seconds), str(memory_bytes))
    return [sys.executable, "-I", "-c", _PROGRAM.format(module), *limits, "\n".join(sys.path)]


def limit_memory(n_bytes: int) -> None:
    """Let this process have `n_bytes` in all, what it has now included."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError, ValueError):  # there is no /proc, or no such limit
        size, resident = map(int, Path("/proc/self/statm").read_text("ascii").split()[:2])
        page = resource.getpagesize()
        # Address space is what can be limited; most of what is mapped at the start is never touched.
        limit = size * page + max(n_bytes - resident * page, 1 << 24)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


@contextlib.contextmanager
def processor_limit(seconds: float) -> Iterator[None]:
    """End this process when it takes more than so many seconds of a processor.

    The signal keeps its default, to end the process: a handler of Python's would wait for a library's C code.
    """
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def fault_of(status: int) -> str:
    """Return the name of the signal by which code in C failed; empty for any other exit status."""
    return signal.Signals(-status).name if -status in _FAULTS else ""
