"""Managed vLLM servers that cannot be started: each failure names its cause, in a bounded time."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dlgforge_core.config import VllmConfig
from dlgforge_core.errors import BackendError
from dlgforge_core.runtime.cluster.session import RaySession
from dlgforge_core.runtime.serving.vllm_provisioner import VllmManagedProvisioner
from tests.support.waiting import seconds_until
from tests.vllm.servers import RAY, VENV, settings, vllm_processes

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def session() -> Iterator[RaySession]:
    with RaySession(RAY) as session:
        session.connect()
        yield session


def failure(config: VllmConfig, session: RaySession) -> tuple[str, float]:
    """Return what start() says, and after how many seconds; nothing may be left then."""
    servers = VllmManagedProvisioner(config, session)
    started = time.monotonic()
    try:
        with pytest.raises(BackendError) as caught:
            servers.start(print)
        took = time.monotonic() - started
    finally:
        stopping = time.monotonic()
        servers.stop()
    assert time.monotonic() - stopping < 20
    seconds_until(lambda: not vllm_processes(), 30)
    print(f"after {took:.1f} s: {caught.value}")
    return str(caught.value), took


def test_node_without_vllm_is_named_before_any_server_starts(session: RaySession) -> None:
    text, took = failure(settings("any", replicas=2, env={"PATH": "/usr/bin:/bin"}), session)
    assert "no `vllm` program on the PATH of node" in text
    assert "(127.0.0.1)" in text
    assert "pip install vllm" in text
    assert took < 30


def test_early_exit_shows_the_end_of_the_log_at_once(session: RaySession, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "no-such-model"}))
    text, took = failure(settings(tmp_path), session)
    assert "vllm serve ended with exit status 1" in text
    assert "no-such-model" in text
    assert took < 100


def test_health_time_out_shows_the_end_of_the_log(
    session: RaySession, tiny_llama: Path, tmp_path: Path
) -> None:
    """The real server, after a line of our own: on a slow machine it takes longer than that to write one."""
    first = tmp_path / "vllm"
    first.write_text(f'#!/bin/sh\necho "INFO: about to start"\nexec {VENV / "bin" / "vllm"} "$@"\n')
    first.chmod(0o755)
    env = settings(tiny_llama).env
    env = env | {"PATH": f"{tmp_path}{os.pathsep}{env['PATH']}"}
    text, took = failure(settings(tiny_llama, health_timeout_s=12.0, env=env), session)
    assert "not healthy within llm.vllm.health_timeout_s = 12 s" in text
    assert "INFO: about to start" in text
    assert 12 <= took < 60


def test_too_few_gpus_says_what_is_asked_and_what_is_there(session: RaySession) -> None:
    config = settings("any", replicas=2, num_gpus_per_replica=4.0, tensor_parallel_size=4)
    text, took = failure(config, session)
    assert "2 replicas of 4 GPU" in text
    assert "0 of 0 GPUs" in text
    assert took < 5


def test_a_borrowed_cluster_is_waited_for_only_so_long(session: RaySession) -> None:
    session_borrowed = RaySession(RAY)  # in a process that is connected already
    text, took = failure(settings("any", num_gpus_per_replica=1.0, health_timeout_s=6.0), session_borrowed)
    assert "cannot be placed (0 of 1 were)" in text
    assert "a server runs on one node, the one with most GPUs has 0 of them" in text
    assert took < 20
