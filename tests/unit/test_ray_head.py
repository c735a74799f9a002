"""The watch of a cluster's head."""

from __future__ import annotations

import socket
import time

import pytest

from dlgforge_core.runtime.cluster import head as ray_head
from dlgforge_core.runtime.cluster.head import HeadWatch
from tests.support.waiting import wait_until


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_head, "LOOK_S", 0.05)
    monkeypatch.setattr(ray_head, "LOST_AFTER_S", 0.5)


def listening(port: int = 0) -> socket.socket:
    return socket.create_server(("127.0.0.1", port))


def test_a_head_that_goes_is_lost_after_a_while_and_found_again() -> None:
    head = listening()
    port = head.getsockname()[1]
    watch = HeadWatch(f"127.0.0.1:{port}", {})
    try:
        time.sleep(0.8)
        assert watch.lost == ""
        head.close()
        time.sleep(0.2)
        assert watch.lost == "", "it may come back"
        wait_until(lambda: watch.lost != "", 30, "the head is lost")
        assert f"127.0.0.1:{port} has been out of reach for" in watch.lost
        assert "Connection refused" in watch.lost
        with listening(port):
            wait_until(lambda: watch.lost == "", 30, "the head is found")
    finally:
        watch.stop()


def test_whoever_has_ray_wait_longer_has_us_wait_longer() -> None:
    with listening() as head:
        port = head.getsockname()[1]
    watch = HeadWatch(f"127.0.0.1:{port}", {"RAY_gcs_rpc_server_reconnect_timeout_s": "120"})
    try:
        time.sleep(1.0)
        assert watch.lost == ""
    finally:
        watch.stop()
