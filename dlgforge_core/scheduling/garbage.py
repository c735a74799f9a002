"""Python's collector of cyclic garbage, kept from looking at what stays."""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Iterator

_THRESHOLDS = (5_000, 20, 20)
"""Objects between looks at the youngest, and looks between those at the older ones."""

_lock = threading.Lock()
_inside = 0
_before = gc.get_threshold()


@contextlib.contextmanager
def long_lived_objects_set_aside() -> Iterator[None]:
    """Leave what exists on entry out of collections, and collect less often, until the last one leaves.

    Modules and configurations stay for as long as a worker does; looking through them again and again took
    a tenth of its CPU. Applies to the whole process: blocks in several threads count as one.
    """
    global _inside, _before
    with _lock:
        _inside += 1
        if _inside == 1:
            _before = gc.get_threshold()
            gc.freeze()
            gc.set_threshold(*_THRESHOLDS)
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                gc.set_threshold(*_before)
                gc.unfreeze()
