"""What a dataset shows of a dialogue: its texts as `saving` has them, and who wrote and judged it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from dlgforge_core.config.saving import DatasetFilesConfig
from dlgforge_core.dialogue import Dialogue, Role, TurnDetails
from dlgforge_core.export.scrub import last_part_if_absolute


def shown(dialogue: Dialogue, saving: DatasetFilesConfig, judges: Sequence[str] = ()) -> Dialogue:
    """Return `dialogue` as its dataset has it; `judges` judged it where the model that it names did not."""
    return _with_assistants(_with_judges(_as_saved(dialogue, saving), judges))


def _with_judges(dialogue: Dialogue, judges: Sequence[str]) -> Dialogue:
    """`dialogue` naming who has judged it: a run names its judge whether or not it was asked."""
    models = {str(role): model for role, model in dialogue.models.items() if role != Role.JUDGE}
    if dialogue.verdicts:
        named = [last_part_if_absolute(judge) for judge in judges] or [dialogue.models.get(Role.JUDGE, "")]
        if judge := ", ".join(filter(None, named)):
            models[Role.JUDGE.value] = judge
    return replace(dialogue, models=models)


def _with_assistants(dialogue: Dialogue) -> Dialogue:
    """`dialogue` naming who wrote its answers, where candidates may have models of their own."""
    models = [one.model for turn in dialogue.turns for one in turn.details.candidates if one.chosen]
    if not models:
        return dialogue
    named = ", ".join(dict.fromkeys(map(last_part_if_absolute, models)))
    return replace(dialogue, models={**dialogue.models, Role.ASSISTANT.value: named})


def _as_saved(dialogue: Dialogue, saving: DatasetFilesConfig) -> Dialogue:
    """`dialogue` without what `saving` leaves out of it."""
    if saving.system == "none" and dialogue.plan.system_prompt:
        dialogue = replace(dialogue, plan=replace(dialogue.plan, system_prompt=""))
    if saving.opening == "none" and dialogue.opening:
        dialogue = _without_opening(dialogue)
    if saving.parallel_calls == "apart":
        dialogue = _with_calls_apart(dialogue)
    return _without_passages(dialogue) if saving.passages == "none" else dialogue


def _without_opening(dialogue: Dialogue) -> Dialogue:
    """`dialogue` as if the user had begun it."""
    first, *rest = dialogue.turns
    details = replace(first.details, opening="", opening_reasoning="")
    return replace(dialogue, turns=(replace(first, details=details), *rest))


def _with_calls_apart(dialogue: Dialogue) -> Dialogue:
    """`dialogue` as if no two tools had been called at once."""
    if not any(_made_at_once(turn.details) for turn in dialogue.turns):
        return dialogue
    turns = (replace(turn, details=_apart(turn.details)) for turn in dialogue.turns)
    return replace(dialogue, turns=tuple(turns))


def _made_at_once(details: TurnDetails) -> bool:
    return bool(details.call_rounds) or any(one.details.call_rounds for one in details.candidates)


def _apart(details: TurnDetails) -> TurnDetails:
    candidates = tuple(replace(one, details=_apart(one.details)) for one in details.candidates)
    return replace(details, call_rounds=(), candidates=candidates)


def _without_passages(dialogue: Dialogue) -> Dialogue:
    """`dialogue` without the texts of the passages in its evidence."""
    turns = []
    for turn in dialogue.turns:
        evidence = tuple(replace(item, text="") for item in turn.details.evidence)
        turns.append(replace(turn, details=replace(turn.details, evidence=evidence)))
    return replace(dialogue, turns=tuple(turns))
