"""Looking at the dialogues of plans, on several cores where there are many of them."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import re
import threading
from collections import deque
from collections.abc import Collection, Generator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from itertools import islice

from dlgforge_core.common.cpus import available_cpus
from dlgforge_core.config import ChecksConfig, MarkupConfig
from dlgforge_core.database.database import Database
from dlgforge_core.quality.findings import Findings, findings_of
from dlgforge_core.quality.leaks import PHRASES
from dlgforge_core.store.results import Scope, stream_dialogues

_WORTH_A_PROCESS = 5_000
"""Dialogues for each process, which takes seconds to start and 30 MB a language."""
_MOST_PROCESSES = 8


@dataclass(frozen=True, slots=True)
class Look:
    """What to look for in the dialogues of a scope."""

    database: Database = field(repr=False)
    scope: Scope
    languages: Sequence[str]
    config: ChecksConfig
    markup: MarkupConfig | None = None
    phrases: re.Pattern[str] = PHRASES

    def at(self, part: Part) -> Findings:
        """Return what the checks of a part find in its dialogues. Raises StoreError."""
        scope = replace(self.scope, plan_id=part.plan_id)
        with self.database.connection() as connection:
            dialogues = stream_dialogues(connection, scope, ordinals=part.ordinals)
            return findings_of(dialogues, self.languages, self.config, part.names, self.markup, self.phrases)


@dataclass(frozen=True, slots=True)
class Part:
    """Ordinals of a plan, looked at in one go, and the checks that are to look at them."""

    plan_id: str
    ordinals: range
    names: Collection[str]


def look_at(look: Look, parts: Sequence[Part], dialogues: int) -> Generator[Findings]:
    """Yield what is found in each of `parts`, in their order, of so many dialogues in all.

    The same on any number of cores. Raises StoreError.
    """
    processes = min(available_cpus(), _MOST_PROCESSES, dialogues // _WORTH_A_PROCESS)
    if processes < 2:
        yield from map(look.at, parts)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, _end_with_parent) as pool:
        try:
            # Given out as they are needed: a great set has a great many parts.
            waiting = iter(parts)
            begun = deque((part, pool.submit(look.at, part)) for part in islice(waiting, 4 * processes))
            while begun:
                part, future = begun.popleft()
                found = _found(look, part, future)
                begun.extend((part, _submit(pool, look, part)) for part in islice(waiting, 1))
                yield found
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _submit(pool: ProcessPoolExecutor, look: Look, part: Part) -> Future[Findings]:
    try:
        return pool.submit(look.at, part)
    except BrokenProcessPool as error:
        broken: Future[Findings] = Future()
        broken.set_exception(error)
        return broken


def _found(look: Look, part: Part, future: Future[Findings]) -> Findings:
    with contextlib.suppress(BrokenProcessPool):  # one was killed, for memory as a rule
        return future.result()
    return look.at(part)


def _end_with_parent() -> None:
    """End this process when the one that started it does, by SIGKILL even: its queue would never close."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="dlgforge-parent", daemon=True).start()
