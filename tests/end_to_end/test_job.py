"""The whole job by `dagster job execute`, against the embedded model and a simulated endpoint."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
import yaml

from dlgforge_core.config import RayConfig, validate
from dlgforge_core.database.database import Database
from dlgforge_core.database.embedded import embedded_dsn, release_embedded
from dlgforge_core.store.run_store import RunStore
from tests.end_to_end.job import ROOT, Project, run_config
from tests.support.postgres import tcp_postgres
from tests.support.simulated_endpoint import simulated_endpoint

EMBEDDED = {
    "backend": "embedded",
    "agents": {
        "qa_generator": {"max_tokens": 32},
        "kb_responder": {"max_tokens": 48},
        "qa_judge": {"max_tokens": 80},
    },
}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def openai(base_url: str, **llm: object) -> dict[str, object]:
    return {"backend": "openai", "model": "simulated", "base_url": base_url, **llm}


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def model_servers(project: Project) -> list[psutil.Process]:
    """Return the processes of an embedded model that belong to this project's jobs."""
    found = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        command = " ".join(process.info["cmdline"] or [])
        if "embedded_server.py" in command and process.info["cwd"] == str(project.folder):
            found.append(process)
    return found


def test_the_job_against_a_simulated_endpoint_makes_exactly_the_plan(project: Project) -> None:
    with simulated_endpoint(api_key="sk-test-secret") as sim:
        config = project.config(
            run_config(openai(sim.base_url), total_samples=9, target_languages=["en", "fr", "ar"], n_turns=2)
        )
        code, output = project.execute(config, OPENAI_API_KEY="sk-test-secret")
        assert code == 0, output
        assert sim.stats()["calls"] == 9 * 2 * 3
        code, output = project.execute(config, OPENAI_API_KEY="sk-test-secret")
        assert code == 0, output
        assert sim.stats()["calls"] == 9 * 2 * 3, "the second time there is nothing to do"
    assert "sk-test-secret" not in output
    dataset = project.folder / "dataset"
    sharegpt = records(dataset / "data" / "sharegpt" / "train.jsonl")
    messages = records(dataset / "data" / "openai_messages" / "train.jsonl")
    table = pq.read_table(dataset / "data" / "parquet" / "train.parquet")
    assert len(sharegpt) == len(messages) == table.num_rows == 9
    assert sorted(r["language"] for r in sharegpt) == ["ar"] * 3 + ["en"] * 3 + ["fr"] * 3
    for record in sharegpt:
        assert [m["from"] for m in record["conversations"]] == ["human", "gpt"] * 2
    for record in messages:
        assert [m["role"] for m in record["messages"]] == ["user", "assistant"] * 2
    for path in (path for path in dataset.rglob("*") if path.is_file()):
        content = path.read_bytes()
        assert b"sk-test-secret" not in content
        assert str(project.folder).encode() not in content


def test_a_prompt_that_the_endpoint_never_answers_costs_its_dialogues_alone(project: Project) -> None:
    seeds = project.folder / "seeds"
    seeds.mkdir()
    topics = ["bread", "poisoned mushrooms", "lighthouses", "tides"]
    lines = [json.dumps({"language": "en", "topic": topic}) for topic in topics]
    (seeds / "own.jsonl").write_text("\n".join(lines))
    poison = {"contains": "poisoned mushrooms", "body": {"id": "x", "choices": []}}
    with simulated_endpoint(canned=[poison]) as sim:
        settings = run_config(openai(sim.base_url), total_samples=8, target_languages=["en"], n_turns=1)
        settings["ops"]["seed_topics"] = {"config": {"path": str(seeds)}}
        config = project.config(settings)
        for _ in range(2):  # the second time with the poisoned ones alone
            code, output = project.execute(config)
            assert code == 0, output
            assert "endpoint_error" in output
    made = records(project.folder / "dataset" / "data" / "sharegpt" / "train.jsonl")
    assert 0 < len(made) < 8
    assert "mushrooms" not in json.dumps(made)


@pytest.mark.alone
def test_the_job_with_the_embedded_model_makes_real_dialogues(project: Project) -> None:
    config = project.config(
        run_config(EMBEDDED, total_samples=2, target_languages=["en", "fr"], n_turns=2, concurrency=2)
    )
    code, output = project.execute(config)
    assert code == 0, output
    made = records(project.folder / "dataset" / "data" / "sharegpt" / "train.jsonl")
    # A model this small may repeat itself until a dialogue is dropped; then the log says so.
    dropped = re.findall(r"'?dedup_exhausted|invalid_output", output)
    assert len(made) == 2 or dropped
    assert all(m["value"].strip() for r in made for m in r["conversations"])
    assert model_servers(project) == []


