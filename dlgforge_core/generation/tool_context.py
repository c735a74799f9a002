"""The tools of a dialogue, and what a call of one finds: the state, the calls before it, who plays a tool."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Sequence

from dlgforge_core.conversation.outcomes import ToolResults
from dlgforge_core.conversation.script import ANSWER_ATTEMPTS
from dlgforge_core.conversation.state import State
from dlgforge_core.conversation.steps import CallTools
from dlgforge_core.dialogue import DialoguePlan, Role, state_after
from dlgforge_core.generation.dialogue_context import DialogueContext
from dlgforge_core.generation.tool_rounds import call_tools
from dlgforge_core.knowledge.types import Hit
from dlgforge_core.llm.chat import Completion
from dlgforge_core.llm.forms import Form
from dlgforge_core.llm.tool_calls import Message
from dlgforge_core.tool_events import ToolEvent
from dlgforge_core.tools.executor import CallContext
from dlgforge_core.tools.toolbox import Toolbox

_CALLS_OF_ANSWER = 10_000
"""More than one answer makes: it keeps the calls of its attempts apart."""


def toolbox_of(context: DialogueContext, plan: DialoguePlan) -> Toolbox:
    """Return the tools that a dialogue has."""
    grounding, toolbox = context.grounding, context.toolbox.of(plan)
    if grounding is None:
        return toolbox
    return toolbox.searching(functools.partial(grounding.search, plan))


async def call_tools_of(
    context: DialogueContext, plan: DialoguePlan, state: State, step: CallTools
) -> tuple[ToolResults, list[Hit]]:
    """Do the next that the assistant of a dialogue asks for, see `call_tools`."""
    found = functools.partial(_call_context, context, plan, state)
    return await call_tools(toolbox_of(context, plan), step, found)


def _call_context(
    context: DialogueContext, plan: DialoguePlan, state: State, step: CallTools, before: Sequence[ToolEvent]
) -> CallContext:
    """Return what a call finds that comes after these of its answer."""
    number = (step.candidate * ANSWER_ATTEMPTS + step.attempt) * _CALLS_OF_ANSWER + len(before)

    async def ask(messages: Sequence[Message], form: Form[object]) -> object:
        role = Role.TOOL_SIMULATOR
        complete: Callable[..., Awaitable[tuple[object, Completion]]] = context.client.complete_form
        seed = context.call_seed(plan.dialogue_id, role, step.turn, number)
        found, _ = await context.call(complete, plan, state, role, messages, form, seed=seed)
        return found

    return CallContext(
        plan,
        state=state_after(plan, state.turns, before),
        earlier=[*(event for turn in state.turns for event in turn.details.tools), *before],
        key=f"{context.seed}:{plan.dialogue_id}:{step.turn}:{number}",
        ask=ask,
    )
