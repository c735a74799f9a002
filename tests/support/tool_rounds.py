"""One answer with its rounds of tool calls, performed as a dialogue does, without a dialogue."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

import orjson

from dlgforge_core.conversation.outcomes import Asked, Outcome, outcome_from
from dlgforge_core.conversation.script import Script
from dlgforge_core.conversation.state import State
from dlgforge_core.conversation.steps import Answer, CallTools, Dropped
from dlgforge_core.generation.tool_rounds import (
    call_tools,
    events_of,
    prompt_of,
    reasoning_of,
    tools_called,
)
from dlgforge_core.knowledge.types import Hit
from dlgforge_core.llm.call_errors import CallError
from dlgforge_core.llm.chat import Completion
from dlgforge_core.llm.tool_calls import Message, ToolDefinition
from dlgforge_core.tool_events import ToolEvent
from dlgforge_core.tools.toolbox import Toolbox

Complete = Callable[[Sequence[Message], Sequence[ToolDefinition] | None], Awaitable[Completion]]


async def answer_with_tools(
    complete: Complete, messages: Sequence[Message], toolbox: Toolbox, max_rounds: int
) -> tuple[Completion, tuple[ToolEvent, ...], list[Hit]]:
    """Return the answer, its reasoning that of all rounds, what was called, and the passages that were shown.

    Every outcome is taken as it would be read after a resume. Raises CallError when the script gives up.
    """
    script = Script(1, tool_rounds=max_rounds if toolbox.definitions else 0)
    state = State(1).after(Asked("Why tides?"))
    shown: list[Hit] = []
    while True:
        step = script.next(state)
        outcome: Outcome
        match step:
            case Answer():
                tools = toolbox.definitions if step.offered else None
                try:
                    completion = await complete(prompt_of(messages, step), tools)
                except CallError as error:
                    outcome = step.failure(error.reason, str(error))
                else:
                    if not completion.tool_calls:
                        reasoning = reasoning_of(step.rounds, completion)
                        return replace(completion, reasoning=reasoning), events_of(step.rounds), shown
                    outcome = tools_called(completion, step, keep_reasoning=True)
            case CallTools():
                outcome, hits = await call_tools(toolbox, step)
                shown += hits
            case Dropped(reason, detail):
                raise CallError(reason, detail)
            case _:
                raise AssertionError(step)
        state = state.after(outcome_from(outcome.kind, orjson.loads(orjson.dumps(outcome.to_json()))))
