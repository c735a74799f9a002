"""Agreement of judges, by hand and against the package `krippendorff`."""

from __future__ import annotations

import math
from collections import Counter

import krippendorff
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlgforge_core.judging.agreement import JudgeScores, agreement_of, merged_score
from dlgforge_core.judging.results import merged
from dlgforge_core.verdicts import Judgement


def by_combination(units: list[JudgeScores]) -> list[tuple[JudgeScores, int]]:
    return list(Counter(units).items())


def test_two_judges_by_hand() -> None:
    # Pairs (2,2), (3,4), (5,5), (8,6). Observed: 2 * (0 + 1 + 0 + 4) = 10 over n = 8 values. Expected: the
    # sum over all ordered pairs of values of their squared difference, 2 * (8 * 183 - 35**2) = 478.
    found = agreement_of(["a", "b"], by_combination([(2, 2), (3, 4), (5, 5), (8, 6)]))
    assert found.alpha == pytest.approx(1 - 7 * 10 / 478)
    pair = found.pairs[0]
    assert (pair.first, pair.second, pair.units) == ("a", "b", 4)
    assert pair.alpha == found.alpha
    assert pair.mean_difference == 0.75
    assert pair.within_one == 0.75
    assert (pair.confusion[8][6], pair.confusion[6][8]) == (1, 0)
    assert found.mean_of("a") == 4.5
    assert found.histograms["b"] == (0, 0, 1, 0, 1, 1, 1, 0, 0, 0, 0)
    assert found.merged == (0, 0, 1, 0, 1, 1, 0, 1, 0, 0, 0), "3 and 4 make 4"
    assert found.mean == (2 + 3.5 + 5 + 7) / 4, "not rounded"


def test_the_mean_is_over_what_was_judged_whoever_judged_it() -> None:
    found = agreement_of(["a", "b"], [((2, 4), 1), ((None, 9), 2), ((None, None), 5)])
    assert found.mean == (3 + 9 + 9) / 3


def test_the_example_of_the_literature() -> None:
    # Krippendorff (2011), example C: four observers, twelve units, missing values; interval alpha 0.849.
    rows: list[list[int | None]] = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
        [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
    ]
    found = agreement_of(["a", "b", "c", "d"], [(scores, 1) for scores in zip(*rows, strict=True)])
    assert found.alpha is not None
    assert round(found.alpha, 3) == 0.849
    assert found.units == 11, "the last unit has one value only"
    assert len(found.pairs) == 6


@pytest.mark.parametrize("units", [[], [(5, 5), (5, 5)], [(3, None), (None, 4)]])
def test_alpha_is_undefined_without_anything_to_differ(units: list[JudgeScores]) -> None:
    found = agreement_of(["a", "b"], by_combination(units))
    assert found.alpha is None
    assert found.pairs[0].alpha is None


def test_one_judge_has_a_histogram_and_nobody_to_agree_with() -> None:
    found = agreement_of(["a"], [((7,), 3), ((9,), 1)])
    assert (found.alpha, found.pairs, found.units) == (None, (), 0)
    assert found.mean == 7.5


scores = st.one_of(st.none(), st.integers(0, 10))


@given(st.integers(2, 4).flatmap(lambda n: st.lists(st.tuples(*[scores] * n), min_size=1, max_size=40)))
def test_alpha_is_that_of_the_library(units: list[JudgeScores]) -> None:
    names = [f"judge {i}" for i in range(len(units[0]))]
    found = agreement_of(names, by_combination(units))
    data = np.array([[math.nan if s is None else s for s in unit] for unit in units]).T
    pairable = [s for unit in units if sum(s is not None for s in unit) > 1 for s in unit if s is not None]
    if len(set(pairable)) < 2:
        assert found.alpha is None
    else:
        expected = krippendorff.alpha(data, value_domain=range(11), level_of_measurement="interval")
        assert found.alpha == pytest.approx(expected, abs=1e-12)


@given(st.lists(st.integers(0, 10), min_size=1, max_size=9))
def test_a_merged_score_is_the_mean_rounded_half_up(given_scores: list[int]) -> None:
    made = merged_score(given_scores)
    assert made - 0.5 <= sum(given_scores) / len(given_scores) < made + 0.5
    assert made == merged_score(given_scores[::-1])


@pytest.mark.parametrize(
    ("reasons", "expected"),
    [
        ([["clear"]], ("clear",)),
        ([["clear", "helpful"], ["helpful"]], ("helpful", "clear")),
        ([["clear"], ["helpful"], ["clear", "accurate"]], ("clear",)),
        ([["clear"], ["helpful"], ["accurate"]], ("clear", "helpful", "accurate")),
        ([["clear", "clear"], ["helpful"], ["helpful"]], ("helpful",)),
    ],
)
def test_reasons_by_majority(reasons: list[list[str]], expected: tuple[str, ...]) -> None:
    made = merged([Judgement(6 + i, tuple(r), f"comment {i}") for i, r in enumerate(reasons)])
    assert made.reasons == expected
    assert made.comment == "comment 0"
