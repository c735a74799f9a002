"""Watch of the embedded server's supervisor: it is there for as long as this process uses the server."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from dlgforge_core.errors import StoreError

WATCH_S = 0.5
"""How often is looked; a look is one lock that is tried."""
_LONGEST_PAUSE_S = 30.0

_log = logging.getLogger(__name__)


class SupervisorWatch:
    """A thread that looks for the supervisor until `stop`, or until `look` says that it is of no use.

    `look` has a supervisor that is gone started anew; it says whether to go on, and raises StoreError or
    OSError when the server cannot be started.
    """

    def __init__(self, look: Callable[[], bool]) -> None:
        self._look = look
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="embedded-postgres-watch", daemon=True)
        self._thread.start()

    @property
    def runs(self) -> bool:
        """Whether the thread is there: not so in a forked child."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Look no more; returns at once."""
        self._stopping.set()

    def _run(self) -> None:
        pause_s = WATCH_S
        while not self._stopping.wait(pause_s):
            try:
                if not self._look():
                    return
                pause_s = WATCH_S
            except (StoreError, OSError) as error:
                if pause_s == WATCH_S:
                    _log.warning("the embedded Postgres is gone and cannot be started again: %s", error)
                pause_s = min(_LONGEST_PAUSE_S, pause_s * 2)
