"""The bar that a run of `dagster job execute` shows in a terminal."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import termios

import pytest

PROGRAM = """
import os
from types import SimpleNamespace

from dlgforge_core.llm.call_figures import CallFigures, UnderWay
from dlgforge_dagster import progress


class Status:
    calls = CallFigures(3, 120, 1.0, UnderWay(calls=2))
    counts = (1,)

    def __str__(self):
        return "2/4 dialogues done"


def show(name, origin):
    print(name, flush=True)
    context = SimpleNamespace(run=SimpleNamespace(remote_job_origin=origin))
    with progress.progress_report(context) as report:
        report.show(Status(), 2, 4, {})


show("by hand", None)
show("by the daemon", "origin")
os.environ["NO_PROGRESS_BAR"] = "1"
show("without", None)
"""


def output_in_terminal(columns: int) -> str:
    """Return what the program writes to its terminal."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, columns))
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], preexec_fn=lambda: os.login_tty(theirs), close_fds=False
    ) as process:
        os.close(theirs)
        written = b""
        try:
            while part := os.read(ours, 65536):
                written += part
        except OSError:  # how a terminal ends on Linux
            pass
        finally:
            os.close(ours)
    assert process.returncode == 0, written.decode()
    return written.decode()


@pytest.mark.parametrize("columns", [80, 0])  # not every terminal knows its size
def test_a_bar_for_who_waits_at_the_terminal_and_for_nobody_else(columns: int) -> None:
    before, by_hand = output_in_terminal(columns).split("by hand")
    assert not before.strip()
    by_hand, by_daemon = by_hand.split("by the daemon")
    assert " 50% |" in by_hand
    assert "| 2/4 dialogues done" in by_hand
    assert by_daemon.split() == ["without"]
