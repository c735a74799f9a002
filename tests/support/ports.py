"""Ports of loopback: one that refuses connections, one to listen on."""

from __future__ import annotations

import contextlib
import random
import socket
from collections.abc import Iterator


@contextlib.contextmanager
def closed_port() -> Iterator[int]:
    """Yield a port nobody listens on, and nobody else gets meanwhile."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def free_port() -> int:
    """Return a port that a server may listen on: free now, and none of those that the system gives out.

    Between this and the server's start others ask for many, as the parts of a Ray cluster do.
    """
    while True:
        port = random.randint(20_000, 32_000)  # above Ray's workers, below the usual ephemeral ports
        with socket.socket() as bound, contextlib.suppress(OSError):
            bound.bind(("127.0.0.1", port))
            return port
