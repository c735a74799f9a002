"""Configuration errors name key, value and what would be right; the environment wins over the file."""

from __future__ import annotations

import datetime
import json
from typing import Any

import pytest

from dlgforge_core.config import (
    ConfigModel,
    GenerationConfig,
    LlmConfig,
    RayConfig,
    StoreConfig,
    addresses_replaced,
    llm_from_environment,
    validate,
)
from dlgforge_core.dialogue import Role
from dlgforge_core.errors import ConfigError
from dlgforge_core.llm.endpoints import endpoints_from_config

ATTACH = {"backend": "vllm_attach", "model": "m"}
ENDPOINT = {"base_url": "http://gpu-1:8000/v1"}


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        (GenerationConfig, {"run": {"max_turn": 3}}, "run.max_turn: unknown key; did you mean 'max_turns'?"),
        (GenerationConfig, {"x": {}}, "x: unknown key; known keys: run, topics, personas, judge"),
        (
            GenerationConfig,
            {"run": {"concurrency": "8"}},
            "run.concurrency = '8': input should be",
        ),
        (
            GenerationConfig,
            {"run": {"n_turns": 0}},
            "run.n_turns = 0: input should be greater",
        ),
        (GenerationConfig, {"run": {"min_turns": 7, "max_turns": 5}}, "set min_turns to 5 or less"),
        (GenerationConfig, {"run": {"target_languages": []}}, "target_languages is empty"),
        (GenerationConfig, {"run": {"target_languages": ["en", "en"]}}, "names en more than once"),
        (
            GenerationConfig,
            {"run": {"concurrency": 9, "max_open_dialogues": 3}},
            "max_open_dialogues = 3 is less than concurrency = 9",
        ),
        (
            GenerationConfig,
            {"run": {"distributed": {"executor": "dask"}}},
            "run.distributed.executor = 'dask': input should be 'ray'",
        ),
        (
            GenerationConfig,
            {"run": {"turn_count_distribution": "normal"}},
            "'uniform', 'poisson' or",
        ),
        (GenerationConfig, {"judge": {"reasons": []}}, "reasons is empty"),
        (StoreConfig, {"backend": "sqlite"}, "backend = 'sqlite': input should be 'postgres'"),
        (
            StoreConfig,
            {"postgres": {"pool_max_size": 9}},
            "postgres.pool_max_size: unknown key; known keys: dsn, connect_timeout_s, statement_timeout_s",
        ),
        (RayConfig, {"adress": "auto"}, "did you mean 'address'?"),
        (RayConfig, {"coordinator": {"replicas": 2}}, "coordinator: a run has one coordinator"),
        (LlmConfig, {"backend": "gguf"}, "'embedded', 'openai', 'vllm_attach' or 'vllm_managed'"),
        (LlmConfig, {"backend": "openai"}, "no model is named for qa_generator, kb_responder, qa_judge"),
        (LlmConfig, {"backend": "openai", "model": "m", "base_url": "gpu-1:8000"}, "is not an address"),
        (LlmConfig, ATTACH, "needs servers to attach to"),
        (LlmConfig, {**ATTACH, "routing": {"endpoints": [ENDPOINT, ENDPOINT]}}, "gpu-1:8000 twice"),
        (
            LlmConfig,
            {"routing": {"endpoints": [{"base_url": "http://a", "wight": 1}]}},
            "mean 'weight'?",
        ),
        (LlmConfig, {"backend": "vllm_managed"}, "needs a model to serve"),
        (
            LlmConfig,
            {
                "backend": "vllm_managed",
                "model": "llama",
                "vllm": {"model": "x", "served_model_name": "q"},
            },
            "served_model_name = 'q' is not what the agents ask for (qa_generator = 'llama'",
        ),
    ],
)
def test_a_bad_value_is_named_with_what_would_be_right(
    model: type[ConfigModel], data: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as error:
        validate(model, data, "config.yaml")
    assert str(error.value).startswith("config.yaml cannot be used:")
    assert message in str(error.value)


def test_all_problems_are_listed_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        validate(GenerationConfig, {"run": {"seed": "x", "concurrency": -1}, "judge": {"mode": "?"}}, "c")
    assert {"run.seed", "run.concurrency", "judge.mode"} <= set(str(error.value).replace("=", " ").split())


@pytest.mark.parametrize(
    ("extra", "stated"),
    [
        ({"model": "x"}, "model: set the role's `model`"),
        ({"temperature": 1, "stream": True}, "stream: answers are read whole; temperature: set the role's"),
        ({"max_completion_tokens": 5}, "set the role's `max_tokens`"),
        ({"tool_choice": "required"}, "set `tools`, a section of its own"),
        ({"min_p": float("nan")}, "JSON has no form for"),
        ({"until": datetime.date(2026, 1, 1)}, "JSON has no form for"),
    ],
)
def test_further_parameters_are_json_and_not_what_is_set_already(extra: dict[str, Any], stated: str) -> None:
    with pytest.raises(ConfigError, match=r"agents\.kb_responder\.extra_body: holds what") as error:
        validate(LlmConfig, {"agents": {"kb_responder": {"extra_body": extra}}}, "c")
    assert stated in str(error.value)


@pytest.mark.parametrize(
    ("settings", "stated"),
    [
        ({"headers_env": {"Host": "H"}}, "headers_env: Host is a header that dlgforge sets itself"),
        ({"headers_env": {"api-key": "A", "Api-Key": "B"}}, "is there twice"),
        (
            {
                "routing": {
                    "endpoints": [{**ENDPOINT, "api_key_env": "A", "headers_env": {"authorization": "B"}}]
                }
            },
            "would both set the header Authorization",
        ),
    ],
)
def test_headers_that_cannot_be_are_refused(settings: dict[str, Any], stated: str) -> None:
    with pytest.raises(ConfigError, match=stated):
        validate(LlmConfig, settings, "c")


def test_a_call_may_take_as_long_as_is_configured_for_all_or_for_its_endpoint() -> None:
    plain = validate(LlmConfig, {"backend": "openai", "model": "m", "base_url": "http://h/v1"}, "c")
    assert [e.timeout_s for e in endpoints_from_config(plain, {})] == [120.0]
    own = {"base_url": "http://own/v1", "timeout_s": 5.0}
    data = {**plain.model_dump(mode="json"), "base_url": "", "timeout_s": 900.0}
    several = validate(LlmConfig, {**data, "routing": {"endpoints": [ENDPOINT, own]}}, "c")
    assert [e.timeout_s for e in endpoints_from_config(several, {})] == [900.0, 5.0]


def test_roles_ask_for_the_model_that_is_named_nearest() -> None:
    llm = validate(
        LlmConfig, {"backend": "openai", "model": "big", "agents": {"qa_judge": {"model": "judge"}}}, "c"
    )
    assert [llm.model_of(role) for role in Role] == ["big", "big", "judge", "big"]
    managed = validate(LlmConfig, {"backend": "vllm_managed", "vllm": {"model": "org/m"}}, "c")
    assert managed.model_of(Role.JUDGE) == "org/m"


def test_the_environment_wins_over_the_file() -> None:
    env = {
        "LLM_BACKEND": "vllm_attach",
        "LLM_MODEL": "served",
        "LLM_ROUTING_STRATEGY": "prefix_affinity",
        "LLM_ROUTING_ENDPOINTS_JSON": json.dumps([ENDPOINT]),
    }
    file = {
        "backend": "openai",
        "model": "other",
        "base_url": "http://file/v1",
        "routing": {"max_attempts": 2},
    }
    llm = validate(LlmConfig, llm_from_environment(file, env), "c")
    assert (llm.backend, llm.model, llm.base_url) == ("vllm_attach", "served", "")
    assert llm.routing.strategy == "prefix_affinity"
    assert llm.routing.max_attempts == 2
    assert [e.base_url for e in llm.routing.endpoints] == ["http://gpu-1:8000/v1"]


def test_without_overrides_the_environment_changes_nothing() -> None:
    file = {"backend": "openai", "model": "m"}
    assert llm_from_environment(file, {}) == file


def test_openai_base_url_is_for_the_backend_openai() -> None:
    env = {"OPENAI_BASE_URL": "http://proxy/v1"}
    assert llm_from_environment({"backend": "openai"}, env)["base_url"] == "http://proxy/v1"
    assert "base_url" not in llm_from_environment({"backend": "embedded"}, env)


@pytest.mark.parametrize(
    ("data", "env", "stated"),
    [
        (
            {"routing": {"endpoints": [ENDPOINT, ENDPOINT]}},
            {},
            "replaces llm.routing.endpoints (2): all calls",
        ),
        (
            {"base_url": "http://mine/v1"},
            {},
            "replaces llm.base_url: all calls go to http://p/v1",
        ),
        ({"base_url": "http://p/v1"}, {}, ""),
        ({}, {}, ""),
        ({"base_url": "http://mine/v1", "backend": "vllm_attach"}, {}, ""),
        ({"base_url": "http://mine/v1"}, {"LLM_ROUTING_ENDPOINTS_JSON": "[]"}, ""),
        ({"base_url": "http://mine/v1"}, {"LLM_BACKEND": "vllm_attach"}, ""),
    ],
)
def test_addresses_that_openai_base_url_replaces_are_reported(
    data: dict[str, Any], env: dict[str, str], stated: str
) -> None:
    reported = addresses_replaced({"backend": "openai", **data}, {"OPENAI_BASE_URL": "http://p/v1", **env})
    assert stated in reported
    assert bool(reported) == bool(stated)


@pytest.mark.parametrize("text", ["{", "{}", '"http://x"'])
def test_endpoints_in_the_environment_must_be_a_json_list(text: str) -> None:
    with pytest.raises(ConfigError, match="LLM_ROUTING_ENDPOINTS_JSON"):
        llm_from_environment({}, {"LLM_ROUTING_ENDPOINTS_JSON": text})
