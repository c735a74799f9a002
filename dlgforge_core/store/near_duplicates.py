"""Near-duplicates of questions (dedup): shingles of the normal form, MinHash signatures, bands of these.

Two questions are near-copies when the Jaccard similarity of their shingle sets reaches a threshold. Bands of
a MinHash signature find the candidates, as in locality-sensitive hashing; the exact similarity decides, so
that a question is never rejected for less.

- **Shingles** are windows of three characters over the normal form between two spaces. Questions are short:
  a changed letter breaks `n` windows, so that with the n of 5 to 9 that suits documents one typo takes a
  question of 40 letters below 0.8, while three letters still tell unrelated questions well apart. A window
  that starts with a Chinese or Japanese character or a Korean syllable has two characters, because each of
  those carries what several letters do. Words are never looked for, so no language needs spaces.
- **Signatures** come from rensa's R-MinHash: on questions it took 13 µs each where datasketch 2.0 took
  117 µs. Both libraries have changed their numbers between releases, so shingles are hashed here, another
  version of rensa's algorithm is refused, and a test holds the numbers of this one.
- **Values**: the low byte of each of a signature's 224 values is kept. Two of them are equal, in a pair of
  similarity s, with probability s + (1 - s) / 256 (Li, König: b-Bit Minwise Hashing, WWW 2010, for sets
  small among all possible shingles).
- **Bands**: a pair of similarity s shares one of b bands of r rows with probability 1 - (1 - s^r)^b
  (Leskovec, Rajaraman, Ullman: Mining of Massive Datasets, 3rd ed., section 3.4.2).
- **Sketches** leave out the candidates that only happen to share a band. Every shingle of a set flips one of
  256 bits, so that two sketches differ in no more bits than there are shingles that only one of the sets
  has: a sketch never hides a near-copy.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray
from rensa import RMinHash  # type: ignore[import-untyped]

RECALL = 0.994
"""Least share of pairs right at the threshold that share a band; more similar pairs are found more often."""

VALUES = 224
"""Values of a signature that are kept, a byte each."""

_MOST_BANDS = 28
_MOST_ROWS = 8  # so that a band is a word of 64 bits; 28 bands of 8 rows take all values
_SEED = 1
_ALGORITHM = 2

SKETCH_WORDS = 4
"""Words of 64 bits of a sketch."""

_MOST_SHINGLES = 0xFFFF  # that are counted

_CODE_BITS = 21  # a Unicode code point fits, so that three of them in 64 bits are the shingle itself
# Han, kana and Hangul syllables; ends included. No question of other scripts holds one.
_DENSE = ((0x3040, 0x30FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0xF900, 0xFAFF),
          (0x20000, 0x3FFFF))  # fmt: skip

_HAS_DENSE = re.compile("[" + "".join(f"{chr(first)}-{chr(last)}" for first, last in _DENSE) + "]")


@dataclass(frozen=True, slots=True)
class Banding:
    """How a signature is cut: `bands` of `rows` values each."""

    bands: int
    rows: int


@lru_cache(maxsize=64)
def banding_for(threshold: float) -> Banding:
    """Return the banding that finds pairs of similarity `threshold`, in (0, 1), with probability RECALL.

    It has the most rows, which keep unrelated pairs out, that `_MOST_BANDS` bands and `_MOST_ROWS` allow.
    """
    if not 0.0 < threshold < 1.0:
        raise ValueError(f"a similarity threshold of {threshold} needs no bands; it must be between 0 and 1")
    for rows in range(_MOST_ROWS, 0, -1):
        bands = math.ceil(math.log1p(-RECALL) / math.log1p(-(threshold**rows)))
        if bands <= _MOST_BANDS:
            return Banding(bands, rows)
    raise ValueError(f"a similarity threshold of {threshold} is too low to be found by {_MOST_BANDS} bands")


def shingles(form: str) -> frozenset[str]:
    """Return the shingles of a question's normal form; there is at least one."""
    text = _padded(form)
    starts = range(len(text) - 2)
    if not _HAS_DENSE.search(text):
        return frozenset([text[start : start + 3] for start in starts])
    # The last window of two ends in the closing space, so that these starts are all there are.
    widths = (2 if _HAS_DENSE.match(text, start) else 3 for start in starts)
    last = {text[-2:]} if _HAS_DENSE.match(text, len(text) - 2) else set()
    return frozenset(text[start : start + width] for start, width in zip(starts, widths, strict=True)) | last


def jaccard(one: AbstractSet[str], other: AbstractSet[str]) -> float:
    """Size of the intersection over size of the union; of two empty sets it is 1."""
    shared = len(one & other)
    union = len(one) + len(other) - shared
    return shared / union if union else 1.0


def signatures(forms: Sequence[str], size: int) -> NDArray[np.uint32]:
    """MinHash signatures of normal forms, one row of `size` values each; the same on every machine.

    Raises RuntimeError where rensa's algorithm is another one than that of what is kept.
    """
    if not forms:
        return np.empty((0, size), dtype=np.uint32)
    codes, offsets = windows(forms)
    return _signatures(_mixed(codes), offsets, size)


