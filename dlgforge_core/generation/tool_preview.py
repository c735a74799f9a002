"""Tools in previews of prompts: what the assistant is offered, and what a model that plays a tool is told."""

from __future__ import annotations

from typing import Any

from dlgforge_core.config import Recipe
from dlgforge_core.dialogue import DialoguePlan
from dlgforge_core.llm.tool_calls import Message, ToolDefinition
from dlgforge_core.prompting.templates import Templates
from dlgforge_core.prompting.tool_definitions import VECTOR_DB_SEARCH, WEB_SEARCH
from dlgforge_core.prompting.tool_simulator import tool_simulator
from dlgforge_core.tools.declarations import declared_without_servers


def offered_tools(recipe: Recipe, plan: DialoguePlan) -> tuple[ToolDefinition, ...]:
    """Return the tools that a dialogue's assistant is offered; no MCP server is asked for its own.

    Raises ConfigError.
    """
    tools = recipe.tools
    if not tools.enabled:
        return ()
    searches = [VECTOR_DB_SEARCH] if recipe.knowledge.path else []
    searches += [WEB_SEARCH] if tools.web_search else []
    functions = declared_without_servers(tools)
    return (*searches, *(one for one in functions if plan.tools is None or one.name in plan.tools))


def simulator_prompt(recipe: Recipe, plan: DialoguePlan, templates: Templates) -> list[Message]:
    """Return what the model is told at a call of the first tool that it plays; nothing if it plays none."""
    functions = (one for one in recipe.tools.functions if one.simulated)
    first = next((one for one in functions if plan.tools is None or one.called in plan.tools), None)
    if first is None:
        return []
    required: list[Any] = first.parameters.get("required", [])
    return tool_simulator(
        plan,
        first,
        {str(name): f"({name})" for name in required},
        state=plan.tool_state,
        instructions=recipe.llm.agents.tool_simulator.instructions,
        templates=templates,
    )
