"""What is checked before anything starts, and what the actors are told."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any, cast

import pytest

from dlgforge_core.common.restarts import LONGEST_PAUSE_S, WINDOW_S, RestartBudget
from dlgforge_core.config import (
    DistributedConfig,
    GenerationConfig,
    LlmConfig,
    RayConfig,
    RoutingConfig,
    SpawnConfig,
    llm_from_environment,
    validate,
)
from dlgforge_core.config.environment import is_bootstrapped
from dlgforge_core.database.database import Database
from dlgforge_core.errors import ConfigError, DlgforgeError, RunStoppedError, StoreError
from dlgforge_core.generation.prepare import PreparedRun, callers_of_run
from dlgforge_core.generation.worker_thread import KnowledgeAccess, WorkerSpec
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.runtime.cluster.session import RaySession
from dlgforge_core.runtime.distributed.bootstrap import (
    call_slots,
    check_reach,
    overrides,
    worker_addresses,
)
from dlgforge_core.runtime.distributed.worker_actor import Outcome, loss_reason, spec_with_credentials
from dlgforge_core.runtime.serving.provisioners import OpenAiProvisioner, provisioner_for

NETWORK_DSN = "postgresql://u:p@db.example.org/d"
ENDPOINTS = [
    Endpoint("a", "http://gpu-1:8000/v1", "sk-secret-a", 2.0, 32, 60.0),
    Endpoint("b", "http://gpu-2:8000/v1", "sk-secret-b", timeout_s=900.0),
    Endpoint("c", "http://gateway/v1?api-version=1", headers=(("api-key", "secret-c"),)),
]


def llm(**settings: Any) -> LlmConfig:
    return LlmConfig.model_validate({"backend": "openai", "model": "m", **settings})


# The seed's env overrides


def test_overrides_are_those_of_the_seed_and_hold_no_key() -> None:
    env = overrides(llm(routing={"strategy": "round_robin"}), ENDPOINTS)
    assert env.keys() == {
        "DLGFORGE_RUN_BOOTSTRAPPED",
        "LLM_BACKEND",
        "LLM_ROUTING_STRATEGY",
        "LLM_ROUTING_ENDPOINTS_JSON",
    }
    assert env["DLGFORGE_RUN_BOOTSTRAPPED"] == "1"
    assert env["LLM_BACKEND"] == "openai"
    assert env["LLM_ROUTING_STRATEGY"] == "round_robin"
    assert [item["base_url"] for item in json.loads(env["LLM_ROUTING_ENDPOINTS_JSON"])] == [
        "http://gpu-1:8000/v1",
        "http://gpu-2:8000/v1",
        "http://gateway/v1?api-version=1",
    ]
    assert "secret" not in str(env)


def test_routing_overrides_only_when_there_are_endpoints() -> None:
    assert overrides(llm(), []) == {"DLGFORGE_RUN_BOOTSTRAPPED": "1", "LLM_BACKEND": "openai"}


@pytest.mark.parametrize(
    ("settings", "model"),
    [
        ({"backend": "vllm_managed", "model": "", "vllm": {"model": "org/m"}}, "org/m"),
        ({"backend": "vllm_managed", "model": "", "vllm": {"model": "x", "served_model_name": "s"}}, "s"),
        ({"backend": "vllm_managed", "model": "s", "vllm": {"model": "x", "served_model_name": "s"}}, None),
        ({"backend": "vllm_attach", "base_url": "http://gpu:8000/v1"}, None),
        ({"backend": "embedded", "model": ""}, None),
    ],
)
def test_llm_model_is_asked_for_in_managed_mode_when_no_model_is_set(
    settings: dict[str, Any], model: str | None
) -> None:
    assert overrides(llm(**settings), ENDPOINTS).get("LLM_MODEL") == model


def test_a_config_without_values_reads_them_from_the_overrides() -> None:
    managed = llm(backend="vllm_managed", model="", vllm={"model": "x", "served_model_name": "served"})
    env = overrides(managed, ENDPOINTS)
    read = validate(
        LlmConfig, llm_from_environment({"vllm": {"model": "x", "served_model_name": "served"}}, env), "t"
    )
    assert read.backend == "vllm_managed"
    assert read.model == "served"
    assert [e.base_url for e in read.routing.endpoints] == [e.base_url for e in ENDPOINTS]


def spec(*endpoints: Endpoint) -> WorkerSpec:
    generation = GenerationConfig()
    run = PreparedRun("r", "f", generation, llm().agents, {}, ())
    return WorkerSpec(run, Database(NETWORK_DSN), endpoints, RoutingConfig())


def test_an_actor_takes_its_endpoints_from_its_environment_and_keys_by_name() -> None:
    env = overrides(llm(routing={"strategy": "prefix_affinity"}), ENDPOINTS)
    placed = spec_with_credentials(spec(), {e.name: e.credentials for e in ENDPOINTS}, env)
    assert list(placed.endpoints) == ENDPOINTS
    assert placed.routing.strategy == "prefix_affinity"
    assert "secret" not in repr(placed) + repr([e.credentials for e in ENDPOINTS])


def test_an_actor_takes_whose_calls_an_endpoint_serves() -> None:
    judging = replace(ENDPOINTS[0], name="judging", callers=frozenset({"qa_judge"}))
    env = overrides(llm(), [judging, *ENDPOINTS])
    placed = spec_with_credentials(spec(), {judging.name: judging.credentials}, env)
    assert placed.endpoints[0] == judging
    assert placed.endpoints[1].callers == frozenset()


def test_the_users_own_environment_does_not_move_endpoints_that_are_given() -> None:
    own = {"LLM_ROUTING_ENDPOINTS_JSON": '[{"base_url": "http://elsewhere:1/v1"}]'}
    assert spec_with_credentials(spec(*ENDPOINTS), {}, own).endpoints == tuple(ENDPOINTS)


# Bootstrapped once


@pytest.mark.parametrize(("env", "expected"), [({"DLGFORGE_RUN_BOOTSTRAPPED": "1"}, True), ({}, False)])
def test_the_mark_of_a_bootstrapped_process(env: dict[str, str], expected: bool) -> None:
    assert is_bootstrapped(env) is expected


def test_a_bootstrapped_process_starts_no_servers() -> None:
    config = llm(
        backend="vllm_managed",
        model="",
        vllm={"model": "m"},
        routing={"endpoints": [{"base_url": "http://gpu-1:8000/v1"}]},
    )
    inside = provisioner_for(config, slots=1, env={"DLGFORGE_RUN_BOOTSTRAPPED": "1"})
    assert isinstance(inside, OpenAiProvisioner)
    assert [e.base_url for e in inside.start(print)] == ["http://gpu-1:8000/v1"]
    assert not isinstance(provisioner_for(config, slots=1, env={}), OpenAiProvisioner)


# What other machines can reach


@dataclass
class FakeSession:
    """Only one machine is here; a session on several is told by this one property."""

    single_machine: bool


def check(
    dsn: str = NETWORK_DSN,
    spawn: SpawnConfig | None = None,
    one: bool = False,
    tools: dict[str, Any] | None = None,
    knowledge: KnowledgeAccess | None = None,
    **settings: Any,
) -> None:
    session = cast(RaySession, FakeSession(single_machine=one))
    generation = GenerationConfig.model_validate({"tools": tools or {}})
    addresses = worker_addresses(generation.tools, knowledge)
    config = llm(**settings)
    callers = callers_of_run(generation, config)
    check_reach(session, dsn, "store.postgres.dsn", config, callers, spawn, addresses=addresses)


def test_endpoints_of_roles_are_reached_from_everywhere_too() -> None:
    here = {"model": "j", "base_url": "http://localhost:9/v1"}
    there = {"model": "j", "base_url": "http://gpu/v1"}
    with pytest.raises(ConfigError, match=r"http://localhost:9/v1 .* give llm\.agents\.qa_judge\.base_url"):
        check(agents={"qa_judge": here}, base_url="http://gpu/v1")
    with pytest.raises(ConfigError, match=r"give llm\.agents\.qa_judge\.endpoints"):
        check(agents={"qa_judge": {"model": "j", "endpoints": [{"base_url": "http://127.0.0.1/v1"}]}})
    with pytest.raises(ConfigError, match="embedded can be reached"):
        check(backend="embedded", model="", agents={"qa_judge": there})
    everybody = dict.fromkeys(("qa_generator", "kb_responder", "qa_judge"), there)
    check(backend="embedded", model="", agents=everybody)
    check(base_url="http://localhost:9/v1", agents=everybody)  # which nobody asks


HERE = Endpoint("here", "http://localhost:9/v1")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dsn": "postgresql://u@/d?host=/run/pg"}, r"Postgres \(store\.postgres\.dsn\) can be reached from"),
        ({"dsn": "postgresql://u@127.0.0.1/d"}, "set store.postgres.dsn or DLGFORGE_POSTGRES_DSN"),
        (
            {"backend": "embedded", "model": ""},
            "llm.backend embedded can be reached from this machine only",
        ),
        ({"base_url": "http://127.0.0.1:8000/v1"}, r"http://127\.0\.0\.1:8000/v1 can be reached from this"),
        ({"base_url": "http://localhost:8000/v1"}, "http://localhost:8000/v1 can be reached from this"),
        ({"routing": {"endpoints": [{"base_url": "http://[::1]:8000/v1"}]}}, r"\[::1\]:8000/v1 can be"),
        (
            {"knowledge": KnowledgeAccess(embedding=HERE)},
            r"knowledge\.embedding\.base_url = http://localhost:9",
        ),
        (
            {"knowledge": KnowledgeAccess(reranker=HERE)},
            r"retrieval\.rerank\.base_url = http://localhost:9/v1",
        ),
        (
            {"tools": {"enabled": True, "web_search": True, "web_search_url": "http://127.0.0.1:9/s"}},
            r"tools\.web_search_url = http://127\.0\.0\.1:9/s can be reached from this machine only",
        ),
    ],
)
def test_what_only_this_machine_reaches_is_refused_on_several(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check(**settings)
    check(one=True, **settings)
    check(spawn=SpawnConfig(coordinator=False, workers=False), **settings)


def test_what_all_machines_reach_is_taken() -> None:
    check(base_url="http://gpu-1:8000/v1", knowledge=KnowledgeAccess(Endpoint("e", "http://gpu-2:9/v1")))
    check(tools={"web_search_url": "http://127.0.0.1:9/s"})  # which is not used
    check()


# Small things


def test_slots_count_the_workers_that_are_spawned() -> None:
    ray = RayConfig.model_validate({"workers": {"replicas": 3}})

    def slots(**distributed: Any) -> int:
        run = {"concurrency": 8, "distributed": distributed}
        return call_slots(GenerationConfig.model_validate({"run": run}), ray)

    assert slots() == 8
    assert slots(enabled=True) == 24
    assert slots(enabled=True, spawn={"workers": False}) == 8
    assert DistributedConfig().enabled is False


def test_restarts_pause_longer_each_time_and_end() -> None:
    now = [0.0]
    budget = RestartBudget(7, clock=lambda: now[0])
    pauses = [budget.spend() for _ in range(7)]
    assert pauses == [0.5, 1.0, 2.0, 4.0, 8.0, LONGEST_PAUSE_S, LONGEST_PAUSE_S]
    assert budget.spend() is None
    budget.grow(1)
    assert budget.spend() == LONGEST_PAUSE_S
    now[0] = WINDOW_S + 1
    assert budget.spend() == 0.5, "what was long ago is forgotten"


@pytest.mark.parametrize("kind", [RunStoppedError, StoreError, DlgforgeError, ValueError])
def test_an_outcome_keeps_reason_and_kind(kind: type[Exception]) -> None:
    expected = kind if issubclass(kind, DlgforgeError) else DlgforgeError
    with pytest.raises(expected, match="the reason") as caught:
        Outcome.of(kind("the reason")).unwrap()
    assert type(caught.value) is expected


def test_a_loss_is_reported_in_one_line_with_the_remedy() -> None:
    text = "The actor died because of an error in its creation task\n  File x\nModuleNotFoundError: q"
    stated = loss_reason(RuntimeError(text))
    assert stated.startswith("The actor died because")
    assert "installed on every Ray node" in stated
    assert "\n" not in stated
