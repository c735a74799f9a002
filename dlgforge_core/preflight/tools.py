"""Preflight of a recipe's own tools: whether they can be declared, servers started and secrets given."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from dlgforge_core.config import Recipe, tool_secrets
from dlgforge_core.errors import ConfigError
from dlgforge_core.preflight.report import Row, failed, ok
from dlgforge_core.tools.declarations import declared

_SUBJECT = "tools.functions"


def check_tools(recipe: Recipe, env: Mapping[str, str], report: Callable[[Row], None]) -> None:
    """Report on the functions that a recipe declares. MCP servers are started for it; no tool is called."""
    if not recipe.tools.functions:
        return
    try:
        secrets = tool_secrets(recipe.tools, env)
        names = [tool.name for tool in declared(recipe.tools, secrets)]
    except ConfigError as error:
        report(failed(_SUBJECT, "declared", str(error), f"correct it in {_SUBJECT}, or the environment"))
        return
    report(ok(_SUBJECT, "declared", ", ".join(names)))
