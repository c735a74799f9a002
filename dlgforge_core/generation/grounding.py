"""What grounded dialogues draw on: a document for each, evidence for questions, passages for answers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import psycopg
from psycopg_pool import AsyncConnectionPool

from dlgforge_core.config import CoverageConfig, PostgresConfig, RetrievalConfig
from dlgforge_core.dialogue import DialoguePlan, Evidence, Role
from dlgforge_core.errors import StoreError
from dlgforge_core.knowledge.coverage import (
    Assignment,
    AsyncConnection,
    Pool,
    assign_document,
    release_document,
)
from dlgforge_core.knowledge.passages import cited
from dlgforge_core.knowledge.search import Knowledge
from dlgforge_core.knowledge.types import Chunk, Hit
from dlgforge_core.languages import base_code
from dlgforge_core.store.connection import connect_arguments, session_setup

# Passages looked at to tell which documents suit a topic.
_RELEVANT = 50


@dataclass(frozen=True, slots=True)
class Anchor:
    """The document of a dialogue. `evidence`: a chunk for each turn. `on_topic`: it suits the seed topic."""

    document: str
    title: str
    on_topic: bool
    evidence: tuple[Chunk, ...]


class Grounding:
    """Gives the dialogues of one worker their documents and passages. An async context manager."""

    def __init__(
        self,
        knowledge: Knowledge,
        dsn: str,
        postgres: PostgresConfig,
        *,
        fingerprint: str,
        seed: int,
        retrieval: RetrievalConfig,
        coverage: CoverageConfig,
    ) -> None:
        self._knowledge = knowledge
        self._fingerprint = fingerprint
        self._seed = seed
        self._retrieval = retrieval
        self._coverage = coverage
        setup = session_setup(postgres).encode()

        async def configure(connection: AsyncConnection) -> None:
            await connection.execute(setup)

        self._pool: Pool = AsyncConnectionPool(
            dsn,
            kwargs={"autocommit": True, **connect_arguments(postgres, "dlgforge coverage")},
            configure=configure,
            min_size=0,
            max_size=2,
            open=False,
            timeout=postgres.connect_timeout_s,
        )
        self._patience_s = postgres.statement_timeout_s

    async def __aenter__(self) -> Self:
        await self._pool.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._pool.close()

    async def anchor(self, plan: DialoguePlan) -> Anchor:
        """The dialogue's document, the same however often it is taken up; counted as used."""
        documents = {document.name: document for document in self._knowledge.documents(plan.language)}
        relevance = await self._relevance(plan, documents)
        candidates = [(name, relevance.get(name, 0.0)) for name in documents]
        assignment = await self._assign(plan, candidates)
        chunks = await self._knowledge.chunks_of(assignment.document)
        known = documents.get(assignment.document)
        return Anchor(
            document=assignment.document,
            title=known.title if known is not None else "",
            on_topic=assignment.document in relevance,
            evidence=rotated(chunks, assignment.nth, plan.n_turns),
        )

    async def release(self, dialogue_id: str) -> None:
        """Take back the document of a dropped dialogue."""
        await release_document(self._pool, self._fingerprint, dialogue_id)

    async def passages(self, plan: DialoguePlan, question: str) -> list[Hit]:
        """What the assistant is given for a question: the best passages of all documents in its language."""
        return await self._knowledge.search(
            question, k=self._retrieval.top_k, language=base_code(plan.language)
        )

    async def search(self, query: str, *, k: int) -> list[Hit]:
        """What the assistant finds by itself, as a tool."""
        return await self._knowledge.search(query, k=k)

    async def _relevance(self, plan: DialoguePlan, documents: Iterable[str]) -> dict[str, float]:
        query = " ".join(filter(None, (plan.topic.topic, plan.topic.question)))
        hits = await self._knowledge.search(query, k=_RELEVANT, documents=set(documents))
        best: dict[str, float] = {}
        for hit in hits:
            best[hit.chunk.document] = max(hit.score, best.get(hit.chunk.document, hit.score))
        return best

    async def _assign(self, plan: DialoguePlan, candidates: Sequence[tuple[str, float]]) -> Assignment:
        """Asked again while Postgres is away, as the worker's own writes are."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._patience_s
        while True:
            try:
                return await assign_document(
                    self._pool,
                    self._fingerprint,
                    plan.dialogue_id,
                    candidates,
                    coverage=self._coverage,
                    seed=self._seed,
                )
            except (psycopg.OperationalError, psycopg.InterfaceError) as error:
                if loop.time() > deadline:
                    raise StoreError(f"Postgres failed: {str(error).strip()}") from None
                await asyncio.sleep(0.5)


def rotated(chunks: Sequence[Chunk], nth: int, n_turns: int) -> tuple[Chunk, ...]:
    """A chunk for each turn: in order, going on where the document's dialogue before (`nth` - 1) ended."""
    return tuple(chunks[(nth * n_turns + turn) % len(chunks)] for turn in range(n_turns)) if chunks else ()


def evidence_of(question: Chunk | None, hits: Sequence[Hit], answer: str) -> tuple[Evidence, ...]:
    """The record of a turn: what the question came from, and the passages, cited or not."""
    asked = (
        [Evidence(question.chunk_id, question.document, Role.USER_SIMULATOR)] if question is not None else []
    )
    given = [
        Evidence(
            hit.chunk.chunk_id,
            hit.chunk.document,
            Role.ASSISTANT,
            score=round(float(hit.score), 4),
            cited=cited(answer, hit.chunk.text),
        )
        for hit in hits
    ]
    return (*asked, *given)
