"""When a worker may make a call, by its own clock."""

from __future__ import annotations

import asyncio
import time

import pytest

from dlgforge_core.store import lease as module
from dlgforge_core.store.lease import WRITE_STALL_S, Lease

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Clock:
    """A clock that goes on when the test says so."""

    def __init__(self) -> None:
        self.s = 100.0

    def __call__(self) -> float:
        return self.s


async def test_it_holds_for_its_length_from_when_it_was_asked_for() -> None:
    clock = Clock()
    lease = Lease(10.0, clock)
    assert not lease.holds
    asked_at = lease.now()
    clock.s += 4.0  # Postgres took its time
    lease.renewed(asked_at)
    assert lease.holds
    clock.s += 5.9
    assert lease.holds
    clock.s += 0.1
    assert not lease.holds


async def test_a_call_waits_while_it_is_in_doubt_and_has_it_renewed() -> None:
    clock = Clock()
    lease = Lease(10.0, clock)
    asked: list[float] = []
    lease.on_doubt = lambda: asked.append(clock.s)
    lease.renewed(lease.now())
    await asyncio.wait_for(lease.permit(), 20)
    assert not asked
    clock.s += 60.0  # the process was stopped, or the machine asleep
    call = asyncio.create_task(lease.permit())
    await asyncio.sleep(0.01)
    assert not call.done()
    assert asked == [160.0]
    lease.renewed(lease.now())
    await asyncio.wait_for(call, 20)


async def test_a_lost_connection_puts_it_in_doubt_at_once() -> None:
    lease = Lease(600.0)
    lease.renewed(lease.now())
    asked: list[bool] = []
    lease.on_doubt = lambda: asked.append(lease.holds)
    lease.doubt()
    assert asked == [False]
    call = asyncio.create_task(lease.permit())
    await asyncio.sleep(0.01)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


async def test_no_call_is_made_while_a_write_takes_too_long() -> None:
    clock = Clock()
    lease = Lease(600.0, clock)
    lease.renewed(lease.now())
    lease.writing(True)
    clock.s += WRITE_STALL_S - 0.1
    assert lease.holds
    clock.s += 0.2
    call = asyncio.create_task(lease.permit())
    await asyncio.sleep(0.01)
    assert not call.done()
    lease.writing(False)
    await asyncio.wait_for(call, 20)


async def test_the_clock_is_one_that_no_suspension_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    if hasattr(time, "CLOCK_BOOTTIME"):
        assert abs(module.clock() - time.clock_gettime(time.CLOCK_BOOTTIME)) < 1.0
        monkeypatch.delattr(time, "CLOCK_BOOTTIME")
    assert abs(module.clock() - time.monotonic()) < 1.0
