"""The columns of each dataset format: Arrow types, what they hold, and how the dataset card writes them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa

from dlgforge_core.config.attributes import COLUMN_PREFIX
from dlgforge_core.config.conversation import ENDED_BY, GOAL, GOAL_MET, GOAL_REASON, TURN_ORIGINS
from dlgforge_core.config.review import MARKS
from dlgforge_core.config.saving import Reasoning
from dlgforge_core.export.columns import NO_OPTIONAL_COLUMNS, OptionalColumns
from dlgforge_core.export.reasoning import FIELD
from dlgforge_core.verdicts import MAX_SCORE

SEED_METADATA = "seed_metadata"
SYSTEM = "system"
CANDIDATES = "turn_candidates"
FINAL_STATE = "final_state"
_text = pa.string()
_CONVERSATION = {
    ENDED_BY: _text,
    GOAL: _text,
    GOAL_MET: pa.bool_(),
    GOAL_REASON: _text,
    TURN_ORIGINS: pa.list_(_text),
}


def _required(name: str, kind: Any) -> pa.Field[Any]:
    return pa.field(name, kind, nullable=False)


_verdict = [
    _required("score", pa.int8()),
    _required("reasons", pa.list_(_text)),
    _required("comment", _text),
]
_judge = [_required("judge", _text), pa.field("turn_index", pa.int32())]
_evidence = pa.struct(
    [
        _required("chunk_id", _text),
        _required("document", _text),
        _required("score", pa.float64()),
        _required("cited", pa.bool_()),
        _required("given_to", _text),
        _required("text", _text),
    ]
)
_tool = pa.struct(
    [
        _required("call_id", _text),
        _required("name", _text),
        _required("arguments", _text),
        _required("result", _text),
        _required("error", _text),
    ]
)


def _verdict_columns(dimensions: Sequence[str]) -> list[pa.Field[Any]]:
    """Return the columns with verdicts, which have ratings where a rubric has `dimensions`."""
    verdict = list(_verdict)
    if dimensions:
        # A struct and no list of pairs: a floor is a condition on one of its fields.
        rated = pa.struct([pa.field(name, pa.float64()) for name in dimensions])
        verdict += [
            pa.field("dimensions", rated),
            pa.field("question_ok", pa.bool_()),
            pa.field("answer_ok", pa.bool_()),
        ]
    return [
        _required("turn_judgements", pa.list_(pa.struct(verdict))),
        pa.field("judgement", pa.struct(verdict)),
        _required("judge_verdicts", pa.list_(pa.struct([*_judge, *verdict]))),
    ]


def _candidates(dimensions: Sequence[str], reasoning: bool) -> pa.Field[Any]:
    """Return the column of all answers of each turn; `reasoning` is a field of each where it is apart."""
    verdict = next(column.type for column in _verdict_columns(dimensions) if column.name == "judgement")
    candidate = [
        _required("answer", _text),
        _required("chosen", pa.bool_()),
        _required("revision", pa.bool_()),
        pa.field("judgement", verdict),
        _required("model", _text),
        pa.field("temperature", pa.float64()),
        _required("tools", pa.list_(_tool)),
        *([_required("reasoning", _text)] if reasoning else []),
    ]
    return _required(CANDIDATES, pa.list_(pa.list_(pa.struct(candidate))))


# Lists of structs, no maps: pandas, DuckDB, Polars and Hugging Face `datasets` read them all alike.
_FIELDS: list[pa.Field[Any]] = [
    _required("id", _text),
    _required("language", _text),
    _required("topic", _text),
    _required("documents", pa.list_(_text)),
    _required("seed_id", _text),
    _required("seed_batch", _text),
    _required("user_persona", _text),
    _required("assistant_persona", _text),
    _required("n_turns", pa.int32()),
    _required(
        "messages",
        pa.list_(pa.struct([_required("role", _text), _required("content", _text)])),
    ),
    pa.field("score", pa.float64()),
    *_verdict_columns(()),
    _required("turn_evidence", pa.list_(pa.list_(_evidence))),
    _required("turn_tools", pa.list_(pa.list_(_tool))),
    _required("models", pa.list_(pa.struct([_required("role", _text), _required("model", _text)]))),
]
_MARKS = _required(
    MARKS,
    pa.list_(pa.struct([_required(name, _text) for name in ("reviewer", "verdict", "label", "comment")])),
)
_MESSAGE = [_required("role", _text), _required("content", _text)]
_REASONING = _required("turn_reasoning", pa.list_(_text))
_SEED_METADATA = _required(SEED_METADATA, _text)
PARQUET_SCHEMA = pa.schema(_FIELDS)

COLUMN_TEXTS = {
    "id": "Stable id of the dialogue.",
    "conversations": "The conversation: `from` is human or gpt, `value` is what was said.",
    "messages": "The conversation, by role, in order.",
    "prompt": "All messages before the completion, by role, in order.",
    "completion": "One message of the assistant: an answer, or a call of a tool.",
    "tools": "The tools that the assistant had in the dialogue, as OpenAI function definitions.",
    "language": "Language that was asked for, as the configuration names it; what was said may differ.",
    "topic": "Seed topic of the dialogue; empty when its document led it off that topic.",
    "documents": "Documents that the questions were asked from, by name; empty without any.",
    "seed_id": "Id of the seed topic it was planned with.",
    "seed_batch": "Seed file the topic came from.",
    SYSTEM: "The system message that the assistant was told; empty without one.",
    ENDED_BY: "Why it ended where it did: planned, it has as many turns as were planned; user, the user had "
    "nothing more to ask.",
    GOAL: "What the user was to reach, which the assistant was not told; empty without a goal.",
    GOAL_MET: "Whether the user reached it, as calls of tools and their state show or the judge "
    "says; null where neither does.",
    TURN_ORIGINS: "Where each turn is from: `generated`; `seed`, as the seed has it; `seed_question`, its "
    "answer alone generated; or `translated` from the seed's.",
    GOAL_REASON: "The reason for that.",
    SEED_METADATA: "The `metadata` of its seed topic, as JSON; `{}` without any.",
    "user_persona": "Who the user simulator played.",
    "assistant_persona": "Who the assistant played.",
    "n_turns": "Turns: a question and its answer each.",
    "score": f"Mean of all verdicts, 0 to {MAX_SCORE}, not rounded; null when nothing was judged.",
    "turn_judgements": "The verdict on each turn: score, reasons, comment. Of several judges: their mean "
    "score, rounded, the reasons that at least half of them give, and the first one's comment.",
    "judgement": "The verdict on the whole dialogue, in the same form.",
    "judge_verdicts": "Where several judged, each one's verdicts: judge, turn_index (from 0, null for the "
    "whole), score, reasons, comment.",
    "turn_evidence": "The passages each turn was given: chunk, document, match score, cited, to whom, and "
    "their text (empty where it was not kept).",
    "turn_tools": "The tool calls of each turn: name, arguments as JSON, result (cut when long), error.",
    FINAL_STATE: "The state that the tools left behind at the end of the dialogue, as JSON.",
    "turn_reasoning": "The assistant's reasoning in each turn; empty where none was kept.",
    CANDIDATES: "All answers of each turn, in the order they were made: the text, whether it was chosen, "
    "whether it is a revision after the judge's comment, the verdict, and what it comes from.",
    MARKS: "What people thought of the dialogue: reviewer, verdict (good or bad), label, comment.",
    "models": "Model of each role.",
}


DPO_TEXTS = {
    "id": COLUMN_TEXTS["id"],
    "turn": "The turn, from 0.",
    "prompt": "All messages before the answer, by role, in order; the last one is the question.",
    "chosen": "The turn's answer; calls of tools behind it come first.",
    "rejected": "Another answer to the same question, which the judge scored lower.",
    "chosen_score": f"The judge's score of the answer, 0 to {MAX_SCORE}.",
    "rejected_score": "The judge's score of the other one.",
    "margin": "By how much the answer was scored higher.",
    "tools": COLUMN_TEXTS["tools"],
}


def attribute_columns(attributes: Iterable[str]) -> dict[str, str]:
    """Return the columns of attributes, and what they hold."""
    return {COLUMN_PREFIX + name: f"The dialogue's attribute `{name}`." for name in attributes}


def parquet_schema(
    reasoning: Reasoning = "none", columns: OptionalColumns = NO_OPTIONAL_COLUMNS
) -> pa.Schema:
    """Return the schema of the Parquet files, with reasoning, seeds' metadata and the like if asked for."""
    apart = reasoning in ("column", "field")
    added = [
        *([_REASONING] if apart else []),
        *([_candidates(columns.dimensions, apart)] if columns.candidates else []),
        *([_SEED_METADATA] if columns.seed_metadata else []),
        *(pa.field(column, _text) for column in attribute_columns(columns.attributes)),
        *(pa.field(column, _CONVERSATION[column]) for column in columns.conversation),
        *([_MARKS] if columns.marks else []),
        *([pa.field(FINAL_STATE, _text)] if columns.final_state else []),
    ]
    changed = {field.name: field for field in (*_verdict_columns(columns.dimensions), _messages(reasoning))}
    fields = [changed.get(field.name, field) for field in _FIELDS]
    return pa.schema([*fields, *added]) if added or columns.dimensions else PARQUET_SCHEMA


