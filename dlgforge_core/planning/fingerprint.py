"""What decides what is generated: the part of the configuration that makes two runs the same, as a digest."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

from dlgforge_core.config import (
    COUNT_KEYS,
    EFFORT_KEYS,
    OFFLINE_KEYS,
    PROVIDER_KEYS,
    GenerationConfig,
    GoalConfig,
    JudgeConfig,
    LlmConfig,
    MarkupConfig,
)
from dlgforge_core.dialogue import Role
from dlgforge_core.planning.personas import Personas
from dlgforge_core.planning.turn_counts import TurnCounts

# Raised whenever the same inputs would give other dialogues: the algorithm of planning, or the prompts of
# those who speak. The judge's are not among them: no dataset need begin anew for better verdicts on what is
# still to come. Offline judging tells its prompts apart by itself (`judging/judges.py`).
CONTENT_VERSION = 2

# Keys of `run` that decide how fast and how far a run goes, or are part of a plan's identity elsewhere.
_RUN_KEYS_WITHOUT_EFFECT = EFFORT_KEYS | {"target_languages", *COUNT_KEYS}
_COUNT_WHERE_SET = ("keep_reasoning", "fallback_language", "question_kinds", "accept")
_JUDGE_KEYS_WHERE_SET = ("rubric", "show_rubric", "show_persona")
# Keys of `coverage` that say how documents are used.
_GROUNDED_COVERAGE = {"doc_coverage_mode", "doc_coverage_epsilon", "doc_coverage_fraction"}
# Keys of `retrieval.rerank` that say where its server is and how it is asked.
_RERANK_PLACE = {"base_url", "api_key_env", "timeout_s"}
_TURN_KEYS = {"n_turns", "min_turns", "max_turns", "turn_count_distribution", "turn_count_mean"}


@dataclass(frozen=True, slots=True)
class ContentSource:
    """What the dialogues belong to beside their configuration: a dataset, and the knowledge they draw on.

    `dataset` is "" for the default one; `index_id` is that of the knowledge index, "" without one.
    """

    dataset: str = ""
    index_id: str = ""


NO_SOURCE = ContentSource()


def content_config(
    generation: GenerationConfig, llm: LlmConfig, personas: Personas, source: ContentSource = NO_SOURCE
) -> dict[str, Any]:
    """Return the part of the configuration that decides what is generated, as plain data.

    Left out: how fast and where it runs, and what identifies a plan beside it (seeds, languages, counts).
    Unused settings count as absent: bounds when `n_turns` is set, the judge's unless it is online,
    the reranking model's when there is none.
    """
    run = generation.run.model_dump(mode="json", exclude=set(_RUN_KEYS_WITHOUT_EFFECT | _TURN_KEYS))
    run["accept"] = generation.run.accept.model_dump(mode="json", exclude_defaults=True)
    for name in _COUNT_WHERE_SET:
        if not run[name]:
            del run[name]
    roles = generation.roles
    return {
        "version": CONTENT_VERSION,
        # Only what is there: a plain configuration keeps its fingerprint when features come.
        **({"dataset": source.dataset} if source.dataset else {}),
        **({"tools": _tools(generation)} if generation.tools.enabled else {}),
        **(_grounding(generation, source.index_id) if source.index_id else {}),
        **({"topics": _without_topics(generation)} if not generation.has_topics else {}),
        **_words(generation),
        **({"attributes": _attributes(generation)} if generation.attributes else {}),
        **({"reasoning": generation.reasoning.model_dump()} if generation.reasoning.prompted else {}),
        **({"conversation": course} if (course := _course(generation)) else {}),
        **({"answers": answers} if (answers := _answers(generation)) else {}),
        "run": {**run, "turns": asdict(TurnCounts.from_config(generation.run))},
        "personas": asdict(personas),
        "judge": _judge(generation.judge) if Role.JUDGE in roles else None,
        "coverage": generation.coverage.model_dump(mode="json", exclude=_GROUNDED_COVERAGE),
        "llm": {
            "weights": llm.weights_of(*roles),
            **({"markup": llm.markup.model_dump(mode="json")} if llm.markup != MarkupConfig() else {}),
            "agents": {role.value: _agent(llm, role) for role in roles},
        },
    }


def _words(generation: GenerationConfig) -> dict[str, Any]:
    """Return the configuration's own prompts, system messages and examples, where it has any."""
    prompts = {role.value: own for role in generation.roles if (own := generation.prompts.of(role))}
    sections = {
        "prompts": prompts,
        "system_prompts": [one.model_dump(mode="json") for one in generation.conversation.system_prompts],
        "from_seed": generation.conversation.from_seed,
        "examples": generation.examples.model_dump(mode="json") if generation.examples.exchanges else None,
    }
    return {name: value for name, value in sections.items() if value}


