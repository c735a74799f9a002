"""Lexical search: BM25 by bm25s, over terms of any language; the index as bytes, to be kept in Postgres."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import bm25s  # type: ignore[import-untyped]
import numpy as np

from dlgforge_core.knowledge.terms import query_terms, terms
from dlgforge_core.knowledge.types import Scores


class LexicalIndex:
    """BM25 as Lucene computes it (k1 = 1.5, b = 0.75) over the chunks of an index, in their order."""

    def __init__(self, engine: Any, n_chunks: int) -> None:
        self._engine = engine
        self.n_chunks = n_chunks

    @classmethod
    def build(cls, chunks: Iterable[tuple[str, str]]) -> LexicalIndex:
        """From the text and the language of every chunk."""
        vocabulary: dict[str, int] = {}
        # Arrays: a list of numbers takes eight bytes more for each.
        corpus = [
            np.fromiter((vocabulary.setdefault(t, len(vocabulary)) for t in terms(text, language)), np.int32)
            for text, language in chunks
        ]
        if not vocabulary:
            return cls(None, len(corpus))
        engine = bm25s.BM25(method="lucene", k1=1.5, b=0.75, backend="numpy", auto_compile=False)
        engine.index((corpus, vocabulary), create_empty_token=False, show_progress=False)
        return cls(engine, len(corpus))

    def scores(self, query: str, languages: Iterable[str]) -> Scores | None:
        """Return the score of every chunk for a query in these languages; None when no term is known."""
        if self._engine is None:
            return None
        return self._scores_of(query_terms(query, languages))

    def shares(self, topic: str, languages: Sequence[str]) -> Scores | None:
        """How much of a topic's words each chunk holds, from 0 to 1; None when it has no word.

        A word counts by its inverse document frequency, as in BM25: "opening a small café" is about the café.
        """
        in_each = [terms(topic, language) for language in languages]
        # The same word as each language writes it, where they find the same words.
        words = dict.fromkeys(
            zip(*(found for found in in_each if len(found) == len(in_each[0])), strict=True)
        )
        if self._engine is None or not words:
            return None
        held, total = np.zeros(self.n_chunks, np.float32), 0.0
        for forms in words:
            found = self._scores_of(forms)
            n = int(np.count_nonzero(found)) if found is not None else 0
            weight = float(np.log(1 + (self.n_chunks - n + 0.5) / (n + 0.5)))
            total += weight
            if found is not None:
                held += np.float32(weight) * (found > 0)
        return held / np.float32(total)

    def _scores_of(self, wanted: Iterable[str]) -> Scores | None:
        known = self._engine.vocab_dict
        ids = [known[term] for term in wanted if term in known]
        return self._engine.get_scores_from_ids(ids) if ids else None

    def to_files(self) -> dict[str, bytes]:
        """Return the index as named blobs."""
        if self._engine is None:
            return {}
        with tempfile.TemporaryDirectory(prefix="dlgforge-index-") as folder:
            self._engine.save(folder, show_progress=False)
            return {path.name: path.read_bytes() for path in Path(folder).iterdir()}

    @classmethod
    def from_files(cls, files: Mapping[str, bytes], n_chunks: int) -> LexicalIndex:
        """Return the inverse of `to_files`."""
        if not files:
            return cls(None, n_chunks)
        with tempfile.TemporaryDirectory(prefix="dlgforge-index-") as folder:
            for name, data in files.items():
                Path(folder, name).write_bytes(data)
            engine = bm25s.BM25.load(folder, show_progress=False, backend="numpy", auto_compile=False)
        return cls(engine, n_chunks)


def best(scores: Scores, k: int) -> list[tuple[int, float]]:
    """Places and scores of the k highest scores above zero, the highest first; ties by place."""
    positions = np.flatnonzero(scores > 0)
    values = scores[positions]
    if len(values) > k:
        # Only of what was found: numpy takes ten times as long where most values are equal. All that are
        # equal at the border are looked at, as the partition may take any of them.
        kept = values >= np.partition(values, len(values) - k)[len(values) - k]
        positions, values = positions[kept], values[kept]
    order = np.argsort(-values, kind="stable")[:k]
    return [(int(positions[at]), float(values[at])) for at in order]
