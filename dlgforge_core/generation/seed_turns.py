"""Turns that a seed's conversation gives, beside those that are generated."""

from __future__ import annotations

from collections.abc import Sequence

from dlgforge_core.common.questions import normal_form
from dlgforge_core.conversation.outcomes import QuestionRejected, Rejection
from dlgforge_core.conversation.state import State
from dlgforge_core.dialogue import DialoguePlan, Role, Turn
from dlgforge_core.llm.tool_calls import Message
from dlgforge_core.prompting import dialogue_prompts as prompts
from dlgforge_core.prompting.templates import Templates
from dlgforge_core.sources import Origin


def repeat_of_seed(question: str, turns: Sequence[Turn]) -> QuestionRejected | None:
    """Return that a question repeats one that the seed gave: those are not in the store's keys."""
    given = [turn.user for turn in turns if turn.details.origin is not Origin.GENERATED]
    if not given or (form := normal_form(question)) not in map(normal_form, given):
        return None
    return QuestionRejected(question, Rejection.ASKED_BEFORE, 1.0, form)


def translation(
    plan: DialoguePlan, state: State, role: Role, text: str, instructions: str, templates: Templates
) -> list[Message]:
    """Return the prompt for a translation of what the seed has one side say, after what it said before."""
    pairs = list(zip(state.given, state.turns, strict=False))
    if role is Role.USER_SIMULATOR:
        before = [(one.user, turn.user) for one, turn in pairs]
    else:
        before = [(one.assistant, turn.assistant) for one, turn in pairs if one.assistant]
    return prompts.translation(plan, role, before, text, instructions=instructions, templates=templates)
