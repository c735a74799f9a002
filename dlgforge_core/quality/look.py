"""Looking at the dialogues of plans, on several cores where there are many of them."""

from __future__ import annotations

import re
from collections.abc import Collection, Generator, Sequence
from dataclasses import dataclass, field, replace

from dlgforge_core.common.processes import most_processes, spread
from dlgforge_core.config import ChecksConfig, MarkupConfig
from dlgforge_core.database.database import Database
from dlgforge_core.quality.findings import Findings, findings_of
from dlgforge_core.quality.leaks import PHRASES
from dlgforge_core.store.results import Scope, stream_dialogues

_WORTH_A_PROCESS = 5_000
"""Dialogues for each process, which takes seconds to start and 30 MB a language."""


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
    processes = min(most_processes(), dialogues // _WORTH_A_PROCESS)
    yield from spread(look.at, parts, processes)
