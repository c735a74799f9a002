"""Points at which a worker kills itself with SIGKILL: from a call of a tool to the record of its result."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from dlgforge_core.conversation.outcomes import Outcome, ToolResults, ToolsCalled
from dlgforge_core.prompting import tool_simulator
from dlgforge_core.state_changes import Change
from dlgforge_core.store import writes
from dlgforge_core.store.worker_store import WorkerStore

POINTS = ("called", "result", "patch", "recording", "recorded")
"""After a call is recorded; with a result that is not; in mid-patch; while it is recorded; after that."""


def die_at(point: str, nth: int) -> None:
    """Have this process killed when it comes to a point for the nth time."""
    due = _due(nth)
    if point == "patch":
        _replace(tool_simulator, "changed", lambda original: _half(original, due))
    elif point == "recording":
        _replace(writes, "_send", lambda original: _sending(original, due))
    else:
        _replace(WorkerStore, "record", lambda original: _recording(original, point, due))


def _replace(owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    setattr(owner, name, make(getattr(owner, name)))


def _due(nth: int) -> Callable[[], bool]:
    left = iter(range(nth - 1))
    return lambda: next(left, None) is None


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _half(original: Any, due: Callable[[], bool]) -> Any:
    def changed(document: Any, changes: Iterable[Change]) -> Any:
        every = list(changes)
        if due():
            original(document, every[: len(every) // 2])
            _die()
        return original(document, every)

    return changed


def _sending(original: Any, due: Callable[[], bool]) -> Any:
    async def send(connection: Any, run: Any, kind: Any, rows: Mapping[type, list[dict[str, Any]]]) -> Any:
        patched = kind is writes.RecordOutcome and any(_patched(row["data"]) for row in rows[kind])
        if patched and due():
            asyncio.get_running_loop().call_later(0.0005, _die)  # about when Postgres is at it
        return await original(connection, run, kind, rows)

    return send


def _patched(data: Mapping[str, Any]) -> bool:
    return any(event.get("changes") for event in data.get("events", ()))


def _recording(original: Any, point: str, due: Callable[[], bool]) -> Any:
    kind = ToolsCalled if point == "called" else ToolResults

    async def record(self: WorkerStore, *where: Any, **named: Any) -> None:
        outcome: Outcome = named.get("outcome") or where[-1]
        fits = isinstance(outcome, kind) and due()
        if fits and point == "result":
            _die()
        await original(self, *where, **named)
        if fits:
            _die()

    return record
