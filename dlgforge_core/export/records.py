"""Records of dialogues in ShareGPT and Parquet; OpenAI messages have a module of their own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from dlgforge_core.config.attributes import COLUMN_PREFIX
from dlgforge_core.config.conversation import ENDED_BY, GOAL, GOAL_MET, GOAL_REASON, TURN_ORIGINS
from dlgforge_core.config.review import MARKS
from dlgforge_core.config.saving import Reasoning
from dlgforge_core.dialogue import Candidate, Dialogue, Evidence, Turn, documents_of, topic_of
from dlgforge_core.export.columns import NO_OPTIONAL_COLUMNS, OptionalColumns
from dlgforge_core.export.format_context import Record
from dlgforge_core.export.openai_messages import arguments_json, opening_message, system_message
from dlgforge_core.export.reasoning import in_tags, with_reasoning
from dlgforge_core.export.schema import CANDIDATES, FINAL_STATE, SEED_METADATA, SYSTEM
from dlgforge_core.export.scrub import last_part_if_absolute
from dlgforge_core.tool_events import ToolEvent
from dlgforge_core.verdicts import Judgement


def sharegpt_record(
    dialogue: Dialogue, columns: OptionalColumns = NO_OPTIONAL_COLUMNS, *, reasoning: Reasoning = "none"
) -> Record:
    """One line of ShareGPT JSONL: `conversations` of `from` (human, gpt) and `value`."""
    opened = [
        {"from": "gpt", "value": message["content"]} for message in opening_message(dialogue, reasoning)
    ]
    conversations = opened + [
        {"from": who, "value": text}
        for turn in dialogue.turns
        for who, text in (
            ("human", turn.user),
            ("gpt", in_tags(turn.assistant, turn.details.reasoning, reasoning)),
        )
    ]
    return {
        "id": dialogue.plan.dialogue_id,
        "conversations": conversations,
        **_about(dialogue),
        "models": {str(role): last_part_if_absolute(model) for role, model in dialogue.models.items()},
        **_system(dialogue, columns),
        **_optional(dialogue, columns),
    }


def sharegpt_judged_record(
    dialogue: Dialogue, columns: OptionalColumns = NO_OPTIONAL_COLUMNS, *, reasoning: Reasoning = "none"
) -> Record:
    """As `sharegpt_record`, with the judge's verdicts: on each turn, on the whole, and their mean."""
    return {
        **sharegpt_record(dialogue, reasoning=reasoning),
        **_verdicts(dialogue, columns.dimensions),
        **_system(dialogue, columns),
        **_optional(dialogue, columns),
    }


def parquet_record(
    dialogue: Dialogue, columns: OptionalColumns = NO_OPTIONAL_COLUMNS, *, reasoning: Reasoning = "none"
) -> Record:
    """One row of `parquet_schema` with the same options."""
    turns = dialogue.turns
    record = {
        "id": dialogue.plan.dialogue_id,
        "messages": [
            *system_message(dialogue),
            *opening_message(dialogue, reasoning),
            *(message for turn in turns for message in _exchange(turn, reasoning)),
        ],
        **_about(dialogue),
        **_verdicts(dialogue, columns.dimensions),
        "turn_evidence": [[_evidence(item) for item in turn.details.evidence] for turn in turns],
        "turn_tools": [[_tool(event) for event in turn.details.tools] for turn in turns],
        "models": [
            {"role": str(role), "model": last_part_if_absolute(model)}
            for role, model in dialogue.models.items()
        ],
    }
    if reasoning in ("column", "field"):
        record["turn_reasoning"] = [turn.details.reasoning for turn in turns]
    if columns.candidates:
        record[CANDIDATES] = [
            [_candidate(one, turn, reasoning, columns.dimensions) for one in turn.details.candidates]
            for turn in turns
        ]
    if columns.final_state:
        record[FINAL_STATE] = json.dumps(clean(dialogue.final_state), ensure_ascii=False)
    return {**record, **_optional(dialogue, columns)}


def _exchange(turn: Turn, form: Reasoning) -> tuple[Record, Record]:
    # Tool calls are a column of their own: what was thought before them stands before the answer.
    answer = {"role": "assistant", "content": turn.assistant}
    return {"role": "user", "content": turn.user}, with_reasoning(answer, turn.details.reasoning, form)


