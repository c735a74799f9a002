"""How far several judges agree, from counts of scores: memory does not grow with the number of verdicts.

Krippendorff's alpha with the interval metric, from the matrix of coincidences as in K. Krippendorff,
"Computing Krippendorff's Alpha-Reliability" (2011), sections C to E: 1 is perfect agreement, 0 what chance
would give, below 0 less than that. What fewer than two judges judged has no part in it.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from dlgforge_core.verdicts import MAX_SCORE

N_SCORES = MAX_SCORE + 1

JudgeScores = tuple[int | None, ...]
"""The scores of one turn or conversation, a place for each judge; None where it gave no verdict."""


@dataclass(frozen=True, slots=True)
class PairAgreement:
    """Two judges on what both have judged. `confusion[a][b]`: how often the first said a, the second b.

    `alpha` is None where it is not defined: nothing judged by both, or one score throughout.
    """

    first: str
    second: str
    confusion: tuple[tuple[int, ...], ...]
    alpha: float | None

    @property
    def units(self) -> int:
        """How much both have judged."""
        return sum(map(sum, self.confusion))

    @property
    def mean_difference(self) -> float | None:
        """Mean absolute difference of their scores, in points; None when there are none."""
        apart = sum(abs(a - b) * n for a, b, n in self._cells())
        return apart / self.units if self.units else None

    @property
    def within_one(self) -> float | None:
        """Share of scores at most one point apart; None when there are none."""
        near = sum(n for a, b, n in self._cells() if abs(a - b) <= 1)
        return near / self.units if self.units else None

    def _cells(self) -> Iterable[tuple[int, int, int]]:
        return ((a, b, n) for a, row in enumerate(self.confusion) for b, n in enumerate(row) if n)


@dataclass(frozen=True, slots=True)
class Agreement:
    """Scores and agreement of several judges.

    `histograms` count each judge's verdicts by score, `merged` those of all judges together, as exports
    carry them; `mean` is the mean over everything judged of the judges' mean score there, not rounded.
    `units`: what at least two have judged, over which `alpha` goes.
    """

    judges: tuple[str, ...]
    units: int
    alpha: float | None
    pairs: tuple[PairAgreement, ...]
    histograms: Mapping[str, tuple[int, ...]]
    merged: tuple[int, ...]
    mean: float | None

    def mean_of(self, judge: str) -> float | None:
        """Mean score of a judge; None without verdicts."""
        return mean_score(self.histograms[judge])


def mean_score(histogram: Sequence[int]) -> float | None:
    """Mean of scores counted by value; None when there are none."""
    n = sum(histogram)
    return sum(score * count for score, count in enumerate(histogram)) / n if n else None


def merged_score(scores: Sequence[int]) -> int:
    """Mean of at least one score, rounded to the nearest whole number, halves up."""
    return (2 * sum(scores) + len(scores)) // (2 * len(scores))


def agreement_of(judges: Sequence[str], combinations: Iterable[tuple[JudgeScores, int]]) -> Agreement:
    """Return the agreement of judges, by name, from combinations of their scores and how often each came."""
    n_judges = len(judges)
    confusions = {pair: _matrix() for pair in itertools.combinations(range(n_judges), 2)}
    histograms = [[0] * N_SCORES for _ in judges]
    merged = [0] * N_SCORES
    coincidences = _Coincidences()
    sums: Counter[int] = Counter()  # of scores, by how many judges gave one
    units = 0
    for scores, count in combinations:
        given = [(index, score) for index, score in enumerate(scores) if score is not None]
        for index, score in given:
            histograms[index][score] += count
        for (i, a), (j, b) in itertools.combinations(given, 2):
            confusions[i, j][a][b] += count
        if given:
            merged[merged_score([score for _, score in given])] += count
            sums[len(given)] += count * sum(score for _, score in given)
        if len(given) > 1:
            units += count
            coincidences.add([score for _, score in given], count)
    return Agreement(
        judges=tuple(judges),
        units=units,
        alpha=coincidences.alpha() if n_judges > 1 else None,
        pairs=tuple(_pair(judges[i], judges[j], matrix) for (i, j), matrix in confusions.items()),
        histograms={name: tuple(histogram) for name, histogram in zip(judges, histograms, strict=True)},
        merged=tuple(merged),
        mean=sum(total / size for size, total in sums.items()) / sum(merged) if sums else None,
    )


def _pair(first: str, second: str, confusion: Sequence[Sequence[int]]) -> PairAgreement:
    coincidences = _Coincidences()
    for a, row in enumerate(confusion):
        for b, n in enumerate(row):
            if n:
                coincidences.add([a, b], n)
    return PairAgreement(first, second, tuple(map(tuple, confusion)), coincidences.alpha())


def _matrix() -> list[list[int]]:
    return [[0] * N_SCORES for _ in range(N_SCORES)]


class _Coincidences:
    """Krippendorff's matrix of coincidences: every pair of scores of a unit of m scores counts 1 / (m - 1).

    One matrix of whole numbers for each m, so that nothing is lost to rounding however many there are.
    """

    def __init__(self) -> None:
        self._by_size: dict[int, list[list[int]]] = {}

    def add(self, scores: Sequence[int], count: int) -> None:
        """Count `count` units with these scores in; at least two."""
        matrix = self._by_size.setdefault(len(scores), _matrix())
        counted = Counter(scores)
        for a, n_a in counted.items():
            for b, n_b in counted.items():
                matrix[a][b] += count * n_a * (n_b - (a == b))

    def alpha(self) -> float | None:
        """1 - observed / expected disagreement; None when nothing could be expected to differ."""
        by_score = [0.0] * N_SCORES
        observed = 0.0
        for size, matrix in self._by_size.items():
            for a, row in enumerate(matrix):
                by_score[a] += sum(row) / (size - 1)
                observed += sum(n * (a - b) ** 2 for b, n in enumerate(row)) / (size - 1)
        n = sum(by_score)
        expected = sum(
            by_score[a] * by_score[b] * (a - b) ** 2 for a in range(N_SCORES) for b in range(N_SCORES)
        )
        return 1 - (n - 1) * observed / expected if expected else None
