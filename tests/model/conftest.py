"""The model that this suite generates with, served on this machine; `make test-model` fetches it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dlgforge_core.config import EmbeddedConfig
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.runtime.serving.embedded_model import EmbeddedModelServer

SLOTS = 2


@pytest.fixture(scope="session")
def model() -> Iterator[Endpoint]:
    """Return the endpoint of an instruction-tuned model of 1.5 billion parameters."""
    path = Path(os.environ.get("DLGFORGE_TEST_MODEL", ""))
    if not path.is_file():
        pytest.fail("DLGFORGE_TEST_MODEL names no GGUF file; run `make test-model`, which fetches one")
    with EmbeddedModelServer(EmbeddedConfig(model_path=str(path), context_tokens=2048)) as server:
        yield server.start(SLOTS)
