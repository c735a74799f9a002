"""Indexes in Postgres: written in parts, read by any worker, pruned when nobody needs them."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from itertools import accumulate
from typing import Any

import orjson

from dlgforge_core.database import lock_keys
from dlgforge_core.database.connection import Connection
from dlgforge_core.database.database import Database
from dlgforge_core.knowledge.types import Document

_POLL_S = 0.2
ID_BYTES = 16
PART_BYTES = 8 * 1024 * 1024
DOCUMENTS = "documents"
CHUNK_IDS = "chunk_ids"


@contextmanager
def locked(connection: Connection, dataset: str) -> Iterator[None]:
    """Whatever changes the knowledge of a dataset, one after the other."""
    keys = (lock_keys.KNOWLEDGE, dataset)
    # Tried again and again, not waited for: a statement has a time-out, and another may read for an hour.
    while not _value(connection, "SELECT pg_try_advisory_lock(%s, hashtext(%s))", keys):
        time.sleep(_POLL_S)
    try:
        yield
    finally:
        if not connection.broken and not connection.closed:
            connection.execute("SELECT pg_advisory_unlock(%s, hashtext(%s))", keys)


def index_documents(database: Database, dataset: str, index_id: str) -> list[Document]:
    """Return the documents of an index by name; none when there is no such index. Raises StoreError."""
    with database.connection() as connection:
        return documents_from_json(_part(connection, dataset, index_id, DOCUMENTS))


def document_digests(database: Database, dataset: str, index_id: str) -> list[tuple[Document, str]]:
    """Return the documents of an index, each with a digest of its chunks. Raises StoreError."""
    with database.connection() as connection:
        documents = documents_from_json(_part(connection, dataset, index_id, DOCUMENTS))
        ids = _part(connection, dataset, index_id, CHUNK_IDS)
    starts = accumulate((document.n_chunks * ID_BYTES for document in documents), initial=0)
    return [
        (document, blake2b(ids[start : start + document.n_chunks * ID_BYTES], digest_size=12).hexdigest())
        for document, start in zip(documents, starts, strict=False)
    ]


def _part(connection: Connection, dataset: str, index_id: str, name: str) -> bytes:
    """Return a file of an index; empty when there is no such index."""
    return b"".join(
        row[0]
        for row in connection.execute(
            "SELECT data FROM knowledge_index_parts "
            "WHERE dataset = %s AND index_id = %s AND name = %s ORDER BY part",
            (dataset, index_id, name),
        )
    )


def documents_to_json(documents: Sequence[Document]) -> bytes:
    """Return the documents of an index as they are kept."""
    return orjson.dumps([[d.name, d.title, d.language, d.n_chunks] for d in documents])


def documents_from_json(data: bytes) -> list[Document]:
    """Return the inverse of `documents_to_json`."""
    return [Document(*row) for row in orjson.loads(data or b"[]")]


def index_size(connection: Connection, dataset: str, index_id: str) -> int | None:
    """Bytes of an index as it is kept, which is now the latest; None when there is no such index."""
    sql = (
        "UPDATE knowledge_indexes SET built_at = clock_timestamp() "
        "WHERE dataset = %s AND index_id = %s RETURNING n_bytes"
    )
    found = _value(connection, sql, (dataset, index_id))
    return None if found is None else int(found)


def write_index(
    connection: Connection,
    dataset: str,
    index_id: str,
    settings: Mapping[str, Any],
    documents: Sequence[Document],
    files: Mapping[str, bytes],
) -> int:
    """Write an index, whole or not at all; returns its bytes."""
    n_bytes = sum(map(len, files.values()))
    n_chunks = sum(document.n_chunks for document in documents)
    with connection.transaction():
        connection.execute(
            "INSERT INTO knowledge_indexes "
            "(dataset, index_id, settings, n_documents, n_chunks, n_bytes, built_at) "
            "VALUES (%s, %s, %s::jsonb, %s, %s, %s, clock_timestamp())",
            (dataset, index_id, orjson.dumps(settings).decode(), len(documents), n_chunks, n_bytes),
        )
        for name, data in files.items():
            for part, start in enumerate(range(0, max(1, len(data)), PART_BYTES)):
                connection.execute(
                    "INSERT INTO knowledge_index_parts (dataset, index_id, name, part, data) "
                    "VALUES (%s, %s, %s, %s, %b)",
                    (dataset, index_id, name, part, data[start : start + PART_BYTES]),
                )
    return n_bytes


def prune_indexes(database: Database, dataset: str, *, keep: Collection[str] = (), latest: int = 1) -> int:
    """Delete the dataset's indexes but those to keep and the `latest` ones; returns how many.

    With them go the chunks and vectors that nothing else needs; chunks that dialogues were given stay, for
    their texts are exported. Name in `keep` the indexes of runs that may be resumed. Raises StoreError.
    """
    with database.connection() as connection, locked(connection, dataset), connection.transaction():
        gone = connection.execute(
            "DELETE FROM knowledge_indexes WHERE dataset = %(dataset)s AND NOT index_id = ANY(%(keep)s) "
            "AND index_id NOT IN (SELECT index_id FROM knowledge_indexes WHERE dataset = %(dataset)s "
            "ORDER BY built_at DESC LIMIT %(latest)s)",
            {"dataset": dataset, "keep": list(keep), "latest": latest},
        ).rowcount
        _delete_unneeded(connection, dataset)
    return gone


def _delete_unneeded(connection: Connection, dataset: str) -> None:
    connection.execute("CREATE TEMP TABLE needed (chunk_id bytea PRIMARY KEY) ON COMMIT DROP")
    rows = connection.execute(
        "SELECT string_agg(data, '' ORDER BY part) FROM knowledge_index_parts "
        "WHERE dataset = %(dataset)s AND name = %(name)s GROUP BY index_id "
        "UNION ALL SELECT chunk_ids FROM knowledge_documents WHERE dataset = %(dataset)s",
        {"dataset": dataset, "name": CHUNK_IDS},
    )
    for (ids,) in rows:
        connection.execute(
            "INSERT INTO needed SELECT unnest(%s::bytea[]) ON CONFLICT DO NOTHING", (split_ids(ids),)
        )
    connection.execute(
        "DELETE FROM knowledge_vectors v WHERE dataset = %s AND NOT EXISTS "
        "(SELECT FROM knowledge_chunks c JOIN needed USING (chunk_id) "
        "WHERE c.dataset = v.dataset AND c.text_key = v.text_key)",
        (dataset,),
    )
    connection.execute("CREATE TEMP TABLE unneeded (chunk_id bytea PRIMARY KEY) ON COMMIT DROP")
    unneeded = connection.execute(
        "INSERT INTO unneeded SELECT chunk_id FROM knowledge_chunks c WHERE dataset = %s "
        "AND NOT EXISTS (SELECT FROM needed n WHERE n.chunk_id = c.chunk_id)",
        (dataset,),
    ).rowcount
    if unneeded:
        _spare_evidence(connection, dataset)
        connection.execute(
            "DELETE FROM knowledge_chunks c USING unneeded u "
            "WHERE c.dataset = %s AND c.chunk_id = u.chunk_id",
            (dataset,),
        )


def _spare_evidence(connection: Connection, dataset: str) -> None:
    """Take out of `unneeded` what any turn of the dataset names as its evidence."""
    # A plan at a time: a statement has a time-out.
    plans = connection.execute(
        "SELECT DISTINCT plan_id FROM run_plans JOIN generation_runs USING (run_id) WHERE dataset = %s",
        (dataset,),
    ).fetchall()
    for (plan_id,) in plans:
        connection.execute(
            "DELETE FROM unneeded u USING dialogues d JOIN turns t USING (dialogue_id), "
            "jsonb_array_elements(t.details -> 'evidence') AS e "
            "WHERE d.plan_id = %s AND encode(u.chunk_id, 'hex') = e ->> 'chunk_id'",
            (plan_id,),
        )


def split_ids(ids: bytes) -> list[bytes]:
    """Chunk ids one by one."""
    return [ids[start : start + ID_BYTES] for start in range(0, len(ids), ID_BYTES)]


def _value(connection: Connection, sql: str, arguments: Sequence[Any]) -> Any:
    row = connection.execute(sql.encode(), arguments).fetchone()
    return None if row is None else row[0]
