"""Coverage: each dialogue gets a document, evenly spread by counts in Postgres that all workers share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import orjson

from dlgforge_core.config import CoverageConfig
from dlgforge_core.database import lock_keys
from dlgforge_core.database.connection import AsyncConnection
from dlgforge_core.database.database import Database
from dlgforge_core.knowledge.index_store import index_documents
from dlgforge_core.knowledge.pool import Candidates, Choice, DocumentPool, Positions, Uses
from dlgforge_core.languages import base_code
from dlgforge_core.store.results import FORMER_PLANS

# Taken before anything is read or written, so that nobody holds a row while waiting for another: no
# deadlock, and no count that two workers have read at once.
_LOCK = f"SELECT pg_advisory_xact_lock({lock_keys.ASSIGNMENTS}, hashtext(%(fingerprint)s))"
# The lock is kept until the end of the transaction: waiting for the disk there would let few through. What
# a server's crash may take back is only what nothing durable was written after, by anybody: the log keeps
# its order.
_ASYNC_COMMIT = "SET LOCAL synchronous_commit TO off"
_ASSIGNED = """
SELECT document, nth FROM knowledge_assignments
WHERE fingerprint = %(fingerprint)s AND dialogue_id = %(dialogue)s
"""
_USES = """
SELECT document, uses FROM knowledge_uses
WHERE fingerprint = %(fingerprint)s AND document = ANY(%(documents)s)
"""
# One value: a row for each of 100,000 documents would take the client ten times as long.
_ALL_USES = """
SELECT coalesce(json_object_agg(document, uses), '{}')::text FROM knowledge_uses
WHERE fingerprint = %(fingerprint)s
"""
# Assignments count the dialogues of former seeds as well, for questions about a document stay taken.
_TODAYS_USES = f"""
WITH former AS (
    SELECT a.document, count(*) AS uses
    FROM ({FORMER_PLANS}) AS f JOIN dialogues USING (plan_id) JOIN knowledge_assignments a USING (dialogue_id)
    WHERE a.fingerprint = %(fingerprint)s GROUP BY 1
)
SELECT document, u.uses - coalesce(f.uses, 0) FROM knowledge_uses u LEFT JOIN former f USING (document)
WHERE u.fingerprint = %(fingerprint)s AND u.uses > coalesce(f.uses, 0)
"""
_FEW = 500  # documents whose counts are read for every dialogue
_LOOKED_UP = 100  # of more documents, the counts that are read for a dialogue at first
_ASSIGN = """
WITH used AS (
    INSERT INTO knowledge_uses AS u (fingerprint, document, uses)
    VALUES (%(fingerprint)s, %(document)s, 1)
    ON CONFLICT (fingerprint, document) DO UPDATE SET uses = u.uses + 1
    RETURNING uses - 1 AS nth
)
INSERT INTO knowledge_assignments (fingerprint, dialogue_id, document, nth)
SELECT %(fingerprint)s, %(dialogue)s, %(document)s, nth FROM used RETURNING nth
"""
_RELEASE = """
WITH gone AS (
    DELETE FROM knowledge_assignments
    WHERE fingerprint = %(fingerprint)s AND dialogue_id = %(dialogue)s RETURNING document
)
UPDATE knowledge_uses u SET uses = u.uses - 1 FROM gone
WHERE u.fingerprint = %(fingerprint)s AND u.document = gone.document RETURNING u.document
"""


@dataclass(frozen=True, slots=True)
class Assignment:
    """The document of a dialogue. `nth`: how often it had been given before, to rotate its chunks by."""

    document: str
    nth: int


class KnownUses:
    """How often the documents of a pool were used, as far as one worker knows.

    Others use them meanwhile, so these counts are too low rather than too high, and what looks the least used
    is looked up before it is taken. A count is too high where another worker gave a document back: that is
    made good once all documents have been used once more.
    """

    def __init__(self, pool: DocumentPool) -> None:
        self.pool = pool
        self.counts: Uses = np.zeros(len(pool), np.int64)
        self._least_when_read = -1

    def add(self, document: str, n: int) -> None:
        """Count a document `n` times more."""
        if (position := self.pool.position(document)) is not None:
            self.counts[position] += n

    async def choose(self, connection: AsyncConnection, names: Mapping[str, str], choice: Choice) -> int:
        """Return the place of the document that the choice falls on by the counts as they are in Postgres."""
        if not choice.counts_matter:
            return int(choice.best(self.counts)[0])
        n, looked_up = (len(self.pool) if len(self.pool) <= _FEW else _LOOKED_UP), set[int]()
        while n <= _FEW or n < len(self.pool):
            if len(self.pool) > _FEW and self.counts.min() > self._least_when_read:
                break
            positions = choice.best(self.counts, n) if n < len(self.pool) else np.arange(n)
            before = self.counts[positions]
            await self._look_up(connection, names, positions)
            if n < len(self.pool) and (self.counts[positions] == before).all():
                return int(positions[0])
            looked_up.update(positions.tolist())
            if (position := int(choice.best(self.counts)[0])) in looked_up:
                return position
            n *= 8
        await self._read_all(connection, names)
        return int(choice.best(self.counts)[0])

    async def _look_up(
        self, connection: AsyncConnection, names: Mapping[str, str], positions: Positions
    ) -> None:
        wanted = {self.pool.names[position]: position for position in positions.tolist()}
        cursor = await connection.execute(_USES, {**names, "documents": list(wanted)})
        self.counts[positions] = 0
        for document, uses in await cursor.fetchall():
            self.counts[wanted[document]] = uses

    async def _read_all(self, connection: AsyncConnection, names: Mapping[str, str]) -> None:
        row = await (await connection.execute(_ALL_USES, names)).fetchone()
        uses = orjson.loads(row[0]) if row is not None else {}
        self.counts = np.fromiter((uses.get(name, 0) for name in self.pool.names), np.int64, len(self.pool))
        self._least_when_read = int(self.counts.min())


async def assign_document(
    connection: AsyncConnection,
    fingerprint: str,
    dialogue_id: str,
    candidates: Candidates,
    *,
    coverage: CoverageConfig,
    seed: int,
    known: KnownUses | None = None,
) -> Assignment:
    """Return the document of this dialogue: the one it had, or one of the candidates, now counted.

    `known` saves reading all counts for each dialogue; it belongs to the fingerprint and the candidates'
    pool. The connection must not be in a transaction, nor used by another task meanwhile. Raises ValueError
    without candidates. To be run on an `AsyncReconnectingConnection`.
    """
    if not len(candidates.pool):
        raise ValueError(f"dialogue {dialogue_id} has no documents to choose from")
    known = known or KnownUses(candidates.pool)
    choice = Choice(candidates, coverage, seed, dialogue_id)
    names = {"fingerprint": fingerprint, "dialogue": dialogue_id}
    async with connection.transaction():
        await connection.execute(_ASYNC_COMMIT)
        await connection.execute(_LOCK, names)
        cursor = await connection.execute(_ASSIGNED, names)
        if (row := await cursor.fetchone()) is not None:
            return Assignment(str(row[0]), int(row[1]))
        position = await known.choose(connection, names, choice)
        document = candidates.pool.names[position]
        cursor = await connection.execute(_ASSIGN, {**names, "document": document})
        row = await cursor.fetchone()
        assert row is not None  # one row was inserted
        nth = int(row[0])
    known.counts[position] = nth + 1
    return Assignment(document, nth)


async def note_document(
    connection: AsyncConnection, fingerprint: str, dialogue_id: str, document: str
) -> None:
    """Count the document that a dialogue was planned with, once. As `assign_document`, but for the choice."""
    names = {"fingerprint": fingerprint, "dialogue": dialogue_id}
    async with connection.transaction():
        await connection.execute(_ASYNC_COMMIT)
        await connection.execute(_LOCK, names)
        if await (await connection.execute(_ASSIGNED, names)).fetchone() is None:
            await connection.execute(_ASSIGN, {**names, "document": document})


async def release_document(connection: AsyncConnection, fingerprint: str, dialogue_id: str) -> str:
    """Take back what a dropped dialogue was given; doing so twice does no harm.

    Returns the document, empty when there was none. To be run on an `AsyncReconnectingConnection`.
    """
    names = {"fingerprint": fingerprint, "dialogue": dialogue_id}
    async with connection.transaction():
        await connection.execute(_ASYNC_COMMIT)
        await connection.execute(_LOCK, names)
        row = await (await connection.execute(_RELEASE, names)).fetchone()
    return "" if row is None else str(row[0])


def unused_languages(by_language: Mapping[str, int], languages: Collection[str]) -> dict[str, int]:
    """Of documents counted by language, those that no dialogue in these languages is given.

    A language without documents of its own is given any, and documents of unknown language are for all.
    """
    wanted = {base_code(language) for language in languages}
    if not wanted or not wanted <= by_language.keys():
        return {}
    return {language: n for language, n in by_language.items() if language not in wanted | {""}}


def coverage_counts(
    database: Database,
    fingerprint: str,
    *,
    dataset: str = "",
    index_id: str = "",
    languages: Collection[str] = (),
) -> list[tuple[str, int]]:
    """How many dialogues of today's seeds each document was given to, the most used first.

    With the id of an index its documents are there even if they were never used; with `languages`, as
    dialogues name theirs, only those that their dialogues could have been given. Raises StoreError.
    """
    with database.connection() as connection:
        rows = connection.execute(_TODAYS_USES, {"fingerprint": fingerprint}).fetchall()
    documents = [
        (document.name, document.language)
        for document in (index_documents(database, dataset, index_id) if index_id else ())
    ]
    unused = unused_languages(Counter(language for _, language in documents), languages)
    documents = [(name, language) for name, language in documents if language not in unused]
    counts = dict.fromkeys((name for name, _ in documents), 0)
    counts.update((str(document), int(uses)) for document, uses in rows)
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))
