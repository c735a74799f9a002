"""An index in memory of the questions of a dataset, for candidates of near-copies (dedup).

It is made of runs: the hashes of all bands of some questions, sorted, which are searched many at once. The
newest questions are a run that is made anew when there are more, until there are `BLOCK` of them. Two
neighbouring runs of the same size become one, as in a log-structured merge-tree (O'Neil et al., Acta
Informatica 33, 1996), so that a million questions are in some dozen runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dlgforge_core.store.near_duplicates import (
    SKETCH_WORDS,
    VALUES,
    Marks,
    banding_for,
    bands_of,
    most_differing,
)

if TYPE_CHECKING:
    from dlgforge_core.store.near_runs import SharedRuns

BLOCK = 256
"""Questions of the smallest run that stays."""

MOST_IN_RUN = 1 << 19
"""Questions of the largest run: to make one takes some tenths of a second, in which nothing else is done."""

KEY_BYTES = 16

ENTRY = np.dtype(
    [
        ("key", np.uint8, KEY_BYTES),
        ("sketch", "<u8", SKETCH_WORDS),
        ("values", np.uint8, VALUES),
        ("size", "<u2"),
    ]
)
"""A question in the log."""

_PLACE_MASK = np.uint64((1 << 27) - 1)  # of a question in its run; the other 37 bits are the band's hash
_PAIRS_AT_ONCE = 1 << 15  # what is worked out of them stays in the caches
_ROUNDING = 1e-6  # pairs right at the threshold are candidates


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run ends in the log: a row by number and tag, and how many of its questions it includes."""

    seq: int
    tag: int
    included: int


@dataclass(frozen=True, slots=True)
class Run:
    """Questions that follow one another in the log, from the place `start` on, up to its `end`: n of them.

    `bands`: hash and place of every band, sorted; `table`: where in it those begin whose hashes begin with a
    number. By place, the `keys` (n x 16 bytes), `sketches` (n x 4 words), these `folded` into one
    word, and `sizes`.
    """

    start: int
    end: Place
    bands: NDArray[np.uint64]
    table: NDArray[np.uint32]
    keys: NDArray[np.uint8]
    sketches: NDArray[np.uint64]
    folded: NDArray[np.uint64]
    sizes: NDArray[np.uint16]

    @property
    def size(self) -> int:
        """How many questions are in it."""
        return len(self.keys)

    def merged(self, after: Run) -> Run:
        """Return the run of these questions and of those after them."""
        bands = np.concatenate([self.bands, after.bands + np.uint64(self.size)])
        bands.sort(kind="stable")  # which goes through two sorted halves once
        return Run(
            self.start,
            after.end,
            bands,
            _table(bands),
            np.concatenate([self.keys, after.keys]),
            np.concatenate([self.sketches, after.sketches]),
            np.concatenate([self.folded, after.folded]),
            np.concatenate([self.sizes, after.sizes]),
        )

    def near(self, searched: Searched) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
        """Yield pairs that share a band and whose folded sketches do not differ too much.

        They are rows of `searched` and places in the run, some at a time.
        """
        n_bands = searched.hashes.shape[1]
        wanted = searched.hashes.ravel() & ~_PLACE_MASK
        folded, most = np.repeat(searched.folded, n_bands), np.repeat(searched.most, n_bands)
        begins = (wanted >> _shift(self.table)).astype(np.intp)
        first = self.table.take(begins).astype(np.intp)
        counts = self.table.take(begins + 1) - first
        ends = counts.cumsum()
        first -= ends - counts
        begin = 0
        while begin < len(wanted):
            done = ends[begin - 1] if begin else 0
            end = max(begin + 1, int(ends.searchsorted(done + _PAIRS_AT_ONCE, side="right")))
            part = counts[begin:end]
            where = np.repeat(first[begin:end], part)
            where += np.arange(done, ends[end - 1])
            found = self.bands.take(where)
            differing = self.folded.take((found & _PLACE_MASK).view(np.int64))
            differing ^= np.repeat(folded[begin:end], part)
            like = (np.bitwise_count(differing) <= np.repeat(most[begin:end], part)).nonzero()[0]
            if len(like):  # hardly any, so that whether they share the band is seen last
                band = ends.searchsorted(done + like, side="right")
                found = found.take(like) ^ wanted.take(band)
                met = (found <= _PLACE_MASK).nonzero()[0]
                yield band.take(met) // n_bands, found.take(met).astype(np.intp)
            begin = end


def _table(bands: NDArray[np.uint64]) -> NDArray[np.uint32]:
    """Return where those begin that begin with each number; of each there are some four."""
    bits = max(1, len(bands).bit_length() - 2)
    counts = np.bincount((bands >> np.uint64(64 - bits)).astype(np.intp), minlength=1 << bits)
    return np.concatenate([[0], counts.cumsum()]).astype(np.uint32)


def _shift(table: NDArray[np.uint32]) -> np.uint64:
    return np.uint64(64 - (len(table) - 1).bit_length() + 1)


class Searched:
    """Questions to look for: the hashes of their bands, sketches and sizes, by row."""

    def __init__(self, marks: Marks, threshold: float) -> None:
        self.hashes = bands_of(marks.values, banding_for(threshold))
        self.sketches = marks.sketches
        self.folded = _folded(marks.sketches)
        self.sizes = marks.sizes.astype(np.intp)
        self.shared_bands = _met_again(self.hashes)
        """By row the hashes of bands that it shares with others of these."""
        # Of the greatest set that can be as similar as that.
        most = most_differing(threshold) * self.sizes * (1.0 + 1.0 / threshold)
        self.most = np.minimum(most + _ROUNDING, 255.0).astype(np.uint8)


