"""What the collector of cyclic garbage looks at while workers work."""

from __future__ import annotations

import gc
import weakref

from dlgforge_core.scheduling.garbage import long_lived_objects_set_aside


class Cycle:
    def __init__(self) -> None:
        self.itself = self


def test_what_was_there_is_set_aside_until_the_last_worker_leaves() -> None:
    before = gc.get_threshold(), gc.get_freeze_count()
    with long_lived_objects_set_aside():
        during = gc.get_threshold(), gc.get_freeze_count()
        assert during[0] > before[0]
        assert during[1] > before[1]
        with long_lived_objects_set_aside():
            assert gc.get_threshold() == during[0]
        assert gc.get_threshold() == during[0]
        assert gc.get_freeze_count() > before[1]
    assert (gc.get_threshold(), gc.get_freeze_count()) == before


def test_garbage_made_by_a_worker_is_collected_while_it_works() -> None:
    with long_lived_objects_set_aside():
        cycle = weakref.ref(Cycle())
        kept: list[list[int]] = [[] for _ in range(200_000)]
        assert len(kept) == 200_000
        assert cycle() is None


def test_garbage_set_aside_is_collected_afterwards() -> None:
    gc.collect()
    cycle = weakref.ref(Cycle())
    with long_lived_objects_set_aside():
        gc.collect()
        assert cycle() is not None
    gc.collect()
    assert cycle() is None
