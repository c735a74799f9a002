"""Attributes in dataset files: a column each, in the card, the figures and the checks; none without any."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq

from dlgforge_core.dialogue import Dialogue
from dlgforge_core.export.verify import verify_dataset
from tests.support.dialogues import ALL, grounded, header, lines, stats, write


def angry(dialogue: Dialogue, **attributes: str) -> Dialogue:
    return replace(dialogue, plan=replace(dialogue.plan, attributes=attributes))


def test_each_is_a_column(tmp_path: Path) -> None:
    dialogues = [angry(grounded(0), tone="angry"), angry(grounded(1), tone="calm, \u0639"), grounded(2)]
    write(tmp_path, dialogues)
    verify_dataset(tmp_path)
    expected = ["angry", "calm, \u0639", None]
    assert pq.read_table(tmp_path / "data/parquet/train.parquet")["attribute_tone"].to_pylist() == expected
    for name in ("parquet", "sharegpt", "sharegpt_judged"):
        rows = lines(tmp_path / f"data/{name}/train.jsonl")
        assert [row["attribute_tone"] for row in rows] == expected
    assert stats(tmp_path)["by_attribute"] == {"tone": {"angry": 1, "calm, \u0639": 1}}
    card = (tmp_path / "README.md").read_text("utf-8")
    assert card.count("| `attribute_tone` | The dialogue's attribute `tone`. |") == 3
    features = [one["features"] for one in header(tmp_path)["dataset_info"]]
    assert sum({"name": "attribute_tone", "dtype": "string"} in one for one in features) == len(ALL) - 1


def test_without_any_there_is_no_trace(tmp_path: Path) -> None:
    write(tmp_path, [grounded(0)])
    assert "attribute" not in (tmp_path / "README.md").read_text("utf-8")
    assert "by_attribute" not in stats(tmp_path)
    assert not any("attribute" in key for key in lines(tmp_path / "data/sharegpt/train.jsonl")[0])
