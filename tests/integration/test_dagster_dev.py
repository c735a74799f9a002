"""`make dev`: who may launch what by its webserver, and how it ends."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import httpx
import psutil
import pytest

from tests.end_to_end.job import Project
from tests.support.dagster_dev import DagsterDev, dagster_dev
from tests.support.processes import alive
from tests.support.simulated_endpoint import simulated_endpoint
from tests.support.waiting import seconds_until

pytestmark = pytest.mark.timeout(400)

MUTATION = "mutation { setNuxSeen }"


def test_a_launched_run_sends_no_key_elsewhere_and_sigterm_ends_all(tmp_path: Path) -> None:
    with (
        simulated_endpoint() as theirs,
        dagster_dev(Project(tmp_path), OPENAI_API_KEY="sk-our-secret", OTHER_KEY="sk-other-secret") as dev,
    ):
        cross_site_requests_are_refused(dev)
        openai = {"backend": "openai", "model": "m", "base_url": theirs.base_url}
        routing = {"endpoints": [{"base_url": theirs.base_url, "api_key_env": "OTHER_KEY"}]}
        attached = {"backend": "vllm_attach", "model": "m", "routing": routing}
        for config in (
            {"resources": {"llm": {"config": openai}}},
            {"resources": {"llm": {"config": attached}}},
            {"resources": {"ray": {"config": {"address": "127.0.0.1:1"}}}},
        ):
            run = dev.client.submit_job_execution("generate_dialogues", run_config=config)
            assert dev.wait_for_run(run) == "FAILURE"
            assert "has not named" in output(dev, run)
        assert theirs.stats()["calls"] == 0
        run = dev.client.submit_job_execution("generate_dialogues", asset_selection=["seed_topics"])
        assert dev.wait_for_run(run) == "SUCCESS"
        main = psutil.Process(dev.process.pid)
        services = [main, *main.children(recursive=True)]
        assert len(services) >= 4
        os.kill(main.pid, signal.SIGTERM)
        seconds_until(lambda: not alive(services), 60)


def cross_site_requests_are_refused(dev: DagsterDev) -> None:
    evil = {"origin": "http://evil.example"}
    assert httpx.get(f"{dev.url}/graphql", params={"query": MUTATION}, timeout=60).status_code == 405
    assert httpx.post(f"{dev.url}/graphql", params={"query": MUTATION}, timeout=60).status_code == 415
    assert (
        httpx.post(f"{dev.url}/graphql", json={"query": MUTATION}, headers=evil, timeout=60).status_code
        == 403
    )
    assert (
        httpx.get(f"{dev.url}/", headers={"host": f"evil.example:{dev.port}"}, timeout=60).status_code == 403
    )
    assert httpx.get(f"{dev.url}/", timeout=60).status_code == 200


def output(dev: DagsterDev, run: str) -> str:
    """Return the errors in the log of a run."""
    query = """query ($run: ID!) { logsForRun(runId: $run) { ... on EventConnection { events {
        ... on ExecutionStepFailureEvent { error { message } failureMetadata { description } } } } } }"""
    return str(dev.query(query, run=run))
