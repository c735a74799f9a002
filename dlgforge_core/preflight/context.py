"""Context lengths: what the longest call of each role may take, held against what its model has."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import orjson

from dlgforge_core.config import AgentConfig, Recipe
from dlgforge_core.dialogue import DialoguePlan, Role
from dlgforge_core.generation.preview import planned, prompts_of
from dlgforge_core.generation.tool_preview import offered_tools
from dlgforge_core.llm.tool_calls import Message
from dlgforge_core.preflight.report import Row, failed, ok, warning

CHARS_PER_TOKEN = 3.5
"""A little fewer than tokenizers make of English: other scripts need more."""
PLANS_LOOKED_AT = 20
TOKENS_WITHOUT_LIMIT = 1024
"""Of an answer where `max_tokens` is not sent."""


def context_needs(recipe: Recipe) -> dict[str, int]:
    """Return about how many tokens the longest call of each role may take, by the role's name.

    Of the first dialogues of the plan the one with the longest prompts, at the last turn that a dialogue may
    have, with every question, answer, passage and result of a tool as long as it may be. Raises ConfigError
    and SeedError.
    """
    most = recipe.run.n_turns or recipe.run.max_turns
    needs: dict[str, int] = {}
    for plan in planned(recipe, PLANS_LOOKED_AT):
        for name, tokens in _needs(recipe, replace(plan, n_turns=most)).items():
            needs[name] = max(tokens, needs.get(name, 0))
    return needs


def _needs(recipe: Recipe, plan: DialoguePlan) -> dict[str, int]:
    agents, before = recipe.llm.agents, plan.n_turns - 1
    question, answer = _most(agents.qa_generator), _most(agents.kb_responder)
    passages = 0
    if recipe.knowledge.path:
        passages = _tokens(recipe.retrieval.top_k * recipe.knowledge.chunk_chars)
    tools = recipe.tools.max_rounds * _tokens(recipe.tools.result_chars) if recipe.tools.enabled else 0
    all_tools = tools * (plan.n_turns if recipe.tools.functions else 1)  # those of functions stay
    judged = before if recipe.judge.granularity == "conversation" else 0
    more = {
        Role.USER_SIMULATOR: passages,
        Role.ASSISTANT: question + passages + all_tools + _tokens(_tool_chars(recipe, plan)),
        Role.TOOL_SIMULATOR: all_tools,
        Role.JUDGE: question + answer + (passages * (1 + judged) if recipe.judge.show_evidence else 0),
    }
    needs: dict[str, int] = {}
    for role, messages in prompts_of(recipe, plan, before):
        prompt = _tokens(_chars(messages)) + before * (question + answer) + more.get(role, 0)
        needs[role.value] = max(needs.get(role.value, 0), prompt + _most(agents.of(role)))
    return needs


def _tool_chars(recipe: Recipe, plan: DialoguePlan) -> int:
    return sum(len(orjson.dumps(one.to_json())) for one in offered_tools(recipe, plan))


def context_row(subject: str, model: str, known: int | None, need: int | None) -> Row:
    """Return how what a model has compares with what it may be asked for."""
    if need is None:
        return ok(subject, "context length", f"{known} tokens" if known else "is not stated by the server")
    about = f"the longest call may take about {need} tokens"
    if known is None:
        return ok(subject, "context length", f"is not stated by the server; {about}")
    if need > 2 * known:
        return failed(subject, "context length", f"{model} has {known} tokens, and {about}", _REMEDY)
    if need > known:
        return warning(subject, "context length", f"{model} has {known} tokens, and {about}", _REMEDY)
    return ok(subject, "context length", f"{known} tokens; {about}")


_REMEDY = (
    "dialogues that grow longer are dropped as context_overflow: serve the model with a longer context, or "
    "lower run.max_turns, max_tokens of the roles, retrieval.top_k or tools.result_chars"
)


def _chars(messages: Iterable[Message]) -> int:
    return sum(len(str(message.get("content") or "")) for message in messages)


def _tokens(chars: float) -> int:
    return round(chars / CHARS_PER_TOKEN)


def _most(agent: AgentConfig) -> int:
    return agent.max_tokens or TOKENS_WITHOUT_LIMIT
