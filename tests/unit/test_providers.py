"""Who asks where: roles and judges with endpoints and keys of their own, and what stays the run's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlgforge_core.config import (
    GenerationConfig,
    JudgeConfig,
    LlmConfig,
    addresses_replaced,
    llm_from_environment,
    validate,
)
from dlgforge_core.dialogue import OPTIONAL_ROLES, Role
from dlgforge_core.errors import ConfigError
from dlgforge_core.generation.prepare import callers_of_run, with_question_kinds
from dlgforge_core.generation.setup import setup_of
from dlgforge_core.judging.judges import judges_of
from dlgforge_core.llm.endpoints import Endpoint, endpoints_from_config
from dlgforge_core.llm.providers import callers_of, endpoints_of
from dlgforge_core.planning.fingerprint import content_fingerprint
from dlgforge_core.planning.personas import read_personas
from dlgforge_dagster.resources.llm import LlmResource
from dlgforge_dagster.resources.ray import RayResource

GPU = "http://gpu:8000/v1"
HOSTED = "https://hosted.example/v1"
ROLES = [role for role in Role if role not in OPTIONAL_ROLES]
ENV = {"OPENAI_API_KEY": "of-the-run", "JUDGE_KEY": "of-the-judge", "AZURE_KEY": "of-azure"}
OWN = {"model": "j", "base_url": HOSTED, "api_key_env": "JUDGE_KEY"}


def config(judge: Mapping[str, Any] | None = None, **given: Any) -> LlmConfig:
    data = {"backend": "openai", "model": "m", "base_url": GPU, **given}
    if data.get("routing", {}).get("endpoints"):
        del data["base_url"]
    agents = {**data.get("agents", {}), **({"qa_judge": dict(judge)} if judge is not None else {})}
    return validate(LlmConfig, {**data, "agents": agents}, "llm")


def never() -> list[Endpoint]:
    raise AssertionError("nobody asks the endpoints of the run")


def found(llm: LlmConfig, *roles: Role, env: Mapping[str, str] = ENV) -> list[Endpoint]:
    callers = callers_of(llm, *(roles or Role))
    return endpoints_of(llm, callers, lambda: endpoints_from_config(llm, env), env)


def served(endpoints: list[Endpoint]) -> dict[str, list[str]]:
    return {role.value: [e.name for e in endpoints if e.serves(role.value)] for role in ROLES}


# Where calls go


def test_without_providers_of_their_own_everybody_asks_the_endpoints_of_the_run() -> None:
    (endpoint,) = found(config())
    assert endpoint.callers == frozenset()
    assert "roles" not in endpoint.public()


def test_a_role_with_an_address_asks_there_with_its_key_and_nobody_else_does() -> None:
    endpoints = found(config(OWN))
    assert [(e.name, e.base_url, e.api_key) for e in endpoints] == [
        ("gpu:8000", GPU, "of-the-run"),
        ("hosted.example", HOSTED, "of-the-judge"),
    ]
    assert served(endpoints) == {
        "qa_generator": ["gpu:8000"],
        "kb_responder": ["gpu:8000"],
        "qa_judge": ["hosted.example"],
    }


def test_an_endpoint_that_several_name_is_one_and_what_it_bears_is_shared() -> None:
    judge = {"base_url": GPU + "/"}
    limited = {"endpoints": [{"base_url": GPU, "name": "gpu", "max_in_flight": 4}]}
    (endpoint,) = found(config(judge, routing=limited))
    assert (endpoint.name, endpoint.max_in_flight) == ("gpu", 4)
    assert served([endpoint]) == {role.value: ["gpu"] for role in ROLES}
    user = {"qa_generator": {"base_url": HOSTED, "api_key_env": "JUDGE_KEY"}}
    assert served(found(config(OWN, agents=user))) == {
        "qa_generator": ["hosted.example"],
        "kb_responder": ["gpu:8000"],
        "qa_judge": ["hosted.example"],
    }


def test_other_settings_of_the_same_endpoint_are_refused_unless_it_has_another_name() -> None:
    mine: dict[str, Any] = {"base_url": GPU, "max_in_flight": 4}
    with pytest.raises(ConfigError, match=r"for qa_judge with other settings \(max_in_flight 256 and 4\)"):
        found(config({"endpoints": [mine]}))
    endpoints = found(config({"endpoints": [{**mine, "name": "judging"}]}))
    assert [(e.name, e.max_in_flight) for e in endpoints] == [("gpu:8000", 256), ("judging", 4)]


def test_another_key_or_path_at_the_same_host_is_another_endpoint_with_a_name_of_its_own() -> None:
    azure = "https://lab.openai.azure.com/openai/deployments"
    agents = {
        role: {"base_url": f"{azure}/{role}?api-version=2024-10-21", "headers_env": {"api-key": "AZURE_KEY"}}
        for role in ("kb_responder", "qa_judge")
    }
    endpoints = found(config(agents=agents))
    host = "lab.openai.azure.com"
    assert [e.name for e in endpoints] == ["gpu:8000", host, f"{host} (qa_judge)"]
    assert [e.api_key for e in endpoints] == ["of-the-run", "", ""]  # the header takes its place
    (_, keyed) = found(config({"api_key_env": "JUDGE_KEY"}))
    assert (keyed.name, keyed.base_url, keyed.api_key) == ("gpu:8000 (qa_judge)", GPU, "of-the-judge")
    assert keyed.callers == {"qa_judge"}
    named = {"endpoints": [{"name": "gpu:8000", "base_url": HOSTED}]}
    with pytest.raises(ConfigError, match="two different endpoints have the name 'gpu:8000'"):
        found(config(named))


def test_a_key_of_its_own_keeps_the_runs_headers_away_from_another_server() -> None:
    run = {"headers_env": {"api-key": "AZURE_KEY"}}
    (ours, theirs) = found(config(OWN, **run))
    assert (ours.api_key, ours.headers) == ("", (("api-key", "of-azure"),))
    assert (theirs.api_key, theirs.headers) == ("of-the-judge", ())
    entry = {"endpoints": [{"base_url": HOSTED, "api_key_env": "JUDGE_KEY"}]}
    assert found(config(entry, **run))[1].headers == ()
    # At the run's endpoints its own key takes the place of those endpoints' own.
    (_, keyed) = found(
        config(
            {"api_key_env": "JUDGE_KEY"},
            routing={"endpoints": [{"base_url": GPU, "headers_env": {"api-key": "AZURE_KEY"}}]},
        )
    )
    assert (keyed.api_key, keyed.headers) == ("of-the-judge", ())


def test_what_is_unset_is_the_runs() -> None:
    (_, endpoint) = found(config({"base_url": HOSTED}, timeout_s=7.0))
    assert (endpoint.api_key, endpoint.timeout_s, endpoint.max_in_flight) == ("of-the-run", 7.0, 256)


def test_a_key_that_is_not_set_is_reported_before_anything_starts() -> None:
    with pytest.raises(ConfigError, match=r"hosted\.example: JUDGE_KEY is not set"):
        endpoints_of(config(OWN), callers_of(config(OWN), *ROLES), never, {})
    openai = config({"base_url": "https://api.openai.com/v1"})
    with pytest.raises(ConfigError, match="needs a key: set OPENAI_API_KEY"):
        endpoints_of(openai, callers_of(openai, *ROLES), never, {})


def test_servers_are_started_only_for_those_who_ask_them() -> None:
    managed = config(OWN, backend="vllm_managed", base_url="", model="", vllm={"model": "org/m"})
    assert [managed.model_of(role) for role in ROLES] == ["org/m", "org/m", "j"]
    assert [e.name for e in endpoints_of(managed, callers_of(managed, Role.JUDGE), never, ENV)] == [
        "hosted.example"
    ]
    replica = Endpoint("vllm-0", "http://10.0.0.1:1/v1", "secret")
    endpoints = endpoints_of(managed, callers_of(managed, *ROLES), lambda: [replica], ENV)
    assert served(endpoints) == {
        "qa_generator": ["vllm-0"],
        "kb_responder": ["vllm-0"],
        "qa_judge": ["hosted.example"],
    }


def test_endpoints_of_the_run_may_name_the_roles_that_they_serve() -> None:
    routing = {
        "endpoints": [
            {"name": "a", "base_url": "http://a/v1", "roles": ["qa_generator", "kb_responder"]},
            {"name": "b", "base_url": "http://b/v1", "roles": ["qa_judge"]},
            {"name": "c", "base_url": "http://c/v1"},
        ]
    }
    assert served(found(config(routing=routing))) == {
        "qa_generator": ["a", "c"],
        "kb_responder": ["a", "c"],
        "qa_judge": ["b", "c"],
    }
    assert [e.name for e in found(config(routing=routing), Role.JUDGE)] == ["b", "c"]
    del routing["endpoints"][1:]
    with pytest.raises(ConfigError, match="no endpoint takes the calls of qa_judge"):
        found(config(routing=routing))
    with pytest.raises(ConfigError, match="'judge' is none of the roles: qa_generator"):
        config(routing={"endpoints": [{"base_url": GPU, "roles": ["judge"]}]})


_ADDRESSES = st.sampled_from(["", GPU, HOSTED, "http://other/v1", f"{GPU}?v=1"])
_KEYS = st.sampled_from(["", "JUDGE_KEY", "AZURE_KEY"])


@settings(max_examples=60)
@given(st.lists(st.tuples(_ADDRESSES, _KEYS), min_size=3, max_size=3))
def test_every_role_has_endpoints_no_name_is_there_twice_and_keys_go_where_they_belong(
    providers: list[tuple[str, str]],
) -> None:
    agents = {
        role.value: {"base_url": url, "api_key_env": key}
        for role, (url, key) in zip(ROLES, providers, strict=True)
    }
    endpoints = found(config(agents=agents))
    assert len({e.name for e in endpoints}) == len(endpoints)
    assert len({(e.base_url, e.credentials) for e in endpoints}) == len(endpoints)
    for role, (url, key) in zip(ROLES, providers, strict=True):
        (endpoint,) = [e for e in endpoints if e.serves(role.value)]
        assert (endpoint.base_url, endpoint.api_key) == (url or GPU, ENV[key or "OPENAI_API_KEY"])


# What cannot be


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (
            {"judge": {"base_url": HOSTED, "endpoints": [{"base_url": GPU}]}},
            "agents.qa_judge: base_url and endpoints are both set",
        ),
        (
            {"judge": {"endpoints": [{"base_url": GPU}, {"base_url": GPU}]}},
            "agents.qa_judge: endpoints holds gpu:8000 twice",
        ),
        ({"judge": {"base_url": "https://u:pass@h/v1"}}, "agents.qa_judge: base_url holds a password"),
        ({"judge": {"endpoints": [{"base_url": GPU, "roles": []}]}}, "endpoints.0.roles: unknown key"),
        ({"judge": {"api_key_env": "sk-0123456789"}}, "agents.qa_judge.api_key_env: does not name"),
        ({"judge": {"timeout_s": 0.0}}, r"agents.qa_judge.timeout_s = 0.0: input should be greater"),
        ({"judge": {"max_attempts": 0}}, r"agents.qa_judge.max_attempts = 0: input should be greater"),
        (
            {"judge": {"base_url": HOSTED}, "model": "", "backend": "embedded", "base_url": ""},
            "agents.qa_judge has endpoints of its own and names no model; set agents.qa_judge.model",
        ),
        (
            {"judge": {"api_key_env": "JUDGE_KEY"}, "backend": "embedded", "base_url": ""},
            "agents.qa_judge has a key of its own and no address; set agents.qa_judge.base_url too",
        ),
    ],
)
def test_what_cannot_be_is_refused_by_its_key(given: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        config(**given)


def test_attached_servers_are_needed_only_by_those_who_ask_them() -> None:
    with pytest.raises(ConfigError, match="vllm_attach needs servers to attach to"):
        config(OWN, backend="vllm_attach", base_url="")
    everybody = {role.value: OWN for role in ROLES}
    config(agents=everybody, backend="vllm_attach", base_url="")


# What makes text, and what does not


def fingerprint(llm: LlmConfig) -> str:
    generation = with_question_kinds(GenerationConfig(), llm)
    return content_fingerprint(generation, llm, read_personas(""))


def test_addresses_keys_and_patience_are_no_part_of_a_fingerprint_and_models_are() -> None:
    plain = config({"model": "j"})
    elsewhere = config({**OWN, "timeout_s": 3.0, "max_attempts": 2, "headers_env": {"X-Team": "TEAM"}})
    assert fingerprint(elsewhere) == fingerprint(plain)
    assert fingerprint(config({**OWN, "model": "k"})) != fingerprint(plain)
    assert setup_of(elsewhere) != setup_of(plain)  # a server that answers otherwise may take what was dropped


def test_the_user_simulator_is_asked_for_kinds_of_questions_where_its_own_model_follows() -> None:
    small = config(backend="embedded", model="", base_url="")
    user = {"qa_generator": OWN}
    assert with_question_kinds(GenerationConfig(), small).run.question_kinds == []
    large = config(agents=user, backend="embedded", model="", base_url="")
    assert with_question_kinds(GenerationConfig(), large).run.question_kinds


# The environment


def from_environment(data: Mapping[str, Any], **env: str) -> LlmConfig:
    return validate(LlmConfig, llm_from_environment(data, env), "llm")


def test_roles_are_set_from_the_environment() -> None:
    env = {
        "LLM_USER_MODEL": "u",
        "LLM_ASSISTANT_BASE_URL": "http://assistant/v1",
        "LLM_JUDGE_BASE_URL": HOSTED,
        "LLM_JUDGE_API_KEY": "secret",
        "LLM_JUDGE_MODEL": "j",
    }
    file = {"backend": "openai", "model": "m", "agents": {"qa_judge": {"headers_env": {"api-key": "A"}}}}
    llm = from_environment(file, **env)
    judge = llm.agents.qa_judge
    assert (judge.base_url, judge.api_key_env, judge.headers_env) == (HOSTED, "LLM_JUDGE_API_KEY", {})
    assert [llm.model_of(role) for role in ROLES] == ["u", "m", "j"]
    assert llm.agents.kb_responder.base_url == "http://assistant/v1"
    assert llm.agents.kb_responder.api_key_env == ""
    assert "secret" not in repr(llm)
    assert file["agents"] == {"qa_judge": {"headers_env": {"api-key": "A"}}}
    # Its key for a server that dlgforge starts would be of no use, and is not taken for one.
    assert not from_environment({}, LLM_JUDGE_API_KEY="secret").agents.qa_judge.is_apart
    assert from_environment(
        {"backend": "openai", "model": "m"}, LLM_JUDGE_API_KEY="s"
    ).agents.qa_judge.is_apart


def test_a_process_that_was_given_its_endpoints_takes_them_as_they_are() -> None:
    env = {
        "DLGFORGE_RUN_BOOTSTRAPPED": "1",
        "LLM_ROUTING_ENDPOINTS_JSON": '[{"base_url": "http://a/v1", "roles": ["qa_judge"]}]',
        "LLM_JUDGE_BASE_URL": HOSTED,
    }
    llm = from_environment({"backend": "openai", "model": "m", "agents": {"qa_judge": OWN}}, **env)
    assert not llm.agents.qa_judge.is_apart
    assert llm.agents.qa_judge.model == "j"
    assert [e.roles for e in llm.routing.endpoints] == [["qa_judge"]]


def test_openai_base_url_replaces_the_addresses_of_the_run_alone_and_says_so() -> None:
    data = {"backend": "openai", "model": "m", "base_url": GPU, "agents": {"qa_judge": OWN}}
    env = {"OPENAI_BASE_URL": "http://gateway/v1"}
    llm = from_environment(data, **env)
    assert (llm.base_url, llm.agents.qa_judge.base_url) == ("http://gateway/v1", HOSTED)
    assert "all calls but those of roles with endpoints of their own" in addresses_replaced(data, env)


# The resource, and offline judges


def test_the_resource_starts_no_server_for_those_who_do_not_ask_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_JUDGE_BASE_URL", HOSTED)
    monkeypatch.setenv("LLM_JUDGE_API_KEY", "of-the-judge")
    monkeypatch.setenv("LLM_JUDGE_MODEL", "j")
    resource = LlmResource()
    callers = callers_of(resource.settings, Role.JUDGE)
    (endpoint,) = resource.endpoints(callers, 1, print, cast(RayResource, None))
    assert (endpoint.base_url, endpoint.api_key) == (HOSTED, "of-the-judge")


def test_a_run_asks_for_the_judge_only_where_it_judges() -> None:
    offline = GenerationConfig(judge=JudgeConfig(mode="offline"))
    assert list(callers_of_run(offline, config(OWN))) == ["qa_generator", "kb_responder"]
    assert list(callers_of_run(GenerationConfig(), config(OWN))) == [role.value for role in ROLES]


def test_judges_may_have_providers_of_their_own() -> None:
    judges = [
        {"model": "claude", "base_url": "https://a/v1", "api_key_env": "JUDGE_KEY", "timeout_s": 5.0},
        {"model": "gemini", "base_url": "https://b/v1"},
        {"name": "ours"},
    ]
    llm = config({"max_attempts": 2, "extra_body": {"seed": None}})
    made = judges_of(validate(JudgeConfig, {"mode": "offline", "judges": judges}, "judge"), llm)
    assert [one.caller for one in made] == ["qa_judge:claude", "qa_judge:gemini", "qa_judge"]
    assert [(one.agent.timeout_s, one.agent.max_attempts) for one in made] == [(5.0, 2), (None, 2), (None, 2)]
    callers = {one.caller: one.agent for one in made}
    endpoints = endpoints_of(llm, callers, lambda: found(config()), ENV)
    assert {one.name: [e.base_url for e in endpoints if e.serves(one.caller)] for one in made} == {
        "claude": ["https://a/v1"],
        "gemini": ["https://b/v1"],
        "ours": [GPU],
    }
    managed = config(backend="vllm_managed", base_url="", model="", vllm={"model": "org/m"})
    mixed = judges_of(validate(JudgeConfig, {"mode": "offline", "judges": judges}, "judge"), managed)
    assert [one.model for one in mixed] == ["claude", "gemini", "org/m"]
    for unusable, problem in (
        ({"name": "n", "base_url": HOSTED}, "'n' has endpoints of its own and names no model"),
        ({"name": "n", "api_key_env": "JUDGE_KEY"}, "'n' has a key of its own and no address"),
    ):
        with pytest.raises(ConfigError, match=problem):
            judges_of(validate(JudgeConfig, {"mode": "offline", "judges": [unusable]}, "judge"), managed)
