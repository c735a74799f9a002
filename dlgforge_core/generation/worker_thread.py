"""A worker of a run: all that it needs, wherever it runs, and one in this process."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import SecretStr

from dlgforge_core.config import MarkupConfig, RoutingConfig
from dlgforge_core.database.database import Database
from dlgforge_core.generation.accepting import acceptance_of
from dlgforge_core.generation.grounding import Grounding
from dlgforge_core.generation.prepare import PreparedRun
from dlgforge_core.generation.recorded_calls import record_calls
from dlgforge_core.generation.worker import Worker, WorkerResult
from dlgforge_core.knowledge.current import CurrentIndex
from dlgforge_core.knowledge.endpoints import embedding_endpoint, rerank_endpoint
from dlgforge_core.knowledge.retrieval import open_knowledge
from dlgforge_core.llm.client import LlmClient
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.llm.following import followed_endpoints
from dlgforge_core.llm.prices import PriceList
from dlgforge_core.prompting.templates import Templates
from dlgforge_core.scheduling.worker_thread import LoopWorkerThread
from dlgforge_core.store.preview import RecordedCall
from dlgforge_core.store.run_store import RunStore
from dlgforge_core.store.worker_store import WorkerStore
from dlgforge_core.tools.toolbox import Toolbox


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """Everything a worker needs, wherever it runs. It holds secrets: hand it over, never log it."""

    run: PreparedRun
    database: Database = field(repr=False)
    endpoints: tuple[Endpoint, ...]
    routing: RoutingConfig
    knowledge: KnowledgeAccess | None = None
    web_search_key: SecretStr | None = None
    tool_secrets: Mapping[str, SecretStr] = field(default_factory=dict, repr=False)
    markup: MarkupConfig = field(default_factory=MarkupConfig)
    prices: PriceList = field(default_factory=PriceList)
    among: tuple[str, ...] = ()
    """The dialogues to work on; empty: all of the run."""
    on_call: Callable[[RecordedCall], None] | None = None
    """Told of every answered call."""

    @property
    def name(self) -> str:
        """What the run is called on a cluster."""
        return self.run.run_id

    @property
    def lease_s(self) -> float:
        """After how many seconds without a sign a worker loses its dialogues."""
        return self.run.generation.run.lease_s

    def thread(self, refresh: Callable[[], Sequence[Endpoint]] | None = None) -> WorkerThread:
        """Return a worker of the run, to be started in this process."""
        return WorkerThread(self, refresh)

    def worker_stats(self) -> list[Mapping[str, Any]]:
        """Return what every worker of the run, past ones included, has counted."""
        return RunStore(self.database).worker_stats(self.run.run_id)

    def silent_workers(self) -> set[tuple[str, int]]:
        """Host and pid of the run's worker processes that hold no valid lease."""
        return RunStore(self.database).silent_workers(self.run.run_id)


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
    async with (
        _grounding(spec) as grounding,
        contextlib.aclosing(_toolbox(spec)) as box,
        LlmClient(
            spec.endpoints,
            spec.routing,
            patience_s=run.patience_s,
            markup=spec.markup,
            expected_failures=spec.run.retried,
            prices=spec.prices,
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
            among=spec.among,
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
        if spec.on_call is not None:
            record_calls(client, worker, spec.on_call)
        on_start(worker)
        with followed_endpoints(client, refresh):
            return await worker.run()


def _toolbox(spec: WorkerSpec) -> Toolbox:
    run = spec.run
    return Toolbox(
        run.generation.tools,
        web_search_key=spec.web_search_key,
        top_k=run.generation.retrieval.top_k,
        declared=run.tools,
        secrets=spec.tool_secrets,
        templates=Templates.of(run.generation.prompts),
        simulator_instructions=run.agents.tool_simulator.instructions,
    )


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


class WorkerThread(LoopWorkerThread[WorkerResult]):
    """Runs one worker of a run beside the caller's thread."""

    def __init__(self, spec: WorkerSpec, refresh: Callable[[], Sequence[Endpoint]] | None = None) -> None:
        super().__init__(lambda started: run_worker(spec, started, refresh))
