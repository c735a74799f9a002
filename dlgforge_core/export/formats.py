"""What a dialogue looks like in each dataset format, and as readable samples."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

import pyarrow as pa

from dlgforge_core.dialogue import Dialogue, Judgement, Turn

Record = dict[str, Any]

_text = pa.string()
_judgement = pa.struct(
    [
        pa.field("score", pa.int8(), nullable=False),
        pa.field("reasons", pa.list_(_text), nullable=False),
        pa.field("comment", _text, nullable=False),
    ]
)
# Lists of structs, no maps: pandas, DuckDB, Polars and Hugging Face `datasets` read them all alike.
_FIELDS: list[pa.Field[Any]] = [
    pa.field("id", _text, nullable=False),
    pa.field("language", _text, nullable=False),
    pa.field("topic", _text, nullable=False),
    pa.field("seed_id", _text, nullable=False),
    pa.field("seed_batch", _text, nullable=False),
    pa.field("user_persona", _text, nullable=False),
    pa.field("assistant_persona", _text, nullable=False),
    pa.field("n_turns", pa.int32(), nullable=False),
    pa.field(
        "messages",
        pa.list_(
            pa.struct(
                [
                    pa.field("role", _text, nullable=False),
                    pa.field("content", _text, nullable=False),
                ]
            )
        ),
        nullable=False,
    ),
    pa.field("score", pa.float64()),
    pa.field("turn_judgements", pa.list_(_judgement), nullable=False),
    pa.field("judgement", _judgement),
    pa.field(
        "models",
        pa.list_(
            pa.struct([pa.field("role", _text, nullable=False), pa.field("model", _text, nullable=False)])
        ),
        nullable=False,
    ),
]
PARQUET_SCHEMA = pa.schema(_FIELDS)


def sharegpt_record(dialogue: Dialogue) -> Record:
    """One line of ShareGPT JSONL: `conversations` of `from` (human, gpt) and `value`."""
    said = [
        {"from": who, "value": text}
        for turn in dialogue.turns
        for who, text in (("human", turn.user), ("gpt", turn.assistant))
    ]
    return {"id": dialogue.plan.dialogue_id, "conversations": said, **_about(dialogue)}


def openai_messages_record(dialogue: Dialogue) -> Record:
    """One line of JSONL as OpenAI's fine-tuning takes it: `messages` of `role` and `content`."""
    return {"id": dialogue.plan.dialogue_id, "messages": _messages(dialogue.turns), **_about(dialogue)}


def parquet_record(dialogue: Dialogue) -> Record:
    """One row of `PARQUET_SCHEMA`."""
    record = openai_messages_record(dialogue)
    record["models"] = [{"role": role, "model": model} for role, model in record["models"].items()]
    return record


JSONL_RECORDS: Mapping[str, Callable[[Dialogue], Record]] = {
    "sharegpt": sharegpt_record,
    "openai_messages": openai_messages_record,
}
FILE_NAMES: Mapping[str, str] = {
    "sharegpt": "sharegpt.jsonl",
    "openai_messages": "openai_messages.jsonl",
    "parquet": "dialogues.parquet",
}


def _messages(turns: Iterable[Turn]) -> list[dict[str, str]]:
    return [
        {"role": role, "content": text}
        for turn in turns
        for role, text in (("user", turn.user), ("assistant", turn.assistant))
    ]


def _about(dialogue: Dialogue) -> Record:
    """Everything but the words. `score` is the mean of the verdicts, None when nothing was judged."""
    plan = dialogue.plan
    judgements = [turn.judgement for turn in dialogue.turns]
    verdicts = [j.score for j in (*judgements, dialogue.judgement) if j is not None]
    return {
        "language": plan.language,
        "topic": plan.topic.topic,
        "seed_id": plan.topic.id,
        "seed_batch": _without_folders(plan.topic.batch),
        "user_persona": plan.user_persona.name,
        "assistant_persona": plan.assistant_persona.name,
        "n_turns": len(dialogue.turns),
        "score": sum(verdicts) / len(verdicts) if verdicts else None,
        "turn_judgements": [j.to_json() if j else None for j in judgements],
        "judgement": dialogue.judgement.to_json() if dialogue.judgement else None,
        "models": {str(role): _without_folders(model) for role, model in dialogue.models.items()},
    }


def _without_folders(name: str) -> str:
    """A model or batch named by an absolute path says where it lay on some machine: the last part will do."""
    for kind in (PurePosixPath, PureWindowsPath):
        if kind(name).is_absolute():
            return kind(name).name
    return name


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


# Dagster renders GitHub's markdown and shows HTML as text, so no <div dir="auto">: Unicode's own isolates
# keep right-to-left text and the names around it in order.
_ISOLATE, _END_ISOLATE = "\u2068", "\u2069"
_INVISIBLE = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u202a-\u202e\u2066-\u2069]")
_MARKUP = re.compile(r"([\\`*_\[\]<>#|~&!@$]|(?<=\w):(?=//)|(?<=[Ww]{3})\.)")
_LINE_BREAKS = re.compile("\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")


def sample_markdown(dialogues: Iterable[Dialogue], limit: int = 5, max_chars: int = 1200) -> str:
    """The first `limit` dialogues as markdown to read; texts are cut at `max_chars` and cannot break it."""
    parts = [part for dialogue in islice(dialogues, limit) for part in _sample(dialogue, max_chars)]
    return "\n\n".join(parts) + "\n" if parts else "No dialogues yet.\n"


def _sample(dialogue: Dialogue, max_chars: int) -> Iterator[str]:
    plan = dialogue.plan
    yield f"### {_inline(plan.topic.topic, 200)} ({_inline(plan.language, 20)})"
    for turn in dialogue.turns:
        yield f"**User**\n\n{escape_markdown(turn.user, max_chars)}"
        yield f"**Assistant**\n\n{escape_markdown(turn.assistant, max_chars)}"
        if turn.judgement:
            yield _verdict("Judge", turn.judgement)
    if dialogue.judgement:
        yield _verdict("Judge, on the whole dialogue", dialogue.judgement)


def _verdict(who: str, judgement: Judgement) -> str:
    reasons = ", ".join(_inline(reason, 60) for reason in judgement.reasons)
    comment = f" · {_inline(judgement.comment, 400)}" if judgement.comment.strip() else ""
    return f"*{who}: {judgement.score}/10* · {reasons}{comment}"


def _inline(text: str, max_chars: int) -> str:
    return escape_markdown(" ".join(text.split()), max_chars)


def escape_markdown(text: str, max_chars: int) -> str:
    """`text` as markdown that shows just these words: no markup, HTML, link or direction of its own."""
    text = clean(text)
    if len(text) > max_chars:
        text = text[:max_chars].rstrip() + "…"
    paragraphs: list[list[str]] = [[]]
    for line in _LINE_BREAKS.split(text):
        if shown := _INVISIBLE.sub("", line).strip():
            # As every line starts with an isolate, lists and rules ("- ", "1. ", "===") cannot begin there.
            paragraphs[-1].append(_ISOLATE + _MARKUP.sub(r"\\\1", shown) + _END_ISOLATE)
        else:
            paragraphs.append([])
    return "\n\n".join("\\\n".join(lines) for lines in paragraphs if lines)
