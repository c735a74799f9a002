"""Executor: who carries out the calls of one tool. Each kind of executor is a class with this interface."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from dlgforge_core.dialogue import DialoguePlan
from dlgforge_core.knowledge.types import Hit
from dlgforge_core.llm.forms import Form
from dlgforge_core.llm.tool_calls import Message
from dlgforge_core.state_changes import Change
from dlgforge_core.tool_events import ToolEvent, ToolProblem

T = TypeVar("T")
Ask = Callable[[Sequence[Message], Form[Any]], Awaitable[Any]]
"""Asks the model that plays simulated tools for an answer of a form."""


@dataclass(frozen=True, slots=True)
class CallContext:
    """What a call of a tool finds: the dialogue, its state, the calls before it, and what draws its faults.

    Without a `plan` there is no dialogue: the searches need none. `key` is the call's own: another one for
    each call of a run, and the same whenever that call is made.
    """

    plan: DialoguePlan | None = None
    state: Mapping[str, Any] | None = None
    earlier: Sequence[ToolEvent] = ()
    key: str = ""
    ask: Ask | None = None


NO_CONTEXT = CallContext()


@dataclass(frozen=True, slots=True)
class ToolOutput:
    """What a tool gives: a `result`, text or any JSON, the changes it makes, passages that it found."""

    result: Any
    changes: tuple[Change, ...] = ()
    hits: tuple[Hit, ...] = ()
    problem: ToolProblem = ToolProblem.NONE


class ToolError(Exception):
    """A call that gave no result; the message is for the model that made it."""

    def __init__(self, message: str, problem: ToolProblem = ToolProblem.ERROR) -> None:
        super().__init__(message)
        self.problem = problem


class Executor(Protocol):
    """Carries out the calls of one tool."""

    limited: bool
    """Whether a call ends after the tool's time-out; else it has limits of its own."""

    async def execute(self, arguments: Mapping[str, Any], context: CallContext) -> ToolOutput:
        """Return what the tool gives. `arguments` follow the tool's schema.

        Raises ToolError; whatever else it raises is not the model's to know.
        """
        ...

    async def aclose(self) -> None:
        """Let go of what it holds."""
        ...
