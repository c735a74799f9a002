"""How often a session writes a status line."""

from __future__ import annotations

_FIRST_LINE_S = 3.0
_MOST_SILENCE_S = 60.0


class Pace:
    """When a status line is worth it: when something has changed, ever more rarely, else once a minute."""

    def __init__(self) -> None:
        self._counts: object = None
        self._last_s = 0.0
        self._next_s = _FIRST_LINE_S

    def due(self, elapsed_s: float, counts: object) -> bool:
        """Whether to write a line now, `elapsed_s` into the session; `counts` are what it would tell."""
        if elapsed_s < self._next_s:
            return False
        if counts == self._counts and elapsed_s < self._last_s + _MOST_SILENCE_S:
            return False
        # A long session reports ever more rarely, so that the event log stays bounded.
        self._counts, self._last_s = counts, elapsed_s
        self._next_s = elapsed_s + max(_FIRST_LINE_S, elapsed_s / 20)
        return True
