"""Work beside the caller's thread: its result, its reports, its end."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from dlgforge_core.scheduling.background import LoopThread, report_while
from dlgforge_core.scheduling.call_slots import claim_threshold


class Endless:
    """A coroutine that ends when it is stopped; `failing` instead of a result."""

    def __init__(self, failing: Exception | None = None) -> None:
        self.reasons: list[str] = []
        self._failing = failing
        self._end: asyncio.Event | None = None
        self._thread = LoopThread(self._main, "test")
        self._thread.start()

    async def _main(self) -> str:
        if self._failing is not None:
            raise self._failing
        self._end = asyncio.Event()
        await self._end.wait()
        return "ended"

    def wait(self, timeout_s: float) -> bool:
        return self._thread.wait(timeout_s)

    def stop(self, reason: str) -> None:
        self.reasons.append(reason)
        if self._end is not None:
            self._thread.call_soon(self._end.set)

    def result(self) -> str:
        return self._thread.result()


def test_reports_go_on_until_the_result_more_rarely_where_they_cost_much() -> None:
    work = Endless()
    reported: list[float] = []

    def report(elapsed_s: float) -> None:
        reported.append(elapsed_s)
        if len(reported) == 2:
            time.sleep(0.02)
        if len(reported) == 3:
            work.stop("enough")

    started = time.monotonic() - 4.0
    assert report_while(work, report, started, poll_s=0.01, first_report_s=0.1) == "ended"
    assert work.reasons == ["enough"]
    first, second, third, *_ = reported
    assert first >= 4.0
    assert second - first >= 0.1
    assert third - second >= 20 * 0.02


def test_what_is_raised_while_waiting_stops_the_work() -> None:
    work = Endless()

    def report(elapsed_s: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        report_while(work, report, time.monotonic(), poll_s=0.01, first_report_s=0.0)
    assert work.reasons == ["interrupted"]
    assert work.wait(0.0)


def test_what_the_work_failed_with_is_raised() -> None:
    work = Endless(ValueError("no way"))
    with pytest.raises(ValueError, match="no way"):
        report_while(work, lambda _: None, time.monotonic(), poll_s=0.01, first_report_s=9.0)


def test_calls_reach_the_loop_only_while_there_is_one() -> None:
    on = threading.Event()
    thread = LoopThread(lambda: asyncio.sleep(0.5, "slept"), "test")
    thread.call_soon(on.set)  # not started yet
    thread.start()
    assert not thread.wait(0.2)
    assert not on.is_set()
    thread.call_soon(on.set)
    assert thread.wait(30.0)
    assert on.is_set()
    assert thread.result() == "slept"
    thread.call_soon(on.clear)  # its loop is closed
    assert on.is_set()


def test_new_dialogues_are_claimed_before_slots_run_dry() -> None:
    assert [claim_threshold(n, 4 * n) for n in (1, 4, 8, 64)] == [1, 1, 2, 16]
    assert claim_threshold(64, 64) == 8
