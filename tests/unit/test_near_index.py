"""The index of questions finds all that share a band and may be similar enough, however it was filled."""

from __future__ import annotations

import random

import numpy as np
import pytest

from dlgforge_core.common.questions import normal_form, question_key
from dlgforge_core.store import near_index
from dlgforge_core.store.near_duplicates import (
    VALUES,
    Marks,
    banding_for,
    bands_of,
    jaccard,
    marks_of,
    shingles,
)
from dlgforge_core.store.near_index import NearIndex, Searched, entries_of

WORDS = [
    "ash",
    "birch",
    "cedar",
    "elm",
    "fir",
    "gum",
    "holly",
    "ivy",
    "larch",
    "maple",
    "oak",
    "pine",
    "rowan",
    "spruce",
    "teak",
    "yew",
]


def questions(n: int, seed: int, words: int = 12) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=words)) for _ in range(n)]


def entries(texts: list[str]) -> bytes:
    return entries_of([question_key(text) for text in texts], marks_of(texts)).tobytes()


def added(index: NearIndex, texts: list[str], group: int = 1000) -> NearIndex:
    """Add them as rows of a log, so many in each."""
    for seq, begin in enumerate(range(0, len(texts), group), 1):
        index.add(entries(texts[begin : begin + group]), seq, 1000 + seq)
    return index


def found(index: NearIndex, texts: list[str], since: int = 0) -> dict[int, set[bytes]]:
    return index.find(Searched(marks_of(texts), index.threshold), since)


def by_definition(kept: list[str], asked: list[str], threshold: float) -> dict[int, set[bytes]]:
    """Return the pairs that share a band and reach the threshold, each looked at by itself."""
    banding = banding_for(threshold)
    bands = [set(row) for row in bands_of(marks_of(kept + asked).values, banding).tolist()]
    return {
        row: keys
        for row, text in enumerate(asked)
        if (
            keys := {
                question_key(other)
                for place, other in enumerate(kept)
                if bands[place] & bands[len(kept) + row]
                and jaccard(shingles(text), shingles(other)) >= threshold
            }
        )
    }


@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.95])
@pytest.mark.parametrize("group", [1, 7, 64, 500])
def test_what_shares_a_band_and_is_similar_enough_is_found(
    monkeypatch: pytest.MonkeyPatch, threshold: float, group: int
) -> None:
    monkeypatch.setattr(near_index, "BLOCK", 32)
    kept = [normal_form(text) for text in questions(500, seed=1)]
    asked = [f"{text} so" for text in kept[::25]] + questions(10, seed=2)
    index = NearIndex(threshold)
    added(index, kept, group)
    assert index.size == len(kept)
    assert [run.size for run in index.runs] == [256, 128, 64, 32], "as in a binary counter"
    got, least = found(index, asked), by_definition(kept, asked, threshold)
    assert len(least) >= 15 or threshold > 0.9
    for row, keys in least.items():
        assert keys <= got.get(row, set()), asked[row]


def test_runs_do_not_depend_on_who_built_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_index, "BLOCK", 16)
    kept = questions(200, seed=3)
    one, other = added(NearIndex(0.8), kept), added(NearIndex(0.8), kept, group=1)
    for mine, theirs in zip(one.runs, other.runs, strict=True):
        assert (mine.start, mine.bands.tolist()) == (theirs.start, theirs.bands.tolist())
        assert mine.keys.tolist() == theirs.keys.tolist()


def test_only_what_is_new_is_found_since_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_index, "BLOCK", 16)
    kept = questions(100, seed=4)
    index = NearIndex(0.8)
    added(index, kept)
    everything = found(index, kept)
    assert all(question_key(text) in everything[row] for row, text in enumerate(kept))
    for since in (1, 15, 16, 50, 96, 99):
        late = {question_key(text) for text in kept[since:]}
        assert found(index, kept, since) == {
            row: keys & late for row, keys in everything.items() if keys & late
        }
    assert found(index, kept, 100) == {}


def test_a_crowd_is_looked_at_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = questions(3000, seed=5, words=4)
    index = NearIndex(0.5)
    added(index, kept)
    whole = found(index, kept[:50])
    monkeypatch.setattr(near_index, "_PAIRS_AT_ONCE", 100)
    assert found(index, kept[:50]) == whole


def test_an_empty_index_and_an_empty_group() -> None:
    index = NearIndex(0.8)
    assert found(index, questions(3, seed=6)) == {}
    assert found(index, []) == {}
    index.add(b"", 1, 1)
    assert index.size == 0


@pytest.mark.parametrize(
    ("threshold", "both", "apart"), [(0.8, 9, 1), (0.5, 3, 1), (0.9, 19, 1), (0.6, 4, 1)]
)
def test_pairs_right_at_the_threshold_are_candidates(threshold: float, both: int, apart: int) -> None:
    """Of both sizes, `both` times so much, `apart` times that differs: whatever the rounding."""
    for times in range(2, 60, 2):
        size, differing = both * times // 2, apart * times
        assert (2 * size - differing) / (2 * size + differing) == pytest.approx(threshold)
        values = np.zeros((1, VALUES), dtype=np.uint8)
        sizes = np.array([size], dtype=np.uint16)
        bits = int("1" * differing, 2)
        words = [bits >> 64 * word & (1 << 64) - 1 for word in range(4)]
        sketch = np.array([words], dtype=np.uint64)
        index = NearIndex(threshold)
        kept = Marks(values, np.zeros((1, 4), dtype=np.uint64), sizes)
        index.add(entries_of([b"k" * 16], kept).tobytes(), 1, 1)
        found = index.find(Searched(Marks(values, sketch, sizes), threshold))
        assert found == {0: {b"k" * 16}}
