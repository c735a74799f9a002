"""A hang-up is noticed though nobody reads from the socket."""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import Callable

import pytest
import uvloop

from dlgforge_core.database.hangup import HangupWatch

pytestmark = pytest.mark.skipif(not hasattr(select, "epoll"), reason="there is no epoll here")
LoopFactory = Callable[[], asyncio.AbstractEventLoop]
LOOPS = pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])


@LOOPS
@pytest.mark.parametrize("last_words", [b"", b"terminating connection"])
def test_a_hangup_is_reported_once_data_alone_is_not(loop_factory: LoopFactory, last_words: bytes) -> None:
    async def run() -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            reported: list[bool] = []
            HangupWatch(ours.fileno(), lambda: reported.append(True))
            theirs.send(b"a notice")
            await asyncio.sleep(0.02)
            assert not reported
            theirs.send(last_words)
            theirs.close()
            await asyncio.sleep(0.02)
            assert reported == [True]
            await asyncio.sleep(0.02)
            assert reported == [True]

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(run())


@LOOPS
def test_what_is_closed_tells_nothing_more(loop_factory: LoopFactory) -> None:
    async def run() -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            reported: list[bool] = []
            watch = HangupWatch(ours.fileno(), lambda: reported.append(True))
            watch.close()
            watch.close()
            theirs.close()
            await asyncio.sleep(0.02)
            assert not reported

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(run())
