"""Answers that are given beforehand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dlgforge_core.config.functions import TableRowConfig
from dlgforge_core.tools.executor import CallContext, ToolError, ToolOutput


class TableTool:
    """Answers a call by the first row whose arguments it has."""

    limited = False

    def __init__(self, rows: Sequence[TableRowConfig]) -> None:
        self._rows = rows

    async def execute(self, arguments: Mapping[str, Any], context: CallContext) -> ToolOutput:
        """Return the result of the row. Raises ToolError for its error, and where no row fits."""
        for row in self._rows:
            if all(name in arguments and arguments[name] == value for name, value in row.arguments.items()):
                if row.error:
                    raise ToolError(row.error)
                return ToolOutput(row.result)
        raise ToolError("nothing was found for these arguments")

    async def aclose(self) -> None:
        """Nothing is held."""
