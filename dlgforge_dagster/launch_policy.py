"""What the config of a launched run may ask for: keys go only where the deployment sends them.

Whoever may launch a run, in the UI, by GraphQL or by a web page that finds a way to it, writes its config. A
key that it named beside an address of its own, a Ray cluster that our code would run on, or a program that
would be started could each give away all that this machine's user has. So these come from the deployment: its
environment, its recipes and the file in DLGFORGE_RUN_CONFIG. The config of `dagster job execute` or of `dg
launch` is the word of a user with a shell here, and is taken as it is.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any
from urllib.parse import urlsplit

import dagster as dg
from pydantic import BaseModel

from dlgforge_core.config import (
    JudgeConfig,
    LlmConfig,
    ProviderConfig,
    Recipe,
    backend_of,
    llm_from_environment,
    validate,
)
from dlgforge_core.config.hub_file import PREFIX as HUB_PREFIX
from dlgforge_core.dialogue import Role
from dlgforge_core.errors import ConfigError
from dlgforge_core.judging.judges import provider_of
from dlgforge_core.llm.endpoints import OPENAI_BASE_URL, credential_variables, endpoint_configs
from dlgforge_dagster.launch_addresses import leaves, metadata_problems, path_problems
from dlgforge_dagster.run_config import RUN_CONFIG_ENV, read_run_config, recipe_data, resolved
from dlgforge_dagster.tags import RESUMES_TAG
from dlgforge_dagster.tool_policy import tool_problems

KEY_HOSTS, RAY_ADDRESSES, LAUNCH_VARIABLES = (
    "DLGFORGE_KEY_HOSTS",
    "DLGFORGE_RAY_ADDRESSES",
    "DLGFORGE_LAUNCH_VARIABLES",
)
_HUB = "https://huggingface.co"
_PROVIDERS = f"OPENAI_API_KEY={OPENAI_BASE_URL}, HF_TOKEN={_HUB}, SERPER_API_KEY=https://google.serper.dev"
_SHOWN = 200
_MAX_EARLIER = 20
_DSN_PATH = ("resources", "store", "config", "postgres", "dsn")
_DSN_VARIABLE = "DLGFORGE_POSTGRES_DSN"


@dataclass(frozen=True, order=True)
class KeyUse:
    """A key that is sent somewhere: the variable that holds it, and the address."""

    variable: str
    url: str

    @property
    def origin(self) -> str:
        """Scheme, host and port of the address, in one spelling."""
        return _origin(self.url)

    @property
    def host(self) -> str:
        """Host and port of the address."""
        return self.origin.partition("://")[2]


def key_uses(recipe: Recipe, env: Mapping[str, str] = os.environ) -> set[KeyUse]:
    """Every key that is set in `env` and would be sent by what a recipe says, and where to."""
    llm = validate(LlmConfig, llm_from_environment(recipe.llm.model_dump(), env), "llm")
    uses = {*_of_llm(llm), *_of_judges(recipe.judge, llm)}
    for name in Recipe.model_fields:
        if name not in ("llm", "judge"):
            uses.update(_in_tree(_plain(getattr(recipe, name)), env))
    return {use for use in uses if env.get(use.variable)}


def _allowed_uses(recipe: Recipe, env: Mapping[str, str]) -> set[KeyUse]:
    """Return the uses of keys that a recipe of the deployment names; none when it cannot be run as it is."""
    try:
        return key_uses(recipe, env)
    except ConfigError:  # with the environment of today: a model that the launched run names, say
        return set()


def check_launch(
    instance: dg.DagsterInstance,
    run: dg.DagsterRun,
    recipe: Recipe,
    ops: Mapping[str, str],
    llm_key: str,
    env: Mapping[str, str] = os.environ,
) -> None:
    """Look through the config of a run of one dataset; `ops` are its assets' ops by the assets' names.

    Raises ConfigError that names each key, its value, and what the operator can do.
    """
    if run.remote_job_origin is None:  # executed by a program of this machine's user, not launched
        return
    config = run.run_config
    deployed: Mapping[str, Any] = {}
    if env.get(RUN_CONFIG_ENV):
        deployed = read_run_config(env)
    known = [deployed, *_configs_by_shell(instance, run)]
    problems = [
        *_key_problems(config, known, recipe, ops, llm_key, env),
        *_ray_problems(config, known, env),
        *_variable_problems(config, known, env),
        *path_problems(config),
        *metadata_problems(config),
    ]
    if problems:
        raise ConfigError(
            "the config of this run asks for what the deployment has not named:\n  " + "\n  ".join(problems)
        )


def _configs_by_shell(instance: dg.DagsterInstance, run: dg.DagsterRun) -> Iterator[Mapping[str, Any]]:
    """Yield the configs of runs which this one goes on with, where a user of this machine executed them."""
    seen, todo = {run.run_id}, [run]
    while todo and len(seen) < _MAX_EARLIER:
        current = todo.pop()
        resumes = current.tags.get(RESUMES_TAG)
        for run_id in {current.parent_run_id, current.root_run_id, resumes} - {None, *seen}:
            seen.add(str(run_id))
            earlier = instance.get_run_by_id(str(run_id))
            if earlier is not None and earlier.remote_job_origin is None:
                yield earlier.run_config
            elif earlier is not None:
                todo.append(earlier)


def _key_problems(
    config: Mapping[str, Any],
    known: list[Mapping[str, Any]],
    recipe: Recipe,
    ops: Mapping[str, str],
    llm_key: str,
    env: Mapping[str, str],
) -> Iterator[str]:
    launched = _recipe_of(config, recipe, ops, llm_key, env)
    deployed = [recipe, *(_recipe_of(other, recipe, ops, llm_key, env) for other in known)]
    allowed = {(use.variable, use.origin) for each in deployed for use in _allowed_uses(each, env)}
    # The environment's endpoints are named there whichever backend the recipe has.
    hosted = llm_from_environment({"backend": "openai", "model": "any"}, env)
    allowed |= {(use.variable, use.origin) for use in _of_llm(validate(LlmConfig, hosted, "llm"))}
    declared = list(_declared(f"{_PROVIDERS}, {env.get(KEY_HOSTS, '')}"))
    for use in sorted(key_uses(launched, env)):
        if (use.variable, use.origin) in allowed or any(
            use.variable == variable and host in (use.origin, use.host, use.host.rpartition(":")[0])
            for variable, host in declared
        ):
            continue
        where = use.origin or "an address that is not known"
        yield (
            f"the key in {use.variable} would be sent to {where}; if it is meant for that server, add "
            f"{use.variable}={use.host} to {KEY_HOSTS} in the environment of Dagster, or write both into a "
            "recipe"
        )
    yield from tool_problems(launched, deployed)
    for key in backend_of(launched.llm.backend).program_keys:
        value, *known_values = (attrgetter(key)(each.llm) for each in (launched, *deployed))
        if value and value not in known_values:
            yield (
                f"llm.{key} = {value!r} decides which program runs; write it into a recipe or the file in "
                f"{RUN_CONFIG_ENV}"
            )
    model = launched.llm.embedded.model_path
    if model.startswith(HUB_PREFIX) and model not in (each.llm.embedded.model_path for each in deployed):
        yield (
            f"llm.embedded.model_path = {model!r} would be fetched and read by a program here; write it "
            f"into a recipe or the file in {RUN_CONFIG_ENV}"
        )

    deployed_models = {model for each in deployed for model in _loaded_models(_plain(each))}
    for model in sorted(_loaded_models(_plain(launched)) - deployed_models):
        yield (
            f"the model {model[:_SHOWN]!r} would be loaded by sentence_transformers in this process, which "
            f"runs what its files name; write it into a recipe or the file in {RUN_CONFIG_ENV}"
        )


def _loaded_models(tree: Any) -> set[str]:
    """Return the models that sections of a configuration have loaded in this process."""
    if isinstance(tree, list):
        return {model for item in tree for model in _loaded_models(item)}
    if not isinstance(tree, Mapping):
        return set()
    own = {str(tree.get("model"))} if tree.get("backend") == "sentence_transformers" else set()
    return own | {model for value in tree.values() for model in _loaded_models(value)}


def _ray_problems(
    config: Mapping[str, Any], known: list[Mapping[str, Any]], env: Mapping[str, str]
) -> Iterator[str]:
    path = ("resources", "ray", "config", "address")
    address = resolved(_at(config, path))
    if address is None or env.get("RAY_ADDRESS"):  # which wins
        return
    listed = [item.strip() for item in env.get(RAY_ADDRESSES, "").split(",")]
    if address not in ("auto", "local", *listed, *(resolved(_at(other, path)) for other in known)):
        yield (
            f"ray.address = {address!r}: a Ray cluster runs our code and gets our keys; add it to "
            f"{RAY_ADDRESSES} in the environment of Dagster, or set RAY_ADDRESS there"
        )


def _variable_problems(
    config: Mapping[str, Any], known: list[Mapping[str, Any]], env: Mapping[str, str]
) -> Iterator[str]:
    named = {item.strip() for item in env.get(LAUNCH_VARIABLES, "").split(",")}
    for path, value in leaves(config):
        if path[-1:] == ("env",) and isinstance(_at(config, path[:-1]), Mapping):
            if len(_at(config, path[:-1])) != 1 or not isinstance(value, str):
                continue  # a mapping of that name, and no reference
            is_dsn = path[:-1] == _DSN_PATH and value == _DSN_VARIABLE
            if not is_dsn and value not in named and not any(_at(o, path) == value for o in known):
                yield (
                    f"{'.'.join(path[:-1])} would be the value of {value}; add {value} to "
                    f"{LAUNCH_VARIABLES} in the environment of Dagster if it is no secret there"
                )
        elif path == _DSN_PATH and value and not any(_at(other, path) == value for other in known):
            yield (
                f"store.postgres.dsn is written out; set {_DSN_VARIABLE} in the environment of Dagster, or "
                f"write it into the file in {RUN_CONFIG_ENV}"
            )


def _recipe_of(
    config: Mapping[str, Any],
    recipe: Recipe,
    ops: Mapping[str, str],
    llm_key: str,
    env: Mapping[str, str],
) -> Recipe:
    """Return what a run with this config would do, as a recipe: the dataset's, and what is replaced."""
    merged = _merged(recipe, recipe_data(config, ops, llm_key))
    if isinstance(llm := merged["llm"], Mapping):  # the environment wins: it may name the model, for one
        merged["llm"] = llm_from_environment(llm, env)
    return validate(Recipe, merged, "the config of this run")