def _met_again(hashes: NDArray[np.uint64]) -> list[list[int]]:
    """Return by row those of its hashes that other rows have as well; most often there are none."""
    ordered = np.sort(hashes, axis=None)
    again = ordered[1:][ordered[1:] == ordered[:-1]]
    if not len(again):
        return [[]] * len(hashes)
    met = np.isin(hashes, again)
    return [row[found].tolist() for row, found in zip(hashes, met, strict=True)]


class NearIndex:
    """The questions of a log by their bands, for one similarity threshold; `size` of them, in order.

    With `shared`, larger runs are in files that the workers of a machine share. It may begin with `runs`.
    """

    def __init__(self, threshold: float, shared: SharedRuns | None = None, runs: Sequence[Run] = ()) -> None:
        self.threshold = threshold
        self.runs = list(runs)
        self._shared = shared
        self._banding = banding_for(threshold)
        self._most_differing = most_differing(threshold)
        self._begin_block()

    @property
    def size(self) -> int:
        """How many questions are in it."""
        return self._block_start + self._in_block

    def add(self, entries: bytes, seq: int, tag: int, done: int = 0) -> None:
        """Add the questions of the next row of the log, but for the first `done` of them."""
        table = np.frombuffer(entries, dtype=ENTRY)
        while done < len(table):
            part = table[done : done + BLOCK - self._in_block]
            self._add(part)
            done += len(part)
            if self._in_block == BLOCK:
                self._end_block(Place(seq, tag, done))

    def find(self, searched: Searched, since: int = 0) -> dict[int, set[bytes]]:
        """Return by row the keys of candidates among the questions from the place `since` on."""
        found: dict[int, set[bytes]] = {}
        for run in self.runs if not self._in_block else [*self.runs, self._newest()]:
            if run.start + run.size > since:
                for rows, places in run.near(searched):
                    late = slice(None) if run.start >= since else places >= since - run.start
                    self._compare(searched, rows[late], places[late], run, found)
        return found

    def _compare(
        self,
        searched: Searched,
        rows: NDArray[np.intp],
        places: NDArray[np.intp],
        run: Run,
        found: dict[int, set[bytes]],
    ) -> None:
        differing = np.bitwise_count(
            searched.sketches.take(rows, axis=0) ^ run.sketches.take(places, axis=0)
        ).sum(axis=1)
        most = self._most_differing * (searched.sizes[rows] + run.sizes[places])
        like = (differing <= most + _ROUNDING).nonzero()[0]
        for row, place in zip(rows.take(like).tolist(), places.take(like).tolist(), strict=True):
            found.setdefault(row, set()).add(run.keys[place].tobytes())

    # The newest questions

    def _begin_block(self) -> None:
        self._block_start = self.runs[-1].start + self.runs[-1].size if self.runs else 0
        self._in_block = 0
        self._hashes = np.empty((BLOCK, self._banding.bands), dtype=np.uint64)
        self._block = Run(
            self._block_start,
            Place(0, 0, 0),
            np.empty(0, dtype=np.uint64),
            np.empty(0, dtype=np.uint32),
            np.empty((BLOCK, KEY_BYTES), dtype=np.uint8),
            np.empty((BLOCK, SKETCH_WORDS), dtype=np.uint64),
            np.empty(BLOCK, dtype=np.uint64),
            np.empty(BLOCK, dtype=np.uint16),
        )
        self._run: Run | None = None

    def _add(self, table: NDArray[np.void]) -> None:
        part, block = slice(self._in_block, self._in_block + len(table)), self._block
        self._hashes[part] = bands_of(table["values"], self._banding)
        block.keys[part] = table["key"]
        block.sketches[part] = table["sketch"]
        block.folded[part] = _folded(table["sketch"])
        block.sizes[part] = table["size"]
        self._in_block += len(table)
        self._run = None

    def _newest(self) -> Run:
        """Return the run of the newest questions; made when it is asked for, because much is read at once."""
        if self._run is None:
            part, block = slice(self._in_block), self._block
            places = np.arange(self._in_block, dtype=np.uint64)[:, None]
            bands = (self._hashes[part] & ~_PLACE_MASK | places).ravel()
            bands.sort()
            self._run = Run(
                block.start,
                block.end,
                bands,
                _table(bands),
                block.keys[part],
                block.sketches[part],
                block.folded[part],
                block.sizes[part],
            )
        return self._run

    def _end_block(self, end: Place) -> None:
        self.runs.append(replace(self._newest(), end=end))
        while self._merge():
            pass
        self._begin_block()

    def _merge(self) -> bool:
        """Make one run of the first two of the same size that belong together; whether there were any."""
        for at, (before, after) in enumerate(pairwise(self.runs)):
            size = before.size + after.size
            if before.size == after.size and before.start % size == 0 and size <= MOST_IN_RUN:
                whole = self._shared.merged(before, after) if self._shared else before.merged(after)
                if whole is not None:  # or another worker is making it
                    self.runs[at : at + 2] = [whole]
                    return True
        return False


def _folded(sketches: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return sketches of 64 bits, which bound what differs as well, if less closely."""
    folded: NDArray[np.uint64] = np.bitwise_xor.reduce(sketches, axis=1)
    return folded


def entries_of(keys: Sequence[bytes], marks: Marks) -> NDArray[np.void]:
    """Return questions as they are in the log."""
    table = np.empty(len(keys), dtype=ENTRY)
    table["key"] = np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(-1, KEY_BYTES)
    table["sketch"], table["values"], table["size"] = marks.sketches, marks.values, marks.sizes
    return table