def _signatures(hashes: NDArray[np.uint64], offsets: NDArray[np.uint64], size: int) -> NDArray[np.uint32]:
    if _ALGORITHM != RMinHash.ALGORITHM_VERSION:
        raise RuntimeError("this rensa makes other signatures than those kept: install rensa>=0.5,<0.6")
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(hashes, offsets, size, _SEED)
    return np.array(matrix.to_rows(), dtype=np.uint32)


@dataclass(frozen=True, slots=True)
class Marks:
    """What near-copies of n questions are found by; the same on every machine.

    `values` (n x VALUES bytes), `sketches` (n x SKETCH_WORDS words), and `sizes`: how many shingles each has.
    """

    values: NDArray[np.uint8]
    sketches: NDArray[np.uint64]
    sizes: NDArray[np.uint16]


def marks_of(forms: Sequence[str]) -> Marks:
    """Return the marks of normal forms."""
    if not forms:
        return Marks(
            np.empty((0, VALUES), np.uint8), np.empty((0, SKETCH_WORDS), np.uint64), np.empty(0, np.uint16)
        )
    codes, offsets = windows(forms)
    hashes = _mixed(codes)
    values = _signatures(hashes, offsets, VALUES).astype(np.uint8)
    # Each shingle of a set once: by question, then by hash.
    owners = np.repeat(np.arange(len(forms), dtype=np.uint64), (offsets[1:] - offsets[:-1]).astype(np.intp))
    once = owners << np.uint64(44) | hashes >> np.uint64(20)
    once.sort()
    first = np.ones(len(once), dtype=bool)
    first[1:] = once[1:] != once[:-1]
    once = once[first]
    owners = once >> np.uint64(44)
    bits = np.uint64(1) << (once & np.uint64(63))
    words = owners * np.uint64(SKETCH_WORDS) + (once >> np.uint64(6)) % np.uint64(SKETCH_WORDS)
    sketches = np.zeros(len(forms) * SKETCH_WORDS, dtype=np.uint64)
    np.bitwise_xor.at(sketches, words.astype(np.intp), bits)
    sizes = np.bincount(owners.astype(np.intp), minlength=len(forms))
    return Marks(
        values,
        sketches.reshape(-1, SKETCH_WORDS),
        np.minimum(sizes, _MOST_SHINGLES).astype(np.uint16),
    )


def bands_of(values: NDArray[np.uint8], banding: Banding) -> NDArray[np.uint64]:
    """Return the hashes of each question's bands; those of different bands do not meet, but by accident."""
    words = np.zeros((len(values), banding.bands, _MOST_ROWS), dtype=np.uint8)
    used = values[:, : banding.bands * banding.rows]
    words[:, :, : banding.rows] = used.reshape(len(values), banding.bands, banding.rows)
    return _mixed(words.view("<u8")[:, :, 0] ^ _numbers(banding.bands))


@cache
def _numbers(bands: int) -> NDArray[np.uint64]:
    """Return what tells bands of equal values apart."""
    return _mixed(np.arange(bands, dtype=np.uint64) << np.uint64(32))


def most_differing(threshold: float) -> float:
    """Return which part of all its shingles a pair of similarity `threshold` may not share.

    With sizes a and b, and d that only one has, the similarity is (a + b - d) / (a + b + d).
    """
    return (1.0 - threshold) / (1.0 + threshold)


def _padded(form: str) -> str:
    return f" {form or ' '} "


def windows(forms: Sequence[str]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Return the shingles of all forms, one form after the other, and where each form's begin, and the end.

    A shingle is the number its characters make, and may come more than once.
    """
    padded = [_padded(form) for form in forms]
    text = "".join(padded)
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.uint64)
    lengths = np.array([len(part) for part in padded])
    ends = lengths.cumsum()
    codes = points.copy()
    codes[:-1] |= points[1:] << np.uint64(_CODE_BITS)
    whole = np.ones(len(points), dtype=bool)  # whether a window ends in its form
    whole[ends - 1] = False
    if text.isascii() or not _HAS_DENSE.search(text):  # which most questions are
        codes[:-2] |= points[2:] << np.uint64(2 * _CODE_BITS)
        whole[ends - 2] = False
        sizes = lengths - 2
    else:
        dense = _dense(points)
        codes[:-2] |= np.where(dense[:-2], np.uint64(0), points[2:] << np.uint64(2 * _CODE_BITS))
        whole[ends - 2] = dense[ends - 2]
        sizes = lengths - 2 + dense[ends - 2]
    offsets = np.zeros(len(forms) + 1, dtype=np.uint64)
    offsets[1:] = sizes.cumsum()
    return codes[whole], offsets


def _dense(points: NDArray[np.uint64]) -> NDArray[np.bool_]:
    dense = np.zeros(len(points), dtype=bool)
    for first, last in _DENSE:
        dense |= (points >= first) & (points <= last)
    return dense


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the finaliser of SplitMix64: a bijection that spreads every bit of its input over all 64."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
