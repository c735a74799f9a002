"""Semantic dedup: of dialogues that open with the same question in other words, the first is kept."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from dlgforge_core.config import SemanticDedupConfig
from dlgforge_core.dialogue import Dialogue
from dlgforge_core.errors import ConfigError

Embed = Callable[[Sequence[str]], NDArray[np.floating]]
"""Texts to vectors, one row for each; the rows need not have length 1."""


def check_size(config: SemanticDedupConfig, dialogues: int) -> None:
    """Raise ConfigError where so many dialogues are more than are compared with one another."""
    if config.threshold is None or dialogues <= config.max_dialogues:
        return
    times = (dialogues / config.max_dialogues) ** 2
    raise ConfigError(
        f"saving.semantic_dedup.threshold = {config.threshold:g} compares each of {dialogues:,} dialogues "
        f"with all that are kept, which takes {times:.1f} times as long as of "
        f"saving.semantic_dedup.max_dialogues = {config.max_dialogues:,}: set the threshold to null "
        "(near-copies by their words are refused while dialogues are made, see "
        "coverage.question_similarity_threshold), write a run alone (run_id), or raise max_dialogues"
    )


BATCH = 256  # texts embedded at once
_BLOCK = 4096  # rows compared at once: 4 MB of similarities for a batch


class SemanticDedup:
    """Keeps a dialogue when its opening question is unlike those of all dialogues kept before it.

    Unlike means a cosine similarity below `threshold`, between 0 and 1. Memory: 4 bytes for each dimension of
    each dialogue kept (100,000 dialogues of 384 dimensions: 154 MB), and 4 MB besides; time grows with the
    square of the dialogues kept. `n_refused` counts the others.
    """

    def __init__(self, embed: Embed, threshold: float) -> None:
        if not 0.0 < threshold <= 1.0:
            raise ValueError(f"threshold = {threshold}: a cosine similarity to refuse from is in (0, 1]")
        self._embed = embed
        self._threshold = threshold
        self._blocks: list[NDArray[np.float32]] = []
        self._filled = 0  # rows of the last block
        self.n_refused = 0

    def filter(self, dialogues: Iterable[Dialogue]) -> Iterator[Dialogue]:
        """Yield the dialogues that are kept, in order; each is read once, a batch ahead."""
        source = iter(dialogues)
        while batch := list(itertools.islice(source, BATCH)):
            yield from itertools.compress(batch, self._keep(batch))

    def _keep(self, batch: Sequence[Dialogue]) -> list[bool]:
        vectors = self._vectors([dialogue.turns[0].user if dialogue.turns else "" for dialogue in batch])
        alike = self._like_kept(vectors)
        among = vectors @ vectors.T >= self._least
        kept: list[int] = []
        for row in range(len(batch)):
            if not alike[row] and not among[row, kept].any():
                kept.append(row)
        for row in kept:
            self._append(vectors[row])
        self.n_refused += len(batch) - len(kept)
        chosen = set(kept)
        return [row in chosen for row in range(len(batch))]

    @property
    def _least(self) -> float:
        # The product of a vector of length 1 with itself may come out a little below 1.
        return self._threshold - 1e-5

    def _like_kept(self, vectors: NDArray[np.float32]) -> NDArray[np.bool_]:
        alike = np.zeros(len(vectors), dtype=bool)
        for number, block in enumerate(self._blocks):
            rows = block[: self._filled] if number == len(self._blocks) - 1 else block
            open_rows = np.flatnonzero(~alike)
            alike[open_rows] = (vectors[open_rows] @ rows.T >= self._least).any(axis=1)
        return alike

    def _append(self, vector: NDArray[np.float32]) -> None:
        if not self._blocks or self._filled == _BLOCK:
            self._blocks.append(np.empty((_BLOCK, len(vector)), dtype=np.float32))
            self._filled = 0
        self._blocks[-1][self._filled] = vector
        self._filled += 1

    def _vectors(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of length 1, or 0 where the embedder gives nothing. Raises ValueError on a wrong shape."""
        vectors = np.asarray(self._embed(texts), dtype=np.float32)
        dimensions = self._blocks[0].shape[1] if self._blocks else None
        if vectors.ndim != 2 or len(vectors) != len(texts) or dimensions not in (None, vectors.shape[1]):
            wanted = f"({len(texts)}, {dimensions or 'dimensions'})"
            raise ValueError(f"the embedder gave vectors of shape {vectors.shape}; it must be {wanted}")
        if not np.isfinite(vectors).all():
            raise ValueError("the embedder gave numbers that are not finite")
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        unit = np.zeros_like(vectors)
        np.divide(vectors, lengths, out=unit, where=lengths > 0)
        return unit
