"""The same job from a node and from outside; servers are where workers reach them, and closed to others."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest

from dlgforge_core.runtime.cluster.head import tcp_problem
from dlgforge_core.store.run_store import RunStore
from tests.cluster.cluster import Cluster, job, recipe
from tests.cluster.machines import Machine
from tests.end_to_end.job import ROOT
from tests.support.http import CLIENT
from tests.support.processes import command_line
from tests.support.run_state import worker_processes
from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(400)

STAND_IN = """#!{python}
import json, os, sys
options = {{"api_key": os.environ["VLLM_API_KEY"], "models": ["m"], "latency_s": 0.4}}
kept, ours = os.pipe()
os.write(ours, json.dumps(options).encode() + b"\\n")
os.dup2(kept, 0)
os.set_inheritable(ours, True)  # so that its input never ends
os.chdir({root!r})
where = ["--host", sys.argv[4], "--port", sys.argv[6], "--options", "-"]
os.execv(sys.executable, [sys.executable, "-m", "tests.support.simulated_endpoint", *where])
"""


@pytest.fixture
def managed(tmp_path: Path) -> dict[str, Any]:
    """Return `llm` of a recipe with two managed servers; what stands in for vLLM answers as it does."""
    program = tmp_path / "bin" / "vllm"
    program.parent.mkdir()
    program.write_text(STAND_IN.format(python=sys.executable, root=str(ROOT)))
    program.chmod(0o755)
    env = {"PATH": str(program.parent)}
    vllm = {"model": "m", "served_model_name": "m", "replicas": 2, "num_gpus_per_replica": 0.0, "env": env}
    return {"backend": "vllm_managed", "model": "m", "vllm": vllm}


def servers(cluster: Cluster) -> list[psutil.Process]:
    """Return the processes of the managed servers."""
    found = [process for node in cluster.nodes for process in node.processes()]
    return [process for process in found if "simulated_endpoint" in command_line(process)]


@pytest.mark.parametrize("where", [pytest.param("node", marks=pytest.mark.nightly), "outside"])
def test_the_job_runs_with_servers_that_only_its_workers_may_use(
    cluster: Cluster, desk: Machine, store: RunStore, managed: dict[str, Any], tmp_path: Path, where: str
) -> None:
    machine = cluster.nodes[0] if where == "node" else desk
    address = cluster.address if where == "node" else cluster.client_address
    config = recipe(managed, address, total_samples=12)
    with job(cluster, machine, tmp_path, config, store.database.dsn) as running:
        running.wait_for("endpoint vllm-1: ")
        urls = re.findall(r"endpoint vllm-\d: (\S+)", running.log)
        for url, node in zip(urls, _on(cluster, urls), strict=True):
            assert CLIENT.get(f"{url}/models").status_code == 401, "others have no key"
            here = f"127.0.0.1:{urlsplit(url).port}"
            assert "refused" in node.run(sys.executable, "-c", _LOOK, here), "it listens on no other address"
        running.finish()
    (run_id,) = store.run_ids()
    assert store.progress(run_id).done == 12
    hosts = {host for _, host, _ in worker_processes(store, run_id)}
    assert hosts == {node.name for node in cluster.nodes}
    wait_until(lambda: not servers(cluster), 30, "the servers end with the job")
    assert all(tcp_problem(urlsplit(url).netloc) for url in urls)


_LOOK = (
    "import sys; from dlgforge_core.runtime.cluster.head import tcp_problem; print(tcp_problem(sys.argv[1]))"
)


def _on(cluster: Cluster, urls: list[str]) -> list[Machine]:
    """Return the machines that these addresses are of, each once."""
    by_address = {node.address: node for node in cluster.nodes}
    found = [by_address[urlsplit(url).hostname or ""] for url in urls]
    assert len({node.name for node in found}) == len(cluster.nodes)
    return found


def test_whoever_has_no_token_is_refused_and_hears_which_address_wants_one(
    cluster: Cluster, desk: Machine
) -> None:
    source = (
        "import sys; from dlgforge_core.runtime.cluster import address as a; print(a.problem_at(sys.argv[1]))"
    )
    env = cluster.env(desk) | {"HOME": str(desk.folder / "nobody")}
    for address in (cluster.address, cluster.client_address):
        problem = desk.run(sys.executable, "-c", source, address, env=env)
        assert "it refused our token, or that we have none" in problem
