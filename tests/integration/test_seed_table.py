"""The recipe of seeds from a table, run: its rows are what dialogues are about, with all of their columns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dlgforge_core.config import LlmConfig, read_recipe
from dlgforge_core.export.columns import OptionalColumns
from dlgforge_core.export.writer import write_dataset
from dlgforge_core.generation.prepare import prepare_run
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.planning.seed_folder import read_seed_batches
from dlgforge_core.store.run_store import RunStore
from tests.support.dialogues import lines
from tests.support.runs import spec, work
from tests.support.simulated_endpoint import simulated_endpoint

ROOT = Path(__file__).parents[2]


def test_the_recipe_of_a_table(store: RunStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    recipe = read_recipe(ROOT / "examples/recipes/seed_table.yaml")
    batches = read_seed_batches(recipe.seeds.path, strict=True, config=recipe.seeds).batches
    store.save_seed_batches(batches)
    llm = LlmConfig(backend="openai", base_url="http://localhost:8000/v1", model="sim")
    run = prepare_run(store, recipe.generation, llm, batches)
    with simulated_endpoint(models=["sim"], record_requests=100) as sim:
        work(spec(store, run, Endpoint("simulated", sim.base_url)))
        contents = [m["content"] for r in sim.stats()["requests"] for m in r["body"]["messages"]]
    assert 'The cover is torn. Can I have another one, or "my money back"?' in contents
    dialogues = list(store.dialogues(run.run_id))
    assert store.has_seed_metadata(run.run_id)
    write_dataset(
        dialogues, tmp_path, saving=recipe.saving.files, columns=OptionalColumns(seed_metadata=True)
    )
    rows = [
        (row["topic"], row["seed_batch"], json.loads(row["seed_metadata"]))
        for row in lines(tmp_path / "data/sharegpt/train.jsonl")
    ]
    expected = [
        ("A damaged book", "tickets", {"Channel": "chat", "Opened": "2025-03-05"}),
        ("A parcel that did not arrive", "tickets", {"Channel": "mail", "Opened": "2025-03-04"}),
        ("Opening hours", "tickets", {"Channel": "phone", "Opened": "2025-03-07"}),
    ]
    assert sorted(rows, key=str) == sorted(expected * 2, key=str)
