"""`make dev`, webserver and daemons, as a program of its own on the shipped dagster.yaml."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import httpx
import psutil
from dagster_graphql import DagsterGraphQLClient

from dlgforge_core.store.run_store import RunStore
from tests.end_to_end.job import ROOT, Project
from tests.support.http import CLIENT
from tests.support.ports import free_port
from tests.support.waiting import wait_until

T = TypeVar("T")

FINISHED = ("SUCCESS", "FAILURE", "CANCELED")


class DagsterDev:
    """A running `dagster dev`, asked by GraphQL as its UI asks it."""

    def __init__(self, project: Project, process: subprocess.Popen[bytes], port: int) -> None:
        self.project = project
        self.process = process
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.client = DagsterGraphQLClient("127.0.0.1", port_number=port)

    def query(self, text: str, **variables: Any) -> dict[str, Any]:
        """Return the data of a GraphQL query. Fails the test on an error."""
        answer = CLIENT.post(f"{self.url}/graphql", json={"query": text, "variables": variables}, timeout=30)
        body: dict[str, Any] = answer.json()
        assert not body.get("errors"), body["errors"]
        return dict(body["data"])

    def runs(self) -> list[dict[str, Any]]:
        """Return the latest runs: `runId`, `status`, `tags` as a mapping; the latest first."""
        data = self.query(
            "{ runsOrError(limit: 500) { ... on Runs { results { runId status tags { key value } } } } }"
        )
        runs: list[dict[str, Any]] = data["runsOrError"]["results"]
        return [{**run, "tags": {tag["key"]: tag["value"] for tag in run["tags"]}} for run in runs]

    def partitions(self, asset: str, dimension: str) -> list[str]:
        """Return the partitions of one dimension of an asset."""
        query = """query ($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) { ... on AssetNode {
            partitionKeysByDimension { name partitionKeys } } } }"""
        node = self.query(query, key={"path": [asset]})["assetNodeOrError"]
        return next(d["partitionKeys"] for d in node["partitionKeysByDimension"] if d["name"] == dimension)

    def materialized(self, asset: str) -> bool:
        """Whether an asset was ever materialized."""
        query = """query ($key: AssetKeyInput!) { assetOrError(assetKey: $key) { ... on Asset {
            assetMaterializations(limit: 1) { runId } } } }"""
        found = self.query(query, key={"path": [asset]})["assetOrError"]
        return bool(found.get("assetMaterializations"))

    def wait_for_run(self, run_id: str, timeout_s: float = 180) -> str:
        """Return the status in which a run ended."""

        def ended() -> str | None:
            status = self.client.get_run_status(run_id).value
            return status if status in FINISHED else None

        return wait_until(ended, timeout_s, f"the end of run {run_id}")

    def log(self) -> str:
        """Return what `dagster dev` has printed."""
        return (self.project.folder / "dagster-dev.log").read_text("utf-8", "replace")


@contextlib.contextmanager
def dagster_dev(project: Project, **env: str) -> Iterator[DagsterDev]:
    """Start it on a free port of loopback; it and its runs are gone afterwards."""
    port = free_port()
    log = (project.folder / "dagster-dev.log").open("ab")
    workspace = ["-w", str(ROOT / "workspace.yaml"), "-h", "127.0.0.1", "-p", str(port)]
    command = [sys.executable, "-m", "dlgforge_dagster.webserver.dev", *workspace]
    process = subprocess.Popen(
        command,
        cwd=project.folder,
        env={**project.env, "PYTHONUNBUFFERED": "1", **env},
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    dev = DagsterDev(project, process, port)
    try:
        wait_until(lambda: _answers(dev), 180, f"dagster dev comes up\n{dev.log()[-3000:]}")
        yield dev
    finally:
        _stop(process, project.env)
        log.close()


def _answers(dev: DagsterDev) -> bool:
    assert dev.process.poll() is None, dev.log()[-5000:]
    try:
        data = dev.query("{ repositoriesOrError { ... on RepositoryConnection { nodes { name } } } }")
    except (httpx.HTTPError, ValueError):
        return False
    return bool(data["repositoriesOrError"].get("nodes"))


def run_workers(store: RunStore) -> list[psutil.Process]:
    """Process that make dialogues just now, as the run state names them."""
    with store.connection() as connection:
        rows = connection.execute("SELECT DISTINCT pid FROM workers WHERE ended_at IS NULL").fetchall()
    return [psutil.Process(pid) for (pid,) in rows if psutil.pid_exists(pid)]


def kill_everything(project: Project) -> None:
    """SIGKILL to `dagster dev` and all that belongs to its instance at once, as when a machine fails."""
    for process in _of_instance(project.env["DAGSTER_HOME"]):
        with contextlib.suppress(psutil.Error):
            process.kill()


def _stop(process: subprocess.Popen[bytes], env: Mapping[str, str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGINT)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    # Run workers go on when `dagster dev` ends: that is how Dagster is, so they are ended here.
    for orphan in _of_instance(env["DAGSTER_HOME"]):
        with contextlib.suppress(psutil.Error):
            orphan.kill()


def _of_instance(home: str) -> list[psutil.Process]:
    """Python processes with this DAGSTER_HOME in their environment, this one apart."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid == os.getpid() or not _cmdline(process)[:1]:
                continue
            command = " ".join(_cmdline(process))
            ours = "dagster" in command or "multiprocessing" in command  # a run is forked by the code server
            if ours and process.environ().get("DAGSTER_HOME") == home:
                found.append(process)
    return found


def _cmdline(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.Error):
        return process.cmdline()
    return []
