"""The dialogues of a preview, as its estimate sees them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from dlgforge_core.config import GenerationConfig
from dlgforge_core.dialogue import Role
from dlgforge_core.generation.estimate import MEASURES, Floats, Sample, WholePlan
from dlgforge_core.llm.stats import CallStats
from dlgforge_core.store.preview import PreviewedDialogue, RecordedCall
from dlgforge_core.store.run_records import Progress


def sample_of(dialogue: PreviewedDialogue, generation: GenerationConfig) -> Sample:
    """Return a previewed dialogue with its calls by turn."""
    plan, calls = dialogue.plan, list(dialogue.calls)
    whole: dict[str, Floats] = {}
    judged = generation.judge.mode == "online"
    on_whole = generation.judge.granularity == "conversation" or bool(plan.get("goal"))
    if judged and on_whole and dialogue.status in ("done", "unaccepted"):
        last = next((call for call in reversed(calls) if call.role == Role.JUDGE), None)
        if last is not None:
            calls.remove(last)
            whole[last.role] = _usage(last)
    n_turns = int(plan["n_turns"])
    reached = max([dialogue.turns_done, *(call.turn for call in calls)])
    by_turn = {call.role: np.zeros((n_turns, len(MEASURES))) for call in calls}
    for call in calls:
        by_turn[call.role][min(call.turn, n_turns) - 1] += _usage(call)
    attributes = plan.get("attributes") or {}
    return Sample(plan["language"], n_turns, min(reached, n_turns), by_turn, whole, attributes)


def is_recorded(dialogue: PreviewedDialogue, generation: GenerationConfig) -> bool:
    """Whether a dialogue has ended, and its calls were kept from the first to the last.

    A run that is no preview keeps none, and a preview goes on with what such a run began.
    """
    made = range(1, dialogue.turns_done + 1)
    whole = {call.turn for call in dialogue.calls}.issuperset(made)
    from_seed = generation.conversation.from_seed is not None  # turns that need no call
    return dialogue.ended and bool(dialogue.calls) and (whole or from_seed)


def mean_turn(used: Mapping[str, Floats], n_turns: int) -> Sample:
    """Return a dialogue of one turn: the mean of those that a run has made."""
    return Sample("", 1, 1, {role: usage[None] / n_turns for role, usage in used.items()})


def used_by_role(calls: CallStats) -> dict[str, Floats]:
    """Return what calls have used."""
    return {
        role: np.array(
            [
                *(counts.calls, counts.prompt_tokens, counts.completion_tokens, counts.dollars),
                counts.latency.total_s,
            ],
            np.float64,
        )
        for role, counts in calls.by_role().items()
    }


def whole_plan(
    turns: Mapping[tuple[str, int], int],
    left: Mapping[tuple[str, int, int], int],
    attributes: Mapping[str, Mapping[str, tuple[int, int]]],
    progress: Progress,
    generation: GenerationConfig,
    used: Mapping[str, Floats],
) -> WholePlan:
    """Return the plan, with what is left of it and the share of its dialogues that was accepted so far."""
    planned = {name: {value: n for value, (n, _) in values.items()} for name, values in attributes.items()}
    plan = WholePlan(turns, planned, left=left, used=used)
    if not generation.run.accept.active:
        return plan
    most = generation.run.max_attempts_per_sample
    return replace(plan, attempts=most, accepted=progress.done, ended=progress.made)


def busy_seconds(calls: Sequence[RecordedCall]) -> float:
    """For how long any of the calls was under way."""
    total, end = 0.0, float("-inf")
    for call in sorted(calls, key=lambda call: call.ended_at - call.seconds):
        start = max(call.ended_at - call.seconds, end)
        total += max(0.0, call.ended_at - start)
        end = max(end, call.ended_at)
    return total


def _usage(call: RecordedCall) -> Floats:
    dollars = call.dollars or 0.0
    return np.array([1.0, call.prompt_tokens, call.completion_tokens, dollars, call.seconds])
