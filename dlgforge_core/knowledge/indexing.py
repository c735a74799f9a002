"""Documents to an index in Postgres: what changed is read, cut into chunks, and indexed."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import PurePosixPath
from typing import Any

import orjson

from dlgforge_core.config import EmbeddingConfig, KnowledgeConfig
from dlgforge_core.database.connection import Connection
from dlgforge_core.database.database import Database
from dlgforge_core.errors import KnowledgeError
from dlgforge_core.knowledge.dense import vector_to_bytes
from dlgforge_core.knowledge.embedding import Embedder, open_embedder
from dlgforge_core.knowledge.endpoints import embedding_endpoint
from dlgforge_core.knowledge.folder import KnowledgeFolder
from dlgforge_core.knowledge.index_store import (
    CHUNK_IDS,
    DOCUMENTS,
    ID_BYTES,
    documents_to_json,
    index_size,
    locked,
    split_ids,
    write_index,
)
from dlgforge_core.knowledge.lexical import LexicalIndex
from dlgforge_core.knowledge.reading import DocumentReader
from dlgforge_core.knowledge.sources import SourceSettings, read_source
from dlgforge_core.knowledge.terms import TERMS_VERSION
from dlgforge_core.knowledge.types import Document, IndexReport
from dlgforge_core.llm.endpoints import Endpoint

# Raised whenever an index is kept in another form.
FORMAT_VERSION = 1
MAX_PROBLEMS = 1000
_MAX_NOTES = 20
_CHUNKS_AT_ONCE = 2_000
_CALLS_AT_ONCE = 4
_PROGRESS_EVERY_S = 1.0

Progress = Callable[[str], None]


def index_knowledge(
    database: Database,
    dataset: str,
    config: KnowledgeConfig,
    progress: Progress | None = None,
) -> IndexReport:
    """Bring the dataset's index up to date with its folder; files that have not changed are not read.

    `progress` is told in words, at most once a second. Broken files are reported and skipped. Raises
    KnowledgeError when the folder cannot be listed or nothing in it can be read, BackendError when the
    embeddings fail, ConfigError, StoreError.
    """
    if not config.path:
        return IndexReport()
    started = time.monotonic()
    report_progress = _ProgressReporter(progress)
    folder = KnowledgeFolder(config.path, config.links)
    with database.connection() as connection, locked(connection, dataset):
        sources = _read_changes(connection, dataset, folder, config, report_progress)
        corpus = _corpus(connection, dataset)
        if not corpus.documents:
            problems = "\n".join(f"  {problem}" for problem in sources.problems[:20])
            raise KnowledgeError(f"no document of {folder.shown} can be read:\n{problems}")
        settings = _settings(config.embedding)
        index_id = corpus.digest(settings)
        n_bytes = index_size(connection, dataset, index_id)
        built, n_embedded = n_bytes is None, 0
        if n_bytes is None:
            if config.embedding.backend != "off":
                endpoint = embedding_endpoint(config.embedding)
                n_embedded = _embed_missing(
                    connection, dataset, corpus, config.embedding, endpoint, report_progress
                )
            n_bytes = _build(connection, dataset, index_id, settings, corpus, report_progress)
    return IndexReport(
        index_id=index_id,
        n_documents=len(corpus.documents),
        n_chunks=corpus.n_chunks,
        n_files=sources.n_files,
        n_read=sources.n_read,
        n_unchanged=sources.n_files - sources.n_read,
        n_removed=sources.n_removed,
        n_broken=sources.n_broken,
        n_unknown=len(sources.unknown),
        n_copies=sum(map(len, corpus.copies.values())),
        n_embedded=n_embedded,
        built=built,
        bytes=n_bytes,
        seconds=time.monotonic() - started,
        problems=tuple(sources.problems),
        notes=(*_unknown_notes(sources.unknown), *_copy_notes(corpus.copies)),
        by_language=dict(Counter(document.language for document in corpus.documents).most_common()),
    )


class _ProgressReporter:
    """Tells of progress, not too often."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress, self._last = progress, time.monotonic()

    def __call__(self, what: str) -> None:
        if self._progress is not None and time.monotonic() - self._last >= _PROGRESS_EVERY_S:
            self._progress(what)
            self._last = time.monotonic()


