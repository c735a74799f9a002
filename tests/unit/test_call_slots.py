"""Call slots: who goes first, and that no slot is lost or made twice, whatever is cancelled when."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlgforge_core.scheduling.call_slots import CallSlots


async def _settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def _call(slots: CallSlots, priority: int = 0) -> None:
    async with slots.slot(priority):
        pass


def test_at_least_one_slot_is_needed() -> None:
    with pytest.raises(ValueError, match="size = 0"):
        CallSlots(0)


def test_most_work_left_goes_first_and_equals_in_the_order_they_came() -> None:
    async def main() -> list[str]:
        slots, order = CallSlots(1), []

        async def call(name: str, priority: int) -> None:
            async with slots.slot(priority):
                order.append(name)
                await asyncio.sleep(0)

        waiting = [("first", 9), ("short", 1), ("long", 8), ("also long", 8), ("middle", 5)]
        await asyncio.gather(*[call(name, priority) for name, priority in waiting])
        return order

    assert asyncio.run(main()) == ["first", "long", "also long", "middle", "short"]


def test_who_comes_late_cannot_overtake_those_who_wait() -> None:
    async def main() -> list[str]:
        slots, order = CallSlots(1), []

        async def call(name: str, priority: int) -> None:
            async with slots.slot(priority):
                order.append(name)

        async with slots.slot(0):
            waiter = asyncio.create_task(call("waiting", 5))
            await _settle()
        # The slot was passed on to the waiter, which has not run yet: nothing is free for a newcomer.
        newcomer = asyncio.create_task(call("late", 5))
        await asyncio.gather(waiter, newcomer)
        return order

    assert asyncio.run(main()) == ["waiting", "late"]


def test_all_wanted_only_while_somebody_waits() -> None:
    async def main() -> None:
        slots = CallSlots(1)
        assert not slots.all_wanted
        async with slots.slot(1):
            assert not slots.all_wanted
            waiter = asyncio.create_task(_call(slots, 1))
            await _settle()
            assert slots.all_wanted
        await waiter
        assert not slots.all_wanted

    asyncio.run(main())


def test_nobody_counts_as_waiting_after_a_cancellation() -> None:
    async def main() -> None:
        slots = CallSlots(1)
        async with slots.slot(1):
            waiter = asyncio.create_task(_call(slots, 1))
            await _settle()
            waiter.cancel()
            await _settle()
            assert not slots.all_wanted

    asyncio.run(main())


def test_a_call_cancelled_at_the_moment_of_the_grant_passes_the_slot_on() -> None:
    async def main() -> None:
        slots = CallSlots(1)
        async with slots.slot(1):
            granted = asyncio.create_task(_call(slots, 2))
            next_one = asyncio.create_task(_call(slots, 1))
            await _settle()
        # The slot was granted to the first waiter, which is cancelled before it has run.
        granted.cancel()
        await _settle()
        assert granted.cancelled()
        assert next_one.done(), "the slot went on to who waited behind"
        await asyncio.wait_for(_call(slots), 20)

    asyncio.run(main())


def test_a_failed_call_gives_its_slot_back() -> None:
    async def main() -> None:
        slots = CallSlots(1)
        with pytest.raises(RuntimeError):
            async with slots.slot(1):
                raise RuntimeError
        await asyncio.wait_for(_call(slots), 20)

    asyncio.run(main())


def test_close_cancels_who_waits_or_asks_and_lets_calls_under_way_end() -> None:
    async def main() -> None:
        slots = CallSlots(1)
        ended = False
        async with slots.slot(1):
            waiting = [asyncio.create_task(_call(slots, i)) for i in range(3)]
            await _settle()
            slots.close()
            await _settle()
            assert all(task.cancelled() for task in waiting)
            ended = True
        assert ended
        with pytest.raises(asyncio.CancelledError):
            await _call(slots)

    asyncio.run(main())


@given(
    size=st.integers(1, 4),
    calls=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 4), st.integers(-1, 6)), max_size=30),
)
def test_no_slot_is_lost_or_made_twice(size: int, calls: list[tuple[int, int, int]]) -> None:
    """Each call: priority, loop turns it takes, and after how many turns it is cancelled (-1: never)."""

    async def main() -> None:
        slots, running, most = CallSlots(size), 0, 0

        async def call(priority: int, length: int) -> None:
            nonlocal running, most
            async with slots.slot(priority):
                running += 1
                most = max(most, running)
                try:
                    for _ in range(length):
                        await asyncio.sleep(0)
                finally:
                    running -= 1

        tasks = [asyncio.create_task(call(priority, length)) for priority, length, _ in calls]
        for turn in range(8):
            for task, (_, _, cancelled_after) in zip(tasks, calls, strict=True):
                if cancelled_after == turn:
                    task.cancel()
            await asyncio.sleep(0)
        await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 20)
        assert most <= size
        # All slots are free again, and no more than there were.
        async with contextlib.AsyncExitStack() as held:
            for _ in range(size):
                await asyncio.wait_for(held.enter_async_context(slots.slot(0)), 20)
            one_more = asyncio.create_task(_call(slots))
            await _settle()
            assert not one_more.done()
        await asyncio.wait_for(one_more, 20)

    asyncio.run(main())


def test_calls_to_endpoints_that_are_full_leave_slots_to_others() -> None:
    async def main() -> tuple[int, list[str]]:
        bears = {"judge": 1, "assistant": 4}
        slots, order = CallSlots(4, lambda caller: (caller, bears[caller])), []
        gate = asyncio.Event()

        async def call(caller: str, priority: int) -> None:
            async with slots.slot(priority, caller):
                order.append(caller)
                if caller == "judge":
                    await gate.wait()

        await call("assistant", 1)
        order.clear()
        judging = [asyncio.create_task(call("judge", 9)) for _ in range(10)]
        await _settle()
        waiting = len(order)
        for _ in range(5):
            await asyncio.wait_for(call("assistant", 1), 20)
        gate.set()
        await asyncio.gather(*judging)
        return waiting, order

    waiting, order = asyncio.run(main())
    assert waiting == 2, "what its endpoints bear, and one that is at hand"
    assert order == ["judge"] * 2 + ["assistant"] * 5 + ["judge"] * 8


def test_callers_of_the_same_endpoints_share_every_slot() -> None:
    async def main() -> int:
        slots, most, held = CallSlots(4, lambda caller: ("same", 1)), 0, 0

        async def call(caller: str) -> None:
            nonlocal most, held
            async with slots.slot(1, caller):
                held += 1
                most = max(most, held)
                await _settle()
                held -= 1

        await asyncio.gather(*[call(caller) for caller in ("judge", "assistant") for _ in range(6)])
        return most

    assert asyncio.run(main()) == 4
