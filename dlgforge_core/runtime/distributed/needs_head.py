"""Work that needs the head of a Ray cluster ends in order when the head is lost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dlgforge_core.errors import RunStoppedError
from dlgforge_core.scheduling.background import Runner, WorkResult

_STOP_S = 12.0


class NeedsHead:
    """Work in this process that calls servers on a Ray cluster: it ends in order when the head is lost.

    `head_lost` returns why the head counts as lost; empty while it is there. `disconnect` is called once the
    work has ended then, for Ray would soon end this process.
    """

    def __init__(self, runner: Runner, head_lost: Callable[[], str], disconnect: Callable[[], None]) -> None:
        self._runner = runner
        self._head_lost, self._disconnect = head_lost, disconnect
        self._reason = ""

    def start(self) -> None:
        """Begin to work."""
        self._runner.start()

    def wait(self, timeout_s: float) -> bool:
        """Whether it has ended within `timeout_s` seconds."""
        if self._reason:
            return True
        if reason := self._head_lost():
            self._reason = reason
            self._runner.stop(reason)
            self._runner.wait(_STOP_S)
            self._disconnect()
            return True
        return self._runner.wait(timeout_s)

    def stop(self, reason: str) -> None:
        """Ask it to end."""
        self._runner.stop(reason)

    def stats(self) -> Mapping[str, Any] | None:
        """Return what the workers have counted so far."""
        return self._runner.stats()

    def result(self) -> WorkResult:
        """Return what came out. Raises RunStoppedError when the head was lost, or what the work raised."""
        if self._reason:
            raise RunStoppedError(self._reason)
        return self._runner.result()
