"""Sorts of questions: which one each turn of a dialogue wants."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence


def question_kinds(kinds: Sequence[str], seed: int, dialogue_id: str, n_turns: int) -> list[str]:
    """Return what sort of question each of the first turns wants, the same in every run of the plan.

    Each dialogue has an order of its own and uses every kind once before any again.
    """
    order = sorted(kinds, key=lambda kind: hashlib.blake2b(f"{seed}:{dialogue_id}:{kind}".encode()).digest())
    return list(itertools.islice(itertools.cycle(order), n_turns))
