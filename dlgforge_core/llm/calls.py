"""One call on its way through its attempts: what is asked, what was tried, how long to wait between."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import tenacity

from dlgforge_core.config import AgentConfig
from dlgforge_core.dialogue import Role
from dlgforge_core.llm import chat, tool_calls
from dlgforge_core.llm.dialect import Dialect
from dlgforge_core.llm.router import Wanted
from dlgforge_core.llm.stats import FailureKind
from dlgforge_core.llm.tool_calls import Message, ToolDefinition

MAX_ADAPTATIONS = 24


class Retry(Exception):
    """This attempt failed, another may not. `wait`: back off first."""

    def __init__(self, kind: FailureKind, reason: str, *, wait: bool = True) -> None:
        super().__init__(reason)
        self.kind = kind
        self.wait = wait


@dataclass(slots=True)
class Call:
    """One call on its way through its attempts."""

    role: Role
    agent: AgentConfig
    model: str
    messages: Sequence[Message]
    affinity: str
    seed: int | None
    schema: Mapping[str, Any] | None = None
    words: str = ""
    """What asks for the schema's form where the endpoint does not enforce it; empty: the schema itself."""
    tools: Sequence[ToolDefinition] = ()
    caller: str = ""
    """Who makes it, where that is not just the role: a judge with a provider of its own."""
    ticket: int = 0
    attempts: int = 0
    """HTTP calls made, all of them."""
    spent: int = 0
    """Those that count against max_attempts: not failures of an endpoint at fault, not 429s."""
    overloads: int = 0
    overloaded_since: float = 0.0
    adaptations: int = 0
    failed_at: dict[str, float] = field(default_factory=dict)
    """Endpoints on which it failed, and when the first attempt that did began."""
    avoid: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    first_failure: Retry | None = None

    tried: Dialect | None = None
    """Asks for less than the endpoint `tried_at` is known not to take."""
    tried_at: str = ""
    search: asyncio.Event | None = None
    """Set when this call has ended its search for a form that an endpoint takes; None when it makes none."""
    waits_for: asyncio.Event | None = None
    wanted: Wanted = field(init=False)
    """What an endpoint must have for it."""

    def __post_init__(self) -> None:
        self.wanted = Wanted(self.caller or self.role.value, self.model)

    def end_search(self) -> None:
        """Let those go on who wait for what this call finds out."""
        if self.search is not None:
            self.search.set()
        self.tried = None

    def do_without_tools(self) -> None:
        """Tell in words what was called and found, and offer no more tools."""
        self.tools = ()
        self.messages = tool_calls.fold(self.messages)

    def begin_again(self) -> None:
        """Forget failures that turned out to be no fault of this call."""
        self.spent = self.overloads = 0
        self.overloaded_since = 0.0
        self.failed_at.clear()
        self.avoid.clear()


def request_body(dialect: Dialect, call: Call, messages: Sequence[Message]) -> bytes:
    """Return the call's body in an endpoint's dialect, with these messages."""
    return chat.request_body(
        dialect,
        call.agent,
        call.model,
        messages,
        seed=call.seed,
        schema=call.schema,
        words=call.words,
        tools=call.tools,
    )


def wait(state: tenacity.RetryCallState) -> float:
    """Seconds until the next attempt."""
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, Retry) and not error.wait:
        return 0.0
    if isinstance(error, Retry) and error.kind is FailureKind.RATE_LIMITED:
        return _OVERLOAD_WAIT(state)
    return _FAILURE_WAIT(state)


# Short for 429: the endpoint's own pause and limit hold its calls back.
_OVERLOAD_WAIT = tenacity.wait_random_exponential(multiplier=0.05, max=2.0)
_FAILURE_WAIT = tenacity.wait_random_exponential(multiplier=0.1, max=10.0)
