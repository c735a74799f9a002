"""What is counted and shown of tool calls, of the state that they left, and of goals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from dlgforge_core.config import ChecksConfig, DatasetFilesConfig, validate
from dlgforge_core.dialogue import Dialogue, Turn, TurnDetails, state_after
from dlgforge_core.export.columns import OptionalColumns
from dlgforge_core.export.markdown import sample_markdown
from dlgforge_core.export.verify import verify_dataset
from dlgforge_core.export.writer import write_dataset
from dlgforge_core.quality.collectors import COLLECTORS, GOALS_MET
from dlgforge_core.quality.figures import OTHER_TOOLS, DialogueFigures
from dlgforge_core.tool_events import ToolEvent, ToolProblem
from dlgforge_core.verdicts import GoalVerdict
from dlgforge_dagster.metadata.dialogues import course_metadata, tool_metadata
from tests.support.dialogues import everything, lines, make_dialogue, stats

LED = ToolEvent("led", {}, error="no led", problem=ToolProblem.UNKNOWN_TOOL)
LENT = {"op": "replace", "path": "/books/b1/lent_to", "value": "m7 by sk-proj-1"}
SECRET_CHANGE = {"op": "add", "path": "/members/m7/password", "value": "hunter2"}


def desk(ordinal: int = 0, met: bool | None = True) -> Dialogue:
    """Return a dialogue at a lending desk: two calls at once, of which one failed, and one more."""
    events = (
        ToolEvent("find_book", {"title": "*Emma*"}, "b1"),
        ToolEvent("lend", {"book": "b9"}, error="no b9", problem=ToolProblem.ERROR),
        ToolEvent("lend", {"book": "b1"}, "ok", changes=(LENT, SECRET_CHANGE)),
    )
    turns = (
        Turn(0, "Emma?", "Lent.", details=TurnDetails(tools=events, call_rounds=(2, 1))),
        Turn(1, "And?", "No.", details=TurnDetails(tools=(LED,))),
        Turn(2, "Bye", "Bye."),
    )
    made = make_dialogue(ordinal, turns, seed_id=f"s{ordinal}")
    state = {"books": {"b1": {"lent_to": None}}, "members": {"m7": {}}}
    plan = replace(made.plan, goal="Borrow Emma", tool_state=state)
    return replace(made, plan=plan, goal=None if met is None else GoalVerdict(met, "So it is."))


def rows(table: Any) -> list[tuple[Any, ...]]:
    return [tuple(row.data.values()) for row in table.records]


def test_the_page_has_tools_by_use_problems_by_kind_rounds_and_goals() -> None:
    figures = DialogueFigures.of([desk(0), desk(1, met=False), desk(2, met=None)])
    page: Any = {**tool_metadata(figures), **course_metadata(figures, ())}
    assert rows(page["tool_calls"]) == [("lend", 6, 3), ("find_book", 3, 0), ("led", 3, 3)]
    assert rows(page["tool_rounds"]) == [("1", 3), ("2", 3)]
    assert rows(page["tool_problems"]) == [("error", 3), ("unknown_tool", 3)]
    assert (page["tool_rounds_mean"], page["tool_problem_share"]) == (1.5, 0.5)
    assert rows(page["goals"]) == [("met", 1), ("missed", 1), ("unjudged", 1)]
    assert page["goal_met_share"] == 0.5
    assert tool_metadata(DialogueFigures.of([make_dialogue()])) == {}


def test_names_that_models_make_up_are_counted_at_a_flat_cost() -> None:
    figures = DialogueFigures()
    for n in range(2000):
        event = ToolEvent(f"tool_{n}", {}, error="no", problem=ToolProblem.UNKNOWN_TOOL)
        figures.add(make_dialogue(n, (Turn(0, "q", "a", details=TurnDetails(tools=(event,))),)))
    assert len(figures.tool_calls) == len(figures.tool_errors) == 501
    assert figures.tool_calls[OTHER_TOOLS] == 1500
    assert figures.tool_problems == {ToolProblem.UNKNOWN_TOOL: 2000}
    assert len(rows(tool_metadata(figures)["tool_calls"])) == 20


def test_samples_show_calls_and_results() -> None:
    text = sample_markdown([desk()]).replace("\u2068", "").replace("\u2069", "")
    assert (
        '- **find\\_book** {"title":"\\*Emma\\*"} → b1\n'
        '- **lend** {"book":"b9"} *failed:* no b9\n\n'
        '- **lend** {"book":"b1"} → ok\n\n'
        "**Assistant**\n\nLent."
    ) in text
    assert "*Goal met*: Borrow Emma · So it is." in text


def test_a_dataset_has_the_final_state_and_counts_its_calls(tmp_path: Path) -> None:
    files = validate(DatasetFilesConfig, {"formats": ["parquet"]}, "saving")
    columns = OptionalColumns(final_state=True, conversation=("goal", "goal_met", "goal_reason"))
    write_dataset(
        [desk(), desk(1, met=False)], tmp_path, saving=files, columns=columns, secrets=["sk-proj-1"]
    )
    assert verify_dataset(tmp_path) == {"parquet": 2}
    first, second = pq.read_table(tmp_path / "data/parquet/train.parquet").to_pylist()
    assert json.loads(first["final_state"]) == {
        "books": {"b1": {"lent_to": "m7 by [secret]"}},
        "members": {"m7": {"password": "[secret]"}},
    }
    assert (first["goal_met"], second["goal_met"], second["goal_reason"]) == (True, False, "So it is.")
    written = stats(tmp_path)
    assert written["tools"]["lend"] == {"calls": 4, "errors": 2}
    assert (written["tool_rounds"], written["tool_problems"]) == (
        {"1": 2, "2": 2},
        {"error": 2, "unknown_tool": 2},
    )
    assert {"goals.svg", "tools.svg"} <= {path.name for path in (tmp_path / "plots").iterdir()}
    assert not [path for path, text in everything(tmp_path) if "hunter2" in text or "sk-proj-1" in text]


def test_each_row_has_the_tools_of_its_dialogue_and_the_card_all(tmp_path: Path) -> None:
    parameters = {"type": "object", "properties": {}}
    functions = {
        name: {"name": name, "description": f"To {name}.", "parameters": parameters}
        for name in ("find_book", "lend", "renew")
    }
    quiet = make_dialogue(1)
    dialogues = [
        replace(desk(), plan=replace(desk().plan, tools=("find_book", "lend"))),
        replace(quiet, plan=replace(quiet.plan, tools=("renew", "lend"))),
    ]
    formats = ["openai_messages", "sharegpt_tools", "prompt_completion"]
    files = validate(DatasetFilesConfig, {"formats": formats}, "saving")
    definitions = {name: {"type": "function", "function": one} for name, one in functions.items()}
    write_dataset(dialogues, tmp_path, saving=files, tool_definitions=definitions)
    verify_dataset(tmp_path)
    first, second = lines(tmp_path / "data/openai_messages/train.jsonl")
    assert [tool["function"]["name"] for tool in first["tools"]] == ["find_book", "lend"]
    assert second["tools"] == [definitions["lend"], definitions["renew"]]
    completions = [row["completion"][0] for row in lines(tmp_path / "data/prompt_completion/train.jsonl")]
    called = [call["function"]["name"] for one in completions for call in one.get("tool_calls", ())]
    assert (called, len(completions)) == (["find_book", "lend", "lend"], 6)  # and nobody calls `led`
    _, row = lines(tmp_path / "data/sharegpt_tools/train.jsonl")
    assert json.loads(row["tools"]) == second["tools"]
    card = (tmp_path / "README.md").read_text("utf-8")
    assert (
        "- The tool `lend` was called 2 times, 1 of them in vain, in 2 dialogues that had it. To lend.\n"
        in card
    )
    assert "- The tool `renew` was called 0 times, in 1 dialogue that had it. To renew.\n" in card
    assert "- The tool `led` was called 1 time, 1 of them in vain.\n" in card


def test_calls_made_at_once_and_their_changes_come_back_from_the_store() -> None:
    made = desk()
    again = tuple(replace(turn, details=TurnDetails.from_json(turn.details.to_json())) for turn in made.turns)
    assert again == made.turns
    assert state_after(made.plan, again) == made.final_state
    assert "call_rounds" not in made.turns[1].details.to_json()


@pytest.mark.parametrize(("least", "passed"), [(0.0, True), (0.5, True), (0.6, False)])
def test_a_check_says_how_many_users_missed_their_goal(least: float, passed: bool) -> None:
    collector = COLLECTORS[GOALS_MET](ChecksConfig(min_goals_met=least))
    for dialogue in (desk(0), desk(1, met=False), desk(2, met=None), make_dialogue(3)):
        collector.add(dialogue)
    report = collector.report()
    assert report.passed is passed
    assert report.summary.startswith("1 of 2 users missed their goal")
    assert [finding.excerpt for finding in report.examples] == ["So it is."]
