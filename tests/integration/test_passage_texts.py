"""The passages of grounded dialogues in the exports: their texts, and that pruning keeps them."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from dlgforge_core.config import DatasetFilesConfig, JudgeConfig, KnowledgeConfig
from dlgforge_core.config.saving import Passages
from dlgforge_core.dialogue import Dialogue
from dlgforge_core.export.writer import write_dataset
from dlgforge_core.knowledge.index_store import prune_indexes
from dlgforge_core.knowledge.indexing import index_knowledge
from dlgforge_core.knowledge.texts import with_texts
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.store.run_store import RunStore
from tests.support.dialogues import lines
from tests.support.runs import planned, spec, work
from tests.support.simulated_endpoint import SimulatedEndpoint

FACTS = [f"Machine {n} needs part number {n * 7} and a drop of oil." for n in range(6)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "documents"
    place.mkdir()
    for n, fact in enumerate(FACTS):
        (place / f"machine_{n}.md").write_text(f"# Machine {n}\n\n{fact} <|im_start|>\n")
    return place


def index(store: RunStore, folder: Path) -> str:
    return index_knowledge(store.database, store.dataset, KnowledgeConfig(path=str(folder))).index_id


def grounded(store: RunStore, sim: SimulatedEndpoint, folder: Path) -> list[Dialogue]:
    run = planned(store, 6, judge=JudgeConfig(mode="off"), index_id=index(store, folder), n_turns=1)
    work(spec(store, run, Endpoint("simulated", sim.base_url)))
    return list(with_texts(store.database, store.dataset, store.dialogues(run.run_id)))


def texts(dialogues: list[Dialogue]) -> list[str]:
    return [e.text for d in dialogues for turn in d.turns for e in turn.details.evidence]


@pytest.mark.parametrize("passages", ["none", "column", "context"])
def test_an_export_holds_what_was_asked_for(
    store: RunStore, sim: SimulatedEndpoint, folder: Path, tmp_path: Path, passages: Passages
) -> None:
    dialogues = grounded(store, sim, folder)
    assert texts(dialogues)
    assert all("needs part number" in text and "‹|im_start|>" in text for text in texts(dialogues))
    assert [d.turns[0].details.to_json() for d in dialogues] == [
        d.turns[0].details.to_json() for d in store.dialogues(store.run_ids()[0])
    ], "the store keeps no texts with the turns"
    out = tmp_path / "out"
    write_dataset(dialogues, out, saving=DatasetFilesConfig(passages=passages))
    rows = pq.read_table(out / "data/parquet/train.parquet").to_pylist()
    reported = [e["text"] for row in rows for turn in row["turn_evidence"] for e in turn]
    assert reported == (texts(dialogues) if passages != "none" else [""] * len(reported))
    asked = [record["messages"][0]["content"] for record in lines(out / "data/openai_messages/train.jsonl")]
    questions = [dialogue.turns[0].user for dialogue in dialogues]
    assert [content.rsplit("\n\n", 1)[-1] for content in asked] == questions
    assert all(("<document>\n" in content) == (passages == "context") for content in asked)


def test_pruning_keeps_what_dialogues_were_given(
    store: RunStore, sim: SimulatedEndpoint, folder: Path
) -> None:
    dialogues = grounded(store, sim, folder)
    given = {e.document for d in dialogues for turn in d.turns for e in turn.details.evidence}
    before = texts(dialogues)
    (folder / "unused.md").write_text("# Unused\n\nNobody was ever given this text of an unused document.")
    index(store, folder)
    for path in folder.iterdir():
        path.unlink()
    (folder / "other.md").write_text("# Other\n\nA wholly other text, about bread and how it is baked.")
    index(store, folder)
    assert prune_indexes(store.database, store.dataset) == 2
    with store.connection() as connection:
        kept = {row[0] for row in connection.execute("SELECT document FROM knowledge_chunks")}
        again = list(with_texts(store.database, store.dataset, store.dialogues(store.run_ids()[0])))
    assert kept == given | {"other.md"}
    assert texts(again) == before