def _messages(reasoning: Reasoning) -> pa.Field[Any]:
    more = [pa.field(FIELD, _text)] if reasoning == "field" else []
    return _required("messages", pa.list_(pa.struct([*_MESSAGE, *more])))


def reasoning_form(schema: pa.Schema) -> Reasoning:
    """Return where a Parquet file has reasoning apart from the text."""
    if "turn_reasoning" not in schema.names:
        return "none"
    return "field" if schema.field("messages").equals(_messages("field")) else "column"


def conversation_columns(names: Iterable[str]) -> list[str]:
    """Return those columns of a file that tell who ended a dialogue, and of goals."""
    return [name for name in names if name in _CONVERSATION]


def rated_dimensions(schema: pa.Schema) -> list[str]:
    """Return the dimensions that verdicts in a Parquet file rate."""
    if "judgement" not in schema.names or not pa.types.is_struct(kind := schema.field("judgement").type):
        return []
    index = kind.get_field_index("dimensions")
    rated = kind.field(index).type if index >= 0 else pa.null()
    return [rated.field(i).name for i in range(rated.num_fields)] if pa.types.is_struct(rated) else []


def arrow_features(schema: pa.Schema) -> list[dict[str, Any]]:
    """Columns as the `features` of a dataset card.

    Without them `datasets` guesses from the first file, and fails where another split holds a verdict and the
    first does not.
    """
    return [{"name": field.name, **_card_type(field.type)} for field in schema]


