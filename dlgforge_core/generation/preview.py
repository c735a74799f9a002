"""Prompts of a recipe: what each role is told in the first dialogues of the plan, without a call.

What models would write stands in parentheses.

    python -m dlgforge_core.generation.preview recipes/mine.yaml --dialogues 2
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from dlgforge_core.config import AgentsConfig, GenerationConfig, Recipe, read_recipe
from dlgforge_core.dialogue import DialoguePlan, Role, Turn, TurnDetails
from dlgforge_core.errors import DlgforgeError
from dlgforge_core.generation.prepare import with_question_kinds
from dlgforge_core.generation.preview_text import heading, prompt_lines
from dlgforge_core.generation.question_kinds import question_kinds
from dlgforge_core.generation.tool_preview import offered_tools, simulator_prompt
from dlgforge_core.llm.tool_calls import Message
from dlgforge_core.planning.document_plan import SourceDocument
from dlgforge_core.planning.personas import personas_of
from dlgforge_core.planning.plan import plan_run
from dlgforge_core.planning.plan_documents import DocumentSet, plan_documents
from dlgforge_core.planning.rotation import in_rotation
from dlgforge_core.planning.seed_folder import read_seed_batches
from dlgforge_core.prompting import dialogue_prompts
from dlgforge_core.prompting.goal_verdicts import goal_judge
from dlgforge_core.prompting.quoting import quote_passages
from dlgforge_core.prompting.templates import Templates
from dlgforge_core.prompting.trace import Trace
from dlgforge_core.prompting.verdict_evidence import verdict_messages
from dlgforge_core.prompting.verdict_prompts import alternating

_PASSAGE = "(a passage of the documents)"
_DOCUMENT = SourceDocument("(a document)", "", "", 1)


def planned(recipe: Recipe, n_dialogues: int) -> Iterator[DialoguePlan]:
    """Yield the first dialogues of a recipe's plan, of each language and seed batch in turn.

    Raises ConfigError and SeedError.
    """
    generation, llm = with_question_kinds(recipe.generation, recipe.llm), recipe.llm
    personas, seeds = personas_of(generation.personas), recipe.seeds
    if generation.has_topics:
        batches = read_seed_batches(seeds.path, strict=seeds.strict, config=seeds).batches
        planning = plan_run(generation, llm, personas, batches)
    else:  # which documents there are is known once they are indexed
        planning = plan_documents(generation, llm, personas, DocumentSet([_DOCUMENT]))
    first = itertools.islice(in_rotation(planning.plans), n_dialogues)
    return (plan.dialogue(ordinal) for plan, ordinal in first)


def prompts_of(recipe: Recipe, plan: DialoguePlan, turn: int = 0) -> Iterator[tuple[Role, list[Message]]]:
    """Yield what each role would be told in a turn, from 0. What models would have written is made up."""
    generation = with_question_kinds(recipe.generation, recipe.llm)
    templates, examples, agents = Templates.of(generation.prompts), generation.examples, recipe.llm.agents
    turns = [Turn(i, f"(question {i + 1})", f"(answer {i + 1})") for i in range(turn + 1)]
    passages = quote_passages([_PASSAGE]) if recipe.knowledge.path else ""
    kinds = question_kinds(
        generation.run.question_kinds or (), generation.run.seed, plan.dialogue_id, plan.n_turns
    )
    if generation.conversation.opens == "assistant":
        turns[0] = replace(turns[0], details=TurnDetails(opening="(greeting)"))
        if not turn:
            yield Role.ASSISTANT, _opening(generation, agents, plan, templates, grounded=bool(passages))
    asking = dialogue_prompts.user_simulator(
        plan,
        turns[:-1],
        kinds=kinds[: turn + 1],
        evidence=passages,
        instructions=agents.qa_generator.instructions,
        examples=examples.of(plan, Role.USER_SIMULATOR),
        templates=templates,
        opening=turns[0].details.opening,
    )
    if generation.conversation.ends == "user" and turn >= generation.run.min_turns:
        asking, _ = dialogue_prompts.or_end(plan, asking, templates=templates)
    yield Role.USER_SIMULATOR, asking
    yield (
        Role.ASSISTANT,
        dialogue_prompts.assistant(
            plan,
            turns[:-1],
            turns[-1].user,
            grounded=bool(passages),
            passages=passages,
            instructions=agents.kb_responder.instructions,
            examples=examples.of(plan, Role.ASSISTANT),
            trace=Trace(generation.reasoning.parts).parts if generation.reasoning.prompted else (),
            templates=templates,
            opening=turns[0].details.opening,
        ),
    )
    if played := simulator_prompt(recipe, plan, templates):
        yield Role.TOOL_SIMULATOR, played
    yield from _judging(generation, agents, plan, turns, templates, passages)


def _opening(
    generation: GenerationConfig,
    agents: AgentsConfig,
    plan: DialoguePlan,
    templates: Templates,
    *,
    grounded: bool,
) -> list[Message]:
    return dialogue_prompts.assistant_opening(
        plan,
        grounded=grounded,
        instructions=agents.kb_responder.instructions,
        examples=generation.examples.of(plan, Role.ASSISTANT),
        templates=templates,
    )


def _judging(
    generation: GenerationConfig,
    agents: AgentsConfig,
    plan: DialoguePlan,
    turns: Sequence[Turn],
    templates: Templates,
    passages: str,
) -> Iterator[tuple[Role, list[Message]]]:
    if generation.judge.mode == "off":
        return
    judge = generation.judge
    whole, last = judge.granularity == "conversation", len(turns) == plan.n_turns
    instructions = agents.qa_judge.instructions
    alone = judge.mode == "online" and not whole
    messages = verdict_messages(
        *(judge, plan, turns, passages if judge.show_evidence else ""),
        whole=whole,
        instructions=instructions,
        templates=templates,
        goal=plan.goal_is_judged and not alone and (whole or last),
    )
    yield Role.JUDGE, alternating(messages)
    if plan.goal_is_judged and alone and last:
        yield Role.JUDGE, goal_judge(plan, turns, instructions=instructions, templates=templates)


def preview(recipe: Recipe, *, dialogues: int = 1, turn: int = 1) -> Iterator[str]:
    """Yield the lines of a preview; `turn` counts from 1."""
    for plan in planned(recipe, dialogues):
        at = min(turn, plan.n_turns)
        yield from heading(plan, at, personas=recipe.personas.enabled)
        for role, messages in prompts_of(recipe, plan, at - 1):
            tools = offered_tools(recipe, plan) if role is Role.ASSISTANT else ()
            yield from prompt_lines(role.value, messages, [one.to_json() for one in tools])
        yield ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the preview of a recipe; returns 1, with the reason, when it cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m dlgforge_core.generation.preview", description=__doc__)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--dialogues", type=int, default=1, help="how many dialogues of the plan (1)")
    parser.add_argument("--turn", type=int, default=1, help="of which turn, from 1 (1)")
    given = parser.parse_args(arguments)
    try:
        for line in preview(
            read_recipe(given.recipe), dialogues=max(0, given.dialogues), turn=max(1, given.turn)
        ):
            print(line)
        sys.stdout.flush()
    except DlgforgeError as error:
        print(error, file=sys.stderr)
        return 1
    except BrokenPipeError:
        # Whoever reads has had enough, `head` for one. What is left would be written at exit otherwise.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main())
