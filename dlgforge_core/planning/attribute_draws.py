"""Draws of attributes: even in each prefix of the sequence, and over the languages together.

Of each distribution, which is an attribute's in one case, the dialogues so far have every value as often as
its share of them says, rounded up or down. It is a schedule with windows: the i-th dialogue with a value
whose share is w comes after (i - 1)/w and no later than i/w. There always is one that keeps to all windows.
Of the values that leave such a schedule possible, the one is taken that has come too seldom together with
the dialogue's other values and its language, so that attributes do not go in step.

All of it is in whole numbers, and in the alphabet's order: the same on any machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import reduce
from math import gcd, lcm

import numpy as np

from dlgforge_core.config import AttributeConfig
from dlgforge_core.config.attributes import drawing_order

_MAX_PERIOD = 10_000
"""Most dialogues after which shares come out exactly; those that would need more are rounded."""
_LANGUAGE = ""
"""What the language is called among the attributes that one is kept independent of."""


class AttributeSequence:
    """The attributes of a seed batch's dialogues: in the languages in turn, and ordinal by ordinal.

    They are drawn one after the other: a dialogue's depend on those before it, and not on how many follow.
    """

    def __init__(
        self, attributes: Mapping[str, AttributeConfig], key: bytes, languages: Sequence[str]
    ) -> None:
        self._attributes = {name: attributes[name] for name in drawing_order(attributes)}
        self._key = key
        self._indices = {language: index for index, language in enumerate(languages)}
        self._languages = list(languages)
        self._draws: dict[tuple[str, int], _EvenDraws] = {}
        self._drawn: list[dict[str, str]] = []
        self._equal: dict[tuple[str, ...], dict[str, str]] = {}

    def of(self, language: str, ordinal: int) -> dict[str, str]:
        """Return the attributes of a dialogue, by name."""
        number = ordinal * len(self._indices) + self._indices[language]
        while len(self._drawn) <= number:
            self._drawn.append(self._next(len(self._drawn)))
        return self._drawn[number]

    def _next(self, number: int) -> dict[str, str]:
        values = {_LANGUAGE: self._languages[number % len(self._languages)]}
        for name, attribute in self._attributes.items():
            case = attribute.case_of(values)
            if (draws := self._draws.get((name, case))) is None:
                draws = self._draws[name, case] = _EvenDraws(attribute.weights_of(case))
            values[name] = draws.draw(values, self._random(number, name))
        del values[_LANGUAGE]
        found = {name: values[name] for name in sorted(values)}
        # Few are different, in a plan that may be long.
        return self._equal.setdefault(tuple(found.values()), found)

    def _random(self, number: int, name: str) -> int:
        content = f"{number}:{name}".encode()
        return int.from_bytes(hashlib.blake2b(content, key=self._key, digest_size=8).digest(), "little")


class _EvenDraws:
    """Draws from one distribution, in periods in which each value has exactly its share."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        self._values = sorted(weights)
        self._shares = whole_shares([weights[value] for value in self._values])
        self._period = sum(self._shares)
        self._longest = -(-self._period // min(self._shares))
        """The longest window."""
        self._position = 0
        self._taken = [0] * len(self._values)
        self._due = np.zeros(0, np.int64)
        self._together: dict[tuple[str, str], list[int]] = {}

    def draw(self, others: Mapping[str, str], random: int) -> str:
        """Return the next value, for a dialogue with these other values."""
        if self._position % self._period == 0:
            self._begin()
        self._position += 1
        beside = [self._together.setdefault(pair, [0] * len(self._values)) for pair in others.items()]
        seen = sum(map(sum, beside))
        surplus = {i: self._surplus(i, beside, seen) for i in self._possible()}
        lowest = min(surplus.values())
        least = [i for i, value in surplus.items() if value == lowest]
        chosen = least[random % len(least)]
        self._due[self._deadline(chosen)] -= 1
        self._taken[chosen] += 1
        for counts in beside:
            counts[chosen] += 1
        return self._values[chosen]

    def _begin(self) -> None:
        """Begin a period, with the number of draws that are due at each place of it."""
        self._position = 0
        self._taken = [0] * len(self._values)
        self._due = np.zeros(self._period + 1, np.int64)
        for share in self._shares:  # of one value each draw is due at another place
            self._due[-(-np.arange(1, share + 1) * self._period // share)] += 1

    def _possible(self) -> list[int]:
        """Return the values after which every draw that is due can still be made in time."""
        due = self._due[self._position : self._position + self._longest + 1].cumsum()
        # Up to here no place is left for any that is due later.
        full = np.flatnonzero(due == np.arange(1, len(due) + 1))
        limit = self._position + int(full[0]) if len(full) else self._period
        return [
            i
            for i, share in enumerate(self._shares)
            if self._taken[i] * self._period < self._position * share and self._deadline(i) <= limit
        ]

    def _deadline(self, i: int) -> int:
        return -(-(self._taken[i] + 1) * self._period // self._shares[i])

    def _surplus(self, i: int, beside: Sequence[Sequence[int]], seen: int) -> int:
        """How much more often than its share says a value has come together with the others."""
        return sum(counts[i] for counts in beside) * self._period - seen * self._shares[i]


def whole_shares(weights: Sequence[float]) -> list[int]:
    """Return weights as the smallest whole numbers in the same proportions, or nearly, each 1 at least."""
    exact = [Fraction(str(weight)) for weight in weights]
    scale = lcm(*(weight.denominator for weight in exact))
    counts = [int(weight * scale) for weight in exact]
    if (total := sum(counts)) // reduce(gcd, counts) > _MAX_PERIOD:
        counts = [max(1, (2 * count * _MAX_PERIOD + total) // (2 * total)) for count in counts]
    common = reduce(gcd, counts)
    return [count // common for count in counts]
