"""`auto_stop_on_exit: false` on a cluster that is not ours: the servers stay, and the next run uses them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import ray

from dlgforge_core.config import RayConfig, VllmConfig
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.runtime.cluster.session import RaySession
from dlgforge_core.runtime.serving.vllm_provisioner import VllmManagedProvisioner
from tests.support.processes import alive, descendants, line_of, program
from tests.support.waiting import seconds_until
from tests.vllm.servers import settings

pytestmark = pytest.mark.timeout(600)

HEAD = """
import sys, time, ray
from ray.cluster_utils import Cluster
ray._private.utils.write_ray_address = lambda *_: None
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
print("address", cluster.address, flush=True)
time.sleep(600)
"""


@pytest.fixture
def address() -> Iterator[str]:
    with program(HEAD) as process:
        yield line_of(process, "address")
        parts = descendants(process.pid)
        process.kill()
        for part in parts:
            if part.is_running():
                part.kill()
    seconds_until(lambda: not alive(parts), 20)


def run(address: str, config: VllmConfig) -> tuple[list[Endpoint], float]:
    """One run from start to stop: the endpoints it had, and the seconds until they were ready."""
    with RaySession(RayConfig(address=address)) as session:
        servers = VllmManagedProvisioner(config, session)
        try:
            started = time.monotonic()
            endpoints = servers.start(print)
            return endpoints, time.monotonic() - started
        finally:
            servers.stop()


def test_servers_stay_are_found_again_and_replaced(address: str, tiny_llama: Path) -> None:
    first, _ = run(address, settings(tiny_llama, auto_stop_on_exit=False))
    assert not first[0].base_url.startswith("http://127."), "other nodes could not reach it"
    again, took = run(address, settings(tiny_llama, auto_stop_on_exit=False))
    assert again == first
    assert took < 10
    headers = {"Authorization": f"Bearer {first[0].api_key}"}
    assert httpx.get(f"{first[0].base_url}/models", headers=headers, timeout=60).status_code == 200
    # Other settings: the old server goes first.
    other, _ = run(address, settings(tiny_llama, auto_stop_on_exit=False, max_num_seqs=4))
    assert other[0].base_url != first[0].base_url
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{first[0].base_url}/models", headers=headers, timeout=60)
    with RaySession(RayConfig(address=address)) as session:
        session.connect()
        actor = ray.get_actor("vllm-0-tiny", namespace="dlgforge")
        status: Any = ray.get(actor.status.remote())
        supervisor = psutil.Process(status.pid)
        parts = [supervisor, *supervisor.children(recursive=True)]
        assert len(parts) >= 4
        ray.kill(actor)  # without a stop(): Ray also kills the actor's children, but not theirs
        seconds_until(lambda: not alive(parts), 20)
