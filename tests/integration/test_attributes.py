"""The recipe of attributes, run with a judge that refuses some: prompts, counts, page and columns."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

from dlgforge_core.config import DatasetFilesConfig
from dlgforge_core.dialogue import Role
from dlgforge_core.export.columns import OptionalColumns
from dlgforge_core.export.writer import write_dataset
from dlgforge_core.store.run_store import RunStore
from dlgforge_dagster.metadata.dialogues import attribute_metadata
from tests.support.dialogues import lines
from tests.support.recipes import run_example


def test_the_recipe_of_attributes(store: RunStore, tmp_path: Path) -> None:
    example = run_example(store, "attributes.yaml")
    run, dialogues = example.run, example.dialogues
    progress = store.progress(run.run_id)
    assert (progress.planned, progress.done) == (16, 16)
    assert progress.made > 16
    pairs = {("calm", "chat"): 8, ("calm", "mail"): 4, ("angry", "phone"): 3, ("angry", "chat"): 1}
    drawn = [dialogue.plan.attributes for dialogue in dialogues]
    assert Counter((one["mood"], one["channel"]) for one in drawn) == pairs

    shown = attribute_metadata(store, run)
    table: Any = shown["attributes"]
    assert [tuple(record.data.values()) for record in table.records] == [
        ("mood", "calm", 12, 12),
        ("mood", "angry", 4, 4),
        ("channel", "chat", 9, 9),
        ("channel", "mail", 4, 4),
        ("channel", "phone", 3, 3),
        ("account", "new customer", 8, 8),
        ("account", "regular", 8, 8),
    ]
    assert shown["attributes_plot"].value.startswith("![dialogues by attribute")

    asked = [messages[0]["content"] for messages in example.asked(Role.USER_SIMULATOR)]
    line = re.compile(
        r"\nWhat this conversation is like: account: [a-z ]+, channel: [a-z]+, mood: (calm|angry)\.$"
    )
    assert all(line.search(text) for text in asked)
    answered = [messages[0]["content"] for messages in example.asked(Role.ASSISTANT)]
    assert all(re.match("You answer a (new customer|regular) of a bookshop by ", text) for text in answered)
    assert {"say sorry" in text for text in answered} == {True, False}

    formats = ["sharegpt", "sharegpt_judged", "openai_messages"]
    columns = ["account", "channel", "mood"]
    saving = DatasetFilesConfig(formats=formats)
    write_dataset(dialogues, tmp_path, saving=saving, columns=OptionalColumns(attributes=columns))
    for name in formats[:2]:
        rows = lines(tmp_path / f"data/{name}/train.jsonl")
        assert Counter((row["attribute_mood"], row["attribute_channel"]) for row in rows) == pairs
    assert set(lines(tmp_path / "data/openai_messages/train.jsonl")[0]) == {"messages"}
    again = example.prepare_again(store)
    assert (again.run_id, store.progress(again.run_id).pending) == (run.run_id, 0)
