"""Answers with a trace: the assistant's call, and its answer told apart from what it noted down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from dlgforge_core.config import AgentConfig
from dlgforge_core.dialogue import Role
from dlgforge_core.llm.client import Completion, LlmClient, Message
from dlgforge_core.llm.tool_calls import ToolDefinition
from dlgforge_core.prompting.trace import Trace


async def complete_traced(
    client: LlmClient,
    trace: Trace,
    role: Role,
    agent: AgentConfig,
    model: str,
    messages: Sequence[Message],
    *,
    affinity: str,
    seed: int,
    tools: Sequence[ToolDefinition] | None,
) -> Completion:
    """Return a completion with the answer as its text, and as its reasoning the trace.

    What the model thought by itself has precedence. Notes beside tool calls are no text of theirs either.
    """
    traced, completion = await client.complete_form(
        role, agent, model, messages, trace.form, affinity=affinity, seed=seed, tools=tools
    )
    if traced is not None:
        return replace(completion, text=traced.answer, reasoning=completion.reasoning or traced.trace)
    if trace.holds(completion.text):
        return replace(completion, text="", reasoning=completion.reasoning or completion.text)
    return completion
