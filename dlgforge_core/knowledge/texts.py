"""Passage texts for finished dialogues: their evidence names chunks alone."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace

from dlgforge_core.database.connection import Connection
from dlgforge_core.database.database import Database
from dlgforge_core.dialogue import Dialogue, Turn
from dlgforge_core.prompting.quoting import neutralise

_BATCH = 200  # dialogues

_TEXTS = """
SELECT encode(chunk_id, 'hex'), text FROM knowledge_chunks
WHERE dataset = %(dataset)s AND chunk_id = ANY(%(chunks)s)
"""


def chunk_texts(connection: Connection, dataset: str, chunk_ids: Collection[str]) -> dict[str, str]:
    """Texts of a dataset's chunks, by id; those that are gone are left out."""
    if not chunk_ids:
        return {}
    values = {"dataset": dataset, "chunks": [bytes.fromhex(chunk) for chunk in chunk_ids]}
    return dict(connection.execute(_TEXTS, values).fetchall())


def with_texts(database: Database, dataset: str, dialogues: Iterable[Dialogue]) -> Iterator[Dialogue]:
    """`dialogues` with the text of every passage in their evidence, as the roles were shown it, streamed.

    A text that is gone stays empty. Memory does not grow with their number. Raises StoreError.
    """
    stream = iter(dialogues)
    with database.connection() as connection:
        while batch := list(itertools.islice(stream, _BATCH)):
            wanted = {
                evidence.chunk_id
                for dialogue in batch
                for turn in dialogue.turns
                for evidence in turn.details.evidence
            }
            found = chunk_texts(connection, dataset, wanted)
            texts = {chunk: neutralise(text) for chunk, text in found.items()}
            for dialogue in batch:
                yield replace(dialogue, turns=tuple(_turn(turn, texts) for turn in dialogue.turns))


def _turn(turn: Turn, texts: Mapping[str, str]) -> Turn:
    if not turn.details.evidence:
        return turn
    evidence = tuple(replace(item, text=texts.get(item.chunk_id, "")) for item in turn.details.evidence)
    return replace(turn, details=replace(turn.details, evidence=evidence))
