"""Declarations: the functions of a recipe as the model is offered them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any

import orjson
from pydantic import SecretStr

from dlgforge_core.common.hints import hint
from dlgforge_core.common.json_schema import check_schema
from dlgforge_core.config import ToolsConfig
from dlgforge_core.config.functions import FunctionConfig
from dlgforge_core.errors import ConfigError
from dlgforge_core.llm.tool_calls import ToolDefinition
from dlgforge_core.prompting.quoting import neutralise
from dlgforge_core.tools.executor import ToolError
from dlgforge_core.tools.mcp_tool import McpServer, check_installed
from dlgforge_core.tools.modules import load_function
from dlgforge_core.tools.signatures import declared_by

_NO_ARGUMENTS: Mapping[str, Any] = {"type": "object", "properties": {}}


def declared(config: ToolsConfig, secrets: Mapping[str, SecretStr]) -> tuple[ToolDefinition, ...]:
    """Return the definitions of a configuration's functions, in their order.

    What it leaves out is asked of the Python function or the MCP server. Raises ConfigError.
    """
    listed = asyncio.run(_listed(config, secrets)) if any(one.mcp for one in config.functions) else {}
    return tuple(_definition(function, config, listed) for function in config.functions)


def declared_without_servers(config: ToolsConfig) -> tuple[ToolDefinition, ...]:
    """Return what `declared` does, but of tools on MCP servers only what the configuration says.

    Raises ConfigError.
    """
    unasked: dict[str, dict[str, ToolDefinition]] = {name: {} for name in config.mcp_servers}
    for one in config.functions:
        if one.mcp:
            described = f"(as the MCP server {one.mcp_server!r} describes it)"
            unasked[one.mcp_server][one.mcp_tool] = ToolDefinition(one.mcp_tool, described, _NO_ARGUMENTS)
    return tuple(_definition(function, config, unasked) for function in config.functions)


def definitions_from(config: Mapping[str, Any]) -> tuple[ToolDefinition, ...]:
    """Return the definitions that are in a run's record, as `ToolDefinition.to_json` writes them."""
    functions = (one["function"] for one in config.get("tools", ()))
    return tuple(ToolDefinition(one["name"], one["description"], one["parameters"]) for one in functions)


async def _listed(
    config: ToolsConfig, secrets: Mapping[str, SecretStr]
) -> dict[str, dict[str, ToolDefinition]]:
    """Return the tools of the MCP servers that are used, by server and name."""
    check_installed()
    found = {}
    for name in {function.mcp_server for function in config.functions if function.mcp}:
        async with contextlib.aclosing(McpServer(name, config.mcp_servers[name], secrets)) as server:
            try:
                found[name] = await server.tools()
            except ToolError as error:
                raise ConfigError(f"tools.mcp_servers.{name}: {error}") from None
    return found


def _definition(
    function: FunctionConfig, config: ToolsConfig, listed: Mapping[str, Mapping[str, ToolDefinition]]
) -> ToolDefinition:
    name, description, parameters = function.called, "", _NO_ARGUMENTS
    if function.python:
        loaded = load_function(function.python, config.modules)
        if not function.parameters or not function.description:
            description, parameters = declared_by(loaded, function.python)
    elif function.mcp:
        description, parameters = _on_server(function, listed[function.mcp_server])
    return ToolDefinition(name, function.description or description, function.parameters or parameters)


def _on_server(
    function: FunctionConfig, tools: Mapping[str, ToolDefinition]
) -> tuple[str, Mapping[str, Any]]:
    """Return what an MCP server says of a tool; its words are data, without control tokens."""
    server, name = function.mcp_server, function.mcp_tool
    if name not in tools:
        known = hint(name, tools, "it has") if tools else "it has none"
        raise ConfigError(f"tools: the MCP server {server!r} has no tool {name!r}; {known}")
    description = neutralise(tools[name].description)
    if function.parameters:
        return description, function.parameters
    parameters = orjson.loads(neutralise(orjson.dumps(tools[name].parameters).decode()))
    if parameters.get("type", "object") != "object":
        raise ConfigError(f"tools: the parameters of {name!r} on {server!r} are no object; set `parameters`")
    try:
        check_schema(parameters)
    except ValueError as error:
        problem = f"the parameters of {name!r} on {server!r}: {error}; set `parameters`"
        raise ConfigError(f"tools: {problem}") from None
    return description, {**_NO_ARGUMENTS, **parameters}
