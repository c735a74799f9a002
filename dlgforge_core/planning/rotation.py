"""Rotation: the first few dialogues of a run's plans are of all languages and seed batches in turn."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Protocol, TypeVar


class _Part(Protocol):
    @property
    def batch(self) -> str:
        """The seed batch."""

    @property
    def language(self) -> str:
        """The language."""

    @property
    def n_dialogues(self) -> int:
        """How many dialogues there are."""


P = TypeVar("P", bound=_Part)


def in_rotation(plans: Sequence[P]) -> Iterator[tuple[P, int]]:
    """Yield the plans' dialogues, each as its plan and ordinal: the first of each plan before any second.

    Of the plans each language comes before any comes again, with another seed batch. As a plan's topics,
    personas and attributes are spread evenly over every prefix of it, so are those of the first few.
    """
    batches = list(dict.fromkeys(plan.batch for plan in plans))
    languages = list(dict.fromkeys(plan.language for plan in plans))

    def rank(plan: P) -> tuple[int, int]:
        language = languages.index(plan.language)
        return (batches.index(plan.batch) - language) % len(batches), language

    order = sorted(plans, key=rank)
    for ordinal in range(max((plan.n_dialogues for plan in plans), default=0)):
        yield from ((plan, ordinal) for plan in order if ordinal < plan.n_dialogues)


_GOLDEN = (math.sqrt(5) - 1) / 2


def spread(number: int) -> float:
    """Return the share of a distribution below what comes as `number`, from 0: every few cover it evenly."""
    return (0.5 + number * _GOLDEN) % 1.0
