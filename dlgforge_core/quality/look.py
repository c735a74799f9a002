"""Looking at the dialogues of plans, on several cores where there are many of them."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import re
import threading
from collections.abc import Collection, Generator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace

from dlgforge_core.common.cpus import available_cpus
from dlgforge_core.config import ChecksConfig, MarkupConfig
from dlgforge_core.database.database import Database
from dlgforge_core.quality.collectors import COLLECTORS
from dlgforge_core.quality.findings import Findings, findings_of
from dlgforge_core.quality.leaks import PHRASES
from dlgforge_core.store.results import Scope, stream_dialogues

_AT_ONCE = 1_000
"""Ordinals of a plan that a process looks at."""
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

    def at(self, plan_id: str, ordinals: range, names: Collection[str]) -> Findings:
        """Return what the checks in `names` find in these dialogues of a plan. Raises StoreError."""
        scope = replace(self.scope, plan_id=plan_id)
        with self.database.connection() as connection:
            dialogues = stream_dialogues(connection, scope, ordinals=ordinals)
            return findings_of(dialogues, self.languages, self.config, names, self.markup, self.phrases)


@dataclass(frozen=True, slots=True)
class PlanToLookAt:
    """A plan, its ordinals, and the checks that have not looked at it."""

    plan_id: str
    ordinals: int
    names: Sequence[str]

    @property
    def parts(self) -> list[range]:
        """Ordinals that are looked at in one go each."""
        starts = range(0, max(1, self.ordinals), _AT_ONCE)
        return [range(start, min(start + _AT_ONCE, self.ordinals)) for start in starts]


def look_at(look: Look, plans: Sequence[PlanToLookAt], dialogues: int) -> Generator[Findings]:
    """Yield what is found in each of `plans`, in their order, of so many dialogues in all.

    The same on any number of cores: each plan is looked at in the same parts. Raises StoreError.
    """
    processes = min(available_cpus(), _MOST_PROCESSES, dialogues // _WORTH_A_PROCESS)
    if processes < 2:
        for plan in plans:
            found = [look.at(plan.plan_id, part, plan.names) for part in plan.parts]
            yield _merged(look.config, plan.names, found)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, _end_with_parent) as pool:
        try:
            futures = [
                [pool.submit(look.at, plan.plan_id, part, plan.names) for part in plan.parts]
                for plan in plans
            ]
            for plan, of_plan in zip(plans, futures, strict=True):
                parts = zip(plan.parts, of_plan, strict=True)
                found = [_found(look, plan, part, future) for part, future in parts]
                yield _merged(look.config, plan.names, found)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _found(look: Look, plan: PlanToLookAt, part: range, future: Future[Findings]) -> Findings:
    with contextlib.suppress(BrokenProcessPool):  # one was killed, for memory as a rule
        return future.result()
    return look.at(plan.plan_id, part, plan.names)


def _merged(config: ChecksConfig, names: Collection[str], parts: Sequence[Findings]) -> Findings:
    if len(parts) == 1:
        return parts[0]
    collectors = {name: COLLECTORS[name](config) for name in names}
    for found in parts:
        for name, collector in collectors.items():
            collector.merge(found[name])
    return {name: collector.to_json() for name, collector in collectors.items()}


def _end_with_parent() -> None:
    """End this process when the one that started it does, by SIGKILL even: its queue would never close."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="dlgforge-parent", daemon=True).start()
