"""How far judges agree in each dimension of a rubric, from sums: memory does not grow with the ratings."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field


class IntervalAlpha:
    """Krippendorff's alpha with the interval metric, of values on any scale, a unit at a time."""

    def __init__(self) -> None:
        self._n = 0
        self._observed: list[float] = []
        self._sum: list[float] = []
        self._squares: list[float] = []

    def add(self, values: Sequence[float], count: int = 1) -> None:
        """Count `count` units with these values; those with fewer than two have no part in it."""
        m = len(values)
        if m < 2:
            return
        total, squares = math.fsum(values), math.fsum(value * value for value in values)
        self._n += m * count
        # Over all ordered pairs of a unit, the squares of differences are twice this.
        self._observed.append(count * (m * squares - total * total) / (m - 1))
        self._sum.append(count * total)
        self._squares.append(count * squares)
        if len(self._sum) > _FOLD:
            self._fold()

    def _fold(self) -> None:
        self._observed, self._sum, self._squares = (
            [math.fsum(parts)] for parts in (self._observed, self._sum, self._squares)
        )

    def value(self) -> float | None:
        """1 - observed / expected disagreement; None when nothing could be expected to differ."""
        total, squares = math.fsum(self._sum), math.fsum(self._squares)
        expected = self._n * squares - total * total
        if expected <= 1e-9 * max(1.0, self._n * squares):
            return None
        return 1 - (self._n - 1) * math.fsum(self._observed) / expected


_FOLD = 1000


@dataclass
class DimensionFigures:
    """Ratings in one dimension: how many each judge gave and their sum, and how far the judges agree."""

    given: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    total: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    agreement: IntervalAlpha = field(default_factory=IntervalAlpha)
    units: int = 0
    """Turns or conversations that at least two judges rated."""

    def mean_of(self, judge: str) -> float | None:
        """Mean rating of a judge; None without any."""
        return self.total[judge] / self.given[judge] if self.given[judge] else None


def dimension_figures(
    rows: Iterable[tuple[str, Sequence[tuple[str, float]], int]],
) -> dict[str, DimensionFigures]:
    """Return figures by dimension, from units: its dimension, each judge's rating, and how often it came."""
    found: dict[str, DimensionFigures] = {}
    for dimension, ratings, count in rows:
        figures = found.setdefault(dimension, DimensionFigures())
        for judge, value in ratings:
            figures.given[judge] += count
            figures.total[judge] += count * value
        figures.agreement.add([value for _, value in ratings], count)
        figures.units += count if len(ratings) > 1 else 0
    return dict(sorted(found.items()))
