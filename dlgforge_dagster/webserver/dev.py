"""`dagster dev` with the guard in front of its webserver: python -m dlgforge_dagster.webserver.dev -w ...

The services end with this process, however it ends: SIGINT and SIGTERM in order, `kill -9` by the kernel.
"""

from __future__ import annotations

import functools
import signal
import subprocess
import sys
import warnings
from collections.abc import Sequence
from types import FrameType
from typing import Any

from dagster._cli import dev

from dlgforge_core.runtime.serving.processes import PR_SET_PDEATHSIG, prctl

_WEBSERVER, _DAEMON = "dagster_webserver", "dagster._daemon"
_GUARDED = "dlgforge_dagster.webserver"


def guarded_command(parts: Sequence[str]) -> list[str]:
    """Return the command of a service of `dagster dev`, with the guard where it is the webserver.

    Raises RuntimeError for a command that is neither of those which are known: rather nothing starts than a
    webserver without the guard.
    """
    python, flag, module, *arguments = parts
    if (python, flag) == (sys.executable, "-m") and module == _WEBSERVER:
        return [python, flag, _GUARDED, *arguments]
    if (python, flag) == (sys.executable, "-m") and module == _DAEMON:
        return list(parts)
    raise RuntimeError(f"this version of Dagster starts a service that dlgforge does not know: {parts[:3]}")


def start_service(parts: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
    """Start a service of `dagster dev` that ends when this process does."""
    ends_with_us = None
    if sys.platform == "linux":
        # Started by the main thread, which ends with the process.
        ends_with_us = functools.partial(prctl, PR_SET_PDEATHSIG, signal.SIGINT)
    return subprocess.Popen(guarded_command(parts), preexec_fn=ends_with_us, **options)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Run Dagster's own program."""
    # Started in a shell's background, it would inherit that the signal is ignored.
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)
    vars(dev)["open_ipc_subprocess"] = start_service
    warnings.filterwarnings("ignore", message="Function `dev_command` is superseded")
    dev.dev_command(prog_name="dlgforge dev")


if __name__ == "__main__":
    main()
