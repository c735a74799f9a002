"""What a preflight tells of Ray, by what was found of the cluster."""

from __future__ import annotations

import socket
from typing import Any

import pytest
import ray

from dlgforge_core.config import RayConfig, Recipe
from dlgforge_core.database.dsn import DsnSource, ResolvedDsn
from dlgforge_core.errors import RayError
from dlgforge_core.preflight import cluster
from dlgforge_core.preflight.cluster import check_ray
from dlgforge_core.preflight.report import Report, Result, Row
from dlgforge_core.runtime.cluster.session import RaySession
from dlgforge_core.runtime.cluster.survey import Node, Survey

HERE = Node(socket.gethostname(), {"CPU": 8.0})
AWAY = Node("gpu-1", {"CPU": 8.0, "GPU": 2.0})
DSN = "postgresql://u@db.example/dlgforge"
VLLM = {"backend": "vllm_managed", "vllm": {"model": "org/m", "replicas": 2}}
OPENAI = {"backend": "openai", "model": "m", "base_url": "http://127.0.0.1:8000/v1"}


def looked_at(
    monkeypatch: pytest.MonkeyPatch,
    llm: dict[str, Any],
    *nodes: Node,
    dsn: str = DSN,
    version: str = ray.__version__,
    distributed: bool = True,
    address: str | None = "head:6379",
    beside: dict[str, Any] | None = None,
    **settings: Any,
) -> dict[str, Row]:
    """Return the rows by check, of a cluster of these nodes; `beside` is more of the recipe."""
    monkeypatch.setattr(RaySession, "find", lambda self: address)
    monkeypatch.setattr(cluster, "survey", lambda address: Survey(version, "", nodes))
    run = {"distributed": {"enabled": distributed}}
    recipe = Recipe.model_validate({"llm": llm, "run": run, **(beside or {})})
    rows: list[Row] = []
    check_ray(
        *(recipe, recipe.llm, RayConfig.model_validate(settings), {}),
        lambda: ResolvedDsn(dsn, DsnSource.CONFIG),
        rows.append,
        starts_servers=llm["backend"] == "vllm_managed",
    )
    return {row.check: row for row in rows}


def test_a_cluster_with_room_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    found = looked_at(monkeypatch, OPENAI, HERE)
    assert {row.result for row in found.values()} == {Result.OK}
    assert found.keys() == {"reachable", "version", "resources", "reach"}
    assert found["resources"].finding == "a run asks for 1.1 CPU and 0 GPU; the cluster has 8 CPU and 0 GPU"


def test_what_other_machines_cannot_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    found = looked_at(monkeypatch, OPENAI, HERE, AWAY)
    assert found["reach"].result is Result.FAILED
    assert "http://127.0.0.1:8000/v1 can be reached from this machine only" in found["reach"].finding
    assert "llm.base_url" in found["reach"].remedy
    local = looked_at(monkeypatch, VLLM, AWAY, dsn="postgresql://u@localhost/db")
    assert "Postgres (store.postgres.dsn) can be reached from this machine only" in local["reach"].finding


SERVED = {**OPENAI, "base_url": "http://gpu-1:8000/v1"}
LOCAL = {"base_url": "http://127.0.0.1:9/v1", "model": "e", "api_key_env": "NOT_SET"}
SEARCHED = {"path": "shipped", "embedding": {**LOCAL, "backend": "endpoint"}}
FUNCTION = {"name": "hours", "description": "Tells them.", "http": {"url": "http://127.0.0.1:9/"}}


@pytest.mark.parametrize(
    ("beside", "key"),
    [
        ({"knowledge": SEARCHED, "retrieval": {"mode": "dense"}}, "knowledge.embedding.base_url"),
        ({"knowledge": SEARCHED}, ""),
        ({"knowledge": {"path": "shipped", "embedding": LOCAL}, "retrieval": {"mode": "hybrid"}}, ""),
        ({"tools": {"mcp_servers": {"hours": {"url": "http://127.0.0.1:9/mcp"}}}}, "mcp_servers.hours.url"),
        ({"tools": {"enabled": True, "functions": [FUNCTION]}}, "tools.functions: hours.http.url = http"),
    ],
)
def test_what_is_called_beside_the_models(
    monkeypatch: pytest.MonkeyPatch, beside: dict[str, Any], key: str
) -> None:
    row = looked_at(monkeypatch, SERVED, AWAY, beside=beside)["reach"]
    assert row.result is (Result.FAILED if key else Result.OK)
    assert key in row.finding
    assert row.remedy.startswith("give an address that the workers can reach" if key else "")


@pytest.mark.parametrize(
    ("nodes", "result"), [([AWAY], Result.OK), ([HERE], Result.WARNING), ([AWAY, HERE], Result.OK)]
)
def test_servers_need_gpus(monkeypatch: pytest.MonkeyPatch, nodes: list[Node], result: Result) -> None:
    assert looked_at(monkeypatch, VLLM, *nodes)["resources"].result is result


def test_versions_must_be_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    row = looked_at(monkeypatch, OPENAI, HERE, version="2.9.0")["version"]
    assert (row.result, row.remedy) == (Result.FAILED, "install the same version of Ray in both")


def test_a_local_cluster_cannot_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "local_gpus", lambda: 1)
    found = looked_at(monkeypatch, VLLM, address=None, distributed=False)
    assert found["resources"].result is Result.FAILED
    assert "a run asks for 0.2 CPU and 2 GPU" in found["resources"].finding
    assert found["reachable"].finding.startswith("a run starts a local cluster")


def test_what_is_wrong_with_the_address_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def find(self: RaySession) -> str:
        raise RayError("no Ray cluster can be used at head:1: refused; start the cluster")

    monkeypatch.setattr(RaySession, "find", find)
    rows: list[Row] = []
    recipe = Recipe.model_validate({"run": {"distributed": {"enabled": True}}})
    found = ResolvedDsn(DSN, DsnSource.CONFIG)
    check_ray(recipe, recipe.llm, RayConfig(), {}, lambda: found, rows.append, starts_servers=False)
    assert [(row.result, row.remedy) for row in rows] == [(Result.FAILED, "start the cluster")]
    report = Report(rows, 0.1)
    assert "-> start the cluster" in report.text()
    assert "**failed**" in report.markdown()


def test_what_is_not_used_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    assert looked_at(monkeypatch, OPENAI, distributed=False).keys() == {"use"}


def test_a_row_shows_no_secret_and_no_markup() -> None:
    row = Row("a|b", "c", Result.FAILED, "key sk-0123456789abcdef\x1b[2J", "<script>alert(1)</script>")
    shown = row.shown(["sk-0123456789abcdef"])
    assert "sk-" not in shown.finding
    assert "\x1b" not in shown.finding
    page = Report([shown], 0.0).markdown()
    assert "<script>" not in page
    assert "a\\|b" in page
