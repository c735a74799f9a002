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


def told(model: type[ConfigModel], data: Any) -> str:
    with pytest.raises(ConfigError) as error:
        validate(model, data, "c")
    assert error.value.__cause__ is None
    return str(error.value)


@pytest.mark.parametrize(
    ("model", "data", "said"),
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
        (ToolsConfig, {"web_search_url": "u:hunter2@h"}, "web_search_url is not an http(s) address"),
    ],
)
def test_a_secret_is_not_in_the_error(model: type[ConfigModel], data: Any, said: str) -> None:
    text = told(model, data)
    assert said in text
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
    text = told(model, {**data, name: key})
    assert f"{name}: does not name an environment variable" in text
    assert "hunter2" not in text
    for fine in ("MY_KEY", "_key2", "AZURE_OPENAI_API_KEY_EASTUS2", "LLAMA31_70B_INSTRUCT_ENDPOINT_TOKEN"):
        assert getattr(validate(model, {**data, name: fine}, "c"), name) == fine


@pytest.mark.parametrize("key", KEYS)
def test_a_key_in_place_of_an_endpoints_variable_is_refused(key: str) -> None:
    text = told(LlmConfig, {"routing": {"endpoints": [{"base_url": "http://h/v1", "api_key_env": key}]}})
    assert "routing.endpoints.0.api_key_env: does not name" in text
    assert "hunter2" not in text


@pytest.mark.parametrize(
    ("model", "data", "said"),
    [
        (GenerationConfig, {"run": {"max_tokens": 0}}, "run.max_tokens = 0: input should be greater"),
        (LlmConfig, {"embedded": {"context_tokens": "2k"}}, "embedded.context_tokens = '2k': input"),
        (LlmConfig, {"agents": {"qa_judge": {"max_tokens": -1}}}, "agents.qa_judge.max_tokens = -1: input"),
    ],
)
def test_a_value_that_is_no_secret_is_shown(model: type[ConfigModel], data: Any, said: str) -> None:
    assert said in told(model, data)
