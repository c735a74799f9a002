"""One `vllm serve` process: its command, its health, its restarts, its end. Knows nothing of Ray."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import httpx

from dlgforge_core.common.child_environment import MODEL_SERVER, child_environment
from dlgforge_core.common.restarts import WINDOW_S, RestartBudget
from dlgforge_core.config import VllmConfig
from dlgforge_core.errors import BackendError
from dlgforge_core.printable import printable
from dlgforge_core.runtime.serving.processes import ServerProcess
from dlgforge_core.runtime.serving.vllm_metrics import ReplicaMetrics, replica_metrics

RESTARTS = 3  # of one server, in any ten minutes
STOP_GRACE_S = 10.0
LOG_LINES = 200
TAIL_LINES = 30
# A healthy server that does not say so for this long is stuck, and is started anew.
UNHEALTHY_S = 60.0
_POLL_S = 0.5
_HEALTH_CHECK_S = 5.0
_PORT_TRIES = 3
_GUARD = (sys.executable, "-I", "-S", str(Path(__file__).with_name("vllm_guard.py")), str(STOP_GRACE_S))
_MIDDLEWARE = Path(__file__).with_name("vllm_middleware")


class ReplicaState(StrEnum):
    """Where a server is in its life."""

    NEW = "new"  # not asked to start yet
    STARTING = "starting"
    HEALTHY = "healthy"
    RESTARTING = "restarting"  # it died, and is being started again
    FAILED = "failed"  # it could not be started, or died too often
    STOPPED = "stopped"
    LOST = "lost"  # its actor or node does not answer


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """One server at one moment. `api_key` never shows in its repr."""

    name: str
    state: ReplicaState
    node: str = ""
    base_url: str = ""
    api_key: str = field(default="", repr=False)
    seconds: float = 0.0
    """How long it has been in this state."""
    restarts: int = 0
    pid: int | None = None
    """Process id of the supervisor above the server, on its node."""
    last_line: str = ""
    """What the server wrote last."""
    error: str = ""
    """Why it failed, with the end of its log."""

    def line(self) -> str:
        """In one line, for progress."""
        last = f": {self.last_line}" if self.last_line and self.state is not ReplicaState.HEALTHY else ""
        return f"{self.name} on {self.node or 'no node yet'}: {self.state} for {self.seconds:.0f} s{last}"


def find_binary(config: VllmConfig) -> str:
    """Path of the `vllm` program on this machine; empty when there is none. Honours PATH in `vllm.env`."""
    return shutil.which("vllm", path=config.env.get("PATH")) or ""


def serve_command(binary: str, config: VllmConfig, host: str, port: int) -> list[str]:
    """Return the command line of one server. `extra_args` come last, so that they win over ours."""
    command = [binary, "serve", config.model, "--host", host, "--port", str(port)]
    command += ["--served-model-name", config.served_name]
    command += ["--tensor-parallel-size", str(config.tensor_parallel_size)]
    if config.num_gpus_per_replica > 0:
        command += ["--gpu-memory-utilization", str(config.gpu_memory_utilization)]
    else:
        # When the prompt of a call with a seed is read in parts, vLLM's engine on CPU (seen in 0.32) dies of
        # "CPU Generator does not use offset". Our calls have seeds.
        command += ["--no-enable-chunked-prefill"]
    if config.max_num_seqs is not None:
        command += ["--max-num-seqs", str(config.max_num_seqs)]
    if config.max_model_len is not None:
        command += ["--max-model-len", str(config.max_model_len)]
    # A line for every call would push the lines that matter out of the kept log.
    command += ["--disable-uvicorn-access-log"]
    command += ["--middleware", "dlgforge_require_key.RequireKey"]
    return command + list(config.extra_args)


def serve_environment(
    config: VllmConfig, host: str, api_key: str, env: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """Return the server's environment: what it needs of this process's, then `vllm.env`, then the key."""
    result = child_environment(MODEL_SERVER, env)
    if config.num_gpus_per_replica == 0:
        result.pop("OMP_NUM_THREADS", None)  # Ray sets it to 1; vLLM on CPU counts cores itself
    result["VLLM_NO_USAGE_STATS"] = "1"
    result["VLLM_HOST_IP"] = host  # else vLLM takes the machine's outward address for its own sockets
    result.update(config.env)
    paths = [str(_MIDDLEWARE), result.get("PYTHONPATH", "")]
    result["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    result["VLLM_API_KEY"] = api_key
    return result


def free_port(host: str) -> int:
    """Return a port of `host` that nothing listens on now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


