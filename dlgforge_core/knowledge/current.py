"""Current index: the one that a dataset's dialogues draw on."""

from __future__ import annotations

from dataclasses import dataclass

import orjson

from dlgforge_core.config import EmbeddingConfig, validate
from dlgforge_core.database.database import Database


@dataclass(frozen=True, slots=True)
class CurrentIndex:
    """An index, and what embeds queries to it."""

    index_id: str
    embedding: EmbeddingConfig


def choose_index(database: Database, dataset: str, index_id: str, embedding: EmbeddingConfig) -> None:
    """Have the dataset's next run draw on this index; "" on none. Raises StoreError."""
    with database.connection() as connection:
        if not index_id:
            connection.execute("DELETE FROM knowledge_current WHERE dataset = %s", (dataset,))
            return
        connection.execute(
            "INSERT INTO knowledge_current (dataset, index_id, embedding) VALUES (%s, %s, %s::jsonb) "
            "ON CONFLICT (dataset) DO UPDATE SET index_id = excluded.index_id, "
            "embedding = excluded.embedding, chosen_at = now()",
            (dataset, index_id, orjson.dumps(embedding.model_dump(mode="json")).decode()),
        )


def current_index(database: Database, dataset: str) -> CurrentIndex | None:
    """Return the index chosen last; None when the dialogues are not grounded. Raises StoreError."""
    with database.connection() as connection:
        row = connection.execute(
            "SELECT index_id, embedding FROM knowledge_current WHERE dataset = %s", (dataset,)
        ).fetchone()
    if row is None:
        return None
    return CurrentIndex(row[0], validate(EmbeddingConfig, row[1], "the knowledge index's embedding"))
