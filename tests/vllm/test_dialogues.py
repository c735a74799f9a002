"""Dialogues made through two managed vLLM servers that serve real weights, one of them killed on the way."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from dlgforge_core.config import EmbeddedConfig, GenerationConfig, LlmConfig
from dlgforge_core.generation.prepare import prepare_run
from dlgforge_core.generation.worker_thread import WorkerSpec, WorkerThread
from dlgforge_core.llm.stats import merged_calls
from dlgforge_core.planning.seeds import read_seeds
from dlgforge_core.runtime.cluster.session import RaySession
from dlgforge_core.runtime.serving.embedded_model import model_path
from dlgforge_core.runtime.serving.vllm_provisioner import VllmManagedProvisioner
from dlgforge_core.store.run_store import RunStore
from tests.support.processes import command_line
from tests.vllm.servers import RAY, ROOT, VENV, settings, vllm_processes

pytestmark = pytest.mark.timeout(900)

N = 6


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the packaged SmolLM2 weights, as vLLM reads them."""
    folder = tmp_path_factory.mktemp("models") / "smollm2"
    script = ROOT / "scripts" / "smollm2_for_vllm.py"
    command = [VENV / "bin" / "python", script, model_path(EmbeddedConfig()), folder]
    subprocess.run(command, check=True, capture_output=True)
    return folder


@pytest.fixture
def servers(smollm2: Path) -> Iterator[VllmManagedProvisioner]:
    with RaySession(RAY) as session:
        servers = VllmManagedProvisioner(settings(smollm2, replicas=2, served_model_name="smollm2"), session)
        try:
            yield servers
        finally:
            servers.stop()


def test_a_run_on_two_servers_outlives_one_of_them(servers: VllmManagedProvisioner, store: RunStore) -> None:
    llm = LlmConfig.model_validate(
        {
            "backend": "vllm_managed",
            "vllm": servers.fleet.config.model_dump(),
            "routing": {"strategy": "prefix_affinity"},
            "agents": {
                "qa_generator": {"max_tokens": 24, "temperature": 0.7},
                "kb_responder": {"max_tokens": 32},
                "qa_judge": {"max_tokens": 96},
            },
        }
    )
    generation = GenerationConfig.model_validate(
        {
            "run": {"total_samples": N, "target_languages": ["en"], "n_turns": 2, "patience_s": 300.0},
            "judge": {"granularity": "conversation"},
        }
    )
    run = prepare_run(store, generation, llm, read_seeds(""))
    endpoints = servers.start(lambda line: None)
    spec = WorkerSpec(run, store.database, tuple(endpoints), llm.routing)
    worker = WorkerThread(spec, servers.fleet.endpoints)
    worker.start()
    try:
        deadline = time.monotonic() + 300
        while store.progress(run.run_id).turns < 3 and not worker.wait(0.2):
            assert time.monotonic() < deadline, "no turns were committed"
        before = {m.name: m for m in servers.fleet.metrics()}
        assert all(m.generation_tokens > 0 for m in before.values()), "both servers have worked"
        victim = next(p for p in vllm_processes() if "vllm serve" in command_line(p))
        kill_with_children(victim)
        assert worker.wait(600), "the run did not end"
        worker.result()
    finally:
        worker.stop("the test ends")
        worker.wait(20)
    progress = store.progress(run.run_id)
    assert progress.complete
    # A model this small may ask the same again and again, and its verdicts may be no JSON; nothing else.
    assert set(progress.drop_reasons) <= {"dedup_exhausted", "invalid_output"}
    assert progress.done >= N // 2
    calls = merged_calls(store.worker_stats(run.run_id)).by_endpoint()
    assert calls["vllm-0"].calls > 0
    assert calls["vllm-1"].calls > 0
    cached = [m for m in [*before.values(), *servers.fleet.metrics()] if m.prefix_cache_hits > 0]
    assert cached, "no prompt was found in a prefix cache"
    for metrics in cached:
        print(metrics.line())


def kill_with_children(process: psutil.Process) -> None:
    """SIGKILL of a server and its engine, as an out-of-memory killer would."""
    for victim in [*process.children(recursive=True), process]:
        victim.kill()