def test_the_job_fails_with_a_code_and_a_reason(project: Project) -> None:
    config = project.config(run_config(openai("http://127.0.0.1:9/v1"), total_samples=2, patience_s=1.0))
    code, output = project.execute(config)
    assert code != 0
    assert "Run the same configuration again to resume" in output


@pytest.mark.parametrize(
    ("run", "llm", "message"),
    [
        ({"min_turns": 9}, {}, "min_turns = 9 is greater than max_turns = 6"),
        ({"concurrency": 0}, {}, r"run\.concurrency = 0: input should be greater than or equal to 1"),
        ({}, {"backend": "openai"}, "no model is named for qa_generator, kb_responder, qa_judge"),
        ({"target_languages": ["xx"]}, {}, "xx"),
    ],
)
def test_bad_configuration_is_refused_before_anything_is_started(
    project: Project, run: dict[str, Any], llm: dict[str, Any], message: str
) -> None:
    config = project.config(run_config(llm, **run))
    code, output = project.execute(config)
    assert code != 0
    assert re.search(message, output)
    assert "starting the embedded model" not in output


def test_the_run_state_follows_the_dsn(project: Project) -> None:
    with tcp_postgres() as server, simulated_endpoint() as sim:
        config = project.config(
            run_config(openai(sim.base_url), total_samples=2, target_languages=["en"], n_turns=1)
        )
        code, output = project.execute(config, DLGFORGE_POSTGRES_DSN=server.dsn)
        assert code == 0, output
        store = RunStore(Database(server.dsn))
        record = store.run()
        assert record is not None
        assert store.progress(record.run_id).done == 2
        with store.connection() as connection:
            assert connection.execute("SELECT count(*) FROM public.runs").fetchone() == (1,)
    assert not (project.home / "postgres").exists(), "no embedded server is started beside it"


@pytest.mark.alone
def test_kill_dash_nine_leaves_no_model_server_and_the_same_command_finishes_the_plan(
    project: Project,
) -> None:
    config = project.config(
        run_config(EMBEDDED, total_samples=2, target_languages=["en"], n_turns=3, concurrency=2)
    )
    dsn = embedded_dsn(project.home)  # held by this process, so that it can look while the job is dead
    store = RunStore(Database(dsn))
    store.migrate()
    job = project.start(config)
    try:
        committed = wait_for_turns(store, 2)
        job.send_signal(signal.SIGKILL)
        job.wait()
        deadline = time.monotonic() + 10
        while model_servers(project) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert model_servers(project) == []
        committed = turns(store)
        code, output = project.execute(config)
        assert code == 0, output
        after = turns(store)
        assert {key: after.get(key) for key in committed} == committed, "committed turns stay as they were"
        record = store.run()
        assert record is not None
        assert store.progress(record.run_id).complete
    finally:
        job.kill()
        job.wait()
        if job.stdout is not None:
            job.stdout.close()
        release_embedded(project.home)


def turns(store: RunStore) -> dict[tuple[str, int], tuple[str, str]]:
    with store.connection() as connection:
        rows = connection.execute(
            "SELECT t.dialogue_id, t.turn_index, t.user_text, t.assistant_text FROM turns t"
        ).fetchall()
    return {(dialogue_id, index): (user, assistant) for dialogue_id, index, user, assistant in rows}


def wait_for_turns(store: RunStore, n: int, timeout_s: float = 120) -> dict[tuple[str, int], tuple[str, str]]:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if len(found := turns(store)) >= n:
            return found
        time.sleep(0.2)
    raise AssertionError(f"no {n} turns were committed in {timeout_s} s")


@pytest.mark.parametrize("example", sorted(p.name for p in (ROOT / "examples").glob("*.yaml")))
def test_shipped_examples_are_valid(example: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DLGFORGE_VLLM_MODEL", "/models/some")  # which make demo-vllm sets
    import dagster as dg

    from dlgforge_dagster.definitions import defs
    from dlgforge_dagster.run_config import default_recipe

    config = yaml.safe_load((ROOT / "examples" / example).read_text())
    dg.validate_run_config(defs.resolve_job_def("generate_dialogues"), config)
    default_recipe(config)  # Dagster knows the keys and types, our models what goes together
    validate(RayConfig, config.get("resources", {}).get("ray", {}).get("config", {}), example)


def test_the_core_imports_without_dagster() -> None:
    code = """
import importlib, pkgutil, sys
sys.modules["dagster"] = None  # an import of it would now fail
import dlgforge_core
for module in pkgutil.walk_packages(dlgforge_core.__path__, "dlgforge_core."):
    importlib.import_module(module.name)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
