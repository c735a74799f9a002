"""Verdicts that the judge gives while dialogues are made."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from dlgforge_core.conversation.outcomes import GOAL, GoalJudged, Judged
from dlgforge_core.conversation.state import State
from dlgforge_core.conversation.steps import Judge
from dlgforge_core.dialogue import DialoguePlan, Role
from dlgforge_core.generation.dialogue_context import DialogueContext
from dlgforge_core.llm.client import Message
from dlgforge_core.prompting.goal_verdicts import GOAL_SCHEMA, goal_from, goal_judge
from dlgforge_core.prompting.verdict_evidence import chunks_shown, verdict_messages
from dlgforge_core.prompting.verdict_prompts import alternating
from dlgforge_core.prompting.verdict_reading import judgement_from

T = TypeVar("T")


async def verdict_on(
    context: DialogueContext, plan: DialoguePlan, state: State, step: Judge
) -> Judged | GoalJudged:
    """Have the judge give the verdict that a step asks for. Raises CallError."""
    subject, seen = step.subject, state.seen
    instructions, templates = context.agents.qa_judge.instructions, context.templates
    if subject == GOAL:
        messages = goal_judge(plan, seen, instructions=instructions, templates=templates)
        read: Callable[[dict[str, Any]], Any] = goal_from
        return GoalJudged(await _ask(context, plan, state, step, messages, GOAL_SCHEMA, read))
    whole = subject is None
    turns = seen if subject is None else seen[: subject + 1]
    texts: Mapping[str, str] = {}
    if context.grounding is not None:
        # By ids, so that the judge is shown the same after a resume.
        judged = [turn.details for turn in (turns if whole else turns[-1:])]
        texts = await context.grounding.texts(chunks_shown(context.judge, judged))
    goal = whole and bool(plan.goal)
    messages = verdict_messages(
        context.judge,
        plan,
        turns,
        texts,
        whole=whole,
        instructions=instructions,
        templates=templates,
        goal=goal,
    )
    schema = context.verdict_schema_with_goal if goal else context.verdict_schema
    read = functools.partial(judgement_from, judge=context.judge, goal=goal)
    return Judged(subject, await _ask(context, plan, state, step, messages, schema, read))


async def _ask(
    context: DialogueContext,
    plan: DialoguePlan,
    state: State,
    step: Judge,
    messages: Sequence[Message],
    schema: Mapping[str, Any],
    read: Callable[[dict[str, Any]], T],
) -> T:
    # Of what is no turn, after all turns.
    index = {None: plan.n_turns, GOAL: plan.n_turns + 1}.get(step.subject, step.subject or 0)
    async with context.slots.slot(context.script.remaining(state), Role.JUDGE.value):
        verdict, _ = await context.client.complete_json(
            Role.JUDGE,
            context.agents.of(Role.JUDGE),
            context.models[Role.JUDGE],
            alternating(messages),
            schema,
            read,
            affinity=plan.dialogue_id,
            seed=context.call_seed(plan.dialogue_id, Role.JUDGE, index, step.attempt),
        )
    return verdict