def _merged(values: BaseModel, given: Mapping[str, Any]) -> dict[str, Any]:
    """As Dagster does it: sections are merged, and lists and mappings replaced."""
    merged: dict[str, Any] = dict(given)
    for name in type(values).model_fields:
        value = getattr(values, name)
        if name not in given:
            merged[name] = value
        elif isinstance(value, BaseModel) and isinstance(given[name], Mapping):
            merged[name] = _merged(value, given[name])
    return merged


def _of_llm(llm: LlmConfig) -> Iterator[KeyUse]:
    if backend_of(llm.backend).configured_endpoints:
        yield from _of_endpoints(llm, None)
    for role in Role:
        if llm.agents.of(role).is_apart:
            yield from _of_endpoints(llm, llm.agents.of(role))


def _of_judges(config: JudgeConfig, llm: LlmConfig) -> Iterator[KeyUse]:
    for one in config.judges:
        provider = provider_of(one, llm)
        if provider.is_apart:
            yield from _of_endpoints(llm, provider)


def _of_endpoints(llm: LlmConfig, provider: ProviderConfig | None) -> Iterator[KeyUse]:
    for endpoint in endpoint_configs(llm, provider):
        sent = credential_variables(endpoint, llm, provider)
        for variable in (sent.key, *sent.headers.values()):
            yield KeyUse(variable, endpoint.base_url)


