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
  117 µs. Both libraries have changed their numbers between releases, so shingles are hashed here, and the
  version of rensa's algorithm is part of every band's salt: bands of another version are never matched, and
  a test holds the numbers of this one.
- **Bands**: a pair of similarity s shares one of b bands of r rows with probability 1 - (1 - s^r)^b
  (Leskovec, Rajaraman, Ullman: Mining of Massive Datasets, 3rd ed., section 3.4.2).
- **Crowds**: in a dataset of very like questions ever more of them share a band by accident. Once more than
  `CROWD` share one on average, a question that so many share a band with gets longer bands, which accidents
  rarely share, in place of the usual ones. The questions found by the usual bands do not become more then,
  and no near-copy hides: look-ups ask for both where there are both.
- **Sketches and compact signatures** leave out most candidates that only happen to share a band, where they
  are kept: b bits of each of 128 signature values. These are equal in a pair of similarity s with probability
  s + (1 - s) / 2^b (Li, König: b-Bit Minwise Hashing, WWW 2010, for sets small among all possible shingles).
  A sketch has b = 1 and costs least to compare; what passes it is compared by the signature, b = 4, which
  questions of earlier versions lack.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from rensa import RMinHash  # type: ignore[import-untyped]

RECALL = 0.97
"""Least share of pairs right at the threshold that share a band; more similar pairs are found more often."""

CROWD = 64
"""How many others may share a band with a question before longer bands cost less than to read them all."""

_MOST_BANDS = 20  # each is an index entry of every question
_MOST_ROWS = 8  # with more, fewer unrelated candidates are not worth the further bands
_MOST_CROWDED_BANDS = 50  # where they are worth it
_MOST_CROWDED_ROWS = 12
_SEED = 1

COMPACT_VALUES = 128
COMPACT_BITS = 4
_DEVIATIONS = 3.0  # leaves out one in a thousand of the pairs right at the threshold

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


def banding_for(threshold: float) -> Banding:
    """Return the banding that finds pairs of similarity `threshold`, in (0, 1), with probability RECALL.

    It has the most rows, which keep unrelated pairs out, that `_MOST_BANDS` bands and `_MOST_ROWS` allow.
    """
    return _banding(threshold, _MOST_BANDS, _MOST_ROWS)


def crowded_banding_for(threshold: float) -> Banding:
    """Return the longer bands of questions in a crowd, which are as sure to find such pairs."""
    return _banding(threshold, _MOST_CROWDED_BANDS, _MOST_CROWDED_ROWS)


@lru_cache(maxsize=64)
def _banding(threshold: float, most_bands: int, most_rows: int) -> Banding:
    if not 0.0 < threshold < 1.0:
        raise ValueError(f"a similarity threshold of {threshold} needs no bands; it must be between 0 and 1")
    for rows in range(most_rows, 0, -1):
        bands = math.ceil(math.log1p(-RECALL) / math.log1p(-(threshold**rows)))
        if bands <= most_bands:
            return Banding(bands, rows)
    raise ValueError(f"a similarity threshold of {threshold} is too low to be found by {most_bands} bands")


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
    """MinHash signatures of normal forms, one row of `size` values each; the same on every machine."""
    if not forms:
        return np.empty((0, size), dtype=np.uint32)
    codes, offsets = windows(forms)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(_mixed(codes), offsets, size, _SEED)
    return np.array(matrix.to_rows(), dtype=np.uint32)


@dataclass(frozen=True, slots=True)
class Marks:
    """What a question's near-copies are found by: hashes of its bands, and its compact signature as hex."""

    bands: list[int]
    signature: str


def marks(forms: Sequence[str], banding: Banding, salt: str) -> list[Marks]:
    """Return the marks of normal forms.

    Two forms share a hash when they share a band; hashes under another salt, of another band or of another
    version of the algorithm do not meet, but by accident. Hashes are signed and have 64 bits.
    """
    values = signatures(forms, max(banding.bands * banding.rows, COMPACT_VALUES))
    low = values[:, :COMPACT_VALUES]
    planes = np.hstack([low >> np.uint32(bit) & 1 for bit in range(COMPACT_BITS)])
    compact = np.packbits(planes.astype(np.uint8), axis=1)
    hashes = _band_hashes(values, banding, salt).tolist()
    return [Marks(bands, bits.tobytes().hex()) for bands, bits in zip(hashes, compact, strict=True)]


def band_hashes(forms: Sequence[str], banding: Banding, salt: str) -> list[list[int]]:
    """Return the hashes of the bands of normal forms alone."""
    values = signatures(forms, banding.bands * banding.rows)
    return _band_hashes(values, banding, salt).tolist()  # type: ignore[no-any-return]


def greatest_distance(threshold: float, bits: int = COMPACT_BITS) -> int:
    """In how many values compact signatures of a pair of similarity `threshold` or more may differ."""
    differs = (1.0 - threshold) * (1.0 - 0.5**bits)
    deviation = math.sqrt(COMPACT_VALUES * differs * (1.0 - differs))
    return math.ceil(COMPACT_VALUES * differs + _DEVIATIONS * deviation)


def _band_hashes(values: NDArray[np.uint32], banding: Banding, salt: str) -> NDArray[np.int64]:
    used = values[:, : banding.bands * banding.rows].astype(np.uint64)
    cut = used.reshape(len(values), banding.bands, banding.rows)
    hashes = np.broadcast_to(_salts(banding, salt), cut.shape[:2])
    for row in range(banding.rows):
        hashes = _mixed(hashes ^ cut[:, :, row])
    return np.ascontiguousarray(hashes).view(np.int64)


@lru_cache(maxsize=64)
def _salts(banding: Banding, salt: str) -> NDArray[np.uint64]:
    version = f"{RMinHash.ALGORITHM_VERSION}:{banding.bands}x{banding.rows}"
    digests = (
        hashlib.blake2b(f"{version}:{band}:{salt}".encode(), digest_size=8).digest()
        for band in range(banding.bands)
    )
    return np.array([int.from_bytes(digest, "little") for digest in digests], dtype=np.uint64)


def _padded(form: str) -> str:
    return f" {form or ' '} "


def windows(forms: Sequence[str]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Return the shingles of all forms, one form after the other, and where each form's begin, and the end.

    A shingle is the number its characters make, and may come more than once.
    """
    padded = [_padded(form) for form in forms]
    text = "".join(padded).encode("utf-32-le", "surrogatepass")
    points = np.frombuffer(text, dtype="<u4").astype(np.uint64)
    ends = np.cumsum([len(part) for part in padded])
    left = np.repeat(ends, np.diff(ends, prepend=0)) - np.arange(len(points))  # characters to the form's end
    dense = np.zeros(len(points), dtype=bool)
    for first, last in _DENSE:
        dense |= (points >= first) & (points <= last)
    second, third = np.roll(points, -1), np.roll(points, -2)
    codes = points | second << np.uint64(_CODE_BITS)
    codes |= np.where(dense, np.uint64(0), third << np.uint64(2 * _CODE_BITS))
    whole = left >= np.where(dense, 2, 3)
    offsets = np.concatenate([[0], np.cumsum(whole)[ends - 1]]).astype(np.uint64)
    return codes[whole], offsets


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the finaliser of SplitMix64: a bijection that spreads every bit of its input over all 64."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
