"""What the tests of managed vLLM servers share: settings for CPU, and a look at their processes."""

from __future__ import annotations

import os
from pathlib import Path

import psutil

from dlgforge_core.config import RayConfig, VllmConfig
from tests.support.processes import command_line

ROOT = Path(__file__).parents[2]
VENV = ROOT / os.environ.get("VLLM_VENV", ".venv-vllm")
RAY = RayConfig(address="local")


def settings(model: Path | str, **changes: object) -> VllmConfig:
    data: dict[str, object] = {
        "model": str(model),
        "served_model_name": "tiny",
        "num_gpus_per_replica": 0.0,
        "max_num_seqs": 8,
        "max_model_len": 2048,
        "health_timeout_s": 300.0,
        "extra_args": ["--enforce-eager", "--dtype", "bfloat16"],
        "env": {
            "PATH": f"{VENV / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # else both servers are bound to the same cores
            "OMP_NUM_THREADS": "1",
        },
    }
    return VllmConfig.model_validate(data | changes)


def vllm_processes() -> list[psutil.Process]:
    """Return the processes of vLLM below this one, its engines and workers included."""
    below = [(process, command_line(process)) for process in psutil.Process().children(recursive=True)]
    return [process for process, message in below if "vllm serve" in message or message.startswith("VLLM::")]
