"""What a status line tells of calls."""

from __future__ import annotations

from typing import Any

import pytest

from dlgforge_core.llm.call_figures import CallFigures, UnderWay
from dlgforge_core.llm.stats import CallStats
from dlgforge_core.usage import Spending


def calls(answered: int, tokens: int) -> CallStats:
    """Return stats with so many answered calls and tokens."""
    stats = CallStats()
    counts = stats.of("a", "user")
    counts.calls, counts.completion_tokens = answered, tokens
    return stats


@pytest.mark.parametrize(
    ("answered", "tokens", "under_way", "expected"),
    [
        (0, 0, UnderWay(4, 42.4), "0 calls answered, 4 under way, the oldest for 42 s, 0 tokens"),
        (1, 12, UnderWay(3, 3.0), "1 call answered, 3 under way, 12 tokens (0/s)"),
        (3, 1234, UnderWay(1, 3.0), "3 calls answered, 1 under way, 1,234 tokens (12/s)"),
        (5000, 700_000, UnderWay(), "5,000 calls answered (50.0/s), 700,000 tokens (7,000/s)"),
    ],
)
def test_a_line_tells_what_goes_on(answered: int, tokens: int, under_way: UnderWay, expected: str) -> None:
    assert str(CallFigures.of(calls(answered, tokens), 100.0, under_way)) == expected


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        (Spending(1.5, 0), "7 calls answered (0.1/s), 70 tokens (1/s), $1.50"),
        (Spending(0.0, 3), "7 calls answered (0.1/s), 70 tokens (1/s), cost unknown"),
    ],
)
def test_a_line_tells_what_the_calls_have_cost(before: Spending, expected: str) -> None:
    assert str(CallFigures.of(calls(7, 70), 100.0, UnderWay(), before)) == expected


@pytest.mark.parametrize(
    ("under_way", "expected"),
    [
        (UnderWay(), ""),
        (UnderWay(dialogues=8, turns=(1, 1)), "8 open in turn 1"),
        (UnderWay(dialogues=8, turns=(1, 3)), "8 open in turns 1 to 3"),
    ],
)
def test_how_far_the_open_dialogues_are(under_way: UnderWay, expected: str) -> None:
    assert under_way.dialogues_text() == expected


def test_workers_are_added_up_but_for_those_that_are_gone() -> None:
    stats: list[dict[str, Any]] = [
        {"updated_at": 100.0, "under_way": UnderWay(3, 5.0, 4, (2, 3)).to_json()},
        {"updated_at": 95.0, "under_way": UnderWay(2, 9.0, 2, (1, 1)).to_json()},
        {"updated_at": 96.0, "under_way": UnderWay().to_json()},
        {"updated_at": 20.0, "under_way": UnderWay(9, 99.0, 9, (9, 9)).to_json()},
        {"updated_at": 99.0},  # of an older version
    ]
    assert UnderWay.of_workers(stats) == UnderWay(5, 9.0, 6, (1, 3))
    assert UnderWay.of_workers([]) == UnderWay()
