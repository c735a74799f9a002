"""Previews in words: prompts, what came back, and the estimate for the whole plan."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from dlgforge_core.dialogue import DialoguePlan
from dlgforge_core.durations import duration
from dlgforge_core.generation.estimate import Estimate, Figure, WholePlan
from dlgforge_core.generation.preview_run import Preview
from dlgforge_core.store.preview import PreviewedDialogue, RecordedCall
from dlgforge_core.usage import dollars

_MOST_CHARS = 6_000
"""Of one text in a document."""
_MOST_CHARS_SHOWN = 100_000
"""Of all prompts and answers in a document."""

_CLOSE, _NORMAL_90 = 0.2, 1.645
"""How near a share should be known, relatively, and the normal quantile of 90 %."""


def heading(plan: DialoguePlan, turn: int, *, personas: bool = True) -> Iterator[str]:
    """Yield what a dialogue is about, as comments."""
    about = f"document {plan.document.name!r}" if plan.document else f"topic {plan.topic.topic!r}"
    named = f"user {plan.user_persona.name!r}, assistant {plan.assistant_persona.name!r}"
    yield f"# dialogue {plan.dialogue_id}, {plan.language}, turn {turn} of {plan.n_turns}"
    yield f"# {about}, {named if personas else 'no personas'}"
    if plan.goal:
        yield f"# goal {plan.goal!r}"
    if plan.attributes:
        yield f"# {', '.join(f'{name} {value!r}' for name, value in plan.attributes.items())}"


def prompt_lines(
    role: str, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()
) -> Iterator[str]:
    """Yield the messages of a prompt, each under a heading, after the tools that are offered with them."""
    if tools:
        yield f"\n## {role}, tools"
        yield from (orjson.dumps(tool["function"]).decode() for tool in tools)
    for message in messages:
        yield f"\n## {role}, {message['role']}"
        yield str(message.get("content") or message.get("tool_calls") or "")


def preview_text(preview: Preview) -> str:
    """Return a preview as text: one dialogue with its prompts, what came of the others, the estimate."""
    lines: list[str] = []
    for number, dialogue in enumerate(preview.dialogues):
        lines += heading(DialoguePlan.from_json(dialogue.plan), 1)
        for call in first_calls(dialogue) if number == 0 else ():
            lines += prompt_lines(call.role, call.messages, call.tools)
            lines += [f"\n## {call.role}, came back", call.answer]
        lines.append("" if number else "\n## the dialogue")
        lines += [f"{call.role} {call.turn}: {call.answer}" for call in dialogue.calls]
        lines += [f"# {ending(dialogue)}", ""]
    return "\n".join([*lines, *estimate_lines(preview)])


def ending(dialogue: PreviewedDialogue) -> str:
    """Return how a dialogue ended."""
    if dialogue.status == "dropped":
        return f"dropped as {dialogue.drop_reason}: {dialogue.drop_detail}"
    if dialogue.shortcomings:
        return f"not accepted: {', '.join(dialogue.shortcomings)}"
    return "done" if dialogue.ended else "not finished"


def first_calls(dialogue: PreviewedDialogue) -> list[RecordedCall]:
    """Return the first call of each role."""
    first: dict[str, RecordedCall] = {}
    for call in dialogue.calls:
        first.setdefault(call.role, call)
    return list(first.values())


def estimate_lines(preview: Preview) -> Iterator[str]:
    """Yield the estimate as a table of fixed width, and what it rests on."""
    rows = estimate_rows(preview)
    columns = list(rows[0]) if rows else []
    widths = [max(len(name), *(len(row[name]) for row in rows)) for name in columns]
    for texts in (columns, *([row[name] for name in columns] for row in rows)):
        yield "  ".join(text.ljust(width) for text, width in zip(texts, widths, strict=True)).rstrip()
    yield from remarks(preview)


def estimate_rows(preview: Preview) -> list[dict[str, str]]:
    """Return the estimate by role and in total, in words."""
    if preview.estimate is None:
        return []
    rows = []
    for role, figures in sorted(preview.estimate.figures.items(), key=lambda item: (not item[0], item[0])):
        cost = "unknown" if role in preview.unpriced or (not role and preview.unpriced) else ""
        if not cost and preview.costs_money:
            cost = _ranged(figures["dollars"], dollars)
        rows.append(
            {
                "whole plan": role or "total",
                "calls": _ranged(figures["calls"], _whole),
                "tokens in": _ranged(figures["prompt_tokens"], _whole),
                "tokens out": _ranged(figures["completion_tokens"], _whole),
                **({"cost": cost} if preview.unpriced or preview.costs_money else {}),
            }
        )
    return rows


def remarks(preview: Preview) -> Iterator[str]:
    """Yield how long the plan takes, what was used so far, and how the ranges are made."""
    plan, found = preview.plan, preview.estimate
    if found is None:
        yield "There is no estimate: none of the dialogues has come to an answered call."
        return
    low, high = preview.seconds
    at_once = "1 call" if preview.slots == 1 else f"{preview.slots} calls"
    yield (
        f"Time: {duration(low)} with {at_once} at once, if the endpoints stay as fast as they were; "
        f"{duration(high)} at the pace of the preview."
    )
    of = f"{plan.n_dialogues:,} dialogues of {plan.n_turns:,} turns"
    if plan.attempts > 1:
        share = f"{plan.accepted} of {plan.ended}" if plan.ended else "none"
        of += f", for which {_ranged(found.made, _whole)} are made, as {share} were accepted so far"
    yield f"The whole plan is {of}. Of it {preview.n_ended} are made, which have used {preview.used}."
    yield from _budgets(preview, found)
    if not plan.to_make:
        yield "All of it is made: these are the figures of its calls."
    elif preview.by_run:
        yield (
            "The dialogues of the preview were made before it, and their calls were not kept: the estimate "
            "is by the mean of all turns that were made."
        )
    elif found.samples > 1:
        yield (
            f"Ranges are 90 % intervals by a bootstrap over the {found.samples} dialogues of the preview, "
            "weighted by the plan's languages and attributes and scaled by its turns."
        )
    else:
        yield "One dialogue gives no range; set run.preview_dialogues to more."
    if plan.to_make:
        yield from _acceptance(plan)
    if preview.unpriced:
        yield f"What {', '.join(preview.unpriced)} costs is not known; set llm.prices."
    elif not preview.costs_money:
        yield "It costs nothing: the servers are your own."
    if preview.judged_later:
        yield "Judging afterwards (judge.mode: offline) comes on top."


def _budgets(preview: Preview, found: Estimate) -> Iterator[str]:
    """Say which budgets end a run before the plan is made."""
    total = found.total
    tokens = total["prompt_tokens"].value + total["completion_tokens"].value
    needed = {"max_dialogues": found.made.value, "max_tokens": tokens}
    if not preview.unpriced:
        needed["max_cost"] = total["dollars"].value
    for key, whole in needed.items():
        budget = getattr(preview.run, key)
        if budget is not None and budget < whole:
            yield (
                f"run.{key} = {budget:,} is less than the whole plan takes: a run stops after about "
                f"{100 * budget / whole:.2g} % of it."
            )


def _acceptance(plan: WholePlan) -> Iterator[str]:
    """Say how many dialogues would tell the share that is accepted, if it is hardly known."""
    if plan.attempts == 1:
        return
    # The share's standard error is sqrt(share (1 - share) / n).
    share = (plan.accepted + 0.5) / (plan.ended + 1)
    enough = math.ceil((_NORMAL_90 / _CLOSE) ** 2 * (1 - share) / share)
    if plan.ended < enough:
        more = f"{enough:,} (run.preview_dialogues)"
        if enough >= plan.n_dialogues:
            more = "those of a run that is half done"
        yield (
            f"The {plan.ended} dialogues that have ended say little about how many are accepted; {more} "
            f"would say it to within about {100 * _CLOSE:.0f} %."
        )


def preview_markdown(preview: Preview) -> str:
    """Return a preview as markdown: the prompts of each role beside what came back, by dialogue."""
    parts: list[str] = []
    size = 0
    for dialogue in preview.dialogues:
        lines = [line.removeprefix("# ") for line in heading(DialoguePlan.from_json(dialogue.plan), 1)]
        parts += [_block([*lines, ending(dialogue)])]
        first = first_calls(dialogue)
        for call in dialogue.calls if size < _MOST_CHARS_SHOWN else ():
            if call in first:
                asked = "\n".join(prompt_lines(call.role, call.messages, call.tools)).strip()
                parts += [f"**{call.role}, turn {call.turn}: prompt**", _block([asked])]
                size += len(asked)
            parts += [f"**{call.role}, turn {call.turn}: what came back**", _block([call.answer])]
            size += len(call.answer)
    return "\n\n".join(parts) + "\n"


def estimate_markdown(preview: Preview) -> str:
    """Return the estimate as a table in markdown."""
    rows = estimate_rows(preview)
    table = []
    if rows:
        table = [f"| {' | '.join(rows[0])} |", f"|{' --- |' * len(rows[0])}"]
        table += [f"| {' | '.join(row.values())} |" for row in rows]
    return "\n".join([*table, "", *(f"{line}\n" for line in remarks(preview))])


def _block(lines: Sequence[str]) -> str:
    """Return text as a code block that nothing in it can end."""
    text = "\n".join(lines)
    if len(text) > _MOST_CHARS:
        text = text[:_MOST_CHARS].rstrip() + "…"
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}\n{text}\n{fence}"


def _whole(number: float) -> str:
    return f"{number:,.0f}"


def _ranged(figure: Figure, text: Any) -> str:
    value, low, high = text(figure.value), text(figure.low), text(figure.high)
    return value if low == value == high else f"{value} ({low} to {high})"
