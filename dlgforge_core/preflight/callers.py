"""Callers of a recipe: who asks which model for what, and at which endpoints."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from dlgforge_core.config import (
    AgentConfig,
    EndpointConfig,
    LlmConfig,
    ProviderConfig,
    Recipe,
    backend_of,
)
from dlgforge_core.dialogue import Role
from dlgforge_core.errors import ConfigError
from dlgforge_core.judging.judges import judges_of
from dlgforge_core.llm.endpoints import Endpoint, endpoint_configs, endpoints_from_config
from dlgforge_core.llm.forms import Form, Written
from dlgforge_core.llm.providers import Callers, endpoints_of, uses_backend
from dlgforge_core.llm.structured import check, parse
from dlgforge_core.llm.tool_calls import ToolDefinition
from dlgforge_core.preflight.report import Row, failed
from dlgforge_core.prompting.ending import ending_form
from dlgforge_core.prompting.tool_definitions import VECTOR_DB_SEARCH
from dlgforge_core.prompting.verdict_prompts import verdict_schema
from dlgforge_core.tools.declarations import declared
from dlgforge_core.tools.toolbox import Toolbox


@dataclass(frozen=True, slots=True)
class Caller:
    """A role, or one of several judges: the model that it asks, and what it asks of it beside text."""

    name: str
    role: Role
    agent: AgentConfig
    model: str
    form: Form[object] | None = None
    """Of its answers, where an endpoint can be held to one."""
    tools: tuple[ToolDefinition, ...] = ()


def callers_of_recipe(recipe: Recipe, llm: LlmConfig) -> list[Caller]:
    """Return who makes calls when a recipe's dialogues are made and judged. Raises ConfigError."""
    generation = recipe.generation
    forms: dict[Role, Form[object]] = {}
    if generation.conversation.ends == "user":
        asked = ending_form("")
        forms[Role.USER_SIMULATOR] = Form(asked.schema, asked.read)
    if generation.judge.mode != "off":
        schema = verdict_schema(generation.judge)

        def verdict(written: Written) -> object:
            return parse(written.text, lambda data: check(data, schema))

        forms[Role.JUDGE] = Form(schema, verdict)
    found = [
        Caller(
            role.value,
            role,
            llm.agents.of(role),
            llm.model_of(role),
            forms.get(role),
            _tools(recipe) if role is Role.ASSISTANT else (),
        )
        for role in generation.roles
    ]
    if generation.judge.mode == "offline":
        found += [
            Caller(judge.caller, Role.JUDGE, judge.agent, judge.model, forms[Role.JUDGE])
            for judge in judges_of(generation.judge, llm, generation.prompts)
        ]
    return found


def _tools(recipe: Recipe) -> tuple[ToolDefinition, ...]:
    """Return the tools that the assistant is offered, without those that documents or servers tell of."""
    here = [function for function in recipe.tools.functions if not function.mcp]
    own = declared(recipe.tools.model_copy(update={"functions": here}), {})
    offered = Toolbox(recipe.tools, declared=own).definitions
    knows = recipe.tools.enabled and recipe.knowledge.path
    return (VECTOR_DB_SEARCH, *offered) if knows else offered


def endpoints_of_callers(
    llm: LlmConfig, callers: Sequence[Caller], env: Mapping[str, str], report: Callable[[Row], None]
) -> list[Endpoint]:
    """Return the endpoints that are there before a run, each with those that it serves.

    What a run could not begin with is reported; the endpoints that can be called all the same are returned.
    """
    providers = {caller.name: caller.agent for caller in callers}
    backend = backend_of(llm.backend)

    def of_backend() -> list[Endpoint]:
        if backend.configured_endpoints:
            return endpoints_from_config(llm, env)
        return [Endpoint(name=llm.backend, base_url="")]  # in the place of those that a run would start

    try:
        found = endpoints_of(llm, providers, of_backend, env)
    except ConfigError as error:
        report(failed("endpoints", "configuration", str(error)))
        found = _one_by_one(llm, providers, env)
    return [endpoint for endpoint in found if endpoint.base_url]


def asks_started_servers(llm: LlmConfig, callers: Sequence[Caller]) -> bool:
    """Whether some of the calls go to servers that a run starts."""
    backend = backend_of(llm.backend)
    return backend.starts_servers and uses_backend({caller.name: caller.agent for caller in callers})


def _one_by_one(llm: LlmConfig, callers: Callers, env: Mapping[str, str]) -> list[Endpoint]:
    """Return the endpoints that can be used by themselves, though not all can."""
    found: dict[tuple[str, object], Endpoint] = {}
    configured = backend_of(llm.backend).configured_endpoints
    for caller, provider in callers.items():
        if not provider.is_apart and not configured:
            continue
        for config in endpoint_configs(llm, provider):
            alone, its = _with_one(llm, provider, config)
            backend = functools.partial(endpoints_from_config, alone, env)
            try:
                (endpoint,) = endpoints_of(alone, {caller: its}, backend, env)
            except ConfigError:
                continue  # reported with all that is wrong, or not for this caller
            key = (endpoint.base_url, endpoint.credentials)
            known = found.get(key, replace(endpoint, callers=frozenset()))
            found[key] = replace(known, callers=known.callers | {caller})
    names = Counter(endpoint.name for endpoint in found.values())
    return [
        replace(one, name=f"{one.name} ({', '.join(sorted(one.callers))})") if names[one.name] > 1 else one
        for one in found.values()
    ]


def _with_one(
    llm: LlmConfig, provider: ProviderConfig, config: EndpointConfig
) -> tuple[LlmConfig, ProviderConfig]:
    """Return both with one endpoint alone where a caller's calls may go."""
    if provider.has_address:
        return llm, provider.model_copy(update={"endpoints": [config], "base_url": ""})
    routing = llm.routing.model_copy(update={"endpoints": [config]})
    return llm.model_copy(update={"routing": routing, "base_url": ""}), provider
