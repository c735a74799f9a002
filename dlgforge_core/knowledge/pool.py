"""Document pool: what dialogues may be given, and which of it one is given: evenly, by relevance, by lot."""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dlgforge_core.config import CoverageConfig
from dlgforge_core.knowledge.dense import Mask
from dlgforge_core.knowledge.types import Document

Positions = npt.NDArray[np.intp]
Uses = npt.NDArray[np.int64]
Draws = npt.NDArray[np.uint64]


class DocumentPool:
    """Documents of an index, sorted by name. Made once for very many dialogues and searches.

    `places` are theirs among all documents of the index, `mask` tells their chunks; None where it is all.
    `lots` are 64 bits of each name that look random.
    """

    def __init__(
        self,
        documents: Sequence[Document],
        *,
        language: str = "",
        positions: Positions | None = None,
        mask: Mask | None = None,
        lots: Draws | None = None,
    ) -> None:
        self.documents = documents
        self.language = language
        self.positions = positions
        self.mask = mask
        self.names = [document.name for document in documents]
        self.lots = _lots(self.names) if lots is None else lots

    def __len__(self) -> int:
        return len(self.names)

    def position(self, document: str) -> int | None:
        """Where a document stands in the pool, if it does."""
        position = bisect_left(self.names, document)
        return position if position < len(self.names) and self.names[position] == document else None


def _lots(names: Sequence[str]) -> Draws:
    """64 bits of each name that look random."""
    digests = (
        hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest() for name in names
    )
    return np.frombuffer(b"".join(digests), "<u8")


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """Documents a dialogue may be given, and how relevant each of them is to it; higher is better."""

    pool: DocumentPool
    relevance: npt.NDArray[np.float32]

    def relevance_of(self, document: str) -> float:
        """Return that of a document by name; 0 for one that is none of them."""
        position = self.pool.position(document)
        return 0.0 if position is None else float(self.relevance[position])


class Choice:
    """How one dialogue's document is chosen. All that is random is a function of (seed, dialogue_id)."""

    def __init__(self, candidates: Candidates, coverage: CoverageConfig, seed: int, dialogue_id: str) -> None:
        self._candidates = candidates
        self._coverage = coverage
        self._salt = _draw(seed, dialogue_id, "")
        self._any = _draw(seed, dialogue_id, "\0epsilon") % len(candidates.pool)
        self._by_lot = self._salt / 2**64 < coverage.doc_coverage_epsilon

    @property
    def counts_matter(self) -> bool:
        """Whether the choice depends on how often the documents were used."""
        return not self._by_lot and self._coverage.doc_coverage_mode == "balanced"

    def best(self, uses: Uses, n: int = 1) -> Positions:
        """Return the document to take, by its place in the pool, and those that come next; `n` at most."""
        if self._by_lot:
            return np.array([self._any], np.intp)
        if not self.counts_matter:
            return self._fittest(np.arange(len(uses)), n)
        least = uses.min()
        pool = np.flatnonzero(uses == least)
        # The fraction has room for some that were used once more; those that fit best come first.
        if len(pool) < math.ceil(self._coverage.doc_coverage_fraction * len(uses)):
            pool = np.flatnonzero(uses <= least + 1)
        return self._fittest(pool, n)

    def _fittest(self, positions: Positions, n: int) -> Positions:
        relevance = self._candidates.relevance
        if len(positions) > n:
            # Those that fit at all are few: numpy partitions slowly where most values are equal.
            fit = positions[relevance[positions] > 0]
            if len(fit) >= n:
                values = relevance[fit]
                border = np.partition(values, len(fit) - n)[len(fit) - n]
                above, level = fit[values > border], fit[values == border]
            else:
                above, level = fit, positions[relevance[positions] <= 0]
            left = n - len(above)
            if len(level) > left > 0:
                draws = self._draws(level)
                lowest = [draws.argmin()] if left == 1 else np.argpartition(draws, left - 1)[:left]
                level = level[lowest]
            positions = np.concatenate([above, level[:left]])
        return positions[np.lexsort((self._draws(positions), -relevance[positions]))]

    def _draws(self, positions: Positions) -> Draws:
        """Return a draw for each document, to part those that are equally relevant."""
        # The finaliser of SplitMix64, https://doi.org/10.1145/2714064.2660195: every bit depends on all.
        mixed = self._candidates.pool.lots[positions] ^ np.uint64(self._salt)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return mixed ^ (mixed >> np.uint64(31))


def _draw(seed: int, dialogue_id: str, what: str) -> int:
    """64 bits that look random."""
    text = f"{seed}\0{dialogue_id}\0{what}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")