def _system(dialogue: Dialogue, columns: OptionalColumns) -> Record:
    return {SYSTEM: dialogue.plan.system_prompt} if columns.system else {}


def _optional(dialogue: Dialogue, columns: OptionalColumns) -> Record:
    """Return the `columns` that each format has that has any of them."""
    return {
        **(_seed_metadata(dialogue) if columns.seed_metadata else {}),
        **{COLUMN_PREFIX + name: dialogue.plan.attributes.get(name) for name in columns.attributes},
        **(_of_conversation(dialogue, columns.conversation) if columns.conversation else {}),
        **({MARKS: [mark.to_json() for mark in dialogue.marks]} if columns.marks else {}),
    }


def _of_conversation(dialogue: Dialogue, columns: Sequence[str]) -> Record:
    verdict = dialogue.goal_verdict
    known = {
        ENDED_BY: dialogue.ended_by.value,
        GOAL: dialogue.plan.goal,
        GOAL_MET: verdict.met if verdict is not None else None,
        GOAL_REASON: verdict.reason if verdict is not None else None,
        TURN_ORIGINS: [turn.details.origin.value or "generated" for turn in dialogue.turns],
    }
    return {column: known[column] for column in columns}


def _seed_metadata(dialogue: Dialogue) -> Record:
    # As text: a column needs one type, and every seed file has keys of its own.
    return {SEED_METADATA: json.dumps(clean(dialogue.plan.topic.metadata), ensure_ascii=False)}


def _about(dialogue: Dialogue) -> Record:
    plan = dialogue.plan
    return {
        "language": plan.language,
        "topic": topic_of(plan, dialogue.turns),
        "documents": documents_of(dialogue.turns),
        "seed_id": plan.topic.id,
        "seed_batch": last_part_if_absolute(plan.topic.batch),
        "user_persona": plan.user_persona.name,
        "assistant_persona": plan.assistant_persona.name,
        "n_turns": len(dialogue.turns),
    }


def _verdicts(dialogue: Dialogue, dimensions: Sequence[str]) -> Record:
    return {
        "score": dialogue.mean_score,
        "turn_judgements": [_verdict(turn.judgement, dimensions) for turn in dialogue.turns],
        "judgement": _verdict(dialogue.judgement, dimensions),
        "judge_verdicts": [
            {
                "judge": one.judge,
                "turn_index": one.turn_index,
                **(_verdict(one.judgement, dimensions) or {}),
            }
            for one in dialogue.by_judge
        ],
    }


def _verdict(judgement: Judgement | None, dimensions: Sequence[str]) -> Record | None:
    """Return a verdict with ratings in these dimensions, null where it has none: every row has the same."""
    if judgement is None:
        return None
    record = judgement.to_json()
    for name in ("dimensions", "question_ok", "answer_ok", "goal"):
        record.pop(name, None)
    if dimensions:
        record["dimensions"] = {name: judgement.dimensions.get(name) for name in dimensions}
        record["question_ok"], record["answer_ok"] = judgement.question_ok, judgement.answer_ok
    return record


def _evidence(item: Evidence) -> Record:
    return {
        "chunk_id": item.chunk_id,
        "document": item.document,
        "score": item.score,
        "cited": item.cited,
        "given_to": str(item.given_to),
        "text": item.text,
    }


def _candidate(one: Candidate, turn: Turn, form: Reasoning, dimensions: Sequence[str]) -> Record:
    details = turn.details if one.chosen else one.details
    record = {
        "answer": in_tags(one.answer, details.reasoning, form),
        "chosen": one.chosen,
        "revision": one.revision,
        "judgement": _verdict(one.judgement, dimensions),
        "model": last_part_if_absolute(one.model),
        "temperature": one.temperature,
        "tools": [_tool(event) for event in details.tools],
    }
    return {**record, "reasoning": details.reasoning} if form in ("column", "field") else record


def _tool(event: ToolEvent) -> Record:
    return {
        "call_id": event.call_id,
        "name": event.name,
        "arguments": arguments_json(event),
        "result": event.result,
        "error": event.error,
    }


def clean(value: Any) -> Any:
    """`value` with every text in it valid Unicode: surrogate pairs joined, lone surrogates made U+FFFD."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        return value
    if isinstance(value, Mapping):
        return {clean(key): clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [clean(item) for item in value]
    return value
