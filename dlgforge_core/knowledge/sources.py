"""One file of a knowledge folder: read, cut into chunks, and written down in Postgres."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from dlgforge_core.common.files import FoundFile
from dlgforge_core.config import KnowledgeConfig
from dlgforge_core.database.connection import Connection
from dlgforge_core.knowledge.chunking import chunk_spans
from dlgforge_core.knowledge.detection import DETECTION_VERSION, detect_language
from dlgforge_core.knowledge.documents import READER_VERSION, Problem, ReadDocument
from dlgforge_core.knowledge.folder import KnowledgeFolder
from dlgforge_core.knowledge.index_store import ID_BYTES
from dlgforge_core.knowledge.reading import DocumentReader

_ROWS_AT_ONCE = 2_000
_MAX_PROBLEMS = 100


@dataclass(frozen=True, slots=True)
class _Failed:
    """The file could not be fetched: nothing is known of it, and what was read earlier stays."""

    message: str


@dataclass
class _Pending:
    """Rows that go to Postgres together."""

    chunks: list[tuple[Any, ...]] = field(default_factory=list)
    documents: list[tuple[Any, ...]] = field(default_factory=list)


class SourceSettings:
    """What decides, apart from a file's content, what its chunks are; a digest of it is kept with the file.

    `limits` and `encoding` are only in that of a file with problems: others are not read again for them.
    """

    def __init__(self, folder: KnowledgeFolder, config: KnowledgeConfig) -> None:
        always = [
            READER_VERSION,
            DETECTION_VERSION,
            folder.shown,
            config.chunk_chars,
            config.chunk_overlap_chars,
            config.text_key,
            config.languages,
        ]
        self._always = hashlib.sha256(orjson.dumps(always)).hexdigest()[:12]
        limits = [config.encoding, config.limits.model_dump()]
        self._limits = hashlib.sha256(orjson.dumps(limits)).hexdigest()[:12]

    def digest(self, problems: Sequence[str]) -> str:
        """Return that of a file with these problems."""
        return f"{self._always}-{self._limits}" if problems else self._always


def read_source(
    connection: Connection,
    dataset: str,
    folder: KnowledgeFolder,
    file: FoundFile,
    config: KnowledgeConfig,
    settings: SourceSettings,
    reader: DocumentReader,
    report: Callable[[str], None],
) -> list[str]:
    """Read a file and put its documents in place of those it held; returns what is wrong with it."""
    pending, problems = _Pending(), _Problems(file.name)
    names: set[str] = set()
    for item in _items(folder, file, reader):
        if isinstance(item, _Failed):
            return [item.message]
        if isinstance(item, Problem):
            problems.add(item.message)
        elif item.name in names:
            problems.add(f"{item.name}: its id is used twice in the file; the first one counts")
        else:
            names.add(item.name)
            for _ in _add(pending, item, config):
                _insert_chunks(connection, dataset, pending)
            report(f"{file.name}: {len(names):,} documents read")
    _insert_chunks(connection, dataset, pending)
    _replace(connection, dataset, file, settings.digest(problems.described()), pending, problems.described())
    return problems.described()


class _Problems:
    """What is wrong with a file; only the first of very many."""

    def __init__(self, name: str) -> None:
        self._name, self._first, self._n = name, list[str](), 0

    def add(self, message: str) -> None:
        self._n += 1
        if self._n <= _MAX_PROBLEMS:
            self._first.append(message.encode("utf-8", "replace").decode().replace("\0", ""))

    def described(self) -> list[str]:
        more = self._n - len(self._first)
        return [*self._first, *([f"{self._name}: {more:,} more problems"] if more else [])]


def _items(
    folder: KnowledgeFolder, file: FoundFile, reader: DocumentReader
) -> Iterator[ReadDocument | Problem | _Failed]:
    try:
        with folder.open(file) as stream:
            yield from reader.read(file.name, stream)
    except Exception as error:  # filesystems have errors of their own; none may end the whole reading
        yield _Failed(f"{file.name}: it cannot be read: {type(error).__name__}: {folder.reported(error)}")


def _add(pending: _Pending, document: ReadDocument, config: KnowledgeConfig) -> Iterator[None]:
    """Add a document's rows; stops where there are enough chunks to be written."""
    language = detect_language(document.text, config.languages)
    ids = []
    spans = chunk_spans(document.text, config.chunk_chars, config.chunk_overlap_chars)
    for ordinal, (start, end) in enumerate(spans):
        text = document.text[start:end]
        row = (document.name, ordinal, start, language, text)
        chunk_id = hashlib.blake2b(orjson.dumps(row), digest_size=ID_BYTES).digest()
        text_key = hashlib.blake2b(text.encode(), digest_size=ID_BYTES).digest()
        pending.chunks.append((chunk_id, *row, text_key))
        ids.append(chunk_id)
        if len(pending.chunks) >= _ROWS_AT_ONCE:
            yield
    whole = hashlib.blake2b(" ".join(document.text.split()).encode(), digest_size=ID_BYTES).digest()
    described = (document.name, document.title, language, len(document.text))
    pending.documents.append((*described, b"".join(ids), whole))


def _insert_chunks(connection: Connection, dataset: str, pending: _Pending) -> None:
    # Before their documents, in a transaction of their own: chunks that nothing names do no harm.
    if pending.chunks:
        columns = [list(column) for column in zip(*pending.chunks, strict=True)]
        connection.execute(
            "INSERT INTO knowledge_chunks "
            "(dataset, chunk_id, document, ordinal, start_char, language, text, text_key) SELECT %s, * FROM "
            "unnest(%s::bytea[], %s::text[], %s::int[], %s::int[], %s::text[], %s::text[], %s::bytea[]) "
            "ON CONFLICT DO NOTHING",
            (dataset, *columns),
        )
        pending.chunks.clear()


def _replace(
    connection: Connection,
    dataset: str,
    file: FoundFile,
    settings: str,
    pending: _Pending,
    problems: list[str],
) -> None:
    with connection.transaction():
        connection.execute(
            "DELETE FROM knowledge_sources WHERE dataset = %s AND source = %s", (dataset, file.name)
        )
        connection.execute(
            "INSERT INTO knowledge_sources (dataset, source, state, settings, problems) "
            "VALUES (%s, %s, %s, %s, %s::jsonb)",
            (dataset, file.name, file.state, settings, orjson.dumps(problems).decode()),
        )
        for start in range(0, len(pending.documents), _ROWS_AT_ONCE):
            rows = pending.documents[start : start + _ROWS_AT_ONCE]
            columns = [list(column) for column in zip(*rows, strict=True)]
            connection.execute(
                "INSERT INTO knowledge_documents "
                "(dataset, source, document, title, language, n_chars, chunk_ids, text_key) "
                "SELECT %s, %s, * FROM unnest(%s::text[], %s::text[], %s::text[], %s::int[], %s::bytea[], "
                "%s::bytea[]) ON CONFLICT DO NOTHING",
                (dataset, file.name, *columns),
            )