def openai_features(tools: bool, reasoning: Reasoning = "none") -> list[dict[str, Any]]:
    """With `tools` messages differ in their keys: they are of the type `json` then."""
    if tools:
        return [{"name": "messages", "list": "json"}, {"name": "tools", "list": "json"}]
    return arrow_features(pa.schema([_messages(reasoning)]))


def prompt_completion_features(tools: bool, reasoning: Reasoning = "none") -> list[dict[str, Any]]:
    """As `openai_features`, of a prompt and a completion, after the dialogue's id."""
    head = [{"name": "id", "dtype": "string"}]
    if tools:
        return head + [{"name": name, "list": "json"} for name in ("prompt", "completion", "tools")]
    messages = openai_features(tools, reasoning)[0]
    return head + [{**messages, "name": name} for name in ("prompt", "completion")]


def dpo_features(tools: bool, reasoning: Reasoning = "none") -> list[dict[str, Any]]:
    """As `openai_features`, of a prompt and two answers, with id, turn and scores."""
    messages = {"list": "json"} if tools else openai_features(tools, reasoning)[0]
    return [
        {"name": "id", "dtype": "string"},
        {"name": "turn", "dtype": "int32"},
        *({**messages, "name": name} for name in ("prompt", "chosen", "rejected")),
        *({"name": name, "dtype": "float64"} for name in ("chosen_score", "rejected_score", "margin")),
        *([{"name": "tools", "list": "json"}] if tools else []),
    ]


def sharegpt_features(
    columns: Iterable[str], roles: Iterable[str], dimensions: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """`roles` are those whose models the records name, `dimensions` those of a rubric."""
    schema = parquet_schema(columns=OptionalColumns(dimensions=dimensions))
    messages = pa.list_(pa.struct([pa.field("from", _text), pa.field("value", _text)]))
    models = pa.struct([pa.field(role, _text) for role in sorted(roles)])
    own = {
        "conversations": messages,
        "models": models,
        SYSTEM: _text,
        SEED_METADATA: _text,
        "tools": _text,
        **_CONVERSATION,
        MARKS: _MARKS.type,
    }
    return [
        {"name": name, **_card_type(own[name] if name in own else _type_of(name, schema))}
        for name in columns
        if name != "models" or models.num_fields  # no dialogues, no roles
    ]


def _type_of(column: str, schema: pa.Schema) -> Any:
    return _text if column.startswith(COLUMN_PREFIX) else schema.field(column).type


def _card_type(kind: Any) -> dict[str, Any]:
    if pa.types.is_list(kind):
        inner = _card_type(kind.value_type)
        return {"list": next(iter(inner.values())) if list(inner) in (["dtype"], ["struct"]) else inner}
    if pa.types.is_struct(kind):
        fields = [kind.field(i) for i in range(kind.num_fields)]
        return {"struct": [{"name": field.name, **_card_type(field.type)} for field in fields]}
    return {"dtype": {"double": "float64"}.get(str(kind), str(kind))}
