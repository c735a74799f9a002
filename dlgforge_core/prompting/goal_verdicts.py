"""Verdicts on the user's goal: asked for by themselves, or in a verdict at the end of a conversation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dlgforge_core.dialogue import DialoguePlan, Role, Turn
from dlgforge_core.llm.tool_calls import Message
from dlgforge_core.prompting.parts import beginning, everywhere, inline
from dlgforge_core.prompting.rubric import read_opinion, walk_fields
from dlgforge_core.prompting.templates import SHIPPED, Templates
from dlgforge_core.prompting.verdict_prompts import exchanges_of
from dlgforge_core.verdicts import GoalVerdict

GOAL_REASON, GOAL_MET = "goal_reason", "goal_met"

GOAL_PROPERTIES: Mapping[str, Any] = {
    # What is said before the verdict is what it is given for.
    GOAL_REASON: {"type": "string", "maxLength": 160},
    GOAL_MET: {"type": "boolean"},
}
GOAL_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": dict(GOAL_PROPERTIES),
    "required": list(GOAL_PROPERTIES),
    "additionalProperties": False,
}
_MET = frozenset({GOAL_MET, "goal_reached", "goal_achieved", "met_goal", "met", "goal_was_met"})
_REASON = (GOAL_REASON, "goal_comment", "goal_explanation", "reason", "explanation", "comment")


def goal_judge(
    plan: DialoguePlan,
    turns: Sequence[Turn],
    *,
    instructions: str = "",
    templates: Templates = SHIPPED,
) -> list[Message]:
    """Return the prompt for a verdict on the user's goal alone."""
    system = _request(plan, templates, instructions, alone=True)
    exchanges = exchanges_of(plan, "", turns, templates, alone=True)
    return [*beginning(system), {"role": "user", "content": exchanges}]


def with_goal(
    messages: Sequence[Message], plan: DialoguePlan, templates: Templates = SHIPPED
) -> list[Message]:
    """Return the prompt for a verdict at the end of a conversation, asking for one on the goal as well."""
    *before, last = messages
    request = _request(plan, templates, alone=False)
    return [*before, {**last, "content": f"{last['content']}\n\n{request}"}]


def with_goal_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of a verdict with one on the goal in it."""
    properties = {**schema["properties"], **GOAL_PROPERTIES}
    return {**schema, "properties": properties, "required": list(properties)}


def goal_from(data: Mapping[str, Any]) -> GoalVerdict:
    """Return the verdict on the goal in a judge's answer. Raises ValueError, written for the judge.

    Read as well: yes and no in words, other names of the fields, an object within the object.
    """
    fields = list(walk_fields(data))
    met = read_opinion(GOAL_MET, [value for name, value in fields if name in _MET])
    texts = {name: value for name, value in reversed(fields) if isinstance(value, str)}
    return GoalVerdict(met, next((texts[name] for name in _REASON if texts.get(name)), ""))


def _request(plan: DialoguePlan, templates: Templates, instructions: str = "", *, alone: bool) -> str:
    return templates.render(
        Role.JUDGE,
        "goal",
        goal=inline(plan.goal),
        alone=alone,
        topic=inline(plan.topic.topic),
        instructions=instructions,
        **everywhere(plan),
    ).strip()
