"""Which document a dialogue is grounded in: evenly spread, by counts in Postgres that all workers share."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from dlgforge_core.config import CoverageConfig
from dlgforge_core.knowledge.index_store import index_documents
from dlgforge_core.languages import base_code
from dlgforge_core.store import lock_keys
from dlgforge_core.store.connection import AsyncConnection

# Taken before anything is read or written, so that nobody holds a row while waiting for another: no
# deadlock, and no count that two workers have read at once.
_LOCK = f"SELECT pg_advisory_xact_lock({lock_keys.ASSIGNMENTS}, hashtext(%(fingerprint)s))"
# The lock is kept until the end of the transaction: waiting for the disk there would let few through. What
# a server's crash may take back is only what nothing durable was written after, by anybody: the log keeps
# its order.
_HURRY = "SET LOCAL synchronous_commit TO off"
_ASSIGNED = """
SELECT document, nth FROM knowledge_assignments
WHERE fingerprint = %(fingerprint)s AND dialogue_id = %(dialogue)s
"""
_USES = """
SELECT document, uses FROM knowledge_uses
WHERE fingerprint = %(fingerprint)s AND document = ANY(%(documents)s)
"""
_ALL_USES = "SELECT document, uses FROM knowledge_uses WHERE fingerprint = %(fingerprint)s"
_FEW = 500  # from here on it costs less to read all counts than to send all names
_ASSIGN = """
WITH used AS (
    INSERT INTO knowledge_uses AS u (fingerprint, document, uses)
    VALUES (%(fingerprint)s, %(document)s, 1)
    ON CONFLICT (fingerprint, document) DO UPDATE SET uses = u.uses + 1
)
INSERT INTO knowledge_assignments (fingerprint, dialogue_id, document, nth)
VALUES (%(fingerprint)s, %(dialogue)s, %(document)s, %(nth)s)
"""
_RELEASE = """
WITH gone AS (
    DELETE FROM knowledge_assignments
    WHERE fingerprint = %(fingerprint)s AND dialogue_id = %(dialogue)s RETURNING document
)
UPDATE knowledge_uses u SET uses = u.uses - 1 FROM gone
WHERE u.fingerprint = %(fingerprint)s AND u.document = gone.document
"""


@dataclass(frozen=True, slots=True)
class Assignment:
    """The document of a dialogue. `nth`: how often it had been given before, to rotate its chunks by."""

    document: str
    nth: int


async def assign_document(
    connection: AsyncConnection,
    fingerprint: str,
    dialogue_id: str,
    candidates: Sequence[tuple[str, float]],
    *,
    coverage: CoverageConfig,
    seed: int,
) -> Assignment:
    """The document of this dialogue: the one it was given before, or one of `candidates`, now counted.

    A candidate is a document's name and its relevance, higher is better. The connection must not be in a
    transaction, nor used by another task meanwhile. Raises ValueError without candidates, psycopg.Error.
    """
    if not candidates:
        raise ValueError(f"dialogue {dialogue_id} has no documents to choose from")
    names = {"fingerprint": fingerprint, "dialogue": dialogue_id}
    async with connection.transaction():
        await connection.execute(_HURRY)
        await connection.execute(_LOCK, names)
        cursor = await connection.execute(_ASSIGNED, names)
        if (row := await cursor.fetchone()) is not None:
            return Assignment(str(row[0]), int(row[1]))
        few = len(candidates) <= _FEW
        wanted = [document for document, _ in candidates] if few else None
        cursor = await connection.execute(_USES if few else _ALL_USES, {**names, "documents": wanted})
        uses = {str(row[0]): int(row[1]) for row in await cursor.fetchall()}
        document = choose(candidates, uses, coverage, seed, dialogue_id)
        nth = uses.get(document, 0)
        await connection.execute(_ASSIGN, {**names, "document": document, "nth": nth})
    return Assignment(document, nth)


async def release_document(connection: AsyncConnection, fingerprint: str, dialogue_id: str) -> None:
    """Take back what a dropped dialogue was given; doing so twice does no harm. Raises psycopg.Error."""
    names = {"fingerprint": fingerprint, "dialogue": dialogue_id}
    async with connection.transaction():
        await connection.execute(_HURRY)
        await connection.execute(_LOCK, names)
        await connection.execute(_RELEASE, names)


def choose(
    candidates: Sequence[tuple[str, float]],
    uses: Mapping[str, int],
    coverage: CoverageConfig,
    seed: int,
    dialogue_id: str,
) -> str:
    """The document to use. Random choices and ties are a function of (seed, dialogue_id) alone."""
    draw = _draw(seed, dialogue_id, "")
    if draw / 2**64 < coverage.doc_coverage_epsilon:
        documents = sorted(document for document, _ in candidates)
        return documents[_draw(seed, dialogue_id, "\0epsilon") % len(documents)]

    if coverage.doc_coverage_mode == "relevance":
        return _fittest(candidates, seed, dialogue_id)
    least = min(uses.get(document, 0) for document, _ in candidates)
    pool = [c for c in candidates if uses.get(c[0], 0) == least]
    # The fraction has room for some that were used once more; those that fit best come first.
    if len(pool) < math.ceil(coverage.doc_coverage_fraction * len(candidates)):
        pool = [c for c in candidates if uses.get(c[0], 0) <= least + 1]
    return _fittest(pool, seed, dialogue_id)


def _fittest(candidates: Sequence[tuple[str, float]], seed: int, dialogue_id: str) -> str:
    most = max(relevance for _, relevance in candidates)
    tied = [document for document, relevance in candidates if relevance == most]
    return min(tied, key=lambda document: _draw(seed, dialogue_id, document))


def _draw(seed: int, dialogue_id: str, what: str) -> int:
    """64 bits that look random."""
    text = f"{seed}\0{dialogue_id}\0{what}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")


def coverage_counts(
    connection: psycopg.Connection[Any],
    fingerprint: str,
    *,
    dataset: str = "",
    index_id: str = "",
    languages: Collection[str] = (),
) -> list[tuple[str, int]]:
    """How many dialogues each document was given to, the most used first.

    With the id of an index its documents are there even if they were never used; with `languages`, as
    dialogues name theirs, only those that their dialogues could have been given. Raises psycopg.Error.
    """
    rows = connection.execute(
        "SELECT document, uses FROM knowledge_uses WHERE fingerprint = %s AND uses > 0", (fingerprint,)
    ).fetchall()
    documents = [
        (document.name, document.language)
        for document in (index_documents(connection, dataset, index_id) if index_id else ())
    ]
    wanted = {base_code(language) for language in languages}
    # A language without documents of its own is given any.
    if wanted and wanted <= {language for _, language in documents}:
        documents = [(name, language) for name, language in documents if language in wanted]
    counts = dict.fromkeys((name for name, _ in documents), 0)
    counts.update((str(document), int(uses)) for document, uses in rows)
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))
