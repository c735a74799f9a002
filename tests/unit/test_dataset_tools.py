"""Tool calls in a written dataset."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from dlgforge_core.config import DatasetFilesConfig
from dlgforge_core.dialogue import Evidence, Role, Turn, TurnDetails
from dlgforge_core.export.schema import parquet_schema
from dlgforge_core.export.verify import DatasetError, verify_dataset
from dlgforge_core.export.writer import write_dataset
from dlgforge_core.tool_events import ToolEvent
from tests.support.datasets import load_dataset
from tests.support.dialogues import everything, file_name, grounded, lines, make_dialogue, stats, write


class TestTools:
    def test_messages_are_as_openai_takes_them(self, tmp_path: Path) -> None:
        definition = {
            "type": "function",
            "function": {
                "name": "vector_db_search",
                "description": "Search.",
                "parameters": {"type": "object"},
            },
        }
        write_dataset(
            [grounded(0, 2)],
            tmp_path,
            saving=DatasetFilesConfig(formats=["openai_messages"]),
            tool_definitions={"vector_db_search": definition},
        )
        (record,) = lines(tmp_path / "data/openai_messages/train.jsonl")
        calls = ["call00000", "call00001", "call00002", "call00003"]
        expected: list[dict[str, Any]] = []
        for turn in range(2):
            expected.append({"role": "user", "content": f"Why {turn}?"})
            for i in range(2):
                call = calls.pop(0)
                function = {
                    "name": "vector_db_search",
                    "arguments": f'{{"query":"rain {i}","top_k":3}}',
                }
                expected += [
                    {
                        "role": "assistant",
                        "content": "",
                        "tool_calls": [{"id": call, "type": "function", "function": function}],
                    },
                    {"role": "tool", "tool_call_id": call, "content": f"result {i}"},
                ]
            expected.append({"role": "assistant", "content": f"Because {turn}."})
        assert record == {"messages": expected, "tools": [definition]}

    def test_a_dialogue_without_a_call_has_the_tools_as_well(self, tmp_path: Path) -> None:
        definition = {"type": "function", "function": {"name": "vector_db_search", "parameters": {}}}
        definitions = {"vector_db_search": definition, "web_search": {}}
        for dialogues in ([grounded(0, 1), grounded(1, 0)], [grounded(1, 0)]):
            write_dataset(dialogues, tmp_path, tool_definitions=definitions, offered=["vector_db_search"])
            for record in lines(tmp_path / file_name("openai_messages", "train")):
                assert record["tools"] == [definition]
            loaded = load_dataset(tmp_path, "openai_messages", tmp_path / "cache")["train"]
            assert loaded.column_names == ["messages", "tools"]
            assert verify_dataset(tmp_path)["openai_messages"] == len(dialogues)

    def test_a_tool_without_a_definition_is_described_by_its_calls(self, tmp_path: Path) -> None:
        write(tmp_path, [grounded(0)])
        (record,) = lines(tmp_path / "data/openai_messages/train.jsonl")
        assert record["tools"][0]["function"]["parameters"] == {
            "type": "object",
            "properties": {"query": {"type": "string"}, "top_k": {"type": "integer"}},
            "required": ["query", "top_k"],
        }

    def test_a_huge_number_in_a_call_stops_no_export(self, tmp_path: Path) -> None:
        # As it comes back from Postgres where a model wrote 1e23.
        call = ToolEvent("vector_db_search", {"query": "rain", "top_k": 10**23}, "found", call_id="a")
        turn = Turn(0, "Why?", "Because.", details=TurnDetails(tools=(call,)))
        write(tmp_path, [make_dialogue(turns=(turn,))])
        assert verify_dataset(tmp_path)["openai_messages"] == 1
        (record,) = lines(tmp_path / "data/openai_messages/train.jsonl")
        (called,) = record["messages"][1]["tool_calls"]
        assert json.loads(called["function"]["arguments"]) == {"query": "rain", "top_k": 10**23}

    def test_parquet_keeps_evidence_and_calls_by_turn(self, tmp_path: Path) -> None:
        write(tmp_path, [grounded(0)])
        (row,) = pq.read_table(tmp_path / "data/parquet/train.parquet").to_pylist()
        assert len(row["turn_evidence"]) == len(row["turn_tools"]) == 2
        assert row["turn_evidence"][1][1] == {
            "chunk_id": "b2",
            "document": "snow.pdf",
            "score": 1.25,
            "cited": True,
            "given_to": "kb_responder",
            "text": "",
        }
        assert row["turn_tools"][1] == [
            {
                "call_id": "call00001",
                "name": "vector_db_search",
                "arguments": '{"query":"rain 0","top_k":3}',
                "result": "result 0",
                "error": "",
            }
        ]

    def test_passages_stand_before_their_questions_but_for_those_a_tool_found(self, tmp_path: Path) -> None:
        evidence = (
            Evidence("a", "a.md", Role.USER_SIMULATOR, text="Asked from.\nAll of it."),
            Evidence("a", "a.md", Role.ASSISTANT, text="Asked from.\nAll of it."),
            Evidence("b", "b.md", Role.ASSISTANT, text="Found\n\nby a search."),
            Evidence("c", "c.md", Role.ASSISTANT),
            Evidence("d", "d.md", Role.ASSISTANT, text="Given as well."),
        )
        found = "<passages>\n[1]\n> Found\n>\n> by a search.\n</passages>"
        tool = ToolEvent("vector_db_search", {"query": "x"}, found, call_id="1")
        turns = (Turn(0, "Why?", "So.", details=TurnDetails(evidence, (tool,))), Turn(1, "And?", "No."))
        write(tmp_path, [make_dialogue(0, turns)], passages="context", splits={"train": 0.5, "test": 0.5})
        (record,) = lines(next((tmp_path / "data/openai_messages").glob("*.jsonl")))
        assert [m["content"] for m in record["messages"] if m["role"] == "user"] == [
            "<document>\nAsked from.\nAll of it.\n</document>\n\n"
            "<document>\nGiven as well.\n</document>\n\nWhy?",
            "And?",
        ]
        figures = stats(tmp_path)
        assert figures["passages"] == "context"
        assert (figures["documents"]["passages"], figures["documents"]["passage_texts"]) == (5, 4)
        card = (tmp_path / "README.md").read_text("utf-8")
        for contents in (
            "The texts of 4 of 5 passages are in this dataset",
            "Those of 1 were not kept",
            "each between `<document>` and `</document>`",
            "searches in the documents quote them, in any case",
            "Splits share documents and passages",
        ):
            assert contents in card, contents
        assert "not quoted" not in card

    def test_without_passages_only_their_documents_are_named(self, tmp_path: Path) -> None:
        details = TurnDetails((Evidence("a", "a.md", Role.ASSISTANT, text="The words of it."),))
        dialogue = make_dialogue(0, (Turn(0, "Why?", "So.", details=details),))
        write(tmp_path, [dialogue], passages="none")
        assert not [path for path, text in everything(tmp_path) if "words of it" in text]
        assert "Passages are named in the columns, not quoted." in (tmp_path / "README.md").read_text("utf-8")

    def test_reasoning_is_there_when_asked_for_and_nowhere_else(self, tmp_path: Path) -> None:
        write(tmp_path, [grounded(0)])
        assert not any("Let me think" in text for _, text in everything(tmp_path))
        write(tmp_path, [grounded(0)], reasoning=True)
        table = pq.read_table(tmp_path / "data/parquet/train.parquet")
        assert table.schema.equals(parquet_schema("column"))
        assert table["turn_reasoning"].to_pylist() == [["Let me think."] * 2]
        assert verify_dataset(tmp_path)["parquet"] == 1

    @pytest.mark.parametrize(
        ("spoil", "message"),
        [
            (lambda m: m.pop(2), "'tool' must speak"),
            (lambda m: m.pop(1), "answers no call that is open"),
            (lambda m: m.pop(3), "'assistant' must speak"),
            (lambda m: m.pop(), "must end with an answer"),
            (lambda m: m[1]["tool_calls"][0]["function"].update(arguments="[1]"), "text of a JSON object"),
            (lambda m: m[1]["tool_calls"][0]["function"].update(arguments=[1]), "or an object"),
            (lambda m: m[1]["tool_calls"][0]["function"].update(arguments={"a": 1}), "here text and there"),
            (lambda m: m[1]["tool_calls"][0]["function"].update(name="other"), "not in 'tools'"),
            (lambda m: m[0].update(role="assistant"), "'user' must speak"),
        ],
    )
    def test_messages_that_do_not_alternate_are_found(self, tmp_path: Path, spoil: Any, message: str) -> None:
        write(tmp_path, [grounded(0)], formats=["openai_messages"])
        path = tmp_path / "data/openai_messages/train.jsonl"
        (record,) = lines(path)
        spoil(record["messages"])
        path.write_text(json.dumps(record) + "\n")
        with pytest.raises(DatasetError, match=message):
            verify_dataset(tmp_path)
