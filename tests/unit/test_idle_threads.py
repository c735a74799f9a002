"""Threads that are used again, end when told to, and are not waited for."""

from __future__ import annotations

import threading

from dlgforge_core.tools.idle_threads import IdleThreads
from tests.support.waiting import wait_until

NAME = "dlgforge-test-idle"


def running() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == NAME]


def test_an_idle_thread_is_used_again_and_a_busy_one_keeps_nobody_waiting() -> None:
    threads = IdleThreads(NAME)
    go_on = threading.Event()
    threads.run(lambda: bool(go_on.wait(30)))  # type: ignore[arg-type]
    used: list[int] = []
    for n in range(20):
        threads.run(lambda: used.append(threading.get_ident()))
        wait_until(lambda: len(used) > n and threads._idle, 30, "the work is done")  # noqa: B023
    assert len(set(used)) == 1
    assert len(running()) == 2
    threads.close()
    wait_until(lambda: len(running()) == 1, 30, "the idle thread ends")
    go_on.set()
    wait_until(lambda: not running(), 30, "the busy one ends with its work")
