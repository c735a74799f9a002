"""The group writer: what is submitted together is written together, and everybody gets their own result."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlgforge_core.database import group_writer
from dlgforge_core.database.group_writer import GroupWriter


class Sink:
    """Takes groups of numbers; gives each number's double back, or an error for negative ones."""

    def __init__(self, pause_s: float = 0.0) -> None:
        self.groups: list[list[int]] = []
        self.pause_s = pause_s
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: Exception | None = None

    async def write(self, ops: Sequence[int]) -> Sequence[object]:
        self.groups.append(list(ops))
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return [ValueError(f"{op} is negative") if op < 0 else 2 * op for op in ops]


async def _settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def test_what_comes_while_a_group_is_written_forms_the_next_one() -> None:
    async def main() -> None:
        sink = Sink()
        writer = GroupWriter(sink.write)
        writer.start()
        sink.gate.clear()
        first = asyncio.create_task(writer.submit(1))
        await _settle()
        others = [asyncio.create_task(writer.submit(n)) for n in (2, 3, 4)]
        await _settle()
        assert sink.groups == [[1]]
        assert not first.done(), "acknowledged only when it is written"
        sink.gate.set()
        assert await asyncio.gather(first, *others) == [2, 4, 6, 8]
        assert sink.groups == [[1], [2, 3, 4]]
        await writer.close()

    asyncio.run(main())


def test_the_linger_lets_later_ones_join() -> None:
    async def main() -> None:
        sink = Sink()
        writer = GroupWriter(sink.write, lambda: 0.05)
        writer.start()
        first = asyncio.create_task(writer.submit(1))
        await asyncio.sleep(0.01)
        second = asyncio.create_task(writer.submit(2))
        await asyncio.gather(first, second)
        assert sink.groups == [[1, 2]]
        await writer.close()

    asyncio.run(main())


def test_the_failure_of_one_is_raised_to_that_one() -> None:
    async def main() -> list[object]:
        sink = Sink()
        writer = GroupWriter(sink.write)
        writer.start()
        results = await asyncio.gather(*[writer.submit(n) for n in (1, -1, 3)], return_exceptions=True)
        await writer.close()
        return results

    good, bad, also_good = asyncio.run(main())
    assert (good, also_good) == (2, 6)
    assert isinstance(bad, ValueError)


def test_a_group_that_cannot_be_written_fails_its_members_and_the_writer_goes_on() -> None:
    async def main() -> None:
        sink = Sink()
        writer = GroupWriter(sink.write)
        writer.start()
        sink.error = OSError("disk full")
        results = await asyncio.gather(writer.submit(1), writer.submit(2), return_exceptions=True)
        assert [str(result) for result in results] == ["disk full", "disk full"]
        sink.error = None
        assert await writer.submit(3) == 6
        await writer.close()

    asyncio.run(main())


def test_close_writes_what_is_queued_and_nothing_can_be_submitted_after() -> None:
    async def main() -> None:
        sink = Sink()
        writer = GroupWriter(sink.write, lambda: 60.0)
        writer.start()
        sink.gate.clear()
        tasks = [asyncio.create_task(writer.submit(n)) for n in range(5)]
        await asyncio.sleep(0)
        closing = asyncio.create_task(writer.close())
        await _settle()
        sink.gate.set()
        await asyncio.wait_for(closing, 20)
        assert await asyncio.gather(*tasks) == [0, 2, 4, 6, 8]
        with pytest.raises(asyncio.CancelledError):
            await writer.submit(6)

    asyncio.run(main())


def test_close_does_not_wait_out_a_linger() -> None:
    async def main() -> None:
        sink = Sink()
        writer = GroupWriter(sink.write, lambda: 60.0)
        writer.start()
        task = asyncio.create_task(writer.submit(1))
        await _settle()  # the writer lingers now
        await asyncio.wait_for(writer.close(), 20)
        assert await task == 2

    asyncio.run(main())


def test_what_a_cancelled_submitter_asked_for_is_written_all_the_same() -> None:
    """Its answer was paid for; the write is keyed and fenced, so that nothing is lost by it."""

    async def main() -> None:
        sink = Sink()
        writer = GroupWriter(sink.write)
        writer.start()
        sink.gate.clear()
        blocking = asyncio.create_task(writer.submit(0))
        await _settle()
        cancelled, other = (asyncio.create_task(writer.submit(n)) for n in (1, 2))
        await _settle()
        cancelled.cancel()
        await _settle()
        sink.gate.set()
        assert [await blocking, await other] == [0, 4]
        assert sink.groups == [[0], [1, 2]]
        assert cancelled.cancelled()
        await writer.close()

    asyncio.run(main())


@given(st.lists(st.integers(-3, 1000), max_size=60), st.integers(1, 7))
def test_every_operation_is_written_once_in_order_and_groups_are_bounded(ops: list[int], most: int) -> None:
    async def main() -> None:
        sink = Sink()
        writer = GroupWriter(sink.write)
        writer.start()
        results = await asyncio.gather(*[writer.submit(op) for op in ops], return_exceptions=True)
        await writer.close()
        assert [n for group in sink.groups for n in group] == ops
        assert all(len(group) <= most for group in sink.groups)
        for op, result in zip(ops, results, strict=True):
            assert isinstance(result, ValueError) if op < 0 else result == 2 * op

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(group_writer, "MAX_GROUP", most)
        asyncio.run(main())
