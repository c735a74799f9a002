"""One provisioner for each backend, behind one interface."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from dlgforge_core.config import LlmConfig
from dlgforge_core.errors import BackendError, ConfigError
from dlgforge_core.runtime.serving.provisioners import Provisioner, provisioner_for
from tests.support.simulated_endpoint import simulated_endpoint


def provisioner(env: Mapping[str, str] | None = None, **llm: Any) -> Provisioner:
    return provisioner_for(LlmConfig.model_validate(llm), slots=2, env=env or {})


def quiet(_line: str) -> None:
    pass


def test_openai_takes_the_endpoints_as_they_are() -> None:
    one = provisioner({"OPENAI_API_KEY": "k"}, backend="openai", model="m")
    (endpoint,) = one.start(quiet)
    assert endpoint.base_url == "https://api.openai.com/v1"
    assert endpoint.api_key == "k"
    one.stop()
    one.stop()


def test_openai_without_a_key_is_an_error_before_any_call() -> None:
    with pytest.raises(ConfigError, match="needs a key: set OPENAI_API_KEY"):
        provisioner(backend="openai", model="m").start(quiet)


def test_attach_checks_and_takes_servers_that_serve_the_model() -> None:
    with simulated_endpoint() as server:
        model = httpx.get(f"{server.base_url}/models", timeout=60).json()["data"][0]["id"]
        lines: list[str] = []
        one = provisioner(backend="vllm_attach", model=model, base_url=server.base_url)
        assert [e.base_url for e in one.start(lines.append)] == [server.base_url]
        assert lines == [f"checking 1 endpoints for {model}"]
        one.stop()
        assert httpx.get(f"{server.base_url}/models", timeout=60).status_code == 200


def test_attach_lists_every_bad_endpoint_with_its_reason() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        closed = probe.getsockname()[1]
    with simulated_endpoint() as good, simulated_endpoint() as other:
        endpoints = [
            {"name": "good", "base_url": good.base_url},
            {"name": "down", "base_url": f"http://127.0.0.1:{closed}/v1"},
            {"name": "wrong-path", "base_url": other.base_url.replace("/v1", "/v2")},
        ]
        model = httpx.get(f"{good.base_url}/models", timeout=60).json()["data"][0]["id"]
        with pytest.raises(BackendError) as caught:
            provisioner(backend="vllm_attach", model=model, routing={"endpoints": endpoints}).start(quiet)
        text = str(caught.value)
        assert "2 of 3 endpoints of backend vllm_attach cannot be used" in text
        assert "down (http://127.0.0.1" in text
        assert "wrong-path" in text
        assert "good" not in text
        with pytest.raises(BackendError, match="does not serve no-such-model; it serves"):
            provisioner(backend="vllm_attach", model="no-such-model", base_url=good.base_url).start(quiet)


def test_embedded_serves_and_ends() -> None:
    one = provisioner(backend="embedded")
    try:
        (endpoint,) = one.start(quiet)
        headers = {"Authorization": f"Bearer {endpoint.api_key}"}
        assert httpx.get(f"{endpoint.base_url}/models", headers=headers, timeout=60).status_code == 200
    finally:
        one.stop()
        one.stop()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{endpoint.base_url}/models", timeout=60)


def test_managed_settings_are_checked_before_anything_starts() -> None:
    with pytest.raises(ConfigError, match="extra_args holds --api-key"):
        provisioner(backend="vllm_managed", vllm={"model": "m", "extra_args": ["--api-key", "x"]})
    one = provisioner(backend="vllm_managed", vllm={"model": "m"})
    one.stop()


@pytest.mark.parametrize("llm", [{"backend": "embedded", "embedded": {"model_path": "/no/such.gguf"}}])
def test_stop_after_a_failed_start_is_harmless(llm: dict[str, Any]) -> None:
    one = provisioner(**llm)
    with pytest.raises(BackendError, match=r"/no/such\.gguf"):
        one.start(quiet)
    one.stop()
