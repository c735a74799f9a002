"""Dense search: exact, by the inner product of vectors of length 1."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from dlgforge_core.errors import KnowledgeError
from dlgforge_core.knowledge.types import Scores

Mask = npt.NDArray[np.bool_]

# Below this share of the chunks it is quicker to gather their vectors than to go through all.
_GATHER_BELOW = 0.2


class DenseIndex:
    """The vectors of an index' chunks, in their order, as float32."""

    def __init__(self, vectors: npt.NDArray[np.float32]) -> None:
        self._vectors = vectors

    def scores(self, query: npt.NDArray[np.float32], mask: Mask | None) -> Scores:
        """Return the cosine of every chunk's vector and the query's; those outside the mask have -1.

        Raises KnowledgeError when the query's vector is of another length.
        """
        if query.shape != self._vectors.shape[1:]:
            raise KnowledgeError(
                f"the query's vector has {query.shape[0]} numbers, the index' have {self._vectors.shape[1]}: "
                "the embedding model is not the one the index was made with"
            )
        if mask is None:
            return self._vectors @ query
        positions = np.flatnonzero(mask)
        if len(positions) >= _GATHER_BELOW * len(mask):
            return np.where(mask, self._vectors @ query, np.float32(-1))
        scores = np.full(len(mask), -1, np.float32)
        scores[positions] = self._vectors[positions] @ query
        return scores


def vectors_from_rows(rows: Sequence[bytes]) -> npt.NDArray[np.float32]:
    """Vectors as they are kept (float16), one a row. Raises KnowledgeError when they differ in length."""
    if len({len(row) for row in rows}) > 1:
        raise KnowledgeError(
            "the index' vectors differ in length: its embedding model has changed under the same name; "
            "give the new one a name of its own"
        )
    return np.frombuffer(b"".join(rows), "<f2").reshape(len(rows), -1).astype(np.float32)


def vector_to_bytes(vector: npt.NDArray[np.float32]) -> bytes:
    """Return the inverse of one row of `vectors_from_rows`, up to float16's precision of 0.1 %."""
    return vector.astype("<f2").tobytes()


def reciprocal_rank_fusion(rankings: Sequence[Sequence[int]], constant: float = 60.0) -> dict[int, float]:
    """One score for each item of several rankings: the sum of 1 / (60 + rank), ranks counted from 1.

    Cormack, Clarke and Büttcher: Reciprocal Rank Fusion outperforms Condorcet and individual rank learning
    methods, SIGIR 2009, https://doi.org/10.1145/1571941.1572114; the constant is theirs.
    """
    scores: dict[int, float] = {}
    for ranking in rankings:
        for rank, item in enumerate(ranking, 1):
            scores[item] = scores.get(item, 0.0) + 1.0 / (constant + rank)
    return scores
