"""Looks after the head of a Ray cluster, without which Ray ends every process that is connected to it."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Mapping

LOOK_S = 5.0
LOST_AFTER_S = 20.0
"""For how many seconds the head may be out of reach before it counts as lost."""
TCP_TIMEOUT_S = 5.0
# Ray gives its head this long to come back, then ends the process, without a word to the code that runs in
# it. Where heads are known to come back, users make it longer.
_RAY_PATIENCE = "RAY_gcs_rpc_server_reconnect_timeout_s"
_RAY_PATIENCE_S = 60.0


class HeadWatch:
    """Looks every few seconds whether the head at `address` (`host:port`) takes connections.

    What is lost is found out long enough before Ray ends this process to end everything in order.
    """

    def __init__(self, address: str, env: Mapping[str, str] = os.environ) -> None:
        self._address = address
        self._lost_after_s = LOST_AFTER_S
        with contextlib.suppress(ValueError):  # unset
            self._lost_after_s += max(0.0, float(env.get(_RAY_PATIENCE, "")) - _RAY_PATIENCE_S)
        self._lost = ""
        self._stopping = threading.Event()
        threading.Thread(target=self._watch, name="ray-head-watch", daemon=True).start()

    @property
    def lost(self) -> str:
        """Why the head counts as lost; empty while it is there."""
        return self._lost

    def stop(self) -> None:
        """Look no more."""
        self._stopping.set()

    def _watch(self) -> None:
        seen = time.monotonic()
        while not self._stopping.wait(LOOK_S):
            problem = tcp_problem(self._address)
            now = time.monotonic()
            if not problem:
                seen, self._lost = now, ""
            elif now - seen > self._lost_after_s:
                self._lost = (
                    f"the head of the Ray cluster at {self._address} has been out of reach for "
                    f"{now - seen:.0f} s ({problem}); a head that does not come back ends its whole cluster"
                )


def tcp_problem(address: str) -> str:
    """Why nothing can be reached at `host:port`; empty when something listens."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), TCP_TIMEOUT_S).close()
    except OSError as error:
        return f"{error.strerror or error}"
    return ""
