"""How often a session writes a status line."""

from __future__ import annotations

from dlgforge_core.scheduling.pace import Pace


def lines(counts_at: dict[int, int], seconds: int) -> list[int]:
    """Return when lines are written in a session that is looked at every second."""
    pace, counts, written = Pace(), 0, []
    for second in range(1, seconds + 1):
        counts = counts_at.get(second, counts)
        if pace.due(float(second), counts):
            written.append(second)
    return written


def test_a_line_a_minute_while_nothing_changes() -> None:
    assert lines({}, 600) == [3, 63, 123, 183, 243, 303, 363, 423, 483, 543]


def test_a_change_is_reported_at_once() -> None:
    assert lines({20: 1, 21: 2}, 60) == [3, 20, 23]


def test_lines_become_rarer_in_a_long_session() -> None:
    written = lines({second: second for second in range(100_000)}, 100_000)
    assert written[:3] == [3, 6, 9]
    assert len(written) < 200
    assert written[-1] - written[-2] > 3_600