def _course(generation: GenerationConfig) -> dict[str, Any]:
    """Return who begins and who ends conversations, and the users' goals, as far as it is not as usual."""
    conversation = generation.conversation
    ended = {"ends": conversation.ends, "min_turns": generation.run.min_turns}
    return {
        **(ended if conversation.ends != "planned" else {}),
        **({"opens": conversation.opens} if conversation.opens != "user" else {}),
        **({"goals": [_goal(one) for one in conversation.goals]} if conversation.goals else {}),
    }


def _goal(goal: GoalConfig) -> dict[str, Any]:
    content = goal.model_dump(mode="json", exclude={"expect"})
    return {**content, "expect": goal.expect.plain} if goal.expect.active else content


def _attributes(generation: GenerationConfig) -> dict[str, Any]:
    """With the languages, over which together they are drawn."""
    drawn = {name: one.model_dump(mode="json") for name, one in generation.attributes.items()}
    return {"drawn": drawn, "languages": generation.run.target_languages}


def _without_topics(generation: GenerationConfig) -> dict[str, Any]:
    """Say what dialogues are made from, and in which languages where these share the documents."""
    run = generation.run
    return {"documents": run.count_key, "languages": run.target_languages if run.counts_documents else []}


def _answers(generation: GenerationConfig) -> dict[str, Any]:
    return generation.answers.model_dump(mode="json", exclude_defaults=True)


def _agent(llm: LlmConfig, role: Role) -> dict[str, Any]:
    agent = llm.agents.of(role)
    left_out = set(PROVIDER_KEYS) if agent.extra_body else {"extra_body", *PROVIDER_KEYS}
    return {**agent.model_dump(mode="json", exclude=left_out), "model": llm.model_of(role)}


def _judge(judge: JudgeConfig) -> dict[str, Any]:
    content = judge.model_dump(mode="json", exclude=set(OFFLINE_KEYS))
    usual = JudgeConfig().model_dump(mode="json", include=set(_JUDGE_KEYS_WHERE_SET))
    if not judge.rubric:
        content["show_rubric"] = usual["show_rubric"]
    return {key: value for key, value in content.items() if key not in usual or value != usual[key]}


def _tools(generation: GenerationConfig) -> dict[str, Any]:
    """Without what names a key or an address, or says how long something may take."""
    tools = generation.tools
    content = tools.model_dump(mode="json", include={"max_rounds", "result_chars", "web_search"})
    if tools.functions:
        own = tools.model_dump(
            mode="json",
            include={"functions", "modules", "per_dialogue", "state", "faults"},
            exclude={"functions": {"__all__": {"timeout_s": True, "http": {"headers_env"}}}},
            exclude_defaults=True,
        )
        content["declared"] = own
    return content


def _grounding(generation: GenerationConfig, index_id: str) -> dict[str, Any]:
    retrieval = generation.retrieval
    reranked = retrieval.rerank.backend != "off"
    return {
        # Documents that come later continue the plan where dialogues are counted by them.
        "knowledge": "" if generation.run.counts_documents else index_id,
        "retrieval": {
            **retrieval.model_dump(mode="json", exclude={"rerank"}),
            "rerank": retrieval.rerank.model_dump(mode="json", exclude=_RERANK_PLACE) if reranked else None,
        },
        "doc_coverage": generation.coverage.model_dump(mode="json", include=_GROUNDED_COVERAGE),
    }


def content_fingerprint(
    generation: GenerationConfig, llm: LlmConfig, personas: Personas, source: ContentSource = NO_SOURCE
) -> str:
    """Hex SHA-256 of `content_config`: two runs with the same one generate from the same configuration."""
    content = content_config(generation, llm, personas, source)
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
