"""How often something that is lost again and again is started anew."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

WINDOW_S = 600.0
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 15.0


class RestartBudget:
    """At most `limit` restarts in any ten minutes, each after twice the pause of the one before.

    A window, not a total: a run of days on nodes that come and go must not die of its tenth loss.
    """

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit = limit
        """Restarts in any ten minutes."""
        self._clock = clock
        self._spent: deque[float] = deque()

    def grow(self, n: int) -> None:
        """Allow `n` more."""
        self.limit += n

    def spend(self) -> float | None:
        """Seconds to wait before the restart; None when there were too many."""
        now = self._clock()
        while self._spent and now - self._spent[0] > WINDOW_S:
            self._spent.popleft()
        if len(self._spent) >= self.limit:
            return None
        self._spent.append(now)
        doublings = min(10, len(self._spent) - 1)  # bounded: a large cluster's budget would overflow a float
        return min(LONGEST_PAUSE_S, FIRST_PAUSE_S * (1 << doublings))
