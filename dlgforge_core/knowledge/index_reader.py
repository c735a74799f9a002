"""Index reader: a worker reads its index whole once, and chunks' texts as they are needed."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from dlgforge_core.database.connection import AsyncConnection
from dlgforge_core.database.database import Database
from dlgforge_core.errors import KnowledgeError
from dlgforge_core.knowledge.dense import vectors_from_rows
from dlgforge_core.knowledge.types import Chunk

T = TypeVar("T")

_CHUNKS_KEPT = 4_096
_ROWS_AT_ONCE = 2_000


class IndexReader:
    """One connection to Postgres, opened again when it broke, and the chunks that were read last."""

    def __init__(self, database: Database, dataset: str, patience_s: float = 60.0) -> None:
        self._dataset = dataset
        self._connection = database.reconnecting_async("dlgforge knowledge", patience_s)
        self._chunks: OrderedDict[bytes, Chunk] = OrderedDict()

    async def aclose(self) -> None:
        """Close the connection."""
        await self._connection.aclose()

    async def settings(self, index_id: str) -> dict[str, Any]:
        """Return what the index was made with. Raises KnowledgeError when there is no such index."""
        rows = await self._rows(
            "SELECT settings FROM knowledge_indexes WHERE dataset = %s AND index_id = %s",
            (self._dataset, index_id),
        )
        if not rows:
            raise KnowledgeError(
                f"there is no knowledge index {index_id!r} in dataset {self._dataset!r}; "
                "materialize knowledge_index"
            )
        settings: dict[str, Any] = rows[0][0]
        return settings

    async def files(self, index_id: str) -> dict[str, bytes]:
        """Return the parts of the index, put together by name."""
        names = await self._rows(
            "SELECT name, part FROM knowledge_index_parts WHERE dataset = %s AND index_id = %s "
            "ORDER BY name, part",
            (self._dataset, index_id),
        )
        parts: defaultdict[str, list[bytes]] = defaultdict(list)
        for name, part in names:
            row = await self._rows(
                "SELECT data FROM knowledge_index_parts "
                "WHERE dataset = %s AND index_id = %s AND name = %s AND part = %s",
                (self._dataset, index_id, name, part),
                binary=True,
            )
            parts[name].append(bytes(row[0][0]))
        return {name: b"".join(data) for name, data in parts.items()}

    async def vectors(self, model: str, ids: Sequence[bytes]) -> npt.NDArray[np.float32]:
        """Return the vectors of these chunks by a model, one a row.

        Raises KnowledgeError when some are missing.
        """
        groups: list[npt.NDArray[np.float32]] = []
        for start in range(0, len(ids), _ROWS_AT_ONCE):
            group = ids[start : start + _ROWS_AT_ONCE]
            rows = await self._rows(
                "SELECT chunk_id, vector FROM knowledge_chunks c JOIN knowledge_vectors v "
                "USING (dataset, text_key) WHERE dataset = %s AND model = %s AND chunk_id = ANY(%s)",
                (self._dataset, model, list(group)),
                binary=True,
            )
            by_id = {bytes(row[0]): bytes(row[1]) for row in rows}
            if missing := len(group) - len(by_id):
                raise KnowledgeError(f"{missing} chunks of the index have no vector; materialize it again")
            groups.append(vectors_from_rows([by_id[chunk_id] for chunk_id in group]))
        if len({group.shape[1] for group in groups}) > 1:
            raise KnowledgeError("the index' vectors differ in length; its embedding model has changed")
        return np.concatenate(groups)

    async def chunks(self, ids: Sequence[bytes]) -> list[Chunk]:
        """Return the chunks of these ids, in order. Raises KnowledgeError when one is not there."""
        missing = [chunk_id for chunk_id in ids if chunk_id not in self._chunks]
        found = {chunk_id: self._chunks[chunk_id] for chunk_id in ids if chunk_id in self._chunks}
        for chunk_id in found:
            self._chunks.move_to_end(chunk_id)
        if missing:
            rows = await self._rows(
                "SELECT chunk_id, document, ordinal, text, language, start_char FROM knowledge_chunks "
                "WHERE dataset = %s AND chunk_id = ANY(%s)",
                (self._dataset, missing),
            )
            read = {bytes(row[0]): Chunk(bytes(row[0]).hex(), *row[1:]) for row in rows}
            found |= read
            self._chunks |= read
            while len(self._chunks) > _CHUNKS_KEPT:
                self._chunks.popitem(last=False)
        if lost := [chunk_id.hex() for chunk_id in ids if chunk_id not in found]:
            raise KnowledgeError(f"chunk {lost[0]} is not in the store; materialize knowledge_index")
        return [found[chunk_id] for chunk_id in ids]

    async def run(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Do some work on the connection, alone. It is done again after the connection broke.

        Raises StoreError when Postgres does not come back in time.
        """
        return await self._connection.run(work)

    async def _rows(self, sql: str, arguments: Sequence[Any], *, binary: bool = False) -> list[Any]:
        async def work(connection: AsyncConnection) -> list[Any]:
            async with connection.cursor(binary=binary) as cursor:
                await cursor.execute(sql.encode(), arguments)
                return await cursor.fetchall()

        return await self.run(work)
