"""Prompts and completions for supervised fine-tuning: a row for each message of the assistant."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dlgforge_core.dialogue import Dialogue, Turn, TurnDetails
from dlgforge_core.export.prompt_completion import prompt_completion_problem, prompt_completion_records
from dlgforge_core.export.verify import DatasetError, verify_dataset
from dlgforge_core.tool_events import ToolEvent
from tests.support.dialogues import grounded, header, lines, make_dialogue, stats, write

TWO = (Turn(0, "Why?", "So."), Turn(1, "And?", "Too."))


def calling(arguments: dict[str, Any]) -> Dialogue:
    details = TurnDetails(tools=(ToolEvent("lookup", arguments, "found", call_id="call00000"),))
    return make_dialogue(turns=(Turn(0, "Why?", "So.", details=details),))


def test_each_answer_is_a_completion_of_all_before_it() -> None:
    one = make_dialogue(turns=TWO)
    rows = list(prompt_completion_records(replace(one, plan=replace(one.plan, system_prompt="Be brief."))))
    system, first = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}
    answer, second = {"role": "assistant", "content": "So."}, {"role": "user", "content": "And?"}
    assert rows == [
        {"id": "d0", "prompt": [system, first], "completion": [answer]},
        {
            "id": "d0",
            "prompt": [system, first, answer, second],
            "completion": [{"role": "assistant", "content": "Too."}],
        },
    ]
    assert [prompt_completion_problem(row) for row in rows] == [None, None]


def test_a_call_is_a_completion_and_its_result_is_not() -> None:
    call, answer = prompt_completion_records(calling({"query": "rain"}))
    assert call["completion"][0]["tool_calls"][0]["function"] == {
        "name": "lookup",
        "arguments": {"query": "rain"},
    }
    assert [message["role"] for message in answer["prompt"]] == ["user", "assistant", "tool"]
    assert answer["completion"] == [{"role": "assistant", "content": "So."}]
    assert call["tools"] == answer["tools"]


@pytest.mark.parametrize(
    ("arguments", "written"),
    [
        ({"n": 10**23}, {"n": 1e23}),
        ({"n": 2**63 - 1}, {"n": 2**63 - 1}),
        ({"x": float("nan")}, {"x": None}),
        ({"x": float("inf"), "n": 10**23}, {"x": None, "n": 1e23}),
        ({1: {"a": [True, None, "ü"]}}, {"1": {"a": [True, None, "ü"]}}),
        ({}, {}),
    ],
)
def test_any_arguments_are_an_object(
    tmp_path: Path, arguments: dict[Any, Any], written: dict[str, Any]
) -> None:
    write(tmp_path, [calling(arguments)], formats=["prompt_completion"])
    row = lines(tmp_path / "data/prompt_completion/train.jsonl")[0]
    assert row["completion"][0]["tool_calls"][0]["function"]["arguments"] == written
    assert verify_dataset(tmp_path) == {"prompt_completion": 1}


def test_rows_are_counted_by_dialogue(tmp_path: Path) -> None:
    dialogues = [make_dialogue(0, TWO), make_dialogue(1, TWO)]
    write(tmp_path, dialogues, formats=["prompt_completion", "parquet"])
    assert len(lines(tmp_path / "data/prompt_completion/train.jsonl")) == 4
    assert verify_dataset(tmp_path) == {"prompt_completion": 2, "parquet": 2}
    assert stats(tmp_path)["formats"]["prompt_completion"][0]["dialogues"] == 2
    card = (tmp_path / "README.md").read_text("utf-8")
    assert "TRL's `SFTTrainer` learns the completion alone" in card
    assert "| `completion` | One message of the assistant" in card
    path = tmp_path / "data/prompt_completion/train.jsonl"
    path.write_text("".join(path.read_text("utf-8").splitlines(keepends=True)[:2]), "utf-8")
    with pytest.raises(DatasetError, match="different numbers of dialogues"):
        verify_dataset(tmp_path)


def test_datasets_reads_the_rows(tmp_path: Path) -> None:
    from datasets import load_dataset

    folder = tmp_path / "rows"
    write(folder, [grounded(0), make_dialogue(1, TWO)], formats=["prompt_completion", "parquet"])
    assert [one["name"] for one in header(folder)["dataset_info"][0]["features"]] == [
        "id",
        "prompt",
        "completion",
        "tools",
    ]
    read = load_dataset(str(folder), "prompt_completion", cache_dir=str(tmp_path / "cache"))["train"]
    assert len(read) == 6
    assert read[0]["completion"][0]["tool_calls"][0]["function"]["arguments"] == {
        "query": "rain 0",
        "top_k": 3,
    }


GOOD = next(iter(prompt_completion_records(calling({"query": "rain"}))))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"score": 3}, "there is no column 'score'"),
        ({"completion": []}, "'completion' must be one message of the assistant"),
        ({"completion": GOOD["prompt"]}, "'completion' must be one message of the assistant"),
        ({"prompt": []}, "'prompt' must end with the user's message or a tool's result"),
        ({"prompt": [{"role": "bot", "content": ""}, *GOOD["prompt"]]}, "message 0 .* is of 'bot'"),
        ({"prompt": [*GOOD["prompt"], {"role": "system", "content": ""}, *GOOD["prompt"]]}, "of 'system'"),
        ({"prompt": [{"role": "user", "content": None}]}, "message 0 .* has no text"),
        ({"prompt": [*GOOD["completion"], *GOOD["prompt"]]}, "message 0 .* is of 'assistant'"),
        ({"prompt": [*GOOD["prompt"], *GOOD["completion"], *GOOD["prompt"]]}, "a tool must speak"),
        (
            {"prompt": [*GOOD["prompt"], {"role": "tool", "tool_call_id": "x", "content": ""}]},
            "answers no call that is open",
        ),
        ({"tools": []}, "end with a call of 'lookup', which is not in 'tools'"),
    ],
)
def test_what_is_wrong_with_a_row_is_reported(change: dict[str, Any], problem: str) -> None:
    assert prompt_completion_problem(GOOD) is None
    assert re.search(problem, prompt_completion_problem({**GOOD, **change}) or "")


def test_arguments_as_text_are_refused() -> None:
    bad = json.loads(json.dumps(GOOD))
    bad["completion"][0]["tool_calls"][0]["function"]["arguments"] = "{}"
    assert prompt_completion_problem(bad) == (
        "message 1 of 'prompt' and 'completion': arguments must be an object"
    )
