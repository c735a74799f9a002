"""How a vLLM server is called, and how its figures are read."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlgforge_core.config import VllmConfig
from dlgforge_core.errors import ConfigError
from dlgforge_core.runtime.serving.vllm_metrics import replica_metrics, sums_by_name
from dlgforge_core.runtime.serving.vllm_middleware.dlgforge_require_key import RequireKey
from dlgforge_core.runtime.serving.vllm_server import (
    ReplicaState,
    ReplicaStatus,
    serve_command,
    serve_environment,
)
from dlgforge_core.runtime.serving.vllm_settings import check_settings

PAGE = """# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="tiny"} 3.0
vllm:num_requests_running{engine="1",model_name="tiny"} 2.0
vllm:num_requests_waiting{engine="0",model_name="a } b"} 7.0
vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 5.0
vllm:prefix_cache_queries_total{engine="0"} 200.0
vllm:prefix_cache_hits_total{engine="0"} 1.5e+02
vllm:prefix_cache_hits_created{engine="0"} 1.79e+09
vllm:generation_tokens_total{engine="0"} 90.0 1795461450
vllm:prompt_tokens_total{engine="0"} 210.0
process_open_fds 42
"""


def test_every_key_becomes_an_argument() -> None:
    config = VllmConfig(
        model="org/model",
        served_model_name="name",
        num_gpus_per_replica=2.0,
        tensor_parallel_size=2,
        gpu_memory_utilization=0.8,
        max_num_seqs=64,
        max_model_len=4096,
        extra_args=["--dtype", "bfloat16"],
    )
    text = " ".join(serve_command("/opt/vllm", config, "10.0.0.3", 8001))
    assert text.startswith("/opt/vllm serve org/model --host 10.0.0.3 --port 8001 --served-model-name name ")
    assert "--tensor-parallel-size 2" in text
    assert "--gpu-memory-utilization 0.8" in text
    assert "--max-num-seqs 64" in text
    assert "--max-model-len 4096" in text
    assert "chunked" not in text
    assert text.endswith("--dtype bfloat16")
    on_cpu = " ".join(serve_command("vllm", VllmConfig(model="m", num_gpus_per_replica=0.0), "127.0.0.1", 1))
    assert "gpu" not in on_cpu
    assert "--no-enable-chunked-prefill" in on_cpu
    assert "--served-model-name m" in on_cpu


def test_the_key_travels_in_the_environment_and_cannot_be_replaced() -> None:
    config = VllmConfig(
        model="m", num_gpus_per_replica=0.0, env={"VLLM_API_KEY": "weak", "PYTHONPATH": "/mine", "A": "1"}
    )
    env = serve_environment(config, "127.0.0.1", "secret", {"OMP_NUM_THREADS": "1", "HOME": "/h"})
    assert env["VLLM_API_KEY"] == "secret"
    assert "secret" not in " ".join(serve_command("vllm", config, "127.0.0.1", 1))
    assert env["A"] == "1"
    assert env["HOME"] == "/h"
    assert "OMP_NUM_THREADS" not in env
    middleware, _, mine = env["PYTHONPATH"].partition(os.pathsep)
    assert os.path.exists(os.path.join(middleware, "dlgforge_require_key.py"))
    assert mine == "/mine"
    status = ReplicaStatus("vllm-0", ReplicaState.HEALTHY, api_key="secret")
    assert "secret" not in repr(status) + status.line()


@pytest.mark.parametrize(
    "argument", ["--api-key", "--api_key=S", "--api-ke", "--host=0.0.0.0", "--port", "--served_model_name"]
)
def test_arguments_that_we_set_are_refused(argument: str) -> None:
    named = "--api-key" if "api" in argument else argument.split("=", maxsplit=1)[0].replace("_", "-")
    with pytest.raises(ConfigError, match=f"extra_args holds {named}, which dlgforge sets") as error:
        check_settings(VllmConfig(model="m", extra_args=["--dtype", "half", argument, "x"]))
    assert "=S" not in str(error.value)


@pytest.mark.parametrize(
    "arguments", [["--hf-token", "S3cret"], ["--hf_token=S3cret"], ["--hf-tok", "S3cret"]]
)
def test_a_token_on_the_command_line_is_refused(arguments: list[str]) -> None:
    with pytest.raises(ConfigError, match="set HF_TOKEN in the environment of the Ray nodes") as error:
        check_settings(VllmConfig(model="m", extra_args=arguments))
    assert "S3cret" not in str(error.value)
    check_settings(VllmConfig(model="m", extra_args=["--hf-overrides", "{}", "--api-server-count", "2"]))


@pytest.mark.parametrize(
    ("settings", "stated"),
    [
        ({"tensor_parallel_size": 4}, r"uses 4 GPUs, and .*replica = 1; set it to 4"),
        (
            {"num_gpus_per_replica": 1.5},
            r"replica = 1\.5: above 1, Ray gives whole GPUs only; set it to 1 or 2",
        ),
        (
            {"num_gpus_per_replica": 4.0},
            r"uses 1 GPU, and .*replica = 4 would leave 3 of them idle; set it to 1",
        ),
        (
            {"num_gpus_per_replica": 0.5},
            r"2 servers on one GPU.*utilization = 0\.9.*set that to 0\.5 or less",
        ),
        (
            {"num_gpus_per_replica": 0.5, "tensor_parallel_size": 2, "gpu_memory_utilization": 0.4},
            r"uses 2 GPUs, and .*replica = 0\.5; set it to 2",
        ),
        (
            {"extra_args": ["--tensor_parallel_size=2", "-pp", "2"]},
            r"--tensor-parallel-size = 2 in .*extra_args and --pipeline-parallel-size = 2 there: .*4 GPUs",
        ),
        (
            {"num_gpus_per_replica": 2.0, "extra_args": ["--data-parallel-size", "4"]},
            r"--data-parallel-size = 4 there: a server uses 4 GPUs, and .*replica = 2; set it to 4",
        ),
    ],
)
def test_sizes_that_cannot_work_are_refused(settings: dict[str, Any], stated: str) -> None:
    with pytest.raises(ConfigError, match=stated):
        check_settings(VllmConfig(model="m", **settings))


@pytest.mark.parametrize(
    "settings",
    [
        {"tensor_parallel_size": 2, "num_gpus_per_replica": 0.0},
        {"num_gpus_per_replica": 0.5, "gpu_memory_utilization": 0.45},
        {"num_gpus_per_replica": 0.5, "extra_args": ["--gpu-memory-utilization=0.4"]},
        {"num_gpus_per_replica": 8.0, "tensor_parallel_size": 4, "extra_args": ["-dp=2"]},
        {"num_gpus_per_replica": 8.0, "extra_args": ["--nnodes", "2", "-tp", "16"]},
    ],
)
def test_sizes_that_can_work_are_taken(settings: dict[str, Any]) -> None:
    check_settings(VllmConfig(model="m", **settings))


def test_figures_are_added_up_over_engines() -> None:
    figures = replica_metrics("vllm-0", PAGE, seconds=10.0, tokens_before=40.0)
    assert figures.requests_running == 5
    assert figures.requests_waiting == 7
    assert figures.prefix_cache_hit_rate == 0.75
    assert figures.generation_tokens_per_s == 5.0
    assert figures.prompt_tokens == 210
    assert figures.line() == "vllm-0: 5.0 tokens/s, prefix cache 75.0 %, 5 running, 7 waiting"
    assert sums_by_name(PAGE)["process_open_fds"] == 42


def test_figures_of_a_server_that_began_anew_are_not_negative() -> None:
    assert replica_metrics("r", PAGE, seconds=9.0, tokens_before=1000.0).generation_tokens_per_s == 10.0
    empty = replica_metrics("r", "", seconds=0.0, tokens_before=0.0)
    assert empty.prefix_cache_hit_rate == empty.generation_tokens_per_s == 0.0


@given(st.text())
def test_any_page_can_be_read(page: str) -> None:
    sums_by_name(page)


@pytest.mark.parametrize(
    ("path", "header", "status"),
    [
        ("/health", None, 200),
        ("/metrics", None, 200),
        ("/metrics/x", None, 401),
        ("/invocations", None, 401),
        ("/v1/models", b"Bearer wrong", 401),
        ("/v1/models", b"secret", 401),
        ("/v1/models", b"Bearer secret", 200),
    ],
)
def test_middleware_lets_in_who_has_the_key(
    path: str, header: bytes | None, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    sent: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "path": path, "headers": [(b"authorization", header)] if header else []}
    asyncio.run(RequireKey(app)(scope, None, send))
    assert sent[0]["status"] == status
