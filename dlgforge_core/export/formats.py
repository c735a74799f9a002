"""Formats of a dataset's files: each is one object, with its columns, records, check and words."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from dlgforge_core.config.review import MARKS
from dlgforge_core.config.saving import RENAMED_COLUMNS, ToolArguments
from dlgforge_core.dialogue import Dialogue
from dlgforge_core.export import preferences, sharegpt_tools
from dlgforge_core.export.format_context import FormatContext, Record
from dlgforge_core.export.openai_messages import openai_messages_record
from dlgforge_core.export.prompt_completion import (
    COLUMNS,
    prompt_completion_problem,
    prompt_completion_records,
    with_objects,
)
from dlgforge_core.export.record_checks import openai_problem, sharegpt_problem
from dlgforge_core.export.records import parquet_record, sharegpt_judged_record, sharegpt_record
from dlgforge_core.export.schema import (
    COLUMN_TEXTS,
    DPO_TEXTS,
    SEED_METADATA,
    SYSTEM,
    arrow_features,
    attribute_columns,
    dpo_features,
    openai_features,
    parquet_schema,
    prompt_completion_features,
    sharegpt_features,
)

Features = list[dict[str, Any]]
"""Columns as the `features` of a dataset card."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """A format: JSONL, or Parquet where it has an Arrow `schema`.

    `words` say in the card what it is, and `notes` what else is to be known of it. `columns` and `features`
    are before any renaming. `records` are the rows of a dialogue: one, or several in a row that have its id
    in the column `dialogue_column`; of a `partial` format there may be none. `problem` says what is wrong
    with a record that was read back, or None; it may raise KeyError, TypeError, ValueError and
    AttributeError as well.
    """

    name: str
    words: str
    columns: Callable[[FormatContext], Sequence[str]]
    features: Callable[[FormatContext], Features]
    records: Callable[[Dialogue, FormatContext], Iterable[Record]]
    problem: Callable[[Record, Mapping[str, str]], str | None]
    notes: Callable[[FormatContext], Iterator[list[str]]] = lambda context: iter(())
    column_texts: Mapping[str, str] = field(default_factory=lambda: COLUMN_TEXTS)
    schema: Callable[[FormatContext], pa.Schema] | None = None
    dialogue_column: str = ""
    partial: bool = False

    @property
    def suffix(self) -> str:
        """What the names of its files end in."""
        return "jsonl" if self.schema is None else "parquet"

    def renamed(self, context: FormatContext) -> Mapping[str, str]:
        """Return the new names of its columns."""
        return context.renamed if self.name in RENAMED_COLUMNS else {}

    def file_name(self, split: str, suffix: str = "", number: int = 0, of: int = 1) -> str:
        """Return the path of a split's file in a dataset folder, or of shard `number` of several."""
        shard = f"-{number:05d}-of-{of:05d}" if of > 1 else ""
        return f"data/{self.name}/{split}{shard}.{suffix or self.suffix}"

    def written(self, dialogue: Dialogue, context: FormatContext) -> Iterator[Record]:
        """Yield the records of a dialogue, their columns renamed."""
        names = self.renamed(context)
        for record in self.records(dialogue, context):
            yield {names.get(key, key): value for key, value in record.items()} if names else record


def _passage_notes(name: str, context: FormatContext) -> Iterator[list[str]]:
    if context.passages:
        yield [
            f"In `{name}` the passages that an answer was written from stand before the question, in",
            "the same message: each between `<document>` and `</document>`, in the order they were given.",
            "Training on it teaches answering from context; put passages into your prompts in the same form.",
            "For the bare conversation use another configuration.",
        ]


def _reasoning_notes(name: str, context: FormatContext) -> Iterator[list[str]]:
    if context.reasoning == "field":
        yield [
            f"In `{name}` what the assistant thought before an answer or a call is in `reasoning_content` of",
            "the message, where chat templates of reasoning models look for it; empty where there was none.",
        ]


