"""Retrieval: passages for a question, found in an index by words, by meaning, or by both."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Sequence
from itertools import accumulate
from typing import Any, TypeVar

import numpy as np

from dlgforge_core.config import CoverageConfig, RerankConfig, RetrievalConfig
from dlgforge_core.database.database import Database
from dlgforge_core.errors import BackendError, ConfigError, DlgforgeError, KnowledgeError
from dlgforge_core.knowledge.coverage import (
    Assignment,
    KnownUses,
    assign_document,
    note_document,
    release_document,
)
from dlgforge_core.knowledge.dense import DenseIndex, Mask, reciprocal_rank_fusion
from dlgforge_core.knowledge.embedding import Embedder, open_embedder
from dlgforge_core.knowledge.endpoints import JsonClient
from dlgforge_core.knowledge.index_reader import IndexReader
from dlgforge_core.knowledge.index_store import CHUNK_IDS, DOCUMENTS, documents_from_json, split_ids
from dlgforge_core.knowledge.lexical import LexicalIndex, best
from dlgforge_core.knowledge.pool import Candidates, DocumentPool
from dlgforge_core.knowledge.types import Chunk, Hit, Scores
from dlgforge_core.languages import base_code
from dlgforge_core.llm.endpoints import Endpoint

T = TypeVar("T")
_log = logging.getLogger(__name__)

# Smaller indexes are searched in less time than a thread takes to start on it.
_THREAD_ABOVE_CHUNKS = 5_000
# How far down each ranking goes into the fusion.
_FUSED = 50
# How many times more passages are found than are wanted, for the case that some are the same text.
_SPARE = 10
# Share of a topic's words, weighted, from which on a chunk is on the topic. Of the shipped topics and
# documents, in four languages, pairs that belong together have 0.62 to 1, others less than 0.58, but for one.
_ON_TOPIC_FROM = 0.6
_WARN_EVERY_S = 60.0
_QUERY_CHARS = 4_000


def open_knowledge(
    database: Database,
    dataset: str,
    index_id: str,
    retrieval: RetrievalConfig,
    *,
    embedding: Endpoint | None = None,
    reranker: Endpoint | None = None,
) -> Knowledge:
    """Return an index of a dataset, to be entered with `async with`; everything is read from Postgres then.

    Entering raises KnowledgeError when there is no such index, or none with vectors for a dense search,
    ConfigError when an endpoint that the configuration names was not given, StoreError.
    """
    return Knowledge(IndexReader(database, dataset), index_id, retrieval, embedding, reranker)


class Knowledge:
    """The documents of one index, searched and given out; see `open_knowledge`."""

    def __init__(
        self,
        reader: IndexReader,
        index_id: str,
        retrieval: RetrievalConfig,
        embedding: Endpoint | None,
        reranker: Endpoint | None,
    ) -> None:
        self._reader = reader
        self._index_id = index_id
        self._retrieval = retrieval
        self._embedding_endpoint = embedding
        self._rerank_endpoint = reranker
        self._embedder: Embedder | None = None
        self._reranker: Reranker | None = None
        self._dense: DenseIndex | None = None
        self._pools: dict[str, DocumentPool] = {}
        self._uses: dict[tuple[str, str], KnownUses] = {}
        self._warned: dict[str, float] = {}

    @property
    def index_id(self) -> str:
        """The index that is searched."""
        return self._index_id

    async def __aenter__(self) -> Knowledge:
        try:
            await self._load()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._embedder is not None:
            await self._embedder.aclose()
        if self._reranker is not None:
            await self._reranker.aclose()
        await self._reader.aclose()

    async def _load(self) -> None:
        settings = await self._reader.settings(self._index_id)
        files = await self._reader.files(self._index_id)
        self._documents = documents_from_json(files.pop(DOCUMENTS))
        self._ids = split_ids(files.pop(CHUNK_IDS))
        ends = list(accumulate(document.n_chunks for document in self._documents))
        self._ranges = {
            document.name: range(end - document.n_chunks, end)
            for document, end in zip(self._documents, ends, strict=True)
        }
        self._starts = np.array([positions.start for positions in self._ranges.values()], np.intp)
        self._languages = frozenset(document.language for document in self._documents)
        self._pools = await asyncio.to_thread(self._make_pools)
        self._lexical = await asyncio.to_thread(LexicalIndex.from_files, files, len(self._ids))
        if self._retrieval.mode != "lexical":
            await self._load_dense(settings)
        if self._retrieval.rerank.backend != "off":
            if self._rerank_endpoint is None:
                raise ConfigError("retrieval.rerank.backend = endpoint, but no endpoint was given")
            self._reranker = Reranker(self._rerank_endpoint, self._retrieval.rerank)

    async def _load_dense(self, settings: dict[str, Any]) -> None:
        made_with = settings.get("embedding")
        if made_with is None:
            raise KnowledgeError(
                f"retrieval.mode = {self._retrieval.mode}, but the knowledge index has no vectors: "
                "set knowledge.embedding and materialize knowledge_index, or retrieval.mode = lexical"
            )
        backend, model = made_with["backend"], made_with["model"]
        # Two tries: a dialogue waits for it, and there is the lexical search.
        self._embedder = open_embedder(backend, model, self._embedding_endpoint, attempts=2)
        self._dense = DenseIndex(await self._reader.vectors(f"{backend}:{model}", self._ids))

    # Documents

    def _make_pools(self) -> dict[str, DocumentPool]:
        languages = np.array([document.language for document in self._documents])
        lengths = np.array([document.n_chunks for document in self._documents])
        every = DocumentPool(self._documents)
        pools = {"": every}
        for language in self._languages - {""}:
            of_it = (languages == language) | (languages == "")
            if not of_it.all():
                positions = np.flatnonzero(of_it)
                documents = [self._documents[position] for position in positions]
                pools[language] = DocumentPool(
                    documents,
                    language=language,
                    positions=positions,
                    mask=np.repeat(of_it, lengths),
                    lots=every.lots[positions],
                )
        return pools

    def pool(self, language: str | None = None) -> DocumentPool:
        """Return the documents in a language (code or name, dialects too), and those of unknown language.

        All of them without a language, or where none is in it.
        """
        return self._pools.get(base_code(language), self._pools[""]) if language else self._pools[""]

    async def chunks_of(self, document: str) -> list[Chunk]:
        """Return the chunks of a document, in order. Raises KnowledgeError when the index lacks it."""
        if document not in self._ranges:
            raise KnowledgeError(f"the knowledge index has no document {document!r}")
        return await self._reader.chunks([self._ids[position] for position in self._ranges[document]])

    async def chunks(self, chunk_ids: Sequence[str]) -> list[Chunk]:
        """Chunks by their ids, in order. Raises KnowledgeError when one is not in the store."""
        return await self._reader.chunks([bytes.fromhex(chunk_id) for chunk_id in chunk_ids])

    async def assign_document(
        self,
        fingerprint: str,
        dialogue_id: str,
        candidates: Candidates,
        *,
        coverage: CoverageConfig,
        seed: int,
    ) -> Assignment:
        """`coverage.assign_document` on this object's connection. Raises ValueError, StoreError."""
        pool = candidates.pool
        known = self._uses.setdefault((fingerprint, pool.language), KnownUses(pool))
        return await self._reader.run(
            lambda connection: assign_document(
                connection, fingerprint, dialogue_id, candidates, coverage=coverage, seed=seed, known=known
            )
        )

    async def note_document(self, fingerprint: str, dialogue_id: str, document: str) -> None:
        """`coverage.note_document` on this object's connection. Raises StoreError."""
        await self._reader.run(
            lambda connection: note_document(connection, fingerprint, dialogue_id, document)
        )

    async def release_document(self, fingerprint: str, dialogue_id: str) -> None:
        """`coverage.release_document` on this object's connection. Raises StoreError."""
        document = await self._reader.run(
            lambda connection: release_document(connection, fingerprint, dialogue_id)
        )
        for (run, _), known in self._uses.items():
            if run == fingerprint and document:
                known.add(document, -1)

    async def relevance(
        self, topic: str, example: str, pool: DocumentPool, language: str | None = None
    ) -> Candidates:
        """How well each document of a pool fits a topic and an example question on it.

        The score of its best chunk that is on the topic at all, 0 where there is none: a chunk is when it
        holds most of the topic's words, by their weight. By words, in every mode: no endpoint is asked.
        """

        def find() -> Scores:
            scores = self._lexical_scores(f"{topic} {example}", language, None)
            shares = self._lexical.shares(topic, list(self._query_languages(language)))
            if scores is None or shares is None:
                return np.zeros(len(pool), np.float32)
            scores = np.where(shares >= _ON_TOPIC_FROM, scores, np.float32(0))
            of_documents = np.maximum.reduceat(scores, self._starts)
            return of_documents if pool.positions is None else of_documents[pool.positions]

        return Candidates(pool, await self._off_loop(find))

    # Search

    async def search(
        self,
        query: str,
        *,
        k: int | None = None,
        pool: DocumentPool | None = None,
        language: str | None = None,
    ) -> list[Hit]:
        """Return the `k` passages (default: `retrieval.top_k`) that fit a query best, the best first.

        Only from the documents of a `pool` where one is given. `language` (code or name) says what the query
        is written in. Fewer hits than `k` when no more match; equal texts count once. An embedding or
        reranking server that fails is done without, with a warning. Raises StoreError.
        """
        k = self._retrieval.top_k if k is None else k
        query = query[:_QUERY_CHARS]
        mask = None if pool is None else pool.mask
        reranked = self._reranker is not None
        wanted = max(k, self._retrieval.rerank.candidates) if reranked else k
        positions = await self._positions(query, language, mask, wanted * _SPARE)
        hits = await self._of_different_texts(positions, wanted)
        if self._reranker is not None and len(hits) > 1:
            try:
                hits = await self._reranker.order(query, hits)
            except BackendError as error:
                self._warn("reranking", error)
        return hits[:k]

    async def _of_different_texts(self, positions: Sequence[tuple[int, float]], n: int) -> list[Hit]:
        """Return the first `n` of these places as hits, each text once: documents share notices and forms."""
        hits: dict[str, Hit] = {}
        for start in range(0, len(positions), n):
            group = positions[start : start + n]
            chunks = await self._reader.chunks([self._ids[position] for position, _ in group])
            for chunk, (_, score) in zip(chunks, group, strict=True):
                hits.setdefault(" ".join(chunk.text.split()), Hit(chunk, score))
            if len(hits) >= n:
                break
        return list(hits.values())[:n]

    async def _positions(
        self, query: str, language: str | None, mask: Mask | None, n: int
    ) -> list[tuple[int, float]]:
        """Places of the `n` best chunks in the index, with their scores."""
        if not query.strip():
            return []
        vector = await self._query_vector(query)
        mode = self._retrieval.mode if vector is not None else "lexical"

        def find() -> list[tuple[int, float]]:
            depth = n if mode != "hybrid" else max(n, _FUSED)
            rankings = []
            if mode != "dense":
                scores = self._lexical_scores(query, language, mask)
                rankings.append([] if scores is None else best(scores, depth))
            if vector is not None and self._dense is not None:
                rankings.append(best(self._dense.scores(vector, mask), depth))
            if len(rankings) == 1:
                return rankings[0][:n]
            fused = reciprocal_rank_fusion([[position for position, _ in ranking] for ranking in rankings])
            return sorted(fused.items(), key=lambda item: (-item[1], item[0]))[:n]

        return await self._off_loop(find)

    async def _off_loop(self, work: Callable[[], T]) -> T:
        return work() if len(self._ids) < _THREAD_ABOVE_CHUNKS else await asyncio.to_thread(work)

    def _lexical_scores(self, query: str, language: str | None, mask: Mask | None) -> Scores | None:
        scores = self._lexical.scores(query, self._query_languages(language))
        return scores if scores is None or mask is None else np.where(mask, scores, np.float32(0))

    def _query_languages(self, language: str | None) -> Collection[str]:
        # Chunks of no known language are indexed unstemmed.
        return self._languages if not language else {base_code(language)} | (self._languages & {""})

    async def _query_vector(self, query: str) -> Any:
        if self._embedder is None:
            return None
        try:
            return (await self._embedder.embed([query]))[0]
        except BackendError as error:
            self._warn("embedding the question", error)
            return None

    def _warn(self, what: str, error: DlgforgeError) -> None:
        now = time.monotonic()
        if now - self._warned.get(what, -_WARN_EVERY_S) >= _WARN_EVERY_S:
            self._warned[what] = now
            _log.warning("%s failed; the search goes on without: %s", what, error)


