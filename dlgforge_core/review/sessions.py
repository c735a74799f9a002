"""State of the page's server: its connections, and the index that it keeps up to date in the background."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from dlgforge_core.database.connection import Connection
from dlgforge_core.database.database import Database
from dlgforge_core.errors import StoreError
from dlgforge_core.review.index import Choices, read_choices, update_index

T = TypeVar("T")

_APPLICATION = "dlgforge review"
_PATIENCE_S = 5.0
_PAUSE_S = 3.0
_PAUSES_PER_UPDATE = 20
"""How many times as long as an update took the next one waits: looking for changes must cost little."""


class ReviewState:
    """What the pages draw on. `close` ends it.

    A thread of its own brings the index up to date when `refresh` asks for it: pages show what there is.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        self._connection = database.reconnecting(_APPLICATION, _PATIENCE_S)
        self._lock = threading.Lock()  # a connection is for one thread at a time
        self._stopping = threading.Event()
        self._wanted = threading.Event()
        self._settled = threading.Event()
        self._updating = database.reconnecting(f"{_APPLICATION} index", _PATIENCE_S, self._stopping)
        self.choices = Choices()
        self.indexing = 0
        """How many dialogues the update under way has indexed."""
        self.problem = ""
        """Why the index could not be brought up to date."""
        self._thread = threading.Thread(target=self._keep_up, name="review index", daemon=True)
        self._thread.start()

    def run(self, work: Callable[[Connection], T]) -> T:
        """Return the result of `work` on the pages' connection. Raises StoreError."""
        with self._lock:
            return self._connection.run(work)

    def refresh(self, wait_s: float = 0.0) -> None:
        """Have the index brought up to date, and wait for it up to `wait_s` seconds."""
        self._settled.clear()
        self._wanted.set()
        self._settled.wait(wait_s)

    def close(self) -> None:
        """End the thread and the connections."""
        self._stopping.set()
        self._wanted.set()
        self._thread.join(_PATIENCE_S)
        with self._lock:
            self._connection.close()

    def _keep_up(self) -> None:
        while self._wanted.wait() and not self._stopping.is_set():
            self._wanted.clear()
            started = time.monotonic()
            try:
                changed = self._updating.run(lambda connection: update_index(connection, self._on_progress))
                if changed or not self.choices.values:
                    self.choices = self._updating.run(read_choices)
                self.problem = ""
            except StoreError as error:
                self.problem = str(error)
            except _Stopped:
                break
            self.indexing = 0
            self._settled.set()
            self._stopping.wait(max(_PAUSE_S, _PAUSES_PER_UPDATE * (time.monotonic() - started)))
        with contextlib.suppress(StoreError):
            self._updating.close()

    def _on_progress(self, done: int) -> None:
        self.indexing = done
        if self._stopping.is_set():
            raise _Stopped


class _Stopped(Exception):
    """The server ends while the index is brought up to date."""
