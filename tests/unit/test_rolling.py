"""The rolling loop: what it keeps open, how it ends, and what becomes of errors."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlgforge_core.scheduling.call_slots import CallSlots
from dlgforge_core.scheduling.rolling import Rolling


class Source:
    """Gives the numbers below `n`, at most `portion` at a time."""

    def __init__(self, n: int, portion: int = 1000) -> None:
        self.left = list(range(n))
        self.portion = portion
        self.asked: list[int] = []

    async def __call__(self, room: int) -> Sequence[int]:
        self.asked.append(room)
        n = min(room, self.portion)
        given, self.left = self.left[:n], self.left[n:]
        return given


async def finished() -> bool:
    return True


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 60), st.integers(1, 8), st.integers(1, 3), st.integers(1, 30))
def test_every_item_is_carried_once_and_never_too_many_at_once(
    n: int, size: int, per_slot: int, portion: int
) -> None:
    carried: list[int] = []
    open_at_once: list[int] = []

    async def carry(item: int) -> None:
        open_at_once.append(rolling.n_open)
        for _ in range(item % 4):
            await asyncio.sleep(0)
        carried.append(item)

    source = Source(n, portion)
    rolling = Rolling(carry, CallSlots(size), size * per_slot, poll_s=0.001)
    asyncio.run(rolling.run(source, finished))
    # A source may give less than it has: the loop ends only when nothing is open and nothing came.
    assert sorted(carried) == list(range(n))
    assert max(open_at_once, default=0) <= size * per_slot
    assert rolling.failure is None
    assert rolling.n_open == 0


def test_an_item_that_ends_is_replaced_at_once() -> None:
    async def main() -> list[int]:
        gates = {item: asyncio.Event() for item in range(4)}
        begun: list[int] = []

        async def carry(item: int) -> None:
            begun.append(item)
            await gates[item].wait()

        rolling = Rolling(carry, CallSlots(1), 2, poll_s=60.0)
        task = asyncio.create_task(rolling.run(Source(4), finished))
        await asyncio.sleep(0.01)
        assert begun == [0, 1]
        gates[1].set()
        await asyncio.sleep(0.01)
        assert begun == [0, 1, 2], "the other one still goes on"
        for gate in gates.values():
            gate.set()
        await asyncio.wait_for(task, 20)
        return begun

    assert asyncio.run(main()) == [0, 1, 2, 3]


def test_the_first_error_ends_it_and_the_others_are_cut_off() -> None:
    cut: list[int] = []

    async def carry(item: int) -> None:
        if item == 1:
            raise ValueError("one is bad")
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cut.append(item)
            raise

    async def main() -> Rolling[int]:
        rolling = Rolling(carry, CallSlots(3), 3)
        await rolling.run(Source(9), finished)
        await rolling.let_go()
        return rolling

    rolling = asyncio.run(main())
    assert str(rolling.failure) == "one is bad"
    assert sorted(cut) == [0, 2]
    assert rolling.n_open == 0


@pytest.mark.parametrize(("drain", "ended"), [(True, [0]), (False, [])])
def test_a_stop_waits_for_calls_under_way_only_when_draining(drain: bool, ended: list[int]) -> None:
    slots = CallSlots(1)
    through: list[int] = []

    async def carry(item: int) -> None:
        async with slots.slot(0):
            await asyncio.sleep(0.02)
        through.append(item)

    async def main() -> None:
        rolling = Rolling(carry, slots, 3)
        task = asyncio.create_task(rolling.run(Source(9), finished))
        await asyncio.sleep(0.005)
        rolling.stop(drain=drain)
        rolling.add(99)
        await task
        await rolling.let_go()
        assert rolling.n_open == 0

    asyncio.run(main())
    assert through == ended


def test_an_error_of_the_source_is_raised() -> None:
    async def more(room: int) -> Sequence[int]:
        raise OSError("gone")

    async def carry(item: int) -> None:
        raise AssertionError

    with pytest.raises(OSError, match="gone"):
        asyncio.run(Rolling(carry, CallSlots(1), 1).run(more, finished))


def test_a_source_that_is_dry_for_a_while_is_asked_again() -> None:
    async def main() -> None:
        source = Source(0)

        async def done() -> bool:
            if len(source.asked) == 3:
                source.left = [7]
            return bool(carried)

        async def carry(item: int) -> None:
            carried.append(item)

        carried: list[int] = []
        await asyncio.wait_for(Rolling(carry, CallSlots(1), 1, poll_s=0.01).run(source, done), 20)
        assert carried == [7]

    asyncio.run(main())


def test_a_source_that_is_replenished_is_asked_at_once() -> None:
    """Also where that happens while it is being asked: what it gives may be from before."""
    source = Source(2)
    carried: list[int] = []

    async def more(room: int) -> Sequence[int]:
        found = await source(room)
        await asyncio.sleep(0.02)
        return found

    async def main() -> None:
        ended = asyncio.Event()

        async def carry(item: int) -> None:
            if item == 99:
                await ended.wait()  # something is open: a source that ran dry would be left alone
            elif item < 2:
                await asyncio.sleep(0.01 * item)
                source.left.append(item + 2)
                rolling.replenished()
            elif item == 3:
                ended.set()
            carried.append(item)

        rolling = Rolling(carry, CallSlots(2), 8, poll_s=60.0)
        rolling.add(99)
        await asyncio.wait_for(rolling.run(more, finished), 20)

    asyncio.run(main())
    assert sorted(carried) == [0, 1, 2, 3, 99]
