"""What is wrong with the surroundings is said, with the remedy, before anything expensive is started."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.job import Project, run_config
from tests.support.ports import closed_port
from tests.support.postgres import TcpPostgres, tcp_postgres
from tests.support.simulated_endpoint import simulated_endpoint

EXPENSIVE = ("starting a local Ray cluster", "starting the embedded model", "is placed on", "a worker runs")
ATTACH = {"backend": "vllm_attach", "model": "m", "base_url": "http://127.0.0.1:9/v1"}
SECRET = "sk-not-to-be-shown"


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


@pytest.fixture(scope="module")
def server() -> Any:
    with tcp_postgres() as running:
        yield running


def fails(
    project: Project,
    llm: dict[str, Any],
    *patterns: str,
    ray: dict[str, Any] | None = None,
    dsn: str = "",
    **env: Any,
) -> str:
    """Run the distributed job, which must fail saying all this, and return its output."""
    config = run_config(llm, total_samples=2, target_languages=["en"], distributed={"enabled": True})
    config["resources"]["ray"] = {"config": ray or {}}
    if dsn:
        config["resources"]["store"] = {"config": {"postgres": {"dsn": dsn}}}
    code, output = project.execute(project.config(config), OPENAI_API_KEY=SECRET, **env)
    assert code != 0
    text = " ".join(output.split())
    for pattern in patterns:
        assert re.search(pattern, text), f"{pattern!r} is not in:\n{output}"
    assert SECRET not in output
    return output


def nothing_expensive(output: str) -> None:
    assert not [line for line in EXPENSIVE if line in output]


def test_malformed_dsn(project: Project) -> None:
    output = fails(project, ATTACH, r"DSN|dsn", "malformed|not Postgres", dsn="mysql://u:hunter2@db/x")
    assert "hunter2" not in output
    nothing_expensive(output)


def test_wrong_password(project: Project, server: TcpPostgres) -> None:
    dsn = server.dsn_with(password="hunter2")
    output = fails(project, ATTACH, r"user or password is wrong \(user tester\); correct them", dsn=dsn)
    assert "hunter2" not in output
    nothing_expensive(output)


def test_server_down(project: Project) -> None:
    with closed_port() as port:
        dsn = f"postgresql://u:hunter2@127.0.0.1:{port}/d"
        output = fails(
            project, ATTACH, "no server listens there; start it, or correct host and port", dsn=dsn
        )
    assert "hunter2" not in output
    nothing_expensive(output)


def test_no_cluster_at_the_address(project: Project) -> None:
    with closed_port() as port:
        output = fails(
            project,
            {"backend": "embedded"},
            rf"no Ray cluster can be used at 127\.0\.0\.1:{port}: Connection refused; start the cluster",
            ray={"address": f"127.0.0.1:{port}"},
        )
    nothing_expensive(output)


def test_no_cluster_and_no_fallback(project: Project) -> None:
    output = fails(
        project,
        {"backend": "embedded"},
        r"no Ray cluster (to use )?runs on this machine and ray\.auto_start_local is false; set ray\.address",
        ray={"auto_start_local": False},
        RAY_TMPDIR=str(project.folder),  # where nobody has recorded a cluster
    )
    nothing_expensive(output)


def test_attach_lists_every_bad_endpoint_at_once(project: Project) -> None:
    with (
        closed_port() as port,
        simulated_endpoint(models=["m"]) as good,
        simulated_endpoint(models=["other"]) as other,
        simulated_endpoint(models=["m"], api_key="right") as locked,
    ):
        endpoints = [
            {"name": "good", "base_url": good.base_url},
            {"name": "down", "base_url": f"http://127.0.0.1:{port}/v1"},
            {"name": "wrong-model", "base_url": other.base_url},
            {"name": "wrong-key", "base_url": locked.base_url},
        ]
        output = fails(
            project,
            {"backend": "vllm_attach", "model": "m", "routing": {"endpoints": endpoints}},
            "3 of 4 endpoints of backend vllm_attach cannot be used",
            r"down \(http://127\.0\.0\.1:\d+/v1\): .*is the server running and the address right\?",
            r"wrong-model \(.*\): does not serve m; it serves: other",
            r"wrong-key \(.*\): its key was refused; set the variable named by api_key_env",
        )
        assert sum(sim.stats()["calls"] for sim in (good, other, locked)) == 0
    nothing_expensive(output)


def test_served_model_name_unlike_the_agents_models(project: Project) -> None:
    output = fails(
        project,
        {"backend": "vllm_managed", "model": "other", "vllm": {"model": "x", "served_model_name": "served"}},
        r"vllm\.served_model_name = 'served' is not what the agents ask for .*name 'served' there, or leave",
    )
    nothing_expensive(output)


def test_executor_other_than_ray(project: Project) -> None:
    config = run_config(ATTACH, distributed={"enabled": True, "executor": "dask"})
    code, output = project.execute(project.config(config))
    assert code != 0
    assert re.search(r"(?s)executor.*ray", output)
    nothing_expensive(output)


def test_no_vllm_on_the_workers(project: Project, tmp_path: Path) -> None:
    """Which only the workers can know: Ray is started for it, and ends; no server is."""
    started = time.monotonic()
    output = fails(
        project,
        {"backend": "vllm_managed", "vllm": {"model": "x", "num_gpus_per_replica": 0.0}},
        r"there is no `vllm` program on the PATH of node .*; install vLLM there",
        PATH=str(tmp_path),
        RAY_ADDRESS="local",
    )
    assert "is placed on" not in output
    assert "starting for" not in output
    assert time.monotonic() - started < 240
