"""The Ray actor that holds one vLLM server on the node where Ray placed it."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass

from dlgforge_core.config import VllmConfig
from dlgforge_core.runtime.serving.vllm_metrics import ReplicaMetrics
from dlgforge_core.runtime.serving.vllm_server import ReplicaStatus, VllmServer, find_binary

# Methods that may run at once: `stop` must not wait for a slow `metrics`.
CONCURRENT_CALLS = 4


@dataclass(frozen=True, slots=True)
class Placement:
    """Where an actor runs, and whether vLLM is there."""

    node: str
    address: str
    pid: int
    binary: str


class VllmReplica:
    """One server, on the node's own address. All methods return quickly."""

    def __init__(self, config: VllmConfig, name: str) -> None:
        import ray

        self._config = config
        # 127.0.0.1 in a local cluster of ours
        self._address: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        self._node = f"{socket.gethostname()} ({self._address})"
        self._server = VllmServer(config, self._address, name, self._node)

    def placement(self) -> Placement:
        """Where this is."""
        return Placement(self._node, self._address, os.getpid(), find_binary(self._config))

    def config(self) -> VllmConfig:
        """Return what it serves."""
        return self._config

    def start(self) -> None:
        """Begin to start the server. Raises BackendError when there is no `vllm` program."""
        self._server.start()

    def status(self) -> ReplicaStatus:
        """Return the server's state, address and key. The key travels by this call alone."""
        return self._server.status()

    def metrics(self) -> ReplicaMetrics:
        """Return the server's figures. Raises BackendError when they cannot be read."""
        return self._server.metrics()

    def stop(self) -> None:
        """End the server in order; takes as long as that takes, 20 s at most."""
        self._server.stop()