def _opening_notes(context: FormatContext) -> Iterator[list[str]]:
    if context.opened:
        yield [
            "The assistant opens conversations: its message comes before the user's first. Chat templates",
            "that want the user to begin (Mistral's, Gemma's, Llama 2's) refuse them; those of Qwen and",
            "Llama 3 do not.",
        ]


_ARGUMENTS: Mapping[ToolArguments, str] = {
    "text": "JSON text, as OpenAI has them; chat templates that want objects need `json.loads` on them",
    "object": "objects, as chat templates want them; OpenAI takes JSON text",
}


def _openai_notes(context: FormatContext) -> Iterator[list[str]]:
    yield from _opening_notes(context)
    yield from _passage_notes("openai_messages", context)
    yield from _reasoning_notes("openai_messages", context)
    if context.tools:
        yield [
            "Every dialogue of `openai_messages` has the tools that the assistant could call, called or not. "
            "Messages with tool calls have the feature type `Json` of `datasets`; in releases that do not "
            "know it, read the JSONL files themselves. Arguments of calls are "
            f"{_ARGUMENTS[context.arguments]}."
        ]


def _sharegpt_tools_notes(context: FormatContext) -> Iterator[list[str]]:
    yield from _passage_notes("sharegpt_tools", context)
    yield [
        "`sharegpt_tools` is for LLaMA-Factory, by this entry of its `dataset_info.json`:",
        '`{"file_name": "<path>/data/sharegpt_tools/train.jsonl", "formatting": "sharegpt", "columns":',
        '{"messages": "conversations", "system": "system", "tools": "tools"}}`.',
    ]
    if context.sharded:
        yield ["Of a split with several files it takes an entry for each."]
    if context.opened:
        yield [
            "There the messages are left out with which the assistant opened conversations: the user must",
            "begin.",
        ]


def _parquet_notes(context: FormatContext) -> Iterator[list[str]]:
    if context.siblings:
        name = "train-*" if context.sharded else "train"
        yield [
            "`load_dataset` reads one kind of file in a folder. So the configuration `parquet` is read from",
            "`data/parquet/<split>.jsonl`, the same rows as in the Parquet files. Those themselves:",
            f'`load_dataset("parquet", data_files={{"train": "path/data/parquet/{name}.parquet"}})`.',
        ]


def _openai_record(dialogue: Dialogue, context: FormatContext) -> Record:
    record = openai_messages_record(dialogue, context)
    if context.arguments == "object":
        record["messages"] = [with_objects(message) for message in record["messages"]]
    return record


def _parquet_problem(record: Record, renamed: Mapping[str, str]) -> None:
    record["seed_id"]  # a KeyError is problem enough: the schema of the file beside it says the rest


def _prompt_completion_notes(context: FormatContext) -> Iterator[list[str]]:
    yield from _opening_notes(context)
    yield from _passage_notes("prompt_completion", context)
    yield from _reasoning_notes("prompt_completion", context)
    yield [
        "`prompt_completion` has a row for each message of the assistant, and as its prompt all that came",
        "before it: TRL's `SFTTrainer` learns the completion alone. Its `id` is the dialogue's.",
    ]
    if context.tools:
        yield [
            "There a tool call is a completion, and what the tool gave is part of the next prompt. Arguments "
            "of calls are objects, as chat templates want them; the columns have the feature type `Json`."
        ]


def _dpo_notes(context: FormatContext) -> Iterator[list[str]]:
    yield from _passage_notes("dpo", context)
    yield from _reasoning_notes("dpo", context)
    yield [
        "`dpo` has a row for each pair of answers to a question: the turn's own, and another one that the",
        f"judge scored lower by {context.min_margin:g} or more. It is the conversational form with an",
        "explicit prompt that TRL's `DPOTrainer` takes. Turns without such a pair have no row.",
    ]
    if context.tools:
        yield [
            "There calls of tools, and what the tools gave, belong to the answer that they were made for. "
            "Arguments of calls are objects; the columns have the feature type `Json`."
        ]


