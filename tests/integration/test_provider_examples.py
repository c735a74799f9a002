"""The examples of providers, each against an endpoint that plays what its provider is documented to do."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dlgforge_core.config import Recipe, read_recipe
from dlgforge_core.generation.prepare import callers_of_run, prepare_run
from dlgforge_core.generation.worker_thread import WorkerSpec
from dlgforge_core.llm.endpoints import endpoints_from_config
from dlgforge_core.llm.providers import endpoints_of
from dlgforge_core.planning.seeds import read_seeds
from dlgforge_core.store.run_store import RunStore
from tests.support.runs import calls, work
from tests.support.simulated.options import Options
from tests.support.simulated_endpoint import SimulatedEndpoint, simulated_endpoint

FOLDER = Path(__file__).parents[2] / "examples" / "providers"
KEY = "key-of-the-provider-0123"
OTHER = "key-of-another-provider-4567"
TOTAL, TURNS = 4, 2
CALLS = TOTAL * TURNS


@dataclass(frozen=True)
class Provider:
    """What a provider does, and what a run must come to there."""

    options: Mapping[str, Any]
    env: Mapping[str, str]
    never_sent: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By role what no request may hold."""
    faults: int = 0
    """Refusals and failures that the run must live through."""
    host: str = ""


GEMINI_SEED = [
    {
        "error": {
            "code": 400,
            "message": 'Invalid JSON payload received. Unknown name "seed": Cannot find field.',
            "status": "INVALID_ARGUMENT",
        }
    }
]
ROLES = ("qa_generator", "kb_responder", "qa_judge")
PROVIDERS = {
    "anthropic": Provider(
        options={
            "base_path": "/v1",
            "models": ["claude-sonnet-4-5"],
            "json_schema_support": "none",
            "canned": [
                {
                    "sends": "top_p",
                    "status": 400,
                    "body": {
                        "error": {
                            "type": "invalid_request_error",
                            "message": "`temperature` and `top_p` cannot both be specified for this model.",
                        }
                    },
                }
            ],
        },
        env={"ANTHROPIC_API_KEY": KEY},
        never_sent={"qa_judge": ("response_format", "top_p"), "kb_responder": ("top_p",)},
    ),
    "gemini": Provider(
        options={
            "base_path": "/v1beta/openai",
            "models": ["gemini-2.5-flash"],
            "canned": [{"sends": "seed", "status": 400, "body": GEMINI_SEED}],
        },
        env={"GEMINI_API_KEY": KEY},
        never_sent=dict.fromkeys(ROLES, ("seed", "max_tokens")),
    ),
    "openrouter": Provider(
        options={
            "base_path": "/api/v1",
            "canned": [
                {
                    "every": 8,
                    "times": 1,
                    "body": {"error": {"code": 502, "message": "Provider returned error", "metadata": {}}},
                },
                {
                    "every": 10,
                    "times": 1,
                    "body": {
                        "choices": [
                            {
                                "finish_reason": "error",
                                "native_finish_reason": "error",
                                "message": {"role": "assistant", "content": ""},
                                "error": {"code": 502, "message": "Provider disconnected"},
                            }
                        ]
                    },
                },
            ],
        },
        env={"OPENROUTER_API_KEY": KEY},
        faults=2,
    ),
    "ollama": Provider(
        options={
            "models": ["qwen3:8b"],
            "capacity": 4,
            "api_key": "",
            "reasoning": "Let me see.",
            "reasoning_field": "reasoning",
            "canned": [
                {
                    "every": 5,
                    "times": 2,
                    "status": 503,
                    "body": {
                        "error": {
                            "message": "server busy, please try again. maximum pending requests exceeded",
                            "type": "api_error",
                        }
                    },
                }
            ],
        },
        env={"OPENAI_API_KEY": OTHER},
        faults=2,
        host="http://127.0.0.1:11434",
    ),
    "lm_studio": Provider(
        options={
            "models": ["qwen2.5-7b-instruct"],
            "capacity": 4,
            "api_key": "",
            "canned": [
                {
                    "contains": '"json_object"',
                    "status": 400,
                    "body": {"error": "'response_format.type' must be 'json_schema' or 'text'"},
                }
            ],
        },
        env={"OPENAI_API_KEY": OTHER},
        host="http://127.0.0.1:1234",
    ),
}


@pytest.fixture(scope="module")
def server() -> Iterator[SimulatedEndpoint]:
    with simulated_endpoint() as started:
        yield started


def start(sim: SimulatedEndpoint, options: Mapping[str, Any]) -> None:
    sim.configure(**{**asdict(Options()), "api_key": KEY, "record_requests": 200, **options})
    sim.reset()


def recipe_at(path: Path, addresses: Mapping[str, str]) -> Recipe:
    """Return the recipe with other hosts; the rest of its addresses stays."""
    data = read_recipe(path).model_dump(mode="json")

    def moved(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: moved(item) for key, item in value.items()}
        if isinstance(value, list):
            return [moved(item) for item in value]
        if isinstance(value, str):
            for host, there in addresses.items():
                value = re.sub(f"^{re.escape(host)}(?=/)", there, value)
        return value

    data["llm"] = moved(data["llm"])
    data["run"] |= {"total_samples": TOTAL, "n_turns": TURNS, "concurrency": 4, "patience_s": 3.0}
    return Recipe.model_validate(data)


def run_of(store: RunStore, recipe: Recipe, env: Mapping[str, str]) -> WorkerSpec:
    batches = read_seeds("", strict=True)
    store.save_seed_batches(batches)
    run = prepare_run(store, recipe.generation, recipe.llm, batches)
    callers = callers_of_run(recipe.generation, recipe.llm)
    endpoints = endpoints_of(recipe.llm, callers, lambda: endpoints_from_config(recipe.llm, env), env)
    return WorkerSpec(
        run=run, database=store.database, endpoints=tuple(endpoints), routing=recipe.llm.routing
    )


