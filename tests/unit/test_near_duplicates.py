"""Shingles, signatures and bands: what near-copies of questions are found by."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlgforge_core.common.questions import normal_form
from dlgforge_core.config import CoverageConfig, validate
from dlgforge_core.errors import ConfigError
from dlgforge_core.store import near_duplicates
from dlgforge_core.store.near_duplicates import (
    RECALL,
    Banding,
    banding_for,
    bands_of,
    jaccard,
    marks_of,
    most_differing,
    shingles,
    signatures,
)

ALPHABET = "abc éж ع中国あ한 😀1"
forms = st.text(alphabet=ALPHABET, max_size=60).map(normal_form)
any_forms = st.text(alphabet=st.characters(), max_size=40).map(normal_form)


def pieces(form: str) -> set[str]:
    """Return the shingles by their definition, one after the other."""
    padded = f" {form or ' '} "
    found = set()
    for start, first in enumerate(padded):
        width = 2 if "\u3040" <= first <= "\u30ff" or "一" <= first <= "鿿" or "가" <= first <= "힣" else 3
        if start + width <= len(padded):
            found.add(padded[start : start + width])
    return found


def hashed(form: str) -> set[str]:
    """Return the shingles as signatures take them."""
    codes, _ = near_duplicates.windows([form])
    points = [[code >> 21 * place & 0x1FFFFF for place in range(3)] for code in codes.tolist()]
    return {"".join(chr(point) for point in triple if point) for triple in points}


def band_hashes(texts: list[str], banding: Banding) -> np.ndarray:
    return bands_of(marks_of(texts).values, banding)


@given(forms)
def test_shingles_are_the_windows_of_the_padded_form(form: str) -> None:
    assert shingles(form) == pieces(form) == hashed(form)


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("ab", {" ab", "ab "}),
        ("中国x", {" 中国", "中国", "国x", "x "} - {"x "}),
        ("한국", {" 한국", "한국", "국 "}),
        ("", {"   "}),
    ],
)
def test_shingles_by_example(form: str, expected: set[str]) -> None:
    assert shingles(form) == expected


@given(any_forms)
def test_every_form_has_shingles_a_signature_and_bands(form: str) -> None:
    assert shingles(form)
    assert signatures([form], 16).shape == (1, 16)
    marks = marks_of([form])
    assert marks.values.shape == (1, near_duplicates.VALUES)
    assert marks.sizes.tolist() == [len(shingles(form))]
    assert bands_of(marks.values, Banding(4, 4)).shape == (1, 4)


@given(forms, forms)
def test_jaccard_is_a_similarity(one: str, other: str) -> None:
    a, b = shingles(one), shingles(other)
    assert jaccard(a, b) == jaccard(b, a)
    assert 0.0 <= jaccard(a, b) <= 1.0
    assert jaccard(a, a) == 1.0
    assert (jaccard(a, b) == 1.0) == (a == b)
    assert jaccard(a, b) == pytest.approx(len(pieces(one) & pieces(other)) / len(pieces(one) | pieces(other)))


def test_of_two_empty_sets_jaccard_is_one() -> None:
    assert jaccard(frozenset(), frozenset()) == 1.0


@given(st.lists(any_forms, max_size=8), st.randoms())
def test_a_signature_does_not_depend_on_its_company(texts: list[str], draw: object) -> None:
    together = signatures(texts, 24)
    assert together.shape == (len(texts), 24)
    for row, text in zip(together, texts, strict=True):
        assert (row == signatures([text], 24)[0]).all()


@given(forms)
def test_a_signature_depends_on_the_set_of_shingles_alone(form: str) -> None:
    doubled = f"{form} {form} {form}"  # from two copies on, one more adds no shingle
    more = f"{doubled} {form}"
    if shingles(doubled) == shingles(more):
        assert (signatures([doubled], 32) == signatures([more], 32)).all()


def test_signatures_estimate_jaccard_without_bias() -> None:
    draw = np.random.default_rng(1)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz "))
    errors = []
    for _ in range(300):
        one = draw.choice(letters, 70)
        other = one.copy()
        places = draw.choice(70, draw.integers(1, 12), replace=False)
        other[places] = draw.choice(letters, len(places))
        pair = ["".join(one), "".join(other)]
        a, b = signatures(pair, 160)
        errors.append((a == b).mean() - jaccard(shingles(pair[0]), shingles(pair[1])))
    # The standard deviation of one estimate is at most 1 / (2 sqrt 160) = 0.04.
    assert abs(np.mean(errors)) < 0.01
    assert np.std(errors) < 0.045


_GOLDEN = """
import hashlib
from dlgforge_core.store.near_duplicates import marks_of, signatures
from dlgforge_core.store.near_index import entries_of
texts = ["how do i bake bread", "كيف أخبز الخبز", "怎样烤面包", ""]
print(hashlib.sha256(signatures(texts, 160).astype("<u4").tobytes()).hexdigest()[:32])
entries = entries_of([bytes([n] * 16) for n in range(4)], marks_of(texts))
print(hashlib.sha256(entries.tobytes()).hexdigest()[:32])
"""
GOLDEN = [
    "945e1ca8544469dc9ca2c6aac46182b0",
    "7c32bf958901e008459782f1e9ff73b8",
]


def test_what_is_stored_is_the_same_in_every_process_and_version() -> None:
    """The log would match nothing any more if this changed: rensa and the shingles must stay as here."""
    found = subprocess.run([sys.executable, "-c", _GOLDEN], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines() == GOLDEN


def candidate_probability(banding: Banding, similarity: float) -> float:
    """How likely a pair of this Jaccard similarity shares a band."""
    return 1.0 - (1.0 - similarity**banding.rows) ** banding.bands


@given(st.floats(0.5, 0.995))
def test_a_banding_finds_pairs_at_the_threshold_and_stays_small(threshold: float) -> None:
    banding = banding_for(threshold)
    assert candidate_probability(banding, threshold) >= RECALL
    assert 1 <= banding.bands * banding.rows <= near_duplicates.VALUES
    assert 1 <= banding.rows <= 8
    if banding.bands > 1:
        fewer = Banding(banding.bands - 1, banding.rows)
        assert candidate_probability(fewer, threshold) < RECALL, "no band more than it takes"


def test_the_default_banding_leaves_unrelated_pairs_out() -> None:
    banding = banding_for(0.8)
    assert banding == Banding(bands=28, rows=8)
    assert candidate_probability(banding, 0.4) < 0.02


@pytest.mark.parametrize("threshold", [0.0, 1.0, 1.2, -0.1, float("nan"), 0.01])
def test_thresholds_without_a_banding(threshold: float) -> None:
    with pytest.raises(ValueError, match="similarity threshold"):
        banding_for(threshold)


def test_bands_are_shared_as_often_as_the_formula_says() -> None:
    """Pairs whose Jaccard similarity is known: 80 of 120 shingles and the like, in disjoint alphabets."""
    draw = np.random.default_rng(2)
    letters = np.array([chr(0x400 + i) for i in range(250)])
    banding = banding_for(0.8)
    met = expected = 0.0
    for _ in range(400):
        one = draw.choice(letters, 60)
        other = one.copy()
        for place in draw.choice(60, 2, replace=False):
            other[place] = draw.choice(letters)
        pair = ["".join(one), "".join(other)]
        expected += candidate_probability(banding, jaccard(shingles(pair[0]), shingles(pair[1])))
        a, b = band_hashes(pair, banding)
        met += bool(set(a.tolist()) & set(b.tolist()))
    assert met / 400 == pytest.approx(expected / 400, abs=0.03)


def differing(one: str, other: str) -> int:
    """In how many bits the sketches of two forms differ."""
    first, second = marks_of([one, other]).sketches
    return int(np.bitwise_count(first ^ second).sum())


@given(forms, forms)
def test_sketches_differ_in_no_more_bits_than_the_sets_in_shingles(one: str, other: str) -> None:
    apart = len(shingles(one) ^ shingles(other))
    assert differing(one, other) <= apart
    assert (differing(one, other) - apart) % 2 == 0


@given(forms, forms, st.floats(0.5, 0.99))
def test_a_sketch_hides_no_near_copy(one: str, other: str, threshold: float) -> None:
    if jaccard(shingles(one), shingles(other)) >= threshold:
        sizes = len(shingles(one)) + len(shingles(other))
        assert differing(one, other) <= most_differing(threshold) * sizes + 1e-9


def test_sketches_leave_out_most_pairs_below_the_threshold() -> None:
    draw = np.random.default_rng(3)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz "))
    passed = below = 0
    for _ in range(300):
        one = draw.choice(letters, 70)
        other = one.copy()
        other[draw.choice(70, 6, replace=False)] = draw.choice(letters, 6)
        pair = ["".join(one), "".join(other)]
        if jaccard(shingles(pair[0]), shingles(pair[1])) < 0.7:
            below += 1
            sizes = sum(len(shingles(form)) for form in pair)
            passed += differing(*pair) <= most_differing(0.8) * sizes
    assert below > 200
    assert passed < 0.1 * below


@settings(max_examples=25)
@given(st.lists(forms, min_size=1, max_size=6))
def test_hashes_of_different_bands_never_meet(texts: list[str]) -> None:
    columns = [set(column) for column in band_hashes(texts, Banding(6, 3)).T.tolist()]
    assert sum(map(len, columns)) == len(set().union(*columns)), "bands are salted with their number"


@given(forms, forms)
def test_bands_are_shared_by_equal_shingle_sets(one: str, other: str) -> None:
    a, b = band_hashes([one, other], banding_for(0.8)).tolist()
    if shingles(one) == shingles(other):
        assert a == b


# --- the configuration


@pytest.mark.parametrize("value", [0.5, 0.8, 1.0])
def test_thresholds_within_bounds(value: float) -> None:
    assert CoverageConfig(question_similarity_threshold=value).question_similarity_threshold == value


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0.49, "question_similarity_threshold = 0.49: input should be greater than or equal to 0.5"),
        (1.01, "question_similarity_threshold = 1.01: input should be less than or equal to 1"),
        (float("nan"), "question_similarity_threshold = nan"),
        ("0.8", "question_similarity_threshold = '0.8': input should be a valid number"),
    ],
)
def test_thresholds_out_of_bounds(value: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate(CoverageConfig, {"question_similarity_threshold": value}, "coverage")


def test_the_key_says_what_it_does() -> None:
    field = CoverageConfig.model_fields["question_similarity_threshold"]
    assert field.default == 0.8
    for word in ("rejected", "Jaccard", "0.5 to 1", "exact"):
        assert word in (field.description or "")