class VllmServer:
    """A `vllm serve` process on `host`, watched and, when it dies after it was healthy, started again.

    It ends with this process, whatever ends that.
    """

    def __init__(
        self,
        config: VllmConfig,
        host: str,
        name: str,
        node: str = "",
        budget: RestartBudget | None = None,
    ) -> None:
        self._config = config
        self._host = host
        self._name = name
        self._node = node or host
        self._api_key = secrets.token_urlsafe(32)
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._process: ServerProcess | None = None
        self._state = ReplicaState.NEW
        self._since = time.monotonic()
        self._base_url = ""
        self._error = ""
        self._budget = budget or RestartBudget(RESTARTS)
        self._restarts = 0
        self._last_reading = (time.monotonic(), 0.0)

    def start(self) -> None:
        """Begin to start it, and return; `status()` tells what came of it. Idempotent.

        Raises BackendError when there is no `vllm` program.
        """
        binary = find_binary(self._config)
        if not binary:
            raise BackendError(missing_binary(self._node))
        with self._lock:
            if self._thread is not None or self._stopping.is_set():
                return
            self._thread = threading.Thread(
                target=self._run, args=(binary,), name=f"{self._name}-monitor", daemon=True
            )
            self._enter(ReplicaState.STARTING)
            self._thread.start()

    def status(self) -> ReplicaStatus:
        """Its state now."""
        process = self._process
        tail = process.tail(1) if process else ""
        return ReplicaStatus(
            name=self._name,
            state=self._state,
            node=self._node,
            base_url=self._base_url,
            api_key=self._api_key,
            seconds=time.monotonic() - self._since,
            restarts=self._restarts,
            pid=process.pid if process else None,
            last_line=tail.strip()[-300:],
            error=self._error,
        )

    def metrics(self) -> ReplicaMetrics:
        """Figures since it last started. Raises BackendError when it cannot be read."""
        root = self._base_url.removesuffix("/v1")
        if not root:
            raise BackendError(f"{self._name} is {self._state}, so that there are no figures to read")
        try:
            answer = httpx.get(f"{root}/metrics", timeout=10.0, trust_env=False)
            answer.raise_for_status()
        except httpx.HTTPError as error:
            raise BackendError(f"{self._name}: /metrics cannot be read: {error}") from None
        now = time.monotonic()
        before, tokens = self._last_reading
        figures = replica_metrics(self._name, answer.text, now - before, tokens)
        self._last_reading = (now, figures.generation_tokens)
        return figures

    def stop(self) -> None:
        """End the process and all it started: SIGTERM, then SIGKILL. Idempotent."""
        self._stopping.set()
        process, thread = self._process, self._thread
        if process is not None:
            process.stop()
        if thread is not None and thread is not threading.current_thread():
            thread.join(STOP_GRACE_S + 10.0)
        if self._state is not ReplicaState.FAILED:
            self._enter(ReplicaState.STOPPED)

    # On the monitor's thread

    def _run(self, binary: str) -> None:
        try:
            problem = self._launch(binary)
            while not problem and not self._stopping.is_set():
                self._enter(ReplicaState.HEALTHY)
                ended = self._watch()
                if self._stopping.is_set():
                    break
                problem = self._relaunch(binary, ended)
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
        if problem and not self._stopping.is_set():
            self._error = problem
            self._enter(ReplicaState.FAILED)
        if self._process is not None:
            self._process.stop()

    def _relaunch(self, binary: str, ended: str) -> str:
        """Start it again within the budget; returns why that is given up, or nothing."""
        while True:
            pause_s = self._budget.spend()
            if pause_s is None:
                times = self._budget.limit + 1
                return f"died {times} times within {WINDOW_S / 60:g} minutes; last: {ended}"
            self._restarts += 1
            self._enter(ReplicaState.RESTARTING)
            if self._stopping.wait(pause_s):
                return ""
            ended = self._launch(binary)
            if not ended:
                return ""

    def _launch(self, binary: str) -> str:
        """Start the process and await its health; returns what went wrong, with its log's end, or nothing."""
        problem = ""
        for _ in range(_PORT_TRIES):
            port = free_port(self._host)
            if self._process is not None:
                self._process.stop()
            self._process = ServerProcess(
                [*_GUARD, *serve_command(binary, self._config, self._host, port)],
                env=serve_environment(self._config, self._host, self._api_key),
                grace_s=STOP_GRACE_S + 2.0,  # the guard's own grace comes first
                log_lines=LOG_LINES,
                secrets=[self._api_key],
                on_stdout=self._show,
            )
            host = f"[{self._host}]" if ":" in self._host else self._host
            problem = self._await_health(f"http://{host}:{port}")
            # Between our look and its bind, another process may have taken the port.
            if not problem or "ddress already in use" not in problem:
                break
        if not problem:
            self._base_url = f"http://{host}:{port}/v1"
            self._last_reading = (time.monotonic(), 0.0)
        return problem

    def _show(self, line: str) -> None:
        """Into the actor's own log, where Ray keeps and shows it."""
        print(printable(line), flush=True)

    def _await_health(self, root: str) -> str:
        assert self._process is not None
        process, started = self._process, time.monotonic()
        while not self._stopping.wait(_POLL_S):
            if (status := process.poll()) is not None:
                return (
                    f"vllm serve ended with {_exit(status)} after {time.monotonic() - started:.0f} s, before "
                    f"it was healthy; the end of its log:\n{_indent(process.tail(TAIL_LINES))}"
                )
            if _healthy(root):
                return ""
            if time.monotonic() - started > self._config.health_timeout_s:
                tail = process.tail(TAIL_LINES)
                process.stop()
                return (
                    f"vllm serve was not healthy within llm.vllm.health_timeout_s = "
                    f"{self._config.health_timeout_s:g} s; the end of its log:\n{_indent(tail)}"
                )
        return "stopped while it started"

    def _watch(self) -> str:
        """Until the process ends or hangs; returns what happened."""
        assert self._process is not None
        process, root = self._process, self._base_url.removesuffix("/v1")
        well = checked = time.monotonic()
        while not self._stopping.wait(_POLL_S):
            if (status := process.poll()) is not None:
                return (
                    f"vllm serve ended with {_exit(status)}; the end of its log:\n"
                    f"{_indent(process.tail(TAIL_LINES))}"
                )
            now = time.monotonic()
            if now - checked < _HEALTH_CHECK_S:
                continue
            checked = now
            if _healthy(root):
                well = now
            elif now - well > UNHEALTHY_S:
                tail = process.tail(TAIL_LINES)
                process.stop()
                return (
                    f"vllm serve did not answer for {UNHEALTHY_S:g} s; the end of its log:\n{_indent(tail)}"
                )
        return ""

    def _enter(self, state: ReplicaState) -> None:
        self._state, self._since = state, time.monotonic()


def missing_binary(node: str) -> str:
    """Return what to say of a node without vLLM."""
    return (
        f"there is no `vllm` program on the PATH of node {node}; install vLLM there (pip install vllm), or "
        "set PATH in llm.vllm.env to where it is"
    )


def _healthy(root: str) -> bool:
    try:
        return httpx.get(f"{root}/health", timeout=5.0, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def _exit(status: int) -> str:
    return f"signal {-status}" if status < 0 else f"exit status {status}"


def _indent(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines()) or "  (it wrote nothing)"
