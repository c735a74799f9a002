"""Restarts of a vLLM server, with a program that dies, hangs and clashes on demand in vLLM's place.

The real one takes half a minute for each start; tests/vllm has it killed, restarted and refused.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from dlgforge_core.common.restarts import RestartBudget
from dlgforge_core.config import VllmConfig
from dlgforge_core.errors import BackendError
from dlgforge_core.runtime.serving import vllm_server
from dlgforge_core.runtime.serving.vllm_server import ReplicaState, ReplicaStatus, VllmServer
from tests.support.processes import command_line
from tests.support.waiting import seconds_until

STAND_IN = """#!{python}
import http.server, os, pathlib, sys, threading, time
behaviour, host, port = sys.argv[2], sys.argv[4], int(sys.argv[6])
starts = pathlib.Path(__file__).with_name("starts")
count = len(starts.read_text()) if starts.exists() else 0
starts.write_text("x" * (count + 1))
print("start", count, "with key", os.environ["VLLM_API_KEY"], flush=True)
if behaviour == "clashes-once" and count == 0:
    sys.exit("[Errno 98] error while attempting to bind on address: address already in use")
if behaviour == "ends-early":
    sys.exit("ValueError: no such model")
if behaviour == "never-healthy":
    time.sleep(600)
answers = 0
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        global answers
        answers += 1
        if behaviour == "hangs-once" and count == 0 and answers > 1:
            time.sleep(600)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"vllm:generation_tokens_total 5\\n")
    def log_message(self, *_):
        pass
server = http.server.ThreadingHTTPServer((host, port), Handler)
if behaviour == "dies":
    threading.Timer(0.3, lambda: (print("boom", flush=True), os._exit(3))).start()
server.serve_forever()
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_server, "_POLL_S", 0.05)
    monkeypatch.setattr(vllm_server, "_HEALTH_CHECK_S", 0.1)


@contextmanager
def server(
    folder: Path, behaviour: str, health_timeout_s: float = 30.0, budget: RestartBudget | None = None
) -> Iterator[VllmServer]:
    program = folder / "vllm"
    program.write_text(STAND_IN.format(python=sys.executable))
    program.chmod(0o755)
    config = VllmConfig(
        model=behaviour,
        num_gpus_per_replica=0.0,
        health_timeout_s=health_timeout_s,
        env={"PATH": str(folder)},
    )
    running = VllmServer(config, "127.0.0.1", "vllm-0", "here", budget)
    try:
        yield running
    finally:
        running.stop()
        assert not [p for p in psutil.Process().children(recursive=True) if str(program) in command_line(p)]


def until(running: VllmServer, state: ReplicaState, timeout_s: float = 20.0) -> ReplicaStatus:
    seconds_until(lambda: running.status().state is state, timeout_s)
    return running.status()


def test_it_starts_answers_and_stops(tmp_path: Path) -> None:
    with server(tmp_path, "well") as running:
        assert running.status().state is ReplicaState.NEW
        with pytest.raises(BackendError, match="no figures to read"):
            running.metrics()
        running.start()
        running.start()
        status = until(running, ReplicaState.HEALTHY)
        assert running.metrics().generation_tokens == 5
        assert status.last_line == "start 0 with key ***"
        assert len(status.api_key) > 30
    assert running.status().state is ReplicaState.STOPPED
    running.stop()
    running.start()
    assert running.status().state is ReplicaState.STOPPED
    assert (tmp_path / "starts").read_text() == "x"


def test_restarts_end_with_the_budget(tmp_path: Path) -> None:
    with server(tmp_path, "dies", budget=RestartBudget(2)) as running:
        running.start()
        status = until(running, ReplicaState.FAILED)
        assert status.restarts == 2
        assert "died 3 times within 10 minutes; last: vllm serve ended with exit status 3" in status.error
        assert "boom" in status.error
        assert status.api_key not in status.error
    assert (tmp_path / "starts").read_text() == "xxx"


def test_old_restarts_do_not_count(tmp_path: Path) -> None:
    with server(tmp_path, "dies", budget=RestartBudget(1, lambda: time.monotonic() * 6000)) as running:
        running.start()
        seconds_until(lambda: running.status().restarts >= 3, 20)
        assert running.status().state is not ReplicaState.FAILED


def test_a_server_that_hangs_is_started_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_server, "UNHEALTHY_S", 0.5)
    with server(tmp_path, "hangs-once") as running:
        running.start()
        first = until(running, ReplicaState.HEALTHY)
        seconds_until(lambda: running.status().restarts == 1, 20)
        second = until(running, ReplicaState.HEALTHY)
        assert second.base_url != first.base_url
        assert second.api_key == first.api_key


def test_a_taken_port_is_no_failure(tmp_path: Path) -> None:
    with server(tmp_path, "clashes-once") as running:
        running.start()
        status = until(running, ReplicaState.HEALTHY)
        assert status.restarts == 0
    assert (tmp_path / "starts").read_text() == "xx"


def test_an_early_end_is_reported_with_the_log(tmp_path: Path) -> None:
    with server(tmp_path, "ends-early") as running:
        running.start()
        error = until(running, ReplicaState.FAILED).error
    assert re.search(r"vllm serve ended with exit status 1 after \d+ s, before it was healthy", error)
    assert "ValueError: no such model" in error
    assert (tmp_path / "starts").read_text() == "x"


def test_the_health_time_out_is_reported_with_the_log(tmp_path: Path) -> None:
    with server(tmp_path, "never-healthy", health_timeout_s=1.0) as running:
        running.start()
        error = until(running, ReplicaState.FAILED).error
    assert "not healthy within llm.vllm.health_timeout_s = 1 s" in error
    assert "start 0 with key ***" in error


def test_no_program_is_an_error(tmp_path: Path) -> None:
    running = VllmServer(VllmConfig(model="m", env={"PATH": str(tmp_path)}), "127.0.0.1", "vllm-0", "node-7")
    with pytest.raises(BackendError, match="no `vllm` program on the PATH of node node-7; install"):
        running.start()
    running.stop()
