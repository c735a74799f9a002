"""Verdicts that the judge gives while dialogues are made."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from dlgforge_core.conversation.outcomes import GOAL, Compared, GoalJudged, Judged
from dlgforge_core.conversation.state import State
from dlgforge_core.conversation.steps import Compare, Judge
from dlgforge_core.dialogue import DialoguePlan, Role, Turn
from dlgforge_core.generation.assistants import compared_order, with_room_for
from dlgforge_core.generation.dialogue_context import DialogueContext
from dlgforge_core.llm.client import Completion, Message
from dlgforge_core.prompting.comparison import comparison_schema, judgements_from
from dlgforge_core.prompting.goal_verdicts import GOAL_SCHEMA, goal_from, goal_judge
from dlgforge_core.prompting.verdict_evidence import chunks_shown, evidence_shown, verdict_messages
from dlgforge_core.prompting.verdict_prompts import alternating, comparing_judge
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
        return GoalJudged(
            await _ask(context, plan, state, _seed(context, plan, step), messages, GOAL_SCHEMA, read)
        )
    whole = subject is None
    turns = seen if subject is None else seen[: subject + 1]
    if step.candidate:
        turns = (*state.turns, state.answered_by(step.candidate))
    goal = whole and plan.goal_is_judged
    messages = verdict_messages(
        context.judge,
        plan,
        turns,
        await _evidence(context, turns if whole else turns[-1:]),
        whole=whole,
        instructions=instructions,
        templates=templates,
        goal=goal,
    )
    schema = context.verdict_schema_with_goal if goal else context.verdict_schema
    read = functools.partial(judgement_from, judge=context.judge, goal=goal)
    verdict = await _ask(context, plan, state, _seed(context, plan, step), messages, schema, read)
    return Judged(subject, verdict, step.candidate)


async def compare(context: DialogueContext, plan: DialoguePlan, state: State, step: Compare) -> Compared:
    """Have the judge give a verdict on each of several answers, in one call. Raises CallError."""
    order = compared_order(step, context.seed, plan.dialogue_id)
    answers = [state.answered_by(candidate) for candidate in order]
    messages = comparing_judge(
        *(plan, context.judge, state.turns, answers),
        evidence=await _evidence(context, answers),
        instructions=context.agents.qa_judge.instructions,
        templates=context.templates,
    )
    schema = comparison_schema(context.judge, len(order))
    read = functools.partial(judgements_from, judge=context.judge, count=len(order))
    seed = context.call_seed(plan.dialogue_id, Role.JUDGE, step.turn, 0)
    verdicts = await _ask(context, plan, state, seed, messages, schema, read, len(order))
    return Compared(step.turn, dict(sorted(zip(order, verdicts, strict=True))))


def _seed(context: DialogueContext, plan: DialoguePlan, step: Judge) -> int:
    # Of what is no turn, after all turns.
    index = {None: plan.n_turns, GOAL: plan.n_turns + 1}.get(step.subject, step.subject or 0)
    return context.call_seed(plan.dialogue_id, Role.JUDGE, index, step.attempt + step.candidate)


async def _evidence(context: DialogueContext, judged: Sequence[Turn]) -> str:
    """Return the material behind what is judged: the judge is shown the same after a resume."""
    details, texts = [turn.details for turn in judged], dict[str, str]()
    if context.grounding is not None:
        texts = await context.grounding.texts(chunks_shown(context.judge, details))
    return evidence_shown(context.judge, details, texts)


async def _ask(
    context: DialogueContext,
    plan: DialoguePlan,
    state: State,
    seed: int,
    messages: Sequence[Message],
    schema: Mapping[str, Any],
    read: Callable[[dict[str, Any]], T],
    verdicts: int = 1,
) -> T:
    agent = with_room_for(context.agents.of(Role.JUDGE), verdicts)
    complete: Callable[..., Awaitable[tuple[T, Completion]]] = context.client.complete_json
    verdict, _ = await context.call(
        *(complete, plan, state, Role.JUDGE, alternating(messages), schema, read), seed=seed, agent=agent
    )
    return verdict
