"""What calls cost: whose price counts, list prices, and how money is told."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlgforge_core.config import JudgeConfig, LlmConfig, ProviderConfig, Recipe, validate
from dlgforge_core.dialogue import Role
from dlgforge_core.errors import ConfigError
from dlgforge_core.judging.judges import judges_of
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.llm.prices import NOTHING, Price, PriceList, price_list, price_of
from dlgforge_core.llm.providers import callers_of
from dlgforge_core.llm.stats import CallStats
from dlgforge_core.usage import Spending, dollars

OPENAI, OURS = "https://api.openai.com/v1", "http://gpu-1:8000/v1"
MINI = {"input": 0.4, "cached_input": 0.1, "output": 1.6}


def llm(backend: str = "openai", **settings: Any) -> LlmConfig:
    address = {"base_url": OURS} if backend in ("openai", "vllm_attach") else {}
    managed = {"vllm": {"model": "m"}} if backend == "vllm_managed" else {"model": "m"}
    return LlmConfig.model_validate({"backend": backend, **address, **managed, **settings})


def price(model: str, base_url: str, provider: dict[str, Any] | None = None, **settings: Any) -> Price | None:
    return price_of(llm(**settings), ProviderConfig.model_validate(provider or {}), base_url, model)


@pytest.mark.parametrize(
    ("model", "base_url"),
    [
        ("gpt-4.1-mini", OPENAI),
        ("gpt-4.1-mini-2025-04-14", OPENAI),
        ("gpt-4.1-mini", "https://NAME.openai.azure.com/openai/deployments/D?api-version=2024-10-21"),
        ("openai/gpt-4.1-mini", "https://openrouter.ai/api/v1"),
        ("claude-sonnet-4-5", "https://api.anthropic.com/v1"),
        ("mistral-small-latest", "https://api.mistral.ai/v1"),
    ],
)
def test_providers_list_prices_are_known(model: str, base_url: str) -> None:
    found = price(model, base_url)
    assert found is not None
    assert 0 < found.cached_input <= found.input <= found.output


def test_list_prices_are_for_a_million_tokens() -> None:
    assert price("gpt-4.1-mini", OPENAI) == Price(0.4, 0.1, 1.6)


@pytest.mark.parametrize(
    ("model", "base_url"),
    [
        ("gpt-4.1-mini", "http://127.0.0.1:4000/v1"),  # a proxy, perhaps: who is behind it is not known
        ("qwen2.5-7b-instruct", OURS),
        ("a-model-of-tomorrow", OPENAI),
    ],
)
def test_a_price_that_is_not_known_is_none_and_never_0(model: str, base_url: str) -> None:
    assert price(model, base_url) is None


@pytest.mark.parametrize(
    ("backend", "base_url"),
    [
        ("embedded", "http://127.0.0.1:8080/v1"),
        ("vllm_managed", "http://10.0.0.7:8000/v1"),
        ("vllm_attach", OURS),
    ],
)
def test_servers_of_ones_own_cost_nothing_unless_the_configuration_says_so(
    backend: str, base_url: str
) -> None:
    assert price("m", base_url, backend=backend) == NOTHING
    assert price("m", base_url, backend=backend, prices={"m": MINI}) == Price(0.4, 0.1, 1.6)


def test_a_hosted_role_beside_ones_own_servers_has_its_price() -> None:
    judge = {"base_url": OPENAI}
    assert price("gpt-4.1-mini", OPENAI, judge, backend="embedded") == Price(0.4, 0.1, 1.6)
    assert (
        price("m", "https://llm.example/v1", {"base_url": "https://llm.example/v1"}, backend="embedded")
        is None
    )


@pytest.mark.parametrize(
    ("provider", "whole", "expected"),
    [
        ({}, {"m": {"input": 1, "output": 2}}, Price(1, 1, 2)),
        ({}, {"*": {"input": 1, "output": 2}}, Price(1, 1, 2)),
        ({"m": {"input": 3, "output": 4}}, {"m": {"input": 1, "output": 2}}, Price(3, 3, 4)),
        ({"*": {"input": 3, "output": 4}}, {"m": {"input": 1, "output": 2}}, Price(1, 1, 2)),
        ({}, {"other": {"input": 1, "output": 2}}, None),
        ({}, {"m": {"input": 0, "output": 0}}, NOTHING),
    ],
)
def test_own_prices_count_before_others_the_roles_before_the_runs(
    provider: dict[str, Any], whole: dict[str, Any], expected: Price | None
) -> None:
    assert price("m", OURS, {"prices": provider}, prices=whole) == expected


def test_prices_are_by_caller_and_models_and_say_what_is_missing() -> None:
    settings = llm(prices={"m": MINI}, agents={"qa_judge": {"model": "j"}})
    callers = callers_of(settings, Role.ASSISTANT, Role.JUDGE)
    models = {"kb_responder": ["m", "other"], "qa_judge": ["j"]}
    found = price_list(settings, callers, models, [Endpoint("e", OURS)])
    assert found.of("kb_responder", "e", "m") == Price(0.4, 0.1, 1.6)
    assert found.of("qa_judge", "e", "m") is None
    problems = found.check("run.max_cost", None)
    assert len(problems) == 2
    assert problems[1].startswith("the price of j at e (qa_judge) is not known; set llm.prices: {j: {input:")
    with pytest.raises(ConfigError, match=r"run.max_cost = 2.5 cannot be kept:\n  the price of other at e"):
        found.check("run.max_cost", 2.5)
    assert PriceList().check("run.max_cost", 1.0) == []


def test_offline_judges_have_prices_of_their_own() -> None:
    settings = llm(agents={"qa_judge": {"prices": {"a": MINI}}})
    config = JudgeConfig.model_validate(
        {
            "mode": "offline",
            "judges": [{"model": "a"}, {"model": "b", "prices": {"b": {"input": 1, "output": 2}}}],
        }
    )
    first, second = judges_of(config, settings)
    assert price_of(settings, first.agent, OURS, "a") == Price(0.4, 0.1, 1.6)
    assert price_of(settings, second.agent, OURS, "b") == Price(1, 1, 2)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ({"llm": {"prices": {"m": {"input": 1}}}}, "llm.prices.m.output: missing"),
        ({"llm": {"prices": {"m": {"input": -1, "output": 1}}}}, "llm.prices.m.input = -1"),
        ({"llm": {"prices": {" ": {"input": 1, "output": 1}}}}, "one of its keys is empty"),
        ({"llm": {"prices": {"m": {"input": 1, "output": 1, "cached": 1}}}}, "did you mean 'cached_input'"),
        ({"run": {"max_cost": 0}}, "run.max_cost = 0"),
    ],
)
def test_what_is_no_price_is_named(data: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match="recipe cannot be used") as error:
        validate(Recipe, data, "recipe")
    assert problem in str(error.value)


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 2 * 10**6))
@settings(max_examples=50)
def test_cached_tokens_are_part_of_the_prompt(prompt: int, completion: int, cached: int) -> None:
    cost = Price(3.0, 0.3, 15.0).cost(prompt, completion, cached)
    assert prompt * 0.3 + completion * 15 <= cost * 1e6 * (1 + 1e-9) + 1e-9
    assert cost * 1e6 <= (prompt * 3 + completion * 15) * (1 + 1e-9) + 1e-9


def test_stats_keep_what_calls_cost_and_those_of_unknown_price() -> None:
    stats = CallStats()
    prices = PriceList({("qa_judge", "a", "m"): Price(1.0, 0.5, 2.0), ("kb_responder", "b", "m"): NOTHING})
    stats.of("a", "qa_judge").add_usage(prices.usage("qa_judge", "a", "m", 1000, 100, 400))
    stats.of("a", "kb_responder").add_usage(prices.usage("kb_responder", "a", "m", 10, 10, 0))
    stats.of("a", "kb_responder").add_usage(prices.usage("kb_responder", "b", "m", 10, 10, 0))
    copy = CallStats.from_json(json.loads(json.dumps(stats.to_json())))
    assert copy.by_role()["qa_judge"].dollars == pytest.approx(0.001)
    assert copy.spending == Spending(copy.dollars, 1)
    # What an earlier version had counted had no price.
    rows = [{**row, "calls": 7} for row in stats.to_json()]
    for row in rows:
        del row["dollars"], row["unpriced"]
    assert CallStats.from_json(rows).spending == Spending(0.0, 14)


@pytest.mark.parametrize(
    ("spending", "expected"),
    [
        (Spending(), "$0.00"),
        (Spending(1234.5), "$1,234.50"),
        (Spending(0.1), "$0.100"),
        (Spending(0.0123456), "$0.0123"),
        (Spending(0.00000123), "$0.00000123"),
        (Spending(0.0, 12), "cost unknown"),
        (Spending(2.0, 1200), "$2.00 and 1,200 calls of unknown price"),
    ],
)
def test_money_is_written_as_people_write_it(spending: Spending, expected: str) -> None:
    assert str(spending) == expected
    assert bool(spending) is (spending != Spending())


def test_no_amount_is_written_as_nothing() -> None:
    assert dollars(0.9999) == "$1.000"
