"""A format is one object: what is registered can be asked for, written, read back, checked and told of."""

from __future__ import annotations

from pathlib import Path

import pytest

from dlgforge_core.config import saving
from dlgforge_core.dialogue import Dialogue
from dlgforge_core.export.format_context import FormatContext, Record
from dlgforge_core.export.formats import FORMATS, Format
from dlgforge_core.export.verify import DatasetError, verify_dataset
from tests.support.dialogues import header, lines, make_dialogue, write


def _records(dialogue: Dialogue, context: FormatContext) -> list[Record]:
    return [{"prompt": dialogue.turns[0].user, "completion": dialogue.turns[0].assistant}]


PAIRS = Format(
    name="pairs",
    words="First questions and their answers",
    columns=lambda context: ["prompt", "completion"],
    features=lambda context: [{"name": name, "dtype": "string"} for name in ("prompt", "completion")],
    records=_records,
    problem=lambda record, renamed: None if record["prompt"] else "the prompt is empty",
    notes=lambda context: iter([["Only first turns are in `pairs`."]]),
    column_texts={"prompt": "What was asked.", "completion": "What was answered."},
)


def test_the_formats_that_may_be_asked_for_are_those_that_there_are() -> None:
    assert tuple(FORMATS) == saving.FORMATS
    assert set(saving.RENAMED_COLUMNS) <= set(FORMATS)


def test_a_format_needs_its_object_and_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FORMATS, "pairs", PAIRS)
    monkeypatch.setattr(saving, "FORMATS", (*saving.FORMATS, "pairs"))
    write(tmp_path, [make_dialogue(), make_dialogue(1)], formats=["pairs", "parquet"])
    path = tmp_path / "data/pairs/train.jsonl"
    assert lines(path) == [{"prompt": "Why?", "completion": "Because."}] * 2
    assert verify_dataset(tmp_path) == {"parquet": 2, "pairs": 2}
    assert header(tmp_path)["dataset_info"][0]["features"] == [
        {"name": "prompt", "dtype": "string"},
        {"name": "completion", "dtype": "string"},
    ]
    card = (tmp_path / "README.md").read_text("utf-8")
    assert "First questions and their answers:" in card
    assert "Only first turns are in `pairs`." in card
    assert "| `prompt` | What was asked. |" in card
    path.write_text(path.read_text("utf-8").replace("Why?", ""), "utf-8")
    with pytest.raises(DatasetError, match=r"train\.jsonl:1: the prompt is empty"):
        verify_dataset(tmp_path)
