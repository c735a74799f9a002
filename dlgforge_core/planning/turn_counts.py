"""How many turns dialogues have: distributions, sampled by quantile."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Literal

from dlgforge_core.config import RunConfig


@dataclass(frozen=True, slots=True)
class TurnCounts:
    """How many turns dialogues have; `mean` is that of the distribution before it is clamped."""

    distribution: Literal["fixed", "uniform", "poisson", "exponential"]
    minimum: int
    maximum: int
    mean: float

    @classmethod
    def from_config(cls, run: RunConfig) -> TurnCounts:
        """Return the turn counts a run asks for."""
        if run.n_turns is not None:
            return cls("fixed", run.n_turns, run.n_turns, float(run.n_turns))
        middle = (run.min_turns + run.max_turns) / 2
        given = None if run.turn_count_distribution == "uniform" else run.turn_count_mean
        return cls(run.turn_count_distribution, run.min_turns, run.max_turns, given or middle)

    def at(self, u: float) -> int:
        """Return the turn count at quantile `u`, strictly between 0 and 1."""
        if self.distribution == "fixed":
            return self.minimum
        if self.distribution == "uniform":
            value = self.minimum + math.floor(u * (self.maximum - self.minimum + 1))
        elif self.distribution == "poisson":
            value = _poisson_quantile(self.mean, u)
        else:
            # Cut as a float first: an immense mean gives infinity, which is no whole number.
            value = math.floor(min(-self.mean * math.log1p(-u) + 0.5, float(self.maximum)))
        return min(max(value, self.minimum), self.maximum)


def _poisson_quantile(mean: float, u: float) -> int:
    if mean > 500:  # here the normal distribution is as good, and no table has to be kept
        return max(0, math.floor(NormalDist(mean, math.sqrt(mean)).inv_cdf(u) + 0.5))
    return bisect_right(_poisson_cdf(mean), u)


@lru_cache(maxsize=64)
def _poisson_cdf(mean: float) -> tuple[float, ...]:
    """P(X <= k) for k = 0, 1, ... until the rest is too small to be met."""
    table: list[float] = []
    term = math.exp(-mean)
    total = term
    while term > 1e-18 or len(table) < mean:
        table.append(total)
        term *= mean / len(table)
        total += term
    return tuple(table)
