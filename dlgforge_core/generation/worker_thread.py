"""A worker in this process, on an event loop and a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import SecretStr

from dlgforge_core.config import MarkupConfig, RoutingConfig
from dlgforge_core.database.database import Database
from dlgforge_core.generation.accepting import acceptance_of
from dlgforge_core.generation.grounding import Grounding
from dlgforge_core.generation.prepare import PreparedRun
from dlgforge_core.generation.tools import Toolbox
from dlgforge_core.generation.worker import Worker, WorkerResult
from dlgforge_core.knowledge.current import CurrentIndex
from dlgforge_core.knowledge.endpoints import embedding_endpoint, rerank_endpoint
from dlgforge_core.knowledge.retrieval import open_knowledge
from dlgforge_core.llm.client import LlmClient
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.llm.following import follow_endpoints
from dlgforge_core.scheduling.background import LoopThread
from dlgforge_core.store.worker_store import WorkerStore


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """Everything a worker needs, wherever it runs. It holds secrets: hand it over, never log it."""

    run: PreparedRun
    database: Database = field(repr=False)
    endpoints: tuple[Endpoint, ...]
    routing: RoutingConfig
    knowledge: KnowledgeAccess | None = None
    web_search_key: SecretStr | None = None
    markup: MarkupConfig = field(default_factory=MarkupConfig)


@dataclass(frozen=True, slots=True)
class KnowledgeAccess:
    """The servers a knowledge index is searched with, where it needs any."""

    embedding: Endpoint | None = None
    reranker: Endpoint | None = None


def knowledge_access(run: PreparedRun, index: CurrentIndex | None) -> KnowledgeAccess | None:
    """Return what the workers of a run need to search its index; None when it draws on none.

    Raises ConfigError when a key that the configuration names is not in the environment.
    """
    if not run.source.index_id:
        return None
    retrieval = run.generation.retrieval
    dense = index if retrieval.mode != "lexical" else None
    return KnowledgeAccess(
        embedding=embedding_endpoint(dense.embedding) if dense is not None else None,
        reranker=rerank_endpoint(retrieval.rerank),
    )


async def run_worker(
    spec: WorkerSpec,
    on_start: Callable[[Worker], None],
    refresh: Callable[[], Sequence[Endpoint]] | None = None,
) -> WorkerResult:
    """Connect, work until the run has nothing left, and disconnect; `on_start` gets the worker.

    `refresh`, which may block, tells where the endpoints are now, for servers that come back elsewhere.
    """
    run = spec.run.generation.run
    retrieval, tools = spec.run.generation.retrieval, spec.run.generation.tools
    async with (
        _grounding(spec) as grounding,
        contextlib.aclosing(Toolbox(tools, web_search_key=spec.web_search_key, top_k=retrieval.top_k)) as box,
        LlmClient(
            spec.endpoints,
            spec.routing,
            patience_s=run.patience_s,
            markup=spec.markup,
            expected_failures=spec.run.retried,
        ) as client,
        WorkerStore(
            spec.database,
            run_id=spec.run.run_id,
            fingerprint=spec.run.fingerprint,
            lease_s=run.lease_s,
            patience_s=run.patience_s,
            max_dialogues=run.max_dialogues,
            setup=spec.run.setup,
            similarity_threshold=spec.run.generation.coverage.question_similarity_threshold,
            attempts=run.max_attempts_per_sample if run.accept.active else 1,
        ) as store,
    ):
        worker = Worker(
            store,
            client,
            spec.run.generation,
            spec.run.agents,
            spec.run.models,
            grounding,
            box,
            acceptance_of(spec.run.generation, spec.markup),
        )
        on_start(worker)
        following = asyncio.create_task(follow_endpoints(client, refresh)) if refresh is not None else None
        try:
            return await worker.run()
        finally:
            if following is not None:
                following.cancel()


@contextlib.asynccontextmanager
async def _grounding(spec: WorkerSpec) -> AsyncIterator[Grounding | None]:
    run = spec.run
    if not run.source.index_id:
        yield None
        return
    access = spec.knowledge or KnowledgeAccess()
    async with open_knowledge(
        spec.database,
        run.source.dataset,
        run.source.index_id,
        run.generation.retrieval,
        embedding=access.embedding,
        reranker=access.reranker,
    ) as knowledge:
        yield Grounding(
            knowledge,
            run.fingerprint,
            run.generation.run.seed,
            run.generation.coverage,
            run.generation.retrieval.top_k,
        )


class WorkerThread:
    """Runs one worker beside the caller's thread, which stays free to report and to be interrupted."""

    def __init__(self, spec: WorkerSpec, refresh: Callable[[], Sequence[Endpoint]] | None = None) -> None:
        self._worker: Worker | None = None
        self._stop_reason: str | None = None
        self._thread = LoopThread(lambda: run_worker(spec, self._started, refresh), "dlgforge-worker")

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def wait(self, timeout_s: float) -> bool:
        """Whether the worker has ended within `timeout_s` seconds."""
        return self._thread.wait(timeout_s)

    def stop(self, reason: str) -> None:
        """Ask the worker to cut off its calls, let go of its dialogues and end."""
        self._stop_reason = reason
        self._thread.call_soon(self._stop_now)

    def _stop_now(self) -> None:
        if self._worker is not None and self._stop_reason is not None:
            self._worker.stop(self._stop_reason)

    def stats(self) -> dict[str, Any] | None:
        """Return what the worker has counted so far; None before it has started."""
        return self._worker.stats() if self._worker is not None else None

    def result(self) -> WorkerResult:
        """How the worker ended; raises what it failed with. Call once `wait` has returned True."""
        return self._thread.result()

    def _started(self, worker: Worker) -> None:
        self._worker = worker
        self._stop_now()