def _in_tree(tree: Any, env: Mapping[str, str]) -> Iterator[KeyUse]:
    """Sections that name variables, `..._env`, each with the addresses that stand beside them."""
    if isinstance(tree, list):
        for item in tree:
            yield from _in_tree(item, env)
    if not isinstance(tree, Mapping):
        return
    if "repo_id" in tree:  # the hub's address may be left out
        urls = [tree.get("endpoint") or env.get("HF_ENDPOINT") or _HUB]
    else:
        urls = [value for value in tree.values() if isinstance(value, str) and value.startswith("http")]
    off = tree.get("enabled") is False or tree.get("backend") == "off" or tree.get("web_search") is False
    for name, value in tree.items():
        if name.endswith("_env") and value and not off:
            for variable in value.values() if isinstance(value, Mapping) else [value]:
                for url in urls or [""]:
                    yield KeyUse(str(variable), url)
        yield from _in_tree(value, env)


def _plain(value: Any) -> Any:
    return value.model_dump() if isinstance(value, BaseModel) else value


def _declared(text: str) -> Iterator[tuple[str, str]]:
    """Variables and hosts of `NAME=host, NAME=host:port, NAME=https://host/v1`. Raises ConfigError."""
    for item in (part.strip() for part in text.split(",")):
        if not item:
            continue
        variable, equals, where = item.partition("=")
        where = where.strip()
        host = _origin(where) if "://" in where else where.lower()
        if not equals or not variable.strip() or not host:
            raise ConfigError(
                f"{KEY_HOSTS} holds {item!r}; it looks like OPENAI_API_KEY=api.openai.com, OUR_KEY=gpu-1:8000"
            )
        yield variable.strip(), host


def _origin(url: str) -> str:
    parts = urlsplit(url)
    if not parts.hostname:
        return ""
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}:{port}"


def _at(tree: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        if isinstance(tree, list) and key.isdecimal() and int(key) < len(tree):
            tree = tree[int(key)]
        else:
            tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree
