"""Survey of a Ray cluster: its version and nodes, without this process's connecting to it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from dlgforge_core.errors import RayError
from dlgforge_core.runtime.cluster.address import PROBE_TIMEOUT_S, bare_address

# In a process of its own, as with `address.problem_at`.
_SURVEY = """
import json, sys
from ray._raylet import GcsClient
client = GcsClient(address=sys.argv[1])
metadata = client.internal_kv_get(b"CLUSTER_METADATA", namespace=b"cluster", timeout=10)
nodes = client.get_all_node_info(timeout=10).values()
alive = [
    {"host": node.node_manager_hostname, "resources": dict(node.resources_total)}
    for node in nodes if node.state == 0
]
print(json.dumps({"metadata": json.loads(metadata or b"{}"), "nodes": alive}))
"""


@dataclass(frozen=True, slots=True)
class Node:
    """A living node of a cluster."""

    host: str
    resources: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Survey:
    """A cluster; its versions are empty where it does not tell them."""

    ray_version: str
    python_version: str
    nodes: tuple[Node, ...]

    @property
    def single_machine(self) -> bool:
        """Whether all nodes are on this machine, and so reach its loopback."""
        return all(node.host in (socket.gethostname(), os.uname().nodename) for node in self.nodes)

    def total(self, resource: str) -> float:
        """How much of a resource all nodes have together, free or not."""
        return sum(node.resources.get(resource, 0.0) for node in self.nodes)

    def largest(self, resource: str) -> float:
        """How much of a resource the node with most of it has."""
        return max((node.resources.get(resource, 0.0) for node in self.nodes), default=0.0)


def survey(address: str) -> Survey:
    """Return what the cluster at `host:port` is, one that was found to answer. Raises RayError."""
    try:
        looked = subprocess.run(
            [sys.executable, "-c", _SURVEY, bare_address(address)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PROBE_TIMEOUT_S,
            check=True,
        )
        found = json.loads(looked.stdout.splitlines()[-1])
    except (subprocess.SubprocessError, ValueError, IndexError) as error:
        raise RayError(
            f"the Ray cluster at {address} does not tell what it is ({type(error).__name__})"
        ) from None
    metadata = found["metadata"]
    return Survey(
        str(metadata.get("ray_version", "")),
        str(metadata.get("python_version", "")),
        tuple(Node(str(node["host"]), node["resources"]) for node in found["nodes"]),
    )
