"""The recipe of reasoning, run: what the model thought is in the dataset, and in no answer."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from dlgforge_core.config import read_recipe
from dlgforge_core.export.writer import write_dataset
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.store.run_store import RunStore
from tests.support.dialogues import lines
from tests.support.runs import prepared, spec, work
from tests.support.simulated_endpoint import simulated_endpoint

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("field", ["reasoning_content", "think"])
def test_the_recipe_of_reasoning(store: RunStore, tmp_path: Path, field: str) -> None:
    recipe = read_recipe(ROOT / "examples/recipes/reasoning.yaml")
    with simulated_endpoint(reasoning="Let me think of it.", reasoning_field=field) as sim:
        run = prepared(store, recipe.generation)
        work(spec(store, run, Endpoint("simulated", sim.base_url)))
        assert sim.stats()["by_role"] == {"qa_generator": 8, "kb_responder": 8}
    dialogues = list(store.dialogues(run.run_id))
    write_dataset(dialogues, tmp_path, saving=recipe.saving.files)
    rows = lines(tmp_path / "data/openai_messages/train.jsonl")
    assert len(rows) == 4
    for dialogue, row in zip(dialogues, rows, strict=True):
        assert row["messages"] == [
            message
            for turn in dialogue.turns
            for message in (
                {"role": "user", "content": turn.user},
                {
                    "role": "assistant",
                    "content": turn.assistant,
                    "reasoning_content": "Let me think of it.",
                },
            )
        ]
        assert not any("think" in turn.user + turn.assistant for turn in dialogue.turns)
    table = pq.read_table(tmp_path / "data/parquet/train.parquet")
    assert table["turn_reasoning"].to_pylist() == [["Let me think of it."] * 2] * 4
