"""`tools`: what the assistant may call while it answers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Self

from pydantic import Field, SecretStr, model_validator

from dlgforge_core.common.hints import hint
from dlgforge_core.common.json_schema import problem_of
from dlgforge_core.common.secrets import sendable
from dlgforge_core.config.base import (
    ConfigModel,
    KeyedError,
    OptionalVariableName,
    PositiveInt,
    Seconds,
)
from dlgforge_core.config.endpoints import check_base_url
from dlgforge_core.config.functions import (
    MAX_FUNCTIONS,
    MAX_MODULE_CHARS,
    FaultsConfig,
    FunctionConfig,
    McpServerConfig,
    PerDialogueConfig,
    ToolStateConfig,
)
from dlgforge_core.errors import ConfigError

SEARCHES = ("vector_db_search", "web_search")
"""The tools that need no declaration."""


class ToolsConfig(ConfigModel):
    """Which tools the assistant is offered, and how far it may go with them."""

    enabled: bool = Field(
        False,
        description="The assistant may call tools: vector_db_search, where there is knowledge, and, if it is "
        "on, web_search. An endpoint that takes no tools is asked without them.",
    )
    max_rounds: PositiveInt = Field(
        3, description="Rounds of tool calls for one answer; then it is asked for without tools."
    )
    result_chars: Annotated[int, Field(ge=200)] = Field(
        4000, description="Most characters of one result that the model gets."
    )
    timeout_s: Seconds = Field(20.0, description="Time-out of one tool call.")
    web_search: bool = Field(False, description="Offer web_search, by Serper; needs `enabled` and a key.")
    web_search_key_env: OptionalVariableName = Field(
        "SERPER_API_KEY", description="Environment variable that holds the key of the web search."
    )
    web_search_url: str = Field(
        "https://google.serper.dev/search", description="Address of the web search, Serper's or one like it."
    )
    functions: Annotated[list[FunctionConfig], Field(max_length=MAX_FUNCTIONS)] = Field(
        [], description="Tools of your own that the assistant may call, see docs/tools.md."
    )
    modules: dict[str, Annotated[str, Field(max_length=MAX_MODULE_CHARS)]] = Field(
        {},
        description="Python modules whose functions are tools, by name; in a recipe {file: one beside it}.",
    )
    mcp_servers: dict[str, McpServerConfig] = Field(
        {}, description="Servers of the Model Context Protocol, by the name that functions give as mcp."
    )
    per_dialogue: PerDialogueConfig = Field(
        default_factory=PerDialogueConfig, description="Which of the functions a dialogue has."
    )
    state: ToolStateConfig = Field(
        default_factory=ToolStateConfig, description="A JSON object that functions read and change."
    )
    faults: FaultsConfig = Field(
        default_factory=FaultsConfig, description="Faults that calls of functions meet."
    )

    @model_validator(mode="after")
    def _check_functions(self) -> Self:
        if self.functions and not self.enabled:
            raise ValueError("functions are there, but enabled is false; set tools.enabled to true as well")
        names = self.function_names
        for number, function in enumerate(self.functions):
            name = function.called
            if name in SEARCHES or names.index(name) != number:
                taken = "a tool of dlgforge's own" if name in SEARCHES else "another function"
                raise KeyedError(("functions", number, "name"), f"{name!r} is {taken}; choose another name")
            if function.mcp and function.mcp_server not in self.mcp_servers:
                known = (
                    hint(function.mcp_server, self.mcp_servers, "there are") if self.mcp_servers else "add it"
                )
                raise KeyedError(
                    ("functions", number, "mcp"), f"no {function.mcp_server!r} in tools.mcp_servers; {known}"
                )
        for number, name in enumerate(self.per_dialogue.always):
            if name not in names:
                known = hint(name, names, "there are") if names else "there are none"
                raise KeyedError(("per_dialogue", "always", number), f"no function {name!r}; {known}")
        return self

    @model_validator(mode="after")
    def _check_state(self) -> Self:
        for number, initial in enumerate(self.state.initial):
            if problem := problem_of(initial.value, self.state.json_schema):
                key = ("state", "initial", number, "value")
                raise KeyedError(key, f"it does not follow state.json_schema: {problem}")
        if self.state.initial and not self.functions:
            raise KeyedError(("state", "initial"), "there are no functions that would read it; add some")
        return self

    @property
    def function_names(self) -> list[str]:
        """The functions by the names that the model calls them by."""
        return [function.called for function in self.functions]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.web_search and not self.enabled:
            raise ValueError("web_search is true, but enabled is false; set tools.enabled to true as well")
        if self.web_search and not self.web_search_key_env:
            raise ValueError("web_search_key_env is empty; name the environment variable that holds the key")
        check_base_url(self.web_search_url, "web_search_url")
        return self


def web_search_key(config: ToolsConfig, env: Mapping[str, str] = os.environ) -> SecretStr | None:
    """Return the key of the web search; None when that is off.

    Raises ConfigError, naming the variable, when it is on and there is no key.
    """
    if not config.web_search:
        return None
    key = sendable(env.get(config.web_search_key_env, ""), config.web_search_key_env)
    if not key:
        raise ConfigError(
            f"tools.web_search is true, but {config.web_search_key_env} is not set; set it to a key of "
            "Serper, or tools.web_search to false"
        )
    return SecretStr(key)


def tool_secrets(config: ToolsConfig, env: Mapping[str, str] = os.environ) -> dict[str, SecretStr]:
    """Return what functions and MCP servers are given from the environment, by variable.

    Raises ConfigError, naming the variable, when one is not set.
    """
    named = [function.http.headers_env for function in config.functions]
    for server in config.mcp_servers.values():
        named += [server.secrets_env, server.headers_env]
    found: dict[str, SecretStr] = {}
    for name in sorted({variable for variables in named for variable in variables.values()}):
        value = sendable(env.get(name, ""), name)
        if not value:
            raise ConfigError(
                f"tools: a function or MCP server is given the value of {name}, which is not set; set it"
            )
        found[name] = SecretStr(value)
    return found
