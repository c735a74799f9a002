"""Finished dialogues made up for tests of exports, and the dataset folders written of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml
from hypothesis import strategies as st

from dlgforge_core.config import DatasetFilesConfig, validate
from dlgforge_core.dialogue import Dialogue, DialoguePlan, Evidence, Persona, Role, Turn, TurnDetails
from dlgforge_core.export.columns import OptionalColumns
from dlgforge_core.export.formats import FORMATS
from dlgforge_core.export.writer import DatasetSummary, write_dataset
from dlgforge_core.sources import SeedTopic
from dlgforge_core.tool_events import ToolEvent
from dlgforge_core.verdicts import Judgement

ALL = ["sharegpt", "sharegpt_judged", "openai_messages", "parquet"]
THREE = {"train": 0.8, "validation": 0.1, "test": 0.1}
GOOD, BAD = Judgement(9, ("helpful",), "Good."), Judgement(2, ("incorrect",), "Bad.")
# Any code point at all: models send lone surrogates, control characters and separators.
any_text = st.text(
    st.characters(exclude_categories=()) | st.characters(categories=["Cs", "Cc", "Zl", "Zp"]), max_size=40
)


def make_dialogue(
    ordinal: int = 0,
    turns: tuple[Turn, ...] = (Turn(0, "Why?", "Because."),),
    language: str = "en",
    topic: str = "rain",
    judgement: Judgement | None = None,
    batch: str = "weather.yaml",
    model: str = "m",
    seed_id: str = "s1",
) -> Dialogue:
    plan = DialoguePlan(
        dialogue_id=f"d{ordinal}",
        ordinal=ordinal,
        language=language,
        n_turns=len(turns),
        topic=SeedTopic(seed_id, language, topic, batch=batch, metadata={"origin": "/home/someone/secret"}),
        user_persona=Persona("u", "novice", "Asks."),
        assistant_persona=Persona("a", "expert", "Answers."),
    )
    return Dialogue(plan, turns, judgement, {"kb_responder": model})


def file_name(format_name: str, split: str) -> str:
    """Return the path of a split's file in a dataset folder."""
    return FORMATS[format_name].file_name(split)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


def grounded(ordinal: int, n_tools: int = 1, **options: Any) -> Dialogue:
    """Return a dialogue of two turns, each with evidence and tool calls."""
    details = TurnDetails(
        evidence=(
            Evidence("a1", "guides/rain.md", Role.USER_SIMULATOR, 2.5),
            Evidence("b2", "snow.pdf", Role.ASSISTANT, 1.25, cited=True),
        ),
        tools=tuple(
            ToolEvent("vector_db_search", {"query": f"rain {i}", "top_k": 3}, f"result {i}", call_id="same")
            for i in range(n_tools)
        ),
        reasoning="Let me think.",
    )
    turns = tuple(Turn(i, f"Why {i}?", f"Because {i}.", details=details) for i in range(2))
    number = {"seed_id": f"s{ordinal}", "topic": f"topic {ordinal}", **options}
    return make_dialogue(ordinal, turns, **number)


def judged(ordinal: int, *verdicts: Judgement | None) -> Dialogue:
    return make_dialogue(ordinal, tuple(Turn(i, "q", "a", verdict) for i, verdict in enumerate(verdicts)))


def write(folder: Path, dialogues: list[Dialogue], **settings: Any) -> DatasetSummary:
    saving = validate(DatasetFilesConfig, {"formats": ALL, **settings}, "saving")
    system = any(dialogue.plan.system_prompt for dialogue in dialogues)
    attributes = sorted({name for dialogue in dialogues for name in dialogue.plan.attributes})
    return write_dataset(
        dialogues, folder, saving=saving, columns=OptionalColumns(system=system, attributes=attributes)
    )


def stats(folder: Path) -> dict[str, Any]:
    stats: dict[str, Any] = json.loads((folder / "dataset_stats.json").read_text("utf-8"))
    return stats


def header(folder: Path) -> dict[str, Any]:
    card: dict[str, Any] = yaml.safe_load((folder / "README.md").read_text("utf-8").split("---\n")[1])
    return card


def everything(folder: Path) -> Iterator[tuple[Path, str]]:
    """Every text that a reader of the folder can see; of Parquet what is in its columns."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        if path.suffix == ".parquet":
            yield path, json.dumps(pq.read_table(path).to_pylist(), ensure_ascii=False)
        else:
            yield path, path.read_text("utf-8")