def host_of(path: Path) -> str:
    found = re.search(r"https://[^/\s]+", path.read_text("utf-8"))
    assert found is not None
    return found[0]


@pytest.mark.parametrize("name", PROVIDERS)
def test_an_example_makes_what_it_plans_at_its_provider(
    store: RunStore, server: SimulatedEndpoint, name: str
) -> None:
    provider, path = PROVIDERS[name], FOLDER / f"{name}.yaml"
    start(server, provider.options)
    recipe = recipe_at(path, {provider.host or host_of(path): server.root_url})
    spec = run_of(store, recipe, provider.env)
    assert all(endpoint.api_key != OTHER for endpoint in spec.endpoints)
    work(spec)
    progress = store.progress(spec.run.run_id)
    assert (progress.done, progress.dropped, progress.unjudged) == (TOTAL, 0, 0)
    stats = server.stats()
    assert stats["faults"].get("canned", 0) == provider.faults
    assert stats["errors"] == {}
    assert stats["by_role"] == dict.fromkeys(ROLES, CALLS)
    sent: dict[str, set[str]] = {role: set() for role in ROLES}
    for request in server.requests():
        sent[_role(recipe, request["body"])] |= request["body"].keys()
    for role, names in provider.never_sent.items():
        assert not sent[role] & set(names), role


def _role(recipe: Recipe, body: Mapping[str, Any]) -> str:
    """Return whose request it is, by what the role's prompts begin with."""
    text = str(body["messages"][0]["content"])
    if "JSON" in text or "response_format" in body:
        return "qa_judge"
    return "qa_generator" if re.search(Options().user_simulator_pattern, text) else "kb_responder"


def test_azure_is_asked_by_deployment_with_its_key_in_its_header_and_each_has_its_own_dialect(
    store: RunStore, server: SimulatedEndpoint
) -> None:
    path = FOLDER / "azure.yaml"
    azure: dict[str, Any] = {"key_header": "api-key", "record_requests": 200}
    writer = {"base_path": "/openai/deployments/writer", "query": "api-version=2024-10-21"}
    judge: dict[str, Any] = {
        "base_path": "/openai/deployments/judge",
        "query": "api-version=2024-12-01-preview",
    }
    refuses_max_tokens = {
        "sends": "max_tokens",
        "status": 400,
        "body": {
            "error": {
                "message": "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
                "'max_completion_tokens' instead.",
                "type": "invalid_request_error",
                "param": "max_tokens",
                "code": "unsupported_parameter",
            }
        },
    }
    filtered = {
        "times": 1,
        "status": 400,
        "body": {
            "error": {
                "message": "The response was filtered due to the prompt triggering Azure OpenAI's content "
                "management policy.",
                "param": "prompt",
                "code": "content_filter",
                "status": 400,
                "innererror": {"code": "ResponsibleAIPolicyViolation"},
            }
        },
    }
    start(server, {**azure, **writer, "canned": [filtered]})
    with simulated_endpoint(api_key=KEY, **azure, **judge, canned=[refuses_max_tokens]) as judging:
        recipe = recipe_at(path, {host_of(path): server.root_url})
        endpoints = [
            one.model_copy(update={"base_url": one.base_url.replace(server.root_url, judging.root_url)})
            for one in recipe.llm.agents.qa_judge.endpoints
        ]
        agents = recipe.llm.agents
        moved = agents.qa_judge.model_copy(update={"endpoints": endpoints})
        llm = recipe.llm.model_copy(update={"agents": agents.model_copy(update={"qa_judge": moved})})
        env = {"AZURE_OPENAI_API_KEY": KEY, "OPENAI_API_KEY": OTHER}
        spec = run_of(store, recipe.model_copy(update={"llm": llm}), env)
        work(spec)
        progress = store.progress(spec.run.run_id)
        assert (progress.done, progress.drop_reasons) == (TOTAL - 1, {"refused": 1})
        judged = judging.stats()
        # Refused once, and from then on asked as it wants; the writer's deployment is not.
        assert judged["errors"] == {}
        assert judged["by_role"] == {"qa_judge": (TOTAL - 1) * TURNS}
        last = judging.requests()[-1]["body"]
        assert last["max_completion_tokens"] == 2048
        assert not {"temperature", "top_p", "max_tokens"} & last.keys()
        assert all("max_tokens" in request["body"] for request in server.requests())
    stats = calls(store, spec.run)
    assert {endpoint for endpoint, role in stats.by_key if role == "qa_judge"} == {"azure-judge"}


def test_ours_write_and_a_hosted_model_judges(store: RunStore, server: SimulatedEndpoint) -> None:
    path = FOLDER.parent / "recipes" / "providers.yaml"
    start(server, {"models": ["qwen2.5-7b-instruct"], "api_key": ""})
    with simulated_endpoint(api_key=KEY, models=["gpt-4.1"], record_requests=200) as hosted:
        hosts = {"https://api.openai.com": hosted.root_url, "http://gpu-1:8000": server.root_url}
        recipe = recipe_at(path, {**hosts, "http://gpu-2:8000": server.root_url})
        spec = run_of(store, recipe, {"JUDGE_API_KEY": KEY})
        work(spec)
        progress = store.progress(spec.run.run_id)
        assert (progress.done, progress.dropped, progress.unjudged) == (TOTAL, 0, 0)
        assert hosted.stats()["by_role"] == {"qa_judge": CALLS}
        assert hosted.stats()["errors"] == {}
        assert "max_tokens" not in hosted.requests()[0]["body"]
        assert server.stats()["by_role"] == {"qa_generator": CALLS, "kb_responder": CALLS}
