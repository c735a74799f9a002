"""Reasoning in exported messages: as a field, between tags, in a column, or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from dlgforge_core.config import DatasetFilesConfig, validate
from dlgforge_core.dialogue import Dialogue, Turn, TurnDetails
from dlgforge_core.errors import ConfigError
from dlgforge_core.export.verify import verify_dataset
from dlgforge_core.generation.tool_rounds import call_reasoning_of
from dlgforge_core.tool_events import ToolEvent
from tests.support.datasets import load
from tests.support.dialogues import lines, make_dialogue, write

DETAILS = TurnDetails(
    tools=(
        ToolEvent("web_search", {"q": "a"}, "A.", call_id="1"),
        ToolEvent("web_search", {"q": "b"}, "B.", call_id="2"),
    ),
    reasoning="Look.\n\nNow I know.",
    call_reasoning=("Look.", ""),
)
# As chat templates of Qwen's shape have it: reasoning in a block of its own where a message has the field.
QWEN = """\
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' }}
{%- if message.role == 'assistant' and message.reasoning_content is string and message.reasoning_content %}
{{- '<think>\\n' + message.reasoning_content.strip('\\n') + '\\n</think>\\n\\n' }}
{%- endif %}
{{- message.content + '<|im_end|>\\n' }}
{%- endfor %}"""


def dialogues() -> list[Dialogue]:
    plain = Turn(1, "And?", "So.", details=TurnDetails(reasoning="Short."))
    return [
        make_dialogue(0, (Turn(0, "Why?", "Because.", details=DETAILS), plain), seed_id="s0"),
        make_dialogue(1, seed_id="s1"),
    ]


def rendered(messages: list[dict[str, Any]]) -> str:
    """Return messages as transformers renders them."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(QWEN).render(messages=messages)


@pytest.mark.parametrize(
    ("given", "form"), [(True, "column"), (False, "none"), ("field", "field"), ("tags", "tags")]
)
def test_truth_values_go_on_to_mean_what_they_meant(given: object, form: str) -> None:
    assert validate(DatasetFilesConfig, {"reasoning": given}, "saving").reasoning == form


@pytest.mark.parametrize("given", ["think", 1, None, ["field"]])
def test_anything_else_is_refused(given: object) -> None:
    with pytest.raises(
        ConfigError, match="reasoning must be one of none, column, field, tags, or true or false"
    ):
        validate(DatasetFilesConfig, {"reasoning": given}, "saving")


def test_as_a_field_of_each_message(tmp_path: Path) -> None:
    write(tmp_path, dialogues(), reasoning="field")
    assert verify_dataset(tmp_path)
    row, other = lines(tmp_path / "data/openai_messages/train.jsonl")
    exported = [(m["role"], m["content"], m.get("reasoning_content")) for m in row["messages"]]
    assert exported == [
        ("user", "Why?", None),
        ("assistant", "", "Look."),
        ("tool", "A.", None),
        ("assistant", "", ""),
        ("tool", "B.", None),
        ("assistant", "Because.", "Now I know."),
        ("user", "And?", None),
        ("assistant", "So.", "Short."),
    ]
    assert other["messages"][1] == {"role": "assistant", "content": "Because.", "reasoning_content": ""}
    assert "<think>\nNow I know.\n</think>\n\nBecause.<|im_end|>" in rendered(row["messages"])
    assert "<think>" not in rendered(other["messages"])
    table = pq.read_table(tmp_path / "data/parquet/train.parquet").to_pylist()
    assert [m["reasoning_content"] for m in table[0]["messages"]] == [
        None,
        "Look.\n\nNow I know.",
        None,
        "Short.",
    ]
    assert table[0]["turn_reasoning"] == ["Look.\n\nNow I know.", "Short."]
    assert "Look." not in (tmp_path / "data/sharegpt/train.jsonl").read_text()


def test_prompts_and_completions_have_it_too(tmp_path: Path) -> None:
    write(tmp_path, dialogues(), reasoning="field", formats=["prompt_completion"])
    assert verify_dataset(tmp_path)
    rows = lines(tmp_path / "data/prompt_completion/train.jsonl")
    assert [row["completion"][0]["reasoning_content"] for row in rows] == [
        "Look.",
        "",
        "Now I know.",
        "Short.",
        "",
    ]


def test_between_tags_in_the_text(tmp_path: Path) -> None:
    write(tmp_path, dialogues(), reasoning="tags")
    assert verify_dataset(tmp_path)
    row, other = lines(tmp_path / "data/openai_messages/train.jsonl")
    contents = [m["content"] for m in row["messages"] if m["role"] == "assistant"]
    assert contents == [
        "<think>\nLook.\n</think>\n\n",
        "",
        "<think>\nNow I know.\n</think>\n\nBecause.",
        "<think>\nShort.\n</think>\n\nSo.",
    ]
    assert other["messages"][1] == {"role": "assistant", "content": "Because."}
    whole = "<think>\nLook.\n\nNow I know.\n</think>\n\nBecause."
    for name in ("sharegpt", "sharegpt_judged"):
        assert lines(tmp_path / f"data/{name}/train.jsonl")[0]["conversations"][1]["value"] == whole
    assert (
        pq.read_table(tmp_path / "data/parquet/train.parquet").to_pylist()[0]["messages"][1]["content"]
        == whole
    )


def test_not_at_all_or_in_a_column_alone(tmp_path: Path) -> None:
    write(tmp_path / "none", dialogues())
    write(tmp_path / "column", dialogues(), reasoning=True)
    for name in ("sharegpt", "sharegpt_judged", "openai_messages"):
        path = f"data/{name}/train.jsonl"
        assert (tmp_path / "none" / path).read_bytes() == (tmp_path / "column" / path).read_bytes()
        assert b"Look." not in (tmp_path / "none" / path).read_bytes()


def test_datasets_reads_messages_with_the_field(tmp_path: Path) -> None:
    plain = [make_dialogue(n, seed_id=f"s{n}") for n in range(2)]
    formats = ["openai_messages", "prompt_completion"]
    write(tmp_path / "made", plain, reasoning="field", formats=formats)
    for name in formats:
        assert load(tmp_path / "made", name, tmp_path / "cache") == {"train": 2}


def test_details_come_back_from_the_store() -> None:
    assert TurnDetails.from_json(DETAILS.to_json()) == DETAILS
    assert "call_reasoning" not in TurnDetails(reasoning="Hm.").to_json()
    assert call_reasoning_of([]) == ()
