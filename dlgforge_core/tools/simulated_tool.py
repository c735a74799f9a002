"""Tools that a model plays: it gives a result by the schema, and changes the state by patches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dlgforge_core.config.functions import FunctionConfig
from dlgforge_core.prompting.templates import Templates
from dlgforge_core.prompting.tool_simulator import SimulatedResult, simulated_form, tool_simulator
from dlgforge_core.tools.executor import CallContext, ToolError, ToolOutput


class SimulatedTool:
    """Has a model say what the tool gives. What it cannot use, it is told and asked for again."""

    limited = False

    def __init__(
        self,
        function: FunctionConfig,
        state_schema: Mapping[str, Any],
        templates: Templates,
        instructions: str,
    ) -> None:
        self._function = function
        self._state_schema = state_schema
        self._templates = templates
        self._instructions = instructions

    async def execute(self, arguments: Mapping[str, Any], context: CallContext) -> ToolOutput:
        """Return the result that the model gives, and its changes. Raises ToolError for its error.

        And CallError when the model gives nothing that can be used.
        """
        assert context.ask is not None
        assert context.plan is not None
        messages = tool_simulator(
            context.plan,
            self._function,
            arguments,
            state=context.state,
            earlier=context.earlier,
            instructions=self._instructions,
            templates=self._templates,
        )
        form = simulated_form(self._function.result, context.state, self._state_schema)
        answer: SimulatedResult = await context.ask(messages, form)
        if answer.error:
            raise ToolError(answer.error)
        return ToolOutput(answer.result, answer.changes)

    async def aclose(self) -> None:
        """Nothing is held."""
