"""Preference pairs: an answer and one that was scored lower, in the form that TRL's `DPOTrainer` takes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from dlgforge_core.dialogue import Candidate, Dialogue, Turn
from dlgforge_core.export.format_context import NO_CONTEXT, FormatContext, Record
from dlgforge_core.export.openai_messages import answer_messages, messages_of, tool_definitions
from dlgforge_core.export.prompt_completion import conversation_problem, with_objects

COLUMNS = ("id", "turn", "prompt", "chosen", "rejected", "chosen_score", "rejected_score", "margin")


@dataclass(frozen=True, slots=True)
class Pair:
    """The answer of a turn, and another one to the same question that was scored lower."""

    chosen_score: int
    rejected: Candidate
    rejected_score: int

    @property
    def margin(self) -> int:
        """By how much the answer was scored higher."""
        return self.chosen_score - self.rejected_score


def pairs_of(turn: Turn, min_margin: float) -> list[Pair]:
    """Return the pairs of a turn: its answer with every other one whose score is lower by `min_margin`."""
    candidates = turn.details.candidates
    chosen = next((one.judgement for one in candidates if one.chosen), None)
    if chosen is None:
        return []
    return [
        Pair(chosen.score, one, one.judgement.score)
        for one in candidates
        if not one.chosen
        and one.judgement is not None
        and chosen.score - one.judgement.score >= min_margin
        and one.answer != turn.assistant
    ]


def dpo_records(dialogue: Dialogue, context: FormatContext = NO_CONTEXT) -> Iterator[Record]:
    """Yield a row for each pair: `prompt` ends with the question, `chosen` and `rejected` answer it.

    Calls of tools are part of the answer that they were made for; their arguments are objects.
    """
    tools = tool_definitions(dialogue, context, candidates=True)
    for number, turn in enumerate(dialogue.turns):
        if not (pairs := pairs_of(turn, context.min_margin)):
            continue
        upto = replace(dialogue, turns=dialogue.turns[: number + 1])
        whole = list(messages_of(upto, context))
        chosen = list(answer_messages(turn.assistant, turn.details, context.reasoning))
        prompt = _with_objects(whole[: len(whole) - len(chosen)])
        for pair in pairs:
            rejected = answer_messages(pair.rejected.answer, pair.rejected.details, context.reasoning)
            yield {
                "id": dialogue.plan.dialogue_id,
                "turn": turn.index,
                "prompt": prompt,
                "chosen": _with_objects(chosen),
                "rejected": _with_objects(rejected),
                "chosen_score": float(pair.chosen_score),
                "rejected_score": float(pair.rejected_score),
                "margin": float(pair.margin),
                **({"tools": tools} if tools else {}),
            }


def _with_objects(messages: Iterable[Record]) -> list[Record]:
    return [with_objects(message) for message in messages]


def dpo_problem(record: Record) -> str | None:
    """Return what is wrong with a row, or None."""
    if unknown := set(record) - {*COLUMNS, "tools"}:
        return f"there is no column {sorted(unknown)[0]!r}"
    if not record["prompt"] or record["prompt"][-1]["role"] != "user":
        return "'prompt' must end with the user's message"
    for column in ("chosen", "rejected"):
        answer = record[column]
        if not answer or answer[-1]["role"] != "assistant" or answer[-1].get("tool_calls"):
            return f"{column!r} must end with an answer of the assistant"
        both = [*record["prompt"], *answer]
        if problem := conversation_problem(both, record.get("tools", ()), f"'prompt' and {column!r}"):
            return problem
    if record["chosen"] == record["rejected"]:
        return "'chosen' and 'rejected' are the same"
    if not record["chosen_score"] - record["rejected_score"] == record["margin"] > 0:
        return "'margin' must be what 'chosen_score' is above 'rejected_score'"
    return None
