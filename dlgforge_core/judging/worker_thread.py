"""A judging worker: all that it needs, wherever it runs, and one in this process."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dlgforge_core.config import JudgeConfig, MarkupConfig, PromptsConfig, RoutingConfig
from dlgforge_core.database.database import Database
from dlgforge_core.judging.judges import Judge
from dlgforge_core.judging.sessions import Session
from dlgforge_core.judging.store import claimed_dialogues
from dlgforge_core.judging.worker import Chain, JudgingWorker, chains_of
from dlgforge_core.judging.worker_store import JudgingStore
from dlgforge_core.llm.client import LlmClient
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.llm.following import followed_endpoints
from dlgforge_core.llm.prices import PriceList
from dlgforge_core.prompting.templates import SHIPPED, Templates
from dlgforge_core.scheduling.background import WorkResult
from dlgforge_core.scheduling.worker_thread import LoopWorkerThread
from dlgforge_core.store.worker_rows import silent_workers, worker_stats

APPLICATION = "dlgforge judging"
"""The name of its connections."""


@dataclass(frozen=True, slots=True)
class JudgingSpec:
    """Everything a judging worker needs, wherever it runs. It holds secrets: hand it over, never log it."""

    session: Session
    dataset: str
    config: JudgeConfig
    judges: tuple[Judge, ...]
    database: Database = field(repr=False)
    routing: RoutingConfig
    lease_s: float
    endpoints: tuple[Endpoint, ...] = ()
    markup: MarkupConfig = field(default_factory=MarkupConfig)
    prices: PriceList = field(default_factory=PriceList)
    prompts: PromptsConfig | None = None

    @property
    def name(self) -> str:
        """What the session is called on a cluster."""
        return f"judging-{self.session.session_id}"

    @property
    def templates(self) -> Templates:
        """The messages that judges get."""
        return Templates.of(self.prompts) if self.prompts is not None else SHIPPED

    def thread(self, refresh: Callable[[], Sequence[Endpoint]] | None = None) -> JudgingThread:
        """Return a worker of the session, to be started in this process."""
        return JudgingThread(self, refresh)

    def worker_stats(self) -> list[Mapping[str, Any]]:
        """Return what every worker of the session, past ones included, has counted."""
        with self.database.connection() as connection:
            return worker_stats(connection, session_id=self.session.session_id)

    def silent_workers(self) -> set[tuple[str, int]]:
        """Host and pid of the session's worker processes that hold no valid lease."""
        with self.database.connection() as connection:
            return silent_workers(connection, session_id=self.session.session_id)


async def run_judging_worker(
    spec: JudgingSpec,
    on_start: Callable[[JudgingWorker], None],
    refresh: Callable[[], Sequence[Endpoint]] | None = None,
) -> WorkResult:
    """Connect, judge until the session has nothing left, and disconnect; `on_start` gets the worker.

    `refresh`, which may block, tells where the endpoints are now, for servers that come back elsewhere.
    """
    config, templates, stopping = spec.config, spec.templates, threading.Event()
    keys = [judge.key for judge in spec.judges]
    reader = spec.database.reconnecting(APPLICATION, config.patience_s, stopping)

    def load(ids: Sequence[str]) -> list[list[Chain]]:
        found = claimed_dialogues(reader, spec.dataset, config, keys, ids, spec.session.started_at)
        return [chains_of(dialogue, config, spec.judges, templates) for dialogue in found]

    async with (
        LlmClient(
            spec.endpoints,
            spec.routing,
            patience_s=config.patience_s,
            markup=spec.markup,
            prices=spec.prices,
        ) as client,
        JudgingStore(
            spec.database,
            session_id=spec.session.session_id,
            lease_s=spec.lease_s,
            patience_s=config.patience_s,
            application=APPLICATION,
        ) as store,
    ):
        worker = JudgingWorker(
            store, client, config, load, judges=len(keys), lease_s=spec.lease_s, templates=templates
        )
        on_start(worker)
        with contextlib.closing(reader), followed_endpoints(client, refresh):
            try:
                return await worker.run()
            finally:
                stopping.set()


class JudgingThread(LoopWorkerThread[WorkResult]):
    """Runs one worker of a judging session beside the caller's thread."""

    def __init__(self, spec: JudgingSpec, refresh: Callable[[], Sequence[Endpoint]] | None = None) -> None:
        super().__init__(lambda started: run_judging_worker(spec, started, refresh))
