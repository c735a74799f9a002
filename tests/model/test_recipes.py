"""Example recipes, run for real: a small model plays every role, and what must hold of its text is checked.

What it wrote is kept for people to read, in `.dlgforge/test-model/`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dlgforge_core.common.json_schema import problem_of
from dlgforge_core.config import EmbeddedConfig, LlmConfig, Recipe, read_recipe
from dlgforge_core.config.acceptance import AcceptConfig
from dlgforge_core.dialogue import Dialogue
from dlgforge_core.export.columns import OptionalColumns
from dlgforge_core.export.verify import verify_dataset
from dlgforge_core.export.writer import write_dataset
from dlgforge_core.generation.prepare import prepare_run
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.planning.seed_folder import read_seed_batches
from dlgforge_core.prompting.trace import Trace
from dlgforge_core.quality.leaks import leaks, phrases_of
from dlgforge_core.store.run_records import Progress
from dlgforge_core.store.run_store import RunStore
from tests.support.dialogues import lines
from tests.support.recipes import ROOT
from tests.support.runs import spec, work

KEPT = ROOT / ".dlgforge" / "test-model"
TIMEOUT_S = 1500.0
# Short, for a model that writes ten or twenty tokens a second.
AGENTS: dict[str, dict[str, Any]] = {
    "qa_generator": {"max_tokens": 48},
    "kb_responder": {"max_tokens": 96, "temperature": 0.3},
    "qa_judge": {"max_tokens": 128},
}


@dataclass(frozen=True)
class Made:
    """What came of a recipe, of which a few dialogues were made."""

    recipe: Recipe
    progress: Progress
    dialogues: Sequence[Dialogue]


@pytest.fixture(autouse=True)
def _in_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def made(store: RunStore, model: Endpoint, name: str, changes: dict[str, Any], max_tokens: int = 96) -> Made:
    """Return the dialogues of a recipe with changes to its sections, without leaks, kept as text as well."""
    recipe = read_recipe(ROOT / "examples/recipes" / f"{name}.yaml")
    for section, values in changes.items():
        changed = getattr(recipe, section).model_copy(update=values)
        recipe = recipe.model_copy(update={section: changed})
    own = recipe.llm.agents.model_dump(exclude_unset=True)
    agents = {role: {**own.get(role, {}), **changed} for role, changed in AGENTS.items()}
    agents["kb_responder"]["max_tokens"] = max_tokens
    llm = LlmConfig.model_validate(
        {"backend": "embedded", "embedded": EmbeddedConfig(model_path="model.gguf"), "agents": agents}
    )
    batches = read_seed_batches(recipe.seeds.path).batches
    store.save_seed_batches(batches)
    run = prepare_run(store, recipe.generation, llm, batches)
    try:
        work(spec(store, run, model), timeout_s=TIMEOUT_S)
    finally:
        result = Made(recipe, store.progress(run.run_id), list(store.dialogues(run.run_id)))
        keep(name, result)
    phrases = phrases_of(recipe.prompts, recipe.conversation)
    assert [leak for one in result.dialogues for leak in leaks(one, 12, phrases=phrases)] == []
    return result


def keep(name: str, result: Made) -> None:
    """Write dialogues as a person reads them."""
    text = [f"# {name}: {result.progress}"]
    for one in result.dialogues:
        text.append(f"\n## {one.plan.topic.topic}")
        text += [f"[system: {one.plan.system_prompt}]"] if one.plan.system_prompt else []
        for turn in one.turns:
            text.append(f"\nuser: {turn.user}")
            text += [f"[{turn.details.reasoning}]"] if turn.details.reasoning else []
            text += [
                f"[{event.name} {event.arguments}: {event.result or event.error}]"
                for event in turn.details.tools
            ]
            text.append(f"assistant: {turn.assistant}")
            text += [f"[{turn.judgement.to_json()}]"] if turn.judgement else []
    KEPT.mkdir(parents=True, exist_ok=True)
    (KEPT / f"{name}.md").write_text("\n".join(text) + "\n", encoding="utf-8")


def test_own_prompts_and_system_messages(store: RunStore, model: Endpoint, tmp_path: Path) -> None:
    changes = {"run": {"total_samples": 4, "concurrency": 2}, "judge": {"mode": "off"}}
    dialogues = made(store, model, "own_prompts", changes).dialogues
    assert [len(one.turns) for one in dialogues] == [2] * 4
    system_texts = Counter(one.plan.system_prompt.split(".")[0] for one in dialogues)
    assert sorted(system_texts.values()) == [1, 3]
    write_dataset(dialogues, tmp_path, columns=OptionalColumns(system=True))
    rows = lines(tmp_path / "data/openai_messages/train.jsonl")
    assert [row["messages"][0]["content"] for row in rows] == [one.plan.system_prompt for one in dialogues]


def test_a_rubric_and_acceptance(store: RunStore, model: Endpoint, tmp_path: Path) -> None:
    accept = read_recipe(ROOT / "examples/recipes/accepted.yaml").run.accept
    run = {"total_samples": 4, "n_turns": 1, "concurrency": 2, "accept": accept}
    result = made(store, model, "rubric", {"run": {**run, "max_attempts_per_sample": 4}})
    progress = result.progress
    assert progress.complete
    assert progress.done + progress.shortfall == 4
    assert progress.made == progress.done + progress.unaccepted + progress.dropped
    for dialogue in result.dialogues:
        (turn,) = dialogue.turns
        assert turn.judgement is not None
        assert turn.judgement.score >= 5
        assert set(turn.judgement.dimensions) == {"depth", "natural_question"}
        assert 1 <= turn.judgement.dimensions["depth"] <= 5
    write_dataset(
        result.dialogues, tmp_path, columns=OptionalColumns(dimensions=["depth", "natural_question"])
    )
    assert verify_dataset(tmp_path)


def test_a_prompted_trace(store: RunStore, model: Endpoint, tmp_path: Path) -> None:
    changes = {"run": {"total_samples": 4, "n_turns": 1, "concurrency": 2}}
    result = made(store, model, "prompted_trace", changes, max_tokens=320)
    trace = Trace(result.recipe.reasoning.parts)
    assert len(result.dialogues) >= 2  # notes without an end are dropped
    for dialogue in result.dialogues:
        (turn,) = dialogue.turns
        assert not trace.holds(turn.assistant)
        assert turn.details.reasoning.startswith(("Evidence: ", "Steps: "))
    write_dataset(result.dialogues, tmp_path, saving=result.recipe.saving.files)
    rows = lines(tmp_path / "data/openai_messages/train.jsonl")
    assert all(row["messages"][1]["reasoning_content"] for row in rows)


def test_a_lending_desk_with_tools(store: RunStore, model: Endpoint, tmp_path: Path) -> None:
    run = {"total_samples": 3, "concurrency": 2, "accept": AcceptConfig()}
    result = made(store, model, "library", {"run": run}, max_tokens=128)
    assert len(result.dialogues) >= 2
    events = [event for one in result.dialogues for turn in one.turns for event in turn.details.tools]
    assert any(not event.failed for event in events), "no call was carried out"
    assert not any('"arguments"' in turn.assistant for one in result.dialogues for turn in one.turns)
    schema = result.recipe.tools.state.json_schema
    for dialogue in result.dialogues:
        assert problem_of(dialogue.final_state, schema) == ""
        assert dialogue.goal_verdict is not None
    write_dataset(result.dialogues, tmp_path, saving=result.recipe.saving.files)
    assert verify_dataset(tmp_path)
