"""Runs a server so that all of it ends, even when the supervisor above it is killed with `kill -9`.

`python vllm_guard.py GRACE_S COMMAND...`, run by `ServerProcess`. Ray kills the direct children of an actor
that it ends, and the supervisor is one. The kernel then kills the supervisor's own child (PR_SET_PDEATHSIG),
but not what that has started: vLLM's engine and worker processes would stay, with the GPU's memory. This
program stands between: it lifts that signal from itself, and is told of the supervisor's end by the pipe.

It uses the standard library alone.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import processes  # type: ignore[import-not-found]  # by path: dlgforge need not be importable

    supervisor = os.getppid()
    processes.prctl(processes.PR_SET_PDEATHSIG, 0)
    sys.exit(processes.supervise(supervisor, float(sys.argv[1]), sys.argv[2:]))
