"""What a dialogue looks like in each dataset format, and as readable samples."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from dlgforge_core.dialogue import Dialogue, Evidence, Judgement, ToolEvent
from dlgforge_core.export.openai_messages import arguments_json, openai_messages_record
from dlgforge_core.export.schema import PARQUET_SCHEMA
from dlgforge_core.export.scrub import last_part_if_absolute

__all__ = [
    "PARQUET_SCHEMA",
    "clean",
    "escape_markdown",
    "judgements",
    "mean_score",
    "openai_messages_record",
    "parquet_record",
    "sample_markdown",
    "sharegpt_judged_record",
    "sharegpt_record",
]

Record = dict[str, Any]


def sharegpt_record(dialogue: Dialogue) -> Record:
    """One line of ShareGPT JSONL: `conversations` of `from` (human, gpt) and `value`."""
    said = [
        {"from": who, "value": text}
        for turn in dialogue.turns
        for who, text in (("human", turn.user), ("gpt", turn.assistant))
    ]
    return {
        "id": dialogue.plan.dialogue_id,
        "conversations": said,
        **_about(dialogue),
        "models": {str(role): last_part_if_absolute(model) for role, model in dialogue.models.items()},
    }


def sharegpt_judged_record(dialogue: Dialogue) -> Record:
    """As `sharegpt_record`, with the judge's verdicts: on each turn, on the whole, and their mean."""
    return {**sharegpt_record(dialogue), **_verdicts(dialogue)}


def parquet_record(dialogue: Dialogue, *, reasoning: bool = False) -> Record:
    """One row of `parquet_schema(reasoning)`."""
    turns = dialogue.turns
    record = {
        "id": dialogue.plan.dialogue_id,
        "messages": [
            {"role": role, "content": text}
            for turn in turns
            for role, text in (("user", turn.user), ("assistant", turn.assistant))
        ],
        **_about(dialogue),
        **_verdicts(dialogue),
        "turn_evidence": [[_evidence(item) for item in turn.details.evidence] for turn in turns],
        "turn_tools": [[_tool(event) for event in turn.details.tools] for turn in turns],
        "models": [
            {"role": str(role), "model": last_part_if_absolute(model)}
            for role, model in dialogue.models.items()
        ],
    }
    if reasoning:
        record["turn_reasoning"] = [turn.details.reasoning for turn in turns]
    return record


def mean_score(dialogue: Dialogue) -> float | None:
    """The mean of a dialogue's verdicts; None when nothing was judged."""
    verdicts = [j.score for j in judgements(dialogue)]
    return sum(verdicts) / len(verdicts) if verdicts else None


def judgements(dialogue: Dialogue) -> list[Judgement]:
    """All verdicts a dialogue carries."""
    every = (*(turn.judgement for turn in dialogue.turns), dialogue.judgement)
    return [judgement for judgement in every if judgement is not None]


def _about(dialogue: Dialogue) -> Record:
    plan = dialogue.plan
    return {
        "language": plan.language,
        "topic": plan.topic.topic,
        "seed_id": plan.topic.id,
        "seed_batch": last_part_if_absolute(plan.topic.batch),
        "user_persona": plan.user_persona.name,
        "assistant_persona": plan.assistant_persona.name,
        "n_turns": len(dialogue.turns),
    }


def _verdicts(dialogue: Dialogue) -> Record:
    return {
        "score": mean_score(dialogue),
        "turn_judgements": [t.judgement.to_json() if t.judgement else None for t in dialogue.turns],
        "judgement": dialogue.judgement.to_json() if dialogue.judgement else None,
    }


def _evidence(item: Evidence) -> Record:
    return {
        "chunk_id": item.chunk_id,
        "document": item.document,
        "score": item.score,
        "cited": item.cited,
        "given_to": str(item.given_to),
    }


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
