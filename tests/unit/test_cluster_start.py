"""Starting a local Ray cluster: whose SIGTERM it stays, and how long its node is waited for."""

from __future__ import annotations

import ctypes
import signal
import threading
import time
from typing import Any, cast

import pytest
from ray._private import services

from dlgforge_core.runtime.cluster import start
from dlgforge_core.runtime.cluster.signals import handler_kept


@pytest.mark.parametrize("from_main", [True, False])
def test_a_handler_replaced_below_python_is_put_back(from_main: bool) -> None:
    received: list[int] = []
    elsewhere: list[int] = []
    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(elsewhere.append)

    def replace() -> None:
        with handler_kept(signal.SIGTERM):
            libc = ctypes.CDLL(None)
            libc.signal.restype = ctypes.c_void_p
            libc.signal(int(signal.SIGTERM), handler)

    before = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    try:
        if from_main:
            replace()
        else:
            thread = threading.Thread(target=replace)
            thread.start()
            thread.join()
        signal.raise_signal(signal.SIGTERM)
        time.sleep(0.01)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (received, elsewhere) == ([signal.SIGTERM], [])


def looked_up(monkeypatch: pytest.MonkeyPatch, ready_after: int, lives: bool = True) -> tuple[Any, list[str]]:
    """Return what Ray's look-up gives when the node is there at the n-th look, and the messages."""
    looks: list[int] = []

    def get_node(*_: Any) -> str:
        looks.append(1)
        if len(looks) < ready_after:
            raise RuntimeError("no node info")
        return "the node"

    monkeypatch.setattr(services, "get_node", get_node)
    monkeypatch.setattr(start, "_POLL_S", 0.01)
    monkeypatch.setattr(start, "_REPORT_EVERY_S", 0.05)
    monkeypatch.setattr(start, "_raylet_lives", lambda: lives)
    message: list[str] = []
    with start.patient_start(message.append, timeout_s=0.3):
        found: str = cast(Any, services).get_node("address", "id")
    assert services.get_node is get_node
    return found, message


def test_a_node_that_takes_its_time_is_waited_for_and_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    found, message = looked_up(monkeypatch, 12)
    assert found == "the node"
    assert "still starting" in message[0]


@pytest.mark.parametrize(("looks", "lives"), [(10_000, True), (3, False)])
def test_a_node_that_does_not_come_or_has_died_is_not(
    monkeypatch: pytest.MonkeyPatch, looks: int, lives: bool
) -> None:
    with pytest.raises(RuntimeError, match="no node info"):
        looked_up(monkeypatch, looks, lives)