@dataclass
class _Sources:
    """What reading the folder came to."""

    n_files: int = 0
    n_read: int = 0
    n_removed: int = 0
    n_broken: int = 0
    problems: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)

    def note(self, problems: Sequence[str]) -> None:
        self.n_broken += bool(problems)
        self.problems.extend(problems[: max(0, MAX_PROBLEMS - len(self.problems))])


def _read_changes(
    connection: Connection,
    dataset: str,
    folder: KnowledgeFolder,
    config: KnowledgeConfig,
    report_progress: _ProgressReporter,
) -> _Sources:
    """Read the files that changed, forget those that are gone; every file is a transaction."""
    listing = folder.listing()
    files = listing.files
    settings = SourceSettings(folder, config)
    rows = connection.execute(
        "SELECT source, state, settings, problems FROM knowledge_sources WHERE dataset = %s", (dataset,)
    ).fetchall()
    known = {source: (state, made_with, problems) for source, state, made_with, problems in rows}
    done = _Sources(n_files=len(files), unknown=listing.unknown)
    for problem in listing.problems:
        done.note([problem])
    gone = sorted(known.keys() - {file.name for file in files})
    connection.execute(
        "DELETE FROM knowledge_sources WHERE dataset = %s AND source = ANY(%s)", (dataset, gone)
    )
    done.n_removed = len(gone)
    with DocumentReader(config) as reader:
        for number, file in enumerate(files):
            state, made_with, problems = known.get(file.name, ("", "", []))
            if file.state and (state, made_with) == (file.state, settings.digest(problems)):
                done.note(problems)
                continue
            report_progress(f"{number} of {len(files)} files looked at, {done.n_read} of them read")
            done.note(
                read_source(connection, dataset, folder, file, config, settings, reader, report_progress)
            )
            done.n_read += 1
    return done


def _unknown_notes(names: Sequence[str]) -> list[str]:
    """Which formats are not read, one a line."""
    by_ending: dict[str, list[str]] = {}
    for name in names:
        by_ending.setdefault(PurePosixPath(name).suffix.lower(), []).append(name)
    return [
        f"{ending or 'a file without an ending'} is not read: {_few(some, 'files')}"
        for ending, some in sorted(by_ending.items(), key=lambda item: (-len(item[1]), item[0]))[:_MAX_NOTES]
    ]


def _copy_notes(copies: Mapping[str, list[str]]) -> list[str]:
    """Which documents hold the text of another one, one a line."""
    most = sorted(copies.items(), key=lambda item: (-len(item[1]), item[0]))
    notes = [
        f"{first} counts once, with the same text in {_few(others, 'others')}"
        for first, others in most[:_MAX_NOTES]
    ]
    more = sum(len(others) for _, others in most[_MAX_NOTES:])
    return [*notes, *([f"{more:,} more documents hold the text of another one"] if more else [])]


def _few(names: Sequence[str], what: str) -> str:
    shown = ", ".join(names[:3])
    return f"{shown} and {len(names) - 3:,} more {what}" if len(names) > 3 else shown


@dataclass(frozen=True)
class _Corpus:
    """What an index is made of: documents by name, and the ids of their chunks in order.

    Of documents with the same text the first one by name; `copies` has the names of the others by its name.
    """

    documents: list[Document]
    chunk_ids: bytes
    copies: Mapping[str, list[str]]

    @property
    def n_chunks(self) -> int:
        return sum(document.n_chunks for document in self.documents)

    def digest(self, settings: dict[str, Any]) -> str:
        digest = hashlib.sha256(orjson.dumps(settings, option=orjson.OPT_SORT_KEYS))
        digest.update(documents_to_json(self.documents))
        digest.update(self.chunk_ids)
        return digest.hexdigest()[:24]

    def id_groups(self) -> Iterator[list[bytes]]:
        ids = iter(split_ids(self.chunk_ids))
        while group := list(islice(ids, _CHUNKS_AT_ONCE)):
            yield group


def _corpus(connection: Connection, dataset: str) -> _Corpus:
    rows = connection.execute(
        "SELECT document, title, language, length(chunk_ids) / %s, chunk_ids, text_key "
        'FROM knowledge_documents WHERE dataset = %s ORDER BY document COLLATE "C"',
        (ID_BYTES, dataset),
    ).fetchall()
    documents, chunk_ids = list[Document](), list[bytes]()
    first: dict[bytes, str] = {}
    copies: dict[str, list[str]] = {}
    for name, title, language, n_chunks, ids, text_key in rows:
        if text_key and first.setdefault(text_key, name) != name:
            copies.setdefault(first[text_key], []).append(name)
            continue
        documents.append(Document(name, title, language, n_chunks))
        chunk_ids.append(ids)
    return _Corpus(documents, b"".join(chunk_ids), copies)


