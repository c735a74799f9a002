"""Work spread over processes of this machine, its results in order; the same on any number of them."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import TypeVar

from dlgforge_core.common.cpus import available_cpus

_AHEAD = 4
"""Pieces of work given out for each process: a great set has a great many."""

_MOST = 8

T = TypeVar("T")
R = TypeVar("R")


def most_processes() -> int:
    """Return how many processes work is spread over at most: one for each CPU, and no more than eight."""
    return min(available_cpus(), _MOST)


def spread(work: Callable[[T], R], pieces: Iterable[T], processes: int) -> Generator[R]:
    """Yield what `work` gives for each piece, in their order, from so many processes; one is this one.

    `work` and pieces are pickled. A piece whose process was killed, for memory as a rule, is done here.
    """
    if processes < 2:
        yield from map(work, pieces)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, _end_with_parent) as pool:
        try:
            waiting = iter(pieces)
            begun = deque((one, _submit(pool, work, one)) for one in islice(waiting, _AHEAD * processes))
            while begun:
                piece, future = begun.popleft()
                found = _result(work, piece, future)
                begun.extend((one, _submit(pool, work, one)) for one in islice(waiting, 1))
                yield found
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _submit(pool: ProcessPoolExecutor, work: Callable[[T], R], piece: T) -> Future[R]:
    try:
        return pool.submit(work, piece)
    except BrokenProcessPool as error:
        broken: Future[R] = Future()
        broken.set_exception(error)
        return broken


def _result(work: Callable[[T], R], piece: T, future: Future[R]) -> R:
    with contextlib.suppress(BrokenProcessPool):
        return future.result()
    return work(piece)


def _end_with_parent() -> None:
    """End this process when the one that started it does, by SIGKILL even: its queue would never close."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="dlgforge-parent", daemon=True).start()
