"""What the config of a run that was launched may ask for, and that of one which was executed here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import dagster as dg
import pytest
import yaml

from dlgforge_core.config import LlmConfig, Recipe
from dlgforge_core.errors import ConfigError
from dlgforge_dagster.dataset import DatasetSpec
from dlgforge_dagster.launch_policy import check_launch, key_uses
from dlgforge_dagster.run_config import CONFIGURED_ASSETS
from dlgforge_dagster.tags import RESUMES_TAG

EVIL = "https://evil.example/v1"
ENV = {
    "OPENAI_API_KEY": "sk-secret-1",
    "AWS_SECRET_ACCESS_KEY": "aws-secret-1",
    "HF_TOKEN": "hf_secret1",
    "SERPER_API_KEY": "serper-secret-1",
}


@dataclass
class Run:
    run_config: Mapping[str, Any]
    remote_job_origin: object | None = "by the webserver"
    run_id: str = "this"
    parent_run_id: str | None = None
    root_run_id: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Instance:
    runs: dict[str, Run] = field(default_factory=dict)

    def get_run_by_id(self, run_id: str) -> Run | None:
        return self.runs.get(run_id)


def check(run: Run, recipe: Recipe | None = None, name: str = "", instance: Any = None, **env: str) -> None:
    spec = DatasetSpec(name, recipe or Recipe())
    ops = {asset: spec.op(asset) for asset in CONFIGURED_ASSETS}
    given = cast("dg.DagsterRun", run)
    check_launch(
        cast("dg.DagsterInstance", instance or Instance()),
        given,
        spec.recipe,
        ops,
        spec.llm_key,
        {**ENV, **env},
    )


def llm(**config: Any) -> dict[str, Any]:
    return {"resources": {"llm": {"config": {"backend": "openai", "model": "m", **config}}}}


def op(asset: str, **config: Any) -> dict[str, Any]:
    return {"ops": {asset: {"config": config}}}


def section(value: Mapping[str, Any]) -> dict[str, Any]:
    return {"base_url": EVIL, "api_key_env": "AWS_SECRET_ACCESS_KEY", **value}


ATTACKS = {
    "the usual key": llm(base_url=EVIL),
    "another variable": llm(base_url=EVIL, api_key_env="AWS_SECRET_ACCESS_KEY"),
    "another variable at the usual host": llm(api_key_env="AWS_SECRET_ACCESS_KEY"),
    "no encryption": llm(base_url="http://api.openai.com/v1"),
    "another port": llm(base_url="https://api.openai.com:8443/v1"),
    "a name that begins alike": llm(base_url="https://api.openai.com.evil.example/v1"),
    "one of several endpoints": llm(
        routing={"endpoints": [{"base_url": "https://api.openai.com/v1"}, {"base_url": EVIL}]}
    ),
    "an endpoint's own key": llm(
        routing={"endpoints": [{"base_url": EVIL, "api_key_env": "AWS_SECRET_ACCESS_KEY"}]}
    ),
    "a header": llm(base_url=EVIL, headers_env={"X-A": "HF_TOKEN", "api-key": "HF_TOKEN"}),
    "vllm_attach": llm(backend="vllm_attach", base_url=EVIL),
    "a role's address": llm(agents={"qa_judge": {"base_url": EVIL}}),
    "a role's address with another key": llm(
        agents={"qa_generator": {"base_url": EVIL, "api_key_env": "AWS_SECRET_ACCESS_KEY"}}
    ),
    "a role's key at the usual host": llm(agents={"kb_responder": {"api_key_env": "AWS_SECRET_ACCESS_KEY"}}),
    "one of a role's endpoints": llm(
        agents={"qa_judge": {"endpoints": [{"base_url": "https://api.openai.com/v1"}, {"base_url": EVIL}]}}
    ),
    "a role's header": llm(
        agents={"qa_judge": {"base_url": EVIL, "headers_env": {"x-api-key": "AWS_SECRET_ACCESS_KEY"}}}
    ),
    "a role's address beside a model of ours": llm(
        backend="embedded", model="", agents={"qa_judge": {"model": "m", "base_url": EVIL}}
    ),
    "a judge's address": op("judgements", mode="offline", judges=[{"model": "m", "base_url": EVIL}]),
    "a judge's key": op(
        "judgements",
        mode="offline",
        judges=[{"model": "m", "base_url": "https://api.openai.com/v1", "api_key_env": "HF_TOKEN"}],
    ),
    "one of a judge's endpoints": op(
        "dialogues", judge={"mode": "offline", "judges": [{"model": "m", "endpoints": [{"base_url": EVIL}]}]}
    ),
    "embedding": op("knowledge_index", embedding=section({"backend": "endpoint", "model": "m"})),
    "rerank": op("dialogues", retrieval={"rerank": section({"backend": "endpoint", "model": "m"})}),
    "web search": op(
        "dialogues", tools={"enabled": True, "web_search": True, "web_search_url": "https://evil.example/s"}
    ),
    "hub": op("hf_dataset", enabled=True, repo_id="a/b", endpoint="https://evil.example"),
    "hub with a scheme in capitals": op(
        "hf_dataset", enabled=True, repo_id="a/b", endpoint="HTTPS://evil.example"
    ),
    "hub behind white space": op("hf_dataset", enabled=True, repo_id="a/b", endpoint=" https://evil.example"),
    "hub with a port that is none": op(
        "hf_dataset", enabled=True, repo_id="a/b", endpoint="https://huggingface.co:99999"
    ),
    "a port that is none": llm(base_url="https://api.openai.com:99999/v1"),
    "hub with another variable": op(
        "hf_dataset", enabled=True, repo_id="a/b", token_env="AWS_SECRET_ACCESS_KEY"
    ),
    "Ray": {"resources": {"ray": {"config": {"address": "ray://evil.example:10001"}}}},
    "Ray by a variable": {"resources": {"ray": {"config": {"address": {"env": "THEIRS"}}}}},
    "a prompt that holds a key": llm(agents={"qa_generator": {"instructions": {"env": "OPENAI_API_KEY"}}}),
    "a list that holds a key": op("dialogues", judge={"reasons": ["clear", {"env": "HF_TOKEN"}]}),
    "a name in a list that is a key": llm(
        routing={"endpoints": [{"base_url": "https://api.openai.com/v1", "name": {"env": "HF_TOKEN"}}]}
    ),
    "languages that are keys": op("knowledge_index", languages=[{"env": "AWS_SECRET_ACCESS_KEY"}]),
    "a path that holds a key": op("seed_topics", path={"env": "AWS_SECRET_ACCESS_KEY"}),
    "a database that is a key": {
        "resources": {"store": {"config": {"postgres": {"dsn": {"env": "HF_TOKEN"}}}}}
    },
    "another database": {"resources": {"store": {"config": {"postgres": {"dsn": "host=evil.example"}}}}},
    "a program": llm(backend="vllm_managed", model="", vllm={"model": "m", "env": {"PATH": "/tmp/evil"}}),
    "code of a model": llm(
        backend="vllm_managed", model="", vllm={"model": "e/m", "extra_args": ["--trust-remote-code"]}
    ),
    "code of an embedding model": op(
        "knowledge_index", embedding={"backend": "sentence_transformers", "model": "evil/model"}
    ),
    "code of a model that tells repeats": op(
        "dialogue_dataset",
        semantic_dedup={
            "threshold": 0.9,
            "embedding": {"backend": "sentence_transformers", "model": "/srv/uploads/model"},
        },
    ),
    "weights from a hub": llm(backend="embedded", model="", embedded={"model_path": "hf://e/m/evil-7b.gguf"}),
    "the environment as a document": op("knowledge_index", path="/proc/self/environ"),
    "the environment as seeds": op("seed_topics", path="file:///proc/self/../self/environ"),
    "the cloud's credentials": op("knowledge_index", path="http://169.254.169.254/latest/meta-data/x.txt"),
    "the same in another form": op("knowledge_index", path="http://2852039166/latest/x.txt"),
    "the same by IPv6": op("seed_topics", path="http://[::ffff:a9fe:a9fe]/x.txt"),
    "the same by name": op("knowledge_index", path="simplecache::http://metadata.google.internal/x.txt"),
    "the environment by a path too long": op("knowledge_index", path="/proc/self/environ" + "/" * 5000),
    "the same with dots": op("seed_topics", path="/" + "./" * 3000 + "proc/self/environ"),
    "the same by way of another folder": op("seed_topics", path="/tmp/.." * 700 + "/proc/self/environ"),
    "the environment put together of two": op("seed_topics", path="dir://proc/self/environ::file:///"),
    "the same behind a cache": op("knowledge_index", path="simplecache::dir://proc/self/environ::file:///"),
    "the environment first of two": op("seed_topics", path="file:///proc/self/environ::file:///tmp"),
    "files that a list of theirs names": op(
        "knowledge_index", path="reference://::https://evil.example/list.json"
    ),
    "a tool's code": op(
        "dialogues", tools={"enabled": True, "functions": [{"python": "x:f"}], "modules": {"x": "import os"}}
    ),
    "a function of Python's own": op(
        "dialogues", tools={"enabled": True, "functions": [{"python": "os:system"}]}
    ),
    "a program that speaks MCP": op(
        "dialogues",
        tools={
            "enabled": True,
            "mcp_servers": {"m": {"command": ["/tmp/evil"], "secrets_env": {"A": "HF_TOKEN"}}},
            "functions": [{"name": "f", "mcp": "m"}],
        },
    ),
    "an MCP server's address": op(
        "dialogues", tools={"enabled": True, "mcp_servers": {"m": {"url": "https://evil.example/mcp"}}}
    ),
    "a tool's address": op(
        "dialogues",
        tools={"enabled": True, "functions": [{"name": "f", "http": {"url": "http://127.0.0.1:8000/admin"}}]},
    ),
    "a tool's address with a key": op(
        "dialogues",
        tools={
            "enabled": True,
            "functions": [{"name": "f", "http": {"url": EVIL, "headers_env": {"X-A": "HF_TOKEN"}}}],
        },
    ),
    "the environment behind a cache": op("seed_topics", path="simplecache::file:///proc/1/environ"),
}


@pytest.mark.parametrize("config", ATTACKS.values(), ids=ATTACKS)
def test_a_launched_run_takes_no_key_elsewhere(config: dict[str, Any], monkeypatch: Any) -> None:
    monkeypatch.setenv("THEIRS", "evil.example:6379")
    with pytest.raises(ConfigError) as caught:
        check(Run(config))
    assert "has not named" in str(caught.value) or "the port in" in str(caught.value)
    assert not any(secret in str(caught.value) for secret in ENV.values())
    # A user with a shell here may do as they like.
    check(Run(config, remote_job_origin=None))


@pytest.mark.parametrize(
    "config",
    [
        {},
        llm(),
        llm(base_url="https://API.openai.com:443/v1/"),
        llm(base_url=EVIL, api_key_env="NOT_SET"),  # nothing is sent
        op("hf_dataset", enabled=True, repo_id="a/b"),
        op("dialogues", tools={"enabled": True, "web_search": True}),
        op("dialogues", run={"total_samples": 2}),
        op("seed_topics", path="/srv/seeds"),
        op("knowledge_index", path="zip://manuals::s3://bucket/all.zip"),
        op("knowledge_index", path="/srv/process::files/proc"),
        llm(agents={"qa_generator": {"instructions": "see reference:: /proc/x, " + "a/" * 50_000}}),
        op("hf_dataset", enabled=True, repo_id="a/b", endpoint="HTTPS://huggingface.co/"),
        {"resources": {"ray": {"config": {"address": "auto", "workers": {"replicas": 3}}}}},
        {"resources": {"store": {"config": {"postgres": {"dsn": {"env": "DLGFORGE_POSTGRES_DSN"}}}}}},
    ],
)
def test_what_the_deployment_has_named_may_be_asked_for(config: dict[str, Any]) -> None:
    check(Run(config))


def test_the_environment_names_hosts_addresses_and_variables() -> None:
    own = llm(base_url="http://10.0.0.5:8000/v1")
    for hosts in (
        "OPENAI_API_KEY=10.0.0.5:8000",
        "X=y, OPENAI_API_KEY=10.0.0.5",
        "OPENAI_API_KEY=http://10.0.0.5:8000/v1",
    ):
        check(Run(own), DLGFORGE_KEY_HOSTS=hosts)
    for hosts in (
        "OPENAI_API_KEY=10.0.0.5:9000",
        "HF_TOKEN=10.0.0.5",
        "OPENAI_API_KEY=https://10.0.0.5:8000",
    ):
        with pytest.raises(ConfigError, match=r"add OPENAI_API_KEY=10\.0\.0\.5:8000 to DLGFORGE_KEY_HOSTS"):
            check(Run(own), DLGFORGE_KEY_HOSTS=hosts)
    with pytest.raises(ConfigError, match="it looks like OPENAI_API_KEY=api"):
        check(Run(own), DLGFORGE_KEY_HOSTS="10.0.0.5")
    check(Run(ATTACKS["Ray"]), DLGFORGE_RAY_ADDRESSES="head:6379, ray://evil.example:10001")
    check(Run(ATTACKS["Ray"]), RAY_ADDRESS="head:6379")  # which wins
    check(Run(op("seed_topics", path={"env": "SEEDS"})), DLGFORGE_LAUNCH_VARIABLES="SEEDS")


def test_the_environments_own_endpoints_may_be_used() -> None:
    check(Run(llm(base_url=EVIL)), OPENAI_BASE_URL="https://gateway.example/v1")  # which replaces it
    with pytest.raises(ConfigError, match=r"the key in HF_TOKEN would be sent to https://gateway\.example"):
        check(Run(llm(api_key_env="HF_TOKEN")), OPENAI_BASE_URL="https://gateway.example/v1")


def test_the_environment_may_name_the_model_of_a_launched_run() -> None:
    check(Run(llm(model="")), LLM_MODEL="m")
    check(Run(llm(model="", routing={"strategy": "round_robin"})), LLM_MODEL="m", LLM_BACKEND="openai")
    with pytest.raises(ConfigError, match=r"no model is named .* LLM_MODEL"):
        check(Run(llm(model="")))
    with pytest.raises(ConfigError, match="OPENAI_API_KEY would be sent to"):
        check(Run(llm(model="", base_url=EVIL)), LLM_MODEL="m")


def test_keys_of_roles_are_bound_to_hosts_like_those_of_the_run() -> None:
    there = "https://hosted.example/v1"
    env: Any = {"LLM_JUDGE_API_KEY": "judge-secret-1", "LLM_JUDGE_BASE_URL": there}
    check(Run(llm()), **env)
    check(Run(llm(agents={"qa_judge": {"base_url": EVIL}})), **env)  # which the environment replaces
    judge = {"base_url": there, "api_key_env": "HF_TOKEN"}
    mine = {"agents": {"qa_judge": judge}}
    check(Run(llm(**mine)), DLGFORGE_KEY_HOSTS="HF_TOKEN=hosted.example")
    with pytest.raises(ConfigError, match=r"HF_TOKEN would be sent to https://hosted\.example"):
        check(Run(llm(**mine)), DLGFORGE_KEY_HOSTS="OPENAI_API_KEY=hosted.example")
    # The variable of the judge's key is for the judge's host.
    stolen = {"agents": {"qa_judge": {"base_url": EVIL, "api_key_env": "LLM_JUDGE_API_KEY"}}}
    with pytest.raises(ConfigError, match=r"LLM_JUDGE_API_KEY would be sent to https://evil\.example"):
        check(Run(llm(**stolen)), LLM_JUDGE_API_KEY="judge-secret-1")
    recipe = Recipe.model_validate({"llm": {"backend": "openai", "model": "m", **mine}})
    uses = {(use.variable, use.url) for use in key_uses(recipe, ENV)}
    assert uses == {("OPENAI_API_KEY", "https://api.openai.com/v1"), ("HF_TOKEN", there)}
    check(Run({"resources": {"mine_llm": {"config": mine}}}), recipe, "mine")
    judges = [{"model": "j", **judge}]
    check(Run(op("judgements", mode="offline", judges=judges)), DLGFORGE_KEY_HOSTS="HF_TOKEN=hosted.example")


def test_a_recipe_binds_its_keys_to_its_hosts() -> None:
    there = "http://gpu-1:8000/v1"
    recipe = Recipe(
        llm=LlmConfig(backend="openai", model="m", base_url=there, api_key_env="AWS_SECRET_ACCESS_KEY")
    )
    uses = {(use.variable, use.url) for use in key_uses(recipe, ENV)}
    assert uses == {("AWS_SECRET_ACCESS_KEY", there)}

    def launched(**config: Any) -> Run:
        return Run({"resources": {"mine_llm": {"config": config}}})

    check(launched(model="other"), recipe, "mine")
    check(launched(base_url=there, api_key_env="AWS_SECRET_ACCESS_KEY"), recipe, "mine")
    # The key is the recipe's, and the address the launchpad's.
    with pytest.raises(ConfigError, match=r"AWS_SECRET_ACCESS_KEY would be sent to https://evil\.example"):
        check(launched(base_url=EVIL), recipe, "mine")
    with pytest.raises(ConfigError, match="OPENAI_API_KEY would be sent to http://gpu-1:8000"):
        check(launched(api_key_env="OPENAI_API_KEY"), recipe, "mine")


def test_a_launched_run_has_the_tools_of_its_recipe_or_fewer() -> None:
    named = {"python": "desk:lend", "description": "Lends."}
    modules = {"desk": "def lend(book: str): ..."}
    server = {"time": {"command": ["mcp-server-time"]}}
    tools = {
        "enabled": True,
        "functions": [named, {"name": "now", "mcp": "time"}],
        "modules": modules,
        "mcp_servers": server,
    }
    recipe = Recipe.model_validate({"tools": tools})

    def launched(**changes: Any) -> Run:
        return Run({"ops": {"mine__dialogues": {"config": {"tools": {**tools, **changes}}}}})

    check(launched(), recipe, "mine")
    described = {**named, "description": "Lends a book."}
    played = {"name": "fine", "simulated": True, "description": "Tells the fine."}
    check(launched(functions=[described, played]), recipe, "mine")
    check(launched(functions=[described], mcp_servers={}), recipe, "mine")
    for changes, problem in (
        ({"functions": [{**named, "python": "desk:__import__"}]}, "'__import__' \\(python\\) runs code"),
        ({"modules": {"desk": "import os"}}, r"tools\.modules\.desk is code"),
        ({"mcp_servers": {"time": {"command": ["sh"]}}}, r"tools\.mcp_servers\.time decides"),
        ({"functions": [{"name": "convert", "mcp": "time"}]}, r"'convert' \(mcp\)"),
    ):
        with pytest.raises(ConfigError, match=problem):
            check(launched(**changes), recipe, "mine")


def test_the_run_config_file_is_the_deployments_word(tmp_path: Path) -> None:
    config = {
        "resources": {
            **llm(base_url=EVIL)["resources"],
            "ray": {"config": {"address": "head:6379"}},
            "store": {"config": {"postgres": {"dsn": {"env": "MY_DSN"}}}},
        }
    }
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(config))
    check(Run(config), DLGFORGE_RUN_CONFIG=str(path))
    with pytest.raises(ConfigError):
        check(Run(config))


def test_a_run_that_goes_on_with_one_of_a_user_here_may_do_what_that_did() -> None:
    executed = Run(llm(base_url="http://10.0.0.5:8000/v1"), remote_job_origin=None, run_id="first")
    instance = Instance({"first": executed})
    check(Run(executed.run_config, parent_run_id="first"), instance=instance)
    check(Run(executed.run_config, parent_run_id="second", root_run_id="first"), instance=instance)
    # As the sensor takes up a run that was killed, and its second run that was killed, too.
    resumed = Run(executed.run_config, run_id="second", tags={RESUMES_TAG: "first"})
    check(resumed, instance=instance)
    instance.runs["second"] = resumed
    check(Run(executed.run_config, tags={RESUMES_TAG: "second"}), instance=instance)
    ring = Instance({"a": Run({}, run_id="a", tags={RESUMES_TAG: "this"})})
    check(Run({}, tags={RESUMES_TAG: "a"}), instance=ring)
    with pytest.raises(ConfigError, match=r"evil\.example"):
        check(Run(llm(base_url=EVIL), parent_run_id="first"), instance=instance)
    launched = Instance({"first": Run(llm(base_url=EVIL), run_id="first")})
    with pytest.raises(ConfigError, match=r"evil\.example"):
        check(Run(llm(base_url=EVIL), parent_run_id="first"), instance=launched)