def _of_sharegpt(name: str, context: FormatContext) -> Sequence[str]:
    optional = context.optional
    there = {SYSTEM: optional.system, SEED_METADATA: optional.seed_metadata}
    known = [*RENAMED_COLUMNS[name], *(column for column, has in there.items() if has)]
    marks = [MARKS] if optional.marks else []
    return [*known, *attribute_columns(optional.attributes), *optional.conversation, *marks]


def _schema(context: FormatContext) -> pa.Schema:
    return parquet_schema(context.reasoning, context.optional)


_ALL = (
    Format(
        name="sharegpt",
        words="ShareGPT JSONL",
        columns=lambda context: _of_sharegpt("sharegpt", context),
        features=lambda context: sharegpt_features(_of_sharegpt("sharegpt", context), context.roles),
        records=lambda dialogue, context: [
            sharegpt_record(dialogue, context.optional, reasoning=context.reasoning)
        ],
        problem=sharegpt_problem,
    ),
    Format(
        name="sharegpt_judged",
        words="ShareGPT JSONL with the judge's verdicts",
        columns=lambda context: _of_sharegpt("sharegpt_judged", context),
        features=lambda context: sharegpt_features(
            _of_sharegpt("sharegpt_judged", context), context.roles, context.optional.dimensions
        ),
        records=lambda dialogue, context: [
            sharegpt_judged_record(dialogue, context.optional, reasoning=context.reasoning)
        ],
        problem=sharegpt_problem,
    ),
    Format(
        name="sharegpt_tools",
        words="ShareGPT JSONL with tool calls, for fine-tuning with LLaMA-Factory",
        columns=lambda context: sharegpt_tools.COLUMNS,
        features=lambda context: sharegpt_features(sharegpt_tools.COLUMNS, ()),
        records=lambda dialogue, context: [sharegpt_tools.sharegpt_tools_record(dialogue, context)],
        problem=lambda record, renamed: sharegpt_tools.sharegpt_tools_problem(record),
        notes=_sharegpt_tools_notes,
        column_texts=sharegpt_tools.TEXTS,
    ),
    Format(
        name="openai_messages",
        words="OpenAI messages JSONL, for fine-tuning and chat templates",
        columns=lambda context: ["messages", *(["tools"] if context.tools else [])],
        features=lambda context: openai_features(context.tools, context.reasoning),
        records=lambda dialogue, context: [_openai_record(dialogue, context)],
        problem=lambda record, renamed: openai_problem(record),
        notes=_openai_notes,
    ),
    Format(
        name="prompt_completion",
        words="Prompt and completion JSONL, for supervised fine-tuning with TRL",
        columns=lambda context: [*COLUMNS, *(["tools"] if context.tools else [])],
        features=lambda context: prompt_completion_features(context.tools, context.reasoning),
        records=prompt_completion_records,
        problem=lambda record, renamed: prompt_completion_problem(record),
        notes=_prompt_completion_notes,
        dialogue_column="id",
    ),
    Format(
        name="dpo",
        words="Preference pairs JSONL, for direct preference optimisation with TRL",
        columns=lambda context: [*preferences.COLUMNS, *(["tools"] if context.tools else [])],
        features=lambda context: dpo_features(context.tools, context.reasoning),
        records=preferences.dpo_records,
        problem=lambda record, renamed: preferences.dpo_problem(record),
        notes=_dpo_notes,
        column_texts=DPO_TEXTS,
        dialogue_column="id",
        partial=True,
    ),
    Format(
        name="parquet",
        words="Parquet with everything that is known of a dialogue",
        columns=lambda context: _schema(context).names,
        features=lambda context: arrow_features(_schema(context)),
        records=lambda dialogue, context: [
            parquet_record(dialogue, context.optional, reasoning=context.reasoning)
        ],
        problem=_parquet_problem,
        notes=_parquet_notes,
        schema=_schema,
    ),
)
FORMATS: dict[str, Format] = {one.name: one for one in _ALL}
"""The formats by name; their names are those that `saving.formats` may hold."""
