"""Dialogues as markdown to read: samples, and any text shown as just the words it has."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import islice

from dlgforge_core.call_rounds import rounds_of
from dlgforge_core.dialogue import Dialogue, Turn, title_of
from dlgforge_core.export.openai_messages import arguments_json
from dlgforge_core.export.records import clean
from dlgforge_core.tool_events import ToolEvent
from dlgforge_core.verdicts import MAX_SCORE, Judgement

# Dagster renders GitHub's markdown and shows HTML as text, so no <div dir="auto">: Unicode's own isolates
# keep right-to-left text and the names around it in order.
_ISOLATE, _END_ISOLATE = "\u2068", "\u2069"
_MAX_ROUNDS = 10
_INVISIBLE = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u202a-\u202e\u2066-\u2069]")
_MARKUP = re.compile(r"([\\`*_\[\]<>#|~&!@$]|(?<=\w):(?=//)|(?<=[Ww]{3})\.)")
_LINE_BREAKS = re.compile("\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")


def sample_markdown(dialogues: Iterable[Dialogue], limit: int = 5, max_chars: int = 1200) -> str:
    """Return the first `limit` dialogues as markdown to read.

    Texts are cut at `max_chars` and cannot break it.
    """
    parts = [part for dialogue in islice(dialogues, limit) for part in _sample(dialogue, max_chars)]
    return "\n\n".join(parts) + "\n" if parts else "No dialogues yet.\n"


def _sample(dialogue: Dialogue, max_chars: int) -> Iterator[str]:
    plan = dialogue.plan
    about = title_of(plan, dialogue.turns)
    yield f"### {escape_inline(about, 200)} ({escape_inline(plan.language, 20)})"
    if dialogue.opening:
        yield f"**Assistant**\n\n{escape_markdown(dialogue.opening, max_chars)}"
    for turn in dialogue.turns:
        yield f"**User**\n\n{escape_markdown(turn.user, max_chars)}"
        yield from _calls(turn, max_chars)
        yield f"**Assistant**\n\n{escape_markdown(turn.assistant, max_chars)}"
        if turn.judgement:
            yield _verdict("Judge", turn.judgement)
    if dialogue.judgement:
        yield _verdict("Judge, on the whole dialogue", dialogue.judgement)
    if (goal := dialogue.goal_verdict) is not None:
        met = "met" if goal.met else "missed"
        yield f"*Goal {met}*: {escape_inline(plan.goal, 400)} · {escape_inline(goal.reason, 400)}"


def _calls(turn: Turn, max_chars: int) -> Iterator[str]:
    """Yield the rounds of tool calls behind an answer, those made at once as one list."""
    for events in rounds_of(turn.details)[:_MAX_ROUNDS]:
        yield "\n".join(f"- {_call(event, max_chars // 4)}" for event in events)


def _call(event: ToolEvent, max_chars: int) -> str:
    call = f"**{escape_inline(event.name, 64)}** {escape_inline(arguments_json(event), max_chars)}"
    if event.error:
        return f"{call} *failed:* {escape_inline(event.error, max_chars)}"
    return f"{call} → {escape_inline(event.result, max_chars) or 'nothing'}"


def _verdict(who: str, judgement: Judgement) -> str:
    reasons = ", ".join(escape_inline(reason, 60) for reason in judgement.reasons)
    comment = f" · {escape_inline(judgement.comment, 400)}" if judgement.comment.strip() else ""
    ratings = ", ".join(
        f"{escape_inline(name, 60)} {value:g}" for name, value in judgement.dimensions.items()
    )
    rated = f" · {ratings}" if ratings else ""
    return f"*{who}: {judgement.score}/{MAX_SCORE}* · {reasons}{rated}{comment}"


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


def escape_inline(text: str, max_chars: int) -> str:
    """As `escape_markdown`, in one line: for list items, headings, and what stands between markup of ours."""
    return escape_markdown(" ".join(text.split()), max_chars)