def _settings(embedding: EmbeddingConfig) -> dict[str, Any]:
    """Return what decides, with the chunks, what an index is."""
    settings: dict[str, Any] = {"format": FORMAT_VERSION, "terms": TERMS_VERSION, "embedding": None}
    if embedding.backend != "off":
        settings["embedding"] = {"backend": embedding.backend, "model": embedding.model}
    return settings


def _build(
    connection: Connection,
    dataset: str,
    index_id: str,
    settings: dict[str, Any],
    corpus: _Corpus,
    report_progress: _ProgressReporter,
) -> int:
    index = LexicalIndex.build(_texts(connection, dataset, corpus, report_progress))
    files = index.to_files()
    del index  # before its bytes go to Postgres
    files |= {DOCUMENTS: documents_to_json(corpus.documents), CHUNK_IDS: corpus.chunk_ids}
    return write_index(connection, dataset, index_id, settings, corpus.documents, files)


def _texts(
    connection: Connection, dataset: str, corpus: _Corpus, report_progress: _ProgressReporter
) -> Iterator[tuple[str, str]]:
    """Text and language of every chunk, in order."""
    done = 0
    for ids in corpus.id_groups():
        rows = connection.execute(
            "SELECT chunk_id, text, language FROM knowledge_chunks WHERE dataset = %s AND chunk_id = ANY(%s)",
            (dataset, ids),
        ).fetchall()
        by_id = {row[0]: (row[1], row[2]) for row in rows}
        yield from (by_id[chunk_id] for chunk_id in ids)
        done += len(ids)
        report_progress(f"{done:,} of {corpus.n_chunks:,} chunks indexed")


# Embeddings


def _embed_missing(
    connection: Connection,
    dataset: str,
    corpus: _Corpus,
    config: EmbeddingConfig,
    endpoint: Endpoint | None,
    report_progress: _ProgressReporter,
) -> int:
    """Embed the texts that have no vector yet; returns how many. What was done stays when it fails."""

    async def run() -> int:
        embedder = open_embedder(config.backend, config.model, endpoint)
        n = 0
        try:
            for ids in corpus.id_groups():
                missing = _without_vector(connection, dataset, vector_model(config), ids)
                await _embed(connection, dataset, config, embedder, missing)
                n += len(missing)
                report_progress(f"{n:,} chunks embedded")
        finally:
            await embedder.aclose()
        return n

    return asyncio.run(run())


def vector_model(config: EmbeddingConfig) -> str:
    """Return the name that vectors are kept under."""
    return f"{config.backend}:{config.model}"


def _without_vector(
    connection: Connection, dataset: str, model: str, ids: Sequence[bytes]
) -> list[tuple[bytes, str]]:
    return connection.execute(
        "SELECT DISTINCT ON (text_key) text_key, text FROM knowledge_chunks c "
        "WHERE dataset = %(dataset)s AND chunk_id = ANY(%(ids)s) AND NOT EXISTS "
        "(SELECT FROM knowledge_vectors v "
        "WHERE v.dataset = c.dataset AND v.model = %(model)s AND v.text_key = c.text_key)",
        {"dataset": dataset, "model": model, "ids": list(ids)},
    ).fetchall()


async def _embed(
    connection: Connection,
    dataset: str,
    config: EmbeddingConfig,
    embedder: Embedder,
    texts: Sequence[tuple[bytes, str]],
) -> None:
    room = asyncio.Semaphore(_CALLS_AT_ONCE if config.backend == "endpoint" else 1)

    async def one(batch: Sequence[tuple[bytes, str]]) -> None:
        async with room:
            vectors = await embedder.embed([text for _, text in batch])
        keys = [key for key, _ in batch]
        rows = [vector_to_bytes(vector) for vector in vectors]
        connection.execute(
            "INSERT INTO knowledge_vectors (dataset, model, text_key, vector) "
            "SELECT %s, %s, * FROM unnest(%s::bytea[], %s::bytea[]) ON CONFLICT DO NOTHING",
            (dataset, vector_model(config), keys, rows),
        )

    size = config.batch_size
    batches = [texts[start : start + size] for start in range(0, len(texts), size)]
    await asyncio.gather(*(one(batch) for batch in batches))
