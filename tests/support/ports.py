"""Ports of loopback: one that refuses connections, one to listen on."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator


@contextlib.contextmanager
def closed_port() -> Iterator[int]:
    """Yield a port nobody listens on, and nobody else gets meanwhile."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def free_port() -> int:
    """Return a port that a server may listen on: free now, and not promised to anybody."""
    with closed_port() as port:
        return port
