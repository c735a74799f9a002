"""What the config of a launched run may say of tools: none that the deployment has not named.

A function in Python, a program that speaks MCP and a web service each run code, or reach out from this
machine, by the words of a model. So a launched run has those of its recipe, of the file in
DLGFORGE_RUN_CONFIG, or of the run by a user of this machine that it goes on with; it may have fewer of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dlgforge_core.config import Recipe, ToolsConfig
from dlgforge_core.config.functions import FunctionConfig
from dlgforge_dagster.run_config import RUN_CONFIG_ENV

_HARMLESS = ("table", "simulated")


def tool_problems(launched: Recipe, deployed: Sequence[Recipe]) -> Iterator[str]:
    """Yield what a launched run says of tools that nothing deployed says as well."""
    tools, known = launched.tools, [each.tools for each in deployed]
    remedy = f"write it into a recipe or the file in {RUN_CONFIG_ENV}"
    for function in tools.functions:
        if function.executor not in _HARMLESS and not any(_has(each, function) for each in known):
            yield (
                f"tools.functions: {function.called!r} ({function.executor}) runs code or reaches out from "
                f"this machine, and is not as the deployment has it; {remedy}"
            )
    for name, source in tools.modules.items():
        if all(each.modules.get(name) != source for each in known):
            yield f"tools.modules.{name} is code that would be run here; {remedy}"
    for name, server in tools.mcp_servers.items():
        if all(each.mcp_servers.get(name) != server for each in known):
            yield f"tools.mcp_servers.{name} decides which program runs, or which server is asked; {remedy}"


def _has(tools: ToolsConfig, function: FunctionConfig) -> bool:
    """Whether a configuration lets the same be called: what the model is told of it may be other."""
    return any(
        one.executor == function.executor
        and (one.python, one.http, one.mcp) == (function.python, function.http, function.mcp)
        and (not one.mcp or one.called == function.called)
        for one in tools.functions
    )
