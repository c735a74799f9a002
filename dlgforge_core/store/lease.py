"""A worker's lease by its own clock: whether it may make a call now.

The lease is renewed in Postgres. A worker knows when it last asked for that and Postgres agreed: for the
lease's length from then on no other worker takes its dialogues, unless Postgres has lost its sessions.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

WRITE_STALL_S = 3.0
"""How long a write may take before no further call is made: what calls give could perhaps not be saved."""


def clock() -> float:
    """Seconds that go on while the process is stopped and, where the system tells, the machine asleep."""
    boot_time = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boot_time is None else time.clock_gettime(boot_time)


class Lease:
    """Permits calls while the dialogues are this worker's own and what calls give can be saved.

    It is in doubt from the start, when its time is over, and from `doubt` until `renewed`; then `on_doubt`
    is called, for whoever can have it renewed. Belongs to one event loop.
    """

    def __init__(self, length_s: float, now: Callable[[], float] = clock) -> None:
        self.on_doubt: Callable[[], None] = lambda: None
        """Called when the lease should be renewed at once."""
        self.look: Callable[[], None] = lambda: None
        """Called before each call, to put the lease in doubt if need be."""
        self._length_s = length_s
        self._now = now
        self._until = float("-inf")
        self._writing_since: float | None = None
        self._changed = asyncio.Event()

    @property
    def holds(self) -> bool:
        """Whether a call may be made now."""
        now = self._now()
        return now < self._until and (
            self._writing_since is None or now - self._writing_since < WRITE_STALL_S
        )

    async def permit(self) -> None:
        """Wait until a call may be made; as a rule that is at once."""
        self.look()
        while not self.holds:
            self._changed.clear()
            if self._now() >= self._until:
                self.on_doubt()
            await self._changed.wait()

    def now(self) -> float:
        """Return the time to give to `renewed`, to be read before asking."""
        return self._now()

    def renewed(self, asked_at: float) -> None:
        """Postgres has agreed to what was asked for at that time."""
        self._until = asked_at + self._length_s
        self._changed.set()

    def doubt(self) -> None:
        """Something was lost that the lease may hang on, a connection say."""
        self._until = float("-inf")
        self.on_doubt()

    def writing(self, under_way: bool) -> None:
        """Note that a write begins, or has ended."""
        self._writing_since = self._now() if under_way else None
        if not under_way:
            self._changed.set()
