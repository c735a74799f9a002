"""Calls of tools as they are kept: what was asked for, what came of it, what it changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from dlgforge_core.state_changes import Change

ERROR = "Error: "
"""How what the assistant is told of a call that failed begins."""


class ToolProblem(StrEnum):
    """Why a tool call gave no result of the tool's own."""

    NONE = ""
    UNKNOWN_TOOL = "unknown_tool"
    """There is no such tool, or this dialogue was not given it."""
    INVALID_ARGUMENTS = "invalid_arguments"
    TIMEOUT = "timeout"
    ERROR = "error"
    """The tool failed, or said that it cannot do what it was asked for."""
    FAULT = "fault"
    """It was not called at all: a fault that `tools.faults` has drawn."""


@dataclass(frozen=True, slots=True)
class ToolEvent:
    """A tool the assistant called: `arguments` as it gave them, `result` as it was told, or `error`.

    `changes` are what the call changed in the dialogue's state.
    """

    name: str
    arguments: Mapping[str, Any]
    result: str = ""
    error: str = ""
    call_id: str = ""
    problem: ToolProblem = ToolProblem.NONE
    changes: tuple[Change, ...] = ()

    @property
    def failed(self) -> bool:
        """Whether it gave no result of the tool's own."""
        return bool(self.error or self.problem)

    @property
    def content(self) -> str:
        """What the assistant is told came of it."""
        return f"{ERROR}{self.error}" if self.error else self.result

    def to_json(self) -> dict[str, Any]:
        """As plain data, for the store; a problem and changes only where there are some."""
        return {
            "name": self.name,
            "arguments": self.arguments,
            "result": self.result,
            "error": self.error,
            "call_id": self.call_id,
            **({"problem": self.problem.value} if self.problem else {}),
            **({"changes": list(self.changes)} if self.changes else {}),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ToolEvent:
        """Return the inverse of `to_json`."""
        problem, changes = ToolProblem(data.get("problem", "")), tuple(data.get("changes", ()))
        return cls(**{**data, "problem": problem, "changes": changes})
