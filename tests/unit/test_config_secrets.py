"""No secret is in an error about the configuration, and nothing else is left out of it."""

from __future__ import annotations

from typing import Any

import pytest

from dlgforge_core.config import (
    ConfigModel,
    EmbeddingConfig,
    GenerationConfig,
    HfPushConfig,
    LlmConfig,
    RerankConfig,
    StoreConfig,
    ToolsConfig,
    validate,
)
from dlgforge_core.errors import ConfigError

DSN = "postgresql://u:hunter2@h/d"
KEYS = ("sk-abc-hunter2", "a" + "0123456789abcdef" * 2 + "hunter2", "hf_hunter2", "2hunter2")


def reported(model: type[ConfigModel], data: Any) -> str:
    with pytest.raises(ConfigError) as error:
        validate(model, data, "c")
    assert error.value.__cause__ is None
    return str(error.value)


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        (StoreConfig, {"postgres": {"dsn": [DSN]}}, "postgres.dsn: input should be"),
        (StoreConfig, {"postgres": DSN}, "postgres is text; it must be a section with keys: dsn, "),
        (StoreConfig, {"postgres": [DSN]}, "postgres is a list; it must be a section"),
        (StoreConfig, DSN, "StoreConfig is text; it must be a section with keys: backend, postgres"),
        (StoreConfig, {"backend": DSN}, "backend is text: input should be 'postgres'"),
        (StoreConfig, {"backend": {"dsn": "hunter2"}}, "backend is a mapping: input should be"),
        (LlmConfig, {"base_url": "u:hunter2@h/v1"}, "base_url is not an address"),
        (LlmConfig, {"base_url": "https://u:hunter2@h/v1"}, "base_url holds a password"),
        (LlmConfig, {"vllm": {"env": {"HF_TOKEN": ["hunter2"]}}}, "vllm.env.HF_TOKEN: input should be"),
        (LlmConfig, {"base_url": "htp://u:hunter2@h/v1"}, "base_url is not an address"),
        (LlmConfig, {"base_url": "https://h/v1?api-key=hunter2"}, "in its parameter 'api-key'"),
        (LlmConfig, {"base_url": "h/v1?key=hunter2"}, "base_url is not an address"),
        (LlmConfig, {"routing": {"endpoints": ["http://u:hunter2@h"]}}, "endpoints.0 is text; it must be"),
        (LlmConfig, {"headers_env": {"X Y: hunter2": "K"}}, "is no name of an HTTP header"),
        (ToolsConfig, {"web_search_url": "u:hunter2@h"}, "web_search_url is not an address"),
        (ToolsConfig, {"web_search_url": "https://h/s?token=hunter2"}, "its parameter 'token'"),
        (RerankConfig, {"backend": "endpoint", "base_url": "https://h/v1?sig=hunter2"}, "parameter 'sig'"),
    ],
)
def test_a_secret_is_not_in_the_error(model: type[ConfigModel], data: Any, message: str) -> None:
    text = reported(model, data)
    assert message in text
    assert "hunter2" not in text


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize(
    ("model", "name", "data"),
    [
        (LlmConfig, "api_key_env", {}),
        (EmbeddingConfig, "api_key_env", {}),
        (RerankConfig, "api_key_env", {}),
        (ToolsConfig, "web_search_key_env", {}),
        (HfPushConfig, "token_env", {}),
    ],
)
def test_a_key_in_place_of_a_variable_is_refused_and_not_shown(
    model: type[ConfigModel], name: str, data: dict[str, Any], key: str
) -> None:
    text = reported(model, {**data, name: key})
    assert f"{name}: does not name an environment variable" in text
    assert "hunter2" not in text
    for fine in ("MY_KEY", "_key2", "AZURE_OPENAI_API_KEY_EASTUS2", "LLAMA31_70B_INSTRUCT_ENDPOINT_TOKEN"):
        assert getattr(validate(model, {**data, name: fine}, "c"), name) == fine


@pytest.mark.parametrize(
    "name", ["key", "api_key", "apiKey", "subscription-key", "access_token", "sig", "code"]
)
def test_an_address_holds_no_secret_parameter(name: str) -> None:
    text = reported(LlmConfig, {"base_url": f"https://h/v1?api-version=1&{name}=hunter2"})
    assert f"base_url holds a secret, in its parameter {name!r}" in text
    assert "headers_env" in text
    assert "hunter2" not in text


@pytest.mark.parametrize("query", ["api-version=2024-10-21", "deployment=d&region=eu", "keyword=a"])
def test_an_address_may_hold_other_parameters(query: str) -> None:
    assert validate(LlmConfig, {"base_url": f"https://h/openai/d?{query}"}, "c").base_url.endswith(query)


@pytest.mark.parametrize("key", KEYS)
def test_a_key_in_place_of_a_headers_variable_is_refused(key: str) -> None:
    text = reported(LlmConfig, {"headers_env": {"api-key": key}})
    assert "headers_env.api-key: does not name an environment variable" in text
    assert "hunter2" not in text


@pytest.mark.parametrize("key", KEYS)
def test_a_key_in_place_of_an_endpoints_variable_is_refused(key: str) -> None:
    text = reported(LlmConfig, {"routing": {"endpoints": [{"base_url": "http://h/v1", "api_key_env": key}]}})
    assert "routing.endpoints.0.api_key_env: does not name" in text
    assert "hunter2" not in text


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        (GenerationConfig, {"run": {"max_tokens": 0}}, "run.max_tokens = 0: input should be greater"),
        (LlmConfig, {"embedded": {"context_tokens": "2k"}}, "embedded.context_tokens = '2k': input"),
        (LlmConfig, {"agents": {"qa_judge": {"max_tokens": -1}}}, "agents.qa_judge.max_tokens = -1: input"),
    ],
)
def test_a_value_that_is_no_secret_is_shown(model: type[ConfigModel], data: Any, message: str) -> None:
    assert message in reported(model, data)