class Reranker:
    """A server's /v1/rerank, as vLLM, Jina and Cohere have it."""

    def __init__(self, endpoint: Endpoint, config: RerankConfig) -> None:
        self._client = JsonClient(endpoint, attempts=2)
        self._model = config.model

    async def order(self, query: str, hits: Sequence[Hit]) -> list[Hit]:
        """Return the hits in the model's order, with its scores. Raises BackendError."""
        body = {
            "query": query,
            "documents": [hit.chunk.text for hit in hits],
            "top_n": len(hits),
            "return_documents": False,
        }
        answer = await self._client.post("/rerank", body | ({"model": self._model} if self._model else {}))
        try:
            scores = {int(item["index"]): float(item["relevance_score"]) for item in answer["results"]}
            if not scores.keys() <= set(range(len(hits))):
                raise ValueError(f"there is no document {max(scores)}")
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise BackendError(
                f"the answer of {self._client.endpoint.base_url}/rerank is no ranking: "
                f"{type(error).__name__}: {error}"
            ) from None
        ranked = sorted(scores, key=lambda index: -scores[index])
        left = [hit for index, hit in enumerate(hits) if index not in scores]
        return [Hit(hits[index].chunk, scores[index]) for index in ranked] + left

    async def aclose(self) -> None:
        """Close its connections."""
        await self._client.aclose()
