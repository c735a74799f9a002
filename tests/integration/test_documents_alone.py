"""The recipe of documents alone, run, and once more after a document was added."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from dlgforge_core.config import KnowledgeConfig, LlmConfig, read_recipe
from dlgforge_core.dialogue import Dialogue, Role
from dlgforge_core.errors import ConfigError
from dlgforge_core.export.writer import write_dataset
from dlgforge_core.generation.prepare import PreparedRun, prepare_run
from dlgforge_core.knowledge.coverage import coverage_counts
from dlgforge_core.knowledge.indexing import index_knowledge
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.quality.collectors import COLLECTORS, PASS_RATE
from dlgforge_core.quality.findings import problems_of
from dlgforge_core.store.results import Scope
from dlgforge_core.store.run_store import RunStore
from tests.support.dialogues import lines
from tests.support.recipes import ROOT
from tests.support.runs import spec, work
from tests.support.simulated_endpoint import simulated_endpoint

LLM = LlmConfig(backend="openai", base_url="http://localhost:8000/v1", model="sim")


def questioned(dialogue: Dialogue) -> set[tuple[str, str]]:
    """Return the documents and chunks that a dialogue's questions came from."""
    given = [evidence for turn in dialogue.turns for evidence in turn.details.evidence]
    return {(one.document, one.chunk_id) for one in given if one.given_to is Role.USER_SIMULATOR}


def documents_of(dialogues: list[Dialogue]) -> Counter[tuple[str, str]]:
    asked = [(dialogue.plan.language, {name for name, _ in questioned(dialogue)}) for dialogue in dialogues]
    return Counter((name, language) for language, names in asked for name in names)


def test_the_recipe_of_documents_alone(
    store: RunStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    recipe = read_recipe(ROOT / "examples/recipes/documents_alone.yaml")
    folder = tmp_path / "documents"
    shutil.copytree(recipe.knowledge.path, folder)

    def made(changed: dict[str, int] | None = None) -> tuple[PreparedRun, int, list[dict[str, Any]]]:
        knowledge = KnowledgeConfig(path=str(folder), chunk_chars=150, chunk_overlap_chars=0)
        index = index_knowledge(store.database, store.dataset, knowledge)
        generation = recipe.generation
        if changed is not None:
            counts = {"per_document": None, **changed}
            generation = generation.model_copy(update={"run": generation.run.model_copy(update=counts)})
        run = prepare_run(store, generation, LLM, [], index_id=index.index_id)
        pending = store.progress(run.run_id).pending
        with simulated_endpoint(models=["sim"], record_requests=1000) as sim:
            work(spec(store, run, Endpoint("simulated", sim.base_url)))
            requests = [request["body"] for request in sim.stats()["requests"]]
        return run, pending, requests

    run, pending, requests = made()
    assert pending == 6
    first = list(store.dialogues(run.run_id))
    counts = {("gift_cards.md", "en"): 2, ("returns.md", "en"): 2, ("horario.md", "es"): 2}
    assert documents_of(first) == counts
    assert dict(coverage_counts(store.database, run.fingerprint)) == {name: 2 for name, _ in counts}
    for name, _ in counts:
        of_it = [questioned(one) for one in first if name in {n for n, _ in questioned(one)}]
        assert all(len(chunks) == 2 for chunks in of_it), "another chunk for each turn"
    first_lines = {request["messages"][0]["content"].partition("\n")[0] for request in requests}
    assert "Write the user's side of a chat." in first_lines
    assert not any("Who the user is" in text or "How you answer" in text for text in first_lines)
    for dialogue in first:
        assert not problems_of(dialogue, ["en", "es"], set(COLLECTORS) - {"language", PASS_RATE})

    # A document more: the others keep their dialogues.
    (folder / "parking.md").write_text("# Parking\n\nThere are two places in the yard, free for an hour.\n")
    more, pending, _ = made()
    assert (more.fingerprint, pending) == (run.fingerprint, 2)
    assert not any("made anew" in note for note in more.notes)
    dialogues = list(store.dialogues(Scope(fingerprint=run.fingerprint)))
    assert documents_of(dialogues) == {**counts, ("parking.md", "en"): 2}
    assert {one.plan.dialogue_id for one in first} <= {one.plan.dialogue_id for one in dialogues}

    # One that changed: another plan, and what was made of the former text leaves the dataset.
    (folder / "parking.md").write_text("# Parking\n\nThere are three places in the yard.\n")
    edited, pending, _ = made()
    assert pending == 8
    dialogues = list(store.dialogues(Scope(fingerprint=edited.fingerprint)))
    assert documents_of(dialogues) == {**counts, ("parking.md", "en"): 2}
    assert not {one.plan.dialogue_id for one in first} & {one.plan.dialogue_id for one in dialogues}

    write_dataset(dialogues, tmp_path / "out", saving=recipe.saving.files)
    rows = lines(tmp_path / "out/data/sharegpt/train.jsonl")
    assert {(row["topic"], row["seed_batch"], row["user_persona"]) for row in rows} == {("", "documents", "")}
    assert Counter(row["documents"][0] for row in rows) == dict.fromkeys(
        ("gift_cards.md", "horario.md", "parking.md", "returns.md"), 2
    )

    # By chunk: all questions of a dialogue are about its one.
    by_chunk, pending, _ = made({"per_chunk": 1})
    with store.connection() as connection:
        chunks = connection.execute("SELECT DISTINCT chunk_id FROM knowledge_chunks").fetchall()
    asked = [questioned(one) for one in store.dialogues(by_chunk.run_id)]
    assert all(len(one) == 1 for one in asked)
    assert len(asked) == pending == len({chunk for one in asked for _, chunk in one})
    assert {chunk for one in asked for _, chunk in one} <= {row[0].hex() for row in chunks}


def test_neither_topics_nor_documents(store: RunStore) -> None:
    recipe = read_recipe(ROOT / "examples/recipes/documents_alone.yaml")
    with pytest.raises(ConfigError, match="there is nothing to make dialogues from"):
        prepare_run(store, recipe.generation, LLM, [])
