"""Servers that a run starts: what can be known of them before."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

from dlgforge_core.config import EmbeddedConfig, LlmConfig, VllmConfig
from dlgforge_core.config.hub_file import hub_file
from dlgforge_core.errors import BackendError, ConfigError
from dlgforge_core.preflight.callers import Caller
from dlgforge_core.preflight.context import context_row
from dlgforge_core.preflight.report import Row, failed, ok, warning
from dlgforge_core.runtime.serving.embedded_model import model_path
from dlgforge_core.runtime.serving.hub_model import kept_model, remote_size
from dlgforge_core.runtime.serving.vllm_server import find_binary, missing_binary
from dlgforge_core.runtime.serving.vllm_settings import check_settings

Reporter = Callable[[Row], None]
_MIB = 1024 * 1024


def check_started_servers(
    llm: LlmConfig, callers: Sequence[Caller], needs: Mapping[str, int], report: Reporter
) -> None:
    """Report on the servers of `llm.backend`, which are not started for it, and on those whom they serve."""
    subject = f"llm.backend {llm.backend}"
    report(ok(subject, "servers", "a run starts them: their answers show then"))
    context: int | None = None
    try:
        if llm.backend == "embedded":
            context = llm.embedded.context_tokens
            _check_embedded(llm.embedded, subject, report)
        else:
            context = llm.vllm.max_model_len
            _check_vllm(llm.vllm, subject, report)
    except (BackendError, ConfigError) as error:
        cause, _, remedy = str(error).partition("; ")
        report(failed(subject, "model", cause, remedy))
    for caller in callers:
        if not caller.agent.is_apart:
            report(
                context_row(f"{caller.name} at {llm.backend}", caller.model, context, needs.get(caller.name))
            )


def _check_embedded(config: EmbeddedConfig, subject: str, report: Reporter) -> None:
    remote = hub_file(config.model_path)
    if remote is not None and kept_model(remote) is None:
        size = remote_size(remote) // _MIB
        report(ok(subject, "model", f"{remote.address}: a run fetches it, {size:,} MiB"))
        return
    path = model_path(config)
    with path.open("rb") as file:
        magic = file.read(4)
    if magic != b"GGUF":
        report(failed(subject, "model", f"{path} is no GGUF file", "set llm.embedded.model_path to one"))
        return
    size, free = path.stat().st_size, psutil.virtual_memory().available
    finding = f"{path.name}, {size // _MIB:,} MiB; {free // _MIB:,} MiB of memory are free"
    if size > free:
        report(warning(subject, "model", finding, "free some memory, or choose a smaller model"))
    else:
        report(ok(subject, "model", finding))


def _check_vllm(config: VllmConfig, subject: str, report: Reporter) -> None:
    check_settings(config)
    report(ok(subject, "settings", f"{config.replicas} servers, {config.num_gpus_per_replica:g} GPU each"))
    if binary := find_binary(config):
        report(ok(subject, "program", binary))
    else:
        remedy = missing_binary("it runs on").partition("; ")[2]
        finding = "there is no `vllm` program on the PATH of this machine; other nodes are looked at by a run"
        report(warning(subject, "program", finding, remedy))
    folder = Path(config.model).expanduser()
    if not config.model.startswith(("/", ".", "~")):
        report(ok(subject, "model", f"{config.model}: a server fetches it from the hub, unless it is there"))
    elif not folder.is_dir():
        finding = f"llm.vllm.model = {config.model!r} is no folder on this machine"
        report(warning(subject, "model", finding, "see that it is there on the nodes of the cluster"))
    else:
        report(_folder_row(subject, folder))


def _folder_row(subject: str, folder: Path) -> Row:
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        finding = f"{folder}/config.json cannot be read ({error})"
        return failed(subject, "model", finding, "set llm.vllm.model to the folder of a whole model")
    kind = config.get("model_type", "unknown") if isinstance(config, dict) else "unknown"
    return ok(subject, "model", f"{folder}, of type {kind}")
