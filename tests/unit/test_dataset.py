"""A written dataset as those who train with it meet it: loaded, split, filtered, nothing private in it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from dlgforge_core.config import DatasetFilesConfig, FiltersConfig, SavingConfig, validate
from dlgforge_core.dialogue import (
    Dialogue,
    Evidence,
    Judgement,
    JudgeVerdict,
    Role,
    ToolEvent,
    Turn,
    TurnDetails,
)
from dlgforge_core.errors import ConfigError
from dlgforge_core.export import writer
from dlgforge_core.export.filters import MIN_SCORE, REASONS, SEMANTIC_DEDUP, UNJUDGED, EmptyDatasetError
from dlgforge_core.export.language_tags import language_tag
from dlgforge_core.export.markdown import sample_markdown
from dlgforge_core.export.schema import columns, parquet_schema
from dlgforge_core.export.scrub import MAX_TOOL_TEXT_CHARS, Scrubber, secrets_of
from dlgforge_core.export.verify import DatasetError, verify_dataset
from dlgforge_core.export.writer import DatasetSummary, file_name, write_dataset
from dlgforge_core.quality.semantic import SemanticDedup
from tests.support.datasets import load_dataset
from tests.unit.test_export import any_text, lines, make_dialogue

ALL = ["sharegpt", "sharegpt_judged", "openai_messages", "parquet"]
THREE = {"train": 0.8, "validation": 0.1, "test": 0.1}
GOOD, BAD = Judgement(9, ("helpful",), "Good."), Judgement(2, ("incorrect",), "Bad.")


def grounded(ordinal: int, n_tools: int = 1, **options: Any) -> Dialogue:
    """A dialogue of two turns, each with evidence and tool calls."""
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
    return write_dataset(dialogues, folder, saving=saving)


def stats(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "dataset_stats.json").read_text("utf-8"))


def header(folder: Path) -> dict[str, Any]:
    return yaml.safe_load((folder / "README.md").read_text("utf-8").split("---\n")[1])


def everything(folder: Path) -> Iterator[tuple[Path, str]]:
    """Every text that a reader of the folder can see; of Parquet what is in its columns."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        if path.suffix == ".parquet":
            yield path, json.dumps(pq.read_table(path).to_pylist(), ensure_ascii=False)
        else:
            yield path, path.read_text("utf-8")


class TestLoading:
    @pytest.mark.parametrize("n_tools", [0, 2])
    @pytest.mark.parametrize("formats", [ALL, ["parquet"], ["openai_messages", "sharegpt"]])
    def test_every_format_loads_with_its_columns_and_splits(
        self, tmp_path: Path, formats: list[str], n_tools: int
    ) -> None:
        # Verdicts and tool calls in one split alone: a reader that guesses types from a piece is wrong.
        dialogues = [grounded(i, n_tools if i % 7 == 0 else 0) for i in range(30)]
        dialogues[3] = replace(dialogues[3], judgement=GOOD)
        folder = tmp_path / "dataset"
        summary = write(folder, dialogues, formats=formats, splits=THREE, reasoning=True)
        assert summary.by_split == {"train": 24, "validation": 3, "test": 3}
        assert verify_dataset(folder) == dict.fromkeys(formats, 30)
        for name in formats:
            loaded = load_dataset(folder, name, tmp_path / "cache")
            assert {split: rows.num_rows for split, rows in loaded.items()} == summary.by_split
            expected = columns(name, reasoning=True, tools=n_tools > 0)
            if name == "parquet":
                assert sorted(loaded["train"].column_names) == sorted(expected)
            else:
                assert loaded["train"].column_names == expected
            for split, rows in loaded.items():
                path = folder / file_name(name, split)
                there = pq.read_table(path).to_pylist() if name == "parquet" else lines(path)
                assert [nothing_less(row) for row in rows] == [nothing_less(row) for row in there]

    def test_parquet_alone_is_loaded_from_its_own_files(self, tmp_path: Path) -> None:
        write(tmp_path, [grounded(0)], formats=["parquet"])
        (config,) = header(tmp_path)["configs"]
        assert config["data_files"] == [{"split": "train", "path": "data/parquet/train.parquet"}]
        assert "dataset_info" not in header(tmp_path)

    def test_renamed_columns(self, tmp_path: Path) -> None:
        folder = tmp_path / "dataset"
        names = {"conversations": "talk", "seed_id": "origin", "score": "points"}
        write(folder, [grounded(i) for i in range(10)], output_columns=names, splits=THREE)
        for name in ("sharegpt", "sharegpt_judged"):
            rows = load_dataset(folder, name, tmp_path / "cache")["train"]
            assert rows.column_names == [names.get(column, column) for column in columns(name)]
            assert rows[0]["talk"][0]["from"] == "human"
        assert verify_dataset(folder)["sharegpt"] == 10
        card = (folder / "README.md").read_text("utf-8")
        assert "| `talk` |" in card
        assert "`conversations`" not in card

    @pytest.mark.parametrize(
        ("names", "formats", "message"),
        [
            ({"conversation": "x"}, ALL, "no column 'conversation'; did you mean 'conversations'"),
            ({"score": "x"}, ["sharegpt"], "no column 'score'"),
            ({"id": "topic"}, ALL, "two columns would be named 'topic'"),
            ({"id": " "}, ALL, "output_columns.id is empty"),
            ({"id": "x"}, ["parquet"], "formats has neither"),
        ],
    )
    def test_names_that_do_not_fit(self, names: dict[str, str], formats: list[str], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            validate(SavingConfig, {"formats": formats, "output_columns": names}, "saving")

    @pytest.mark.parametrize("formats", [[], ["csv"], ["parquet", "csv"]])
    def test_unknown_formats(self, formats: list[str]) -> None:
        with pytest.raises(ConfigError, match=r"choose from:? sharegpt, sharegpt_judged, openai"):
            validate(SavingConfig, {"formats": formats}, "saving")

    def test_a_format_named_twice_is_written_once(self) -> None:
        saving = validate(SavingConfig, {"formats": ["parquet", "sharegpt", "parquet"]}, "saving")
        assert saving.files.formats == ["parquet", "sharegpt"]


def nothing_less(row: Any) -> Any:
    """A row without keys that are None: JSON lines leave out what a table shows as null."""
    if isinstance(row, dict):
        return {key: nothing_less(value) for key, value in row.items() if value is not None}
    return [nothing_less(item) for item in row] if isinstance(row, list) else row


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
        for said in (
            "The texts of 4 of 5 passages are in this dataset",
            "Those of 1 were not kept",
            "each between `<document>` and `</document>`",
            "searches in the documents quote them, in any case",
            "Splits share documents and passages",
        ):
            assert said in card, said
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
        assert table.schema.equals(parquet_schema(True))
        assert table["turn_reasoning"].to_pylist() == [["Let me think."] * 2]
        assert verify_dataset(tmp_path)["parquet"] == 1

    @pytest.mark.parametrize(
        ("spoil", "message"),
        [
            (lambda m: m.pop(2), "'tool' must speak"),
            (lambda m: m.pop(1), "answers no call that is open"),
            (lambda m: m.pop(3), "'assistant' must speak"),
            (lambda m: m.pop(), "must end with an answer"),
            (lambda m: m[1]["tool_calls"][0]["function"].update(arguments={"a": 1}), "text of a JSON object"),
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


class TestSplits:
    def test_no_seed_topic_is_in_two_splits_and_all_formats_agree(self, tmp_path: Path) -> None:
        languages = ("en", "fr", "Moroccan Arabic")
        dialogues = [
            grounded(i, seed_id=f"s{i % 40}", topic=f"{languages[i % 3]} {i % 40}", language=languages[i % 3])
            for i in range(240)
        ]
        summary = write(tmp_path, dialogues, splits=THREE)
        assert summary.by_split == {"train": 192, "validation": 24, "test": 24}
        seeds = {
            split: set(pq.read_table(tmp_path / file_name("parquet", split))["seed_id"].to_pylist())
            for split in THREE
        }
        assert sum(map(len, seeds.values())) == len(set.union(*seeds.values())) == 40
        for split in THREE:
            ids = [record["id"] for record in lines(tmp_path / file_name("sharegpt", split))]
            assert ids == pq.read_table(tmp_path / file_name("parquet", split))["id"].to_pylist()
            assert len(lines(tmp_path / file_name("openai_messages", split))) == len(ids)
        assert not list(tmp_path.glob(".writing-*"))

    def test_the_same_dialogues_make_the_same_bytes_in_any_process(self, tmp_path: Path) -> None:
        dialogues = [grounded(i) for i in range(12)]
        write(tmp_path / "a", dialogues, splits=THREE)
        script = textwrap.dedent(
            """
            import sys
            from pathlib import Path
            from tests.unit.test_dataset import THREE, grounded, write
            write(Path(sys.argv[1]), [grounded(i) for i in range(12)], splits=THREE)
            """
        )
        env = {**os.environ, "PYTHONHASHSEED": "7"}
        subprocess.run([sys.executable, "-c", script, str(tmp_path / "b")], check=True, env=env)
        there = {p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file()}
        assert len(there) > 20
        for name in there:
            assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name

    def test_a_leak_and_a_missing_row_are_found(self, tmp_path: Path) -> None:
        write(tmp_path, [grounded(i) for i in range(10)], splits=THREE)
        train, test = (tmp_path / file_name("sharegpt", split) for split in ("train", "test"))
        kept = test.read_bytes()
        test.write_bytes(kept + train.read_bytes().splitlines(keepends=True)[0])
        with pytest.raises(DatasetError, match="is in the split test, too"):
            verify_dataset(tmp_path)
        test.write_bytes(b"")
        with pytest.raises(DatasetError, match="different numbers"):
            verify_dataset(tmp_path)
        test.write_bytes(kept)
        assert verify_dataset(tmp_path)["sharegpt"] == 10
        (tmp_path / "data/parquet/train.jsonl").write_bytes(b"")
        with pytest.raises(DatasetError, match="has 0 rows, and the Parquet file beside it 8"):
            verify_dataset(tmp_path)

    @pytest.mark.parametrize(
        ("splits", "message"),
        [
            ({"train": 0.9}, "add up to 0.9"),
            ({"train": 1.0, "test": 0.0}, "greater than 0"),
            ({"all": 1.0}, "cannot name a split"),
            ({"a/b": 1.0}, "cannot name a split"),
            ({}, "name one at least"),
        ],
    )
    def test_shares_that_cannot_be_given(self, splits: dict[str, float], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            validate(SavingConfig, {"splits": splits}, "saving")


class TestFilters:
    DIALOGUES = (
        judged(0, GOOD, GOOD),
        judged(1, GOOD, BAD),  # mean 5.5
        judged(2, None, None),
        judged(3, BAD, BAD),
        make_dialogue(4, judgement=BAD),
    )

    @pytest.mark.parametrize(
        ("filters", "kept", "refused"),
        [
            ({}, [0, 1, 2, 3, 4], {}),
            ({"min_score": 5.5}, [0, 1, 2], {"min_score": 2}),
            ({"min_score": 9.5}, [2], {"min_score": 4}),
            ({"drop_reasons": ["incorrect"]}, [0, 2], {"drop_reasons": 3}),
            ({"keep_unjudged": False}, [0, 1, 3, 4], {"unjudged": 1}),
            (
                {"min_score": 5.0, "drop_reasons": ["incorrect", "x"], "keep_unjudged": False},
                [0],
                {"unjudged": 1, "min_score": 2, "drop_reasons": 1},
            ),
        ],
    )
    def test_what_is_kept_and_counted(
        self, tmp_path: Path, filters: dict[str, Any], kept: list[int], refused: dict[str, int]
    ) -> None:
        summary = write(tmp_path, list(self.DIALOGUES), filters=filters)
        assert [r["id"] for r in lines(tmp_path / "data/sharegpt/train.jsonl")] == [f"d{i}" for i in kept]
        assert (summary.n_dialogues, summary.refused) == (len(kept), refused)
        assert (stats(tmp_path)["read"], stats(tmp_path)["filters"]["refused"]) == (5, refused)
        card = (tmp_path / "README.md").read_text("utf-8")
        assert card.count("Left out by a filter") == len(refused)

    def test_filters_that_refuse_everything_are_told_and_the_old_dataset_stays(self, tmp_path: Path) -> None:
        write(tmp_path, [judged(0, GOOD)])
        before = (tmp_path / "README.md").read_bytes()
        with pytest.raises(EmptyDatasetError) as caught:
            write(tmp_path, list(self.DIALOGUES), filters={"min_score": 10, "keep_unjudged": False})
        assert (caught.value.read, caught.value.refused) == (5, {UNJUDGED: 1, MIN_SCORE: 4})
        assert "5 were read" in str(caught.value)
        assert "4 by min_score (a mean score below saving.filters.min_score = 10.0)" in str(caught.value)
        assert "1 by unjudged" in str(caught.value)
        assert (tmp_path / "README.md").read_bytes() == before
        assert verify_dataset(tmp_path) == dict.fromkeys(ALL, 1)

    def test_the_card_says_what_each_filter_left_out(self, tmp_path: Path) -> None:
        filters = FiltersConfig(min_score=5.0, drop_reasons=["incorrect"], keep_unjudged=False)
        saving = DatasetFilesConfig(filters=filters)
        dedup = SemanticDedup(lambda texts: np.ones((len(texts), 2)), 0.9)
        write_dataset([*self.DIALOGUES, self.DIALOGUES[0]], tmp_path, saving=saving, dedup=dedup)
        card = (tmp_path / "README.md").read_text("utf-8")
        assert stats(tmp_path)["filters"]["refused"].keys() == {UNJUDGED, MIN_SCORE, REASONS, SEMANTIC_DEDUP}
        assert "refused by the filter" not in card
        assert "1 dialogue that opened like another one in other words." in card
        assert "ruled out (`incorrect`)." in card
        assert "lower mean score than was asked (5)." in card

    def test_named_predicates_come_last_and_are_asked_once(self, tmp_path: Path) -> None:
        asked: list[str] = []

        def odd(dialogue: Dialogue) -> bool:
            asked.append(dialogue.plan.dialogue_id)
            return dialogue.plan.ordinal % 2 == 1

        summary = write_dataset(
            self.DIALOGUES,
            tmp_path,
            saving=DatasetFilesConfig(filters=FiltersConfig(min_score=5.0), splits=THREE),
            keep=[("near_duplicates", odd), ("never", lambda _: True)],
        )
        assert asked == ["d0", "d1", "d2"]
        assert summary.refused == {"min_score": 2, "near_duplicates": 2, "never": 0}
        assert summary.n_dialogues == 1

    def test_labels_that_no_judge_gives(self) -> None:
        filters = FiltersConfig(drop_reasons=["incorect", "clear"])
        (problem,) = filters.unknown_labels(["incorrect", "clear"])
        assert "did you mean 'incorrect'" in problem


class TestSeveralJudges:
    def of_two(self, ordinal: int, *scores: tuple[int, int]) -> Dialogue:
        """A dialogue whose turns two judges gave these scores, merged as the reading does it."""
        dialogue = judged(ordinal, *(Judgement((a + b + 1) // 2, ("mixed",)) for a, b in scores))
        said = [
            JudgeVerdict(name, index, Judgement(score, (f"{name}-reason",), f"{name} says"))
            for index, pair in enumerate(scores)
            for name, score in zip(("/models/strict", "kind"), pair, strict=True)
        ]
        return replace(dialogue, by_judge=tuple(said))

    def test_each_ones_verdicts_are_kept_and_nothing_is_rounded(self, tmp_path: Path) -> None:
        dialogues = [self.of_two(0, (4, 5), (7, 8)), self.of_two(1, (5, 6), (6, 6))]
        saving = DatasetFilesConfig(formats=ALL, filters=FiltersConfig(min_score=6.0))
        # Rounded half up, they would have 6.5 and 6.
        assert write_dataset(dialogues, tmp_path, saving=saving).n_dialogues == 1
        saving = DatasetFilesConfig(formats=ALL)
        judges = ["/models/strict", "kind"]
        write_dataset(dialogues, tmp_path, saving=saving, judges=judges, alpha=0.1234)
        rows = pq.read_table(tmp_path / file_name("parquet", "train")).to_pylist()
        assert [row["score"] for row in rows] == [6.0, 5.75]
        assert rows[0]["judge_verdicts"][:2] == [
            {
                "judge": "strict",
                "turn_index": 0,
                "score": 4,
                "reasons": ["/models/strict-reason"],
                "comment": "/models/strict says",
            },
            {
                "judge": "kind",
                "turn_index": 0,
                "score": 5,
                "reasons": ["kind-reason"],
                "comment": "kind says",
            },
        ]
        (first, _) = lines(tmp_path / file_name("sharegpt_judged", "train"))
        assert first["judge_verdicts"] == rows[0]["judge_verdicts"]
        figures = stats(tmp_path)
        assert figures["judges"] == {"names": ["strict", "kind"], "alpha": 0.1234}
        assert figures["scores"]["mean"] == 5.875
        card = (tmp_path / "README.md").read_text("utf-8")
        assert "2 judges gave verdicts" in card
        assert "is 0.123." in card
        assert "mean score 5.88 of 10" in card
        loaded = load_dataset(tmp_path, "sharegpt_judged", tmp_path / "cache")["train"]
        assert [v["turn_index"] for v in loaded[0]["judge_verdicts"]] == [0, 0, 1, 1]

    def test_a_verdict_on_the_whole_has_no_turn(self, tmp_path: Path) -> None:
        said = tuple(JudgeVerdict(name, None, Judgement(score, ())) for name, score in (("a", 3), ("b", 8)))
        dialogue = replace(make_dialogue(judgement=Judgement(6, ())), by_judge=said)
        assert dialogue.mean_score == 5.5
        write(tmp_path, [dialogue])
        (row,) = pq.read_table(tmp_path / file_name("parquet", "train")).to_pylist()
        assert [(v["judge"], v["turn_index"]) for v in row["judge_verdicts"]] == [("a", None), ("b", None)]


class TestNothingPrivate:
    SECRET = "tok-4f9a8b7c6d5e"

    def test_secrets_paths_and_prompts_stay_here(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SERPER_API_KEY", self.SECRET)
        monkeypatch.setenv("DLGFORGE_POSTGRES_DSN", "postgresql://me:Pa55wordOfMine@db/x")
        monkeypatch.setenv("HOME", "/home/planted")
        folder = tmp_path / "dataset"
        tool = ToolEvent(
            "web_search",
            {"query": f"rain {self.SECRET}", "api_key": "zz", "where": ["/home/other/docs/x.md"]},
            f"see {tmp_path}/dataset/x and /Users/ann/notes.txt, Authorization: Bearer abcdefghijklmnop1234 "
            + "hf_abcdefghijklmnopqrstuv and https://ok.test/home/rain "
            + "long " * 5000,
            error=f"FileNotFoundError: /var/lib/knowledge/rain.md of {Path.cwd()}/x.py, C:\\kb\\a.md",
        )
        details = TurnDetails(
            evidence=(
                Evidence(
                    "/var/kb/rain.md#3",
                    "/var/kb/rain.md",
                    Role.ASSISTANT,
                    1.0,
                    True,
                    f"{self.SECRET} is in {tmp_path}/dataset, /home/other/r.md, hf_abcdefghijklmnopqrstuv",
                ),
                Evidence("c", "../../kb/sub/snow.md", Role.ASSISTANT),
                Evidence("d", "s3://user:pw@bucket/kb/fog.md", Role.ASSISTANT),
            ),
            tools=(tool,),
            reasoning=f"The system prompt says {self.SECRET}",
        )
        turn = Turn(0, f"Why {self.SECRET}?", "Look in /home/planted/x.md.", GOOD, details)
        dialogue = grounded(0, batch="/srv/seeds/w.yaml", model="/models/llama")
        plan = replace(
            dialogue.plan,
            topic=replace(dialogue.plan.topic, question="SEED QUESTION", metadata={"path": "/srv/planted"}),
            user_persona=replace(dialogue.plan.user_persona, description="PERSONA PROMPT"),
        )
        write(folder, [replace(dialogue, plan=plan, turns=(turn,))], reasoning=True, passages="context")
        planted = [
            *(self.SECRET, "Pa55wordOfMine", "abcdefghijklmnop1234", "hf_abcdefghijkl", "user:pw", '"zz"'),
            *(
                "/home/",
                "/Users/",
                "/var/",
                "/srv/",
                "/models/",
                "C:\\\\kb",
                "../",
                str(tmp_path),
                os.getcwd(),
            ),
            *("SEED QUESTION", "PERSONA PROMPT"),
        ]
        for path, text in everything(folder):
            shown = text.replace("https://ok.test/home/rain", "")
            assert [p for p in planted if p in shown] == [], path
        (row,) = pq.read_table(folder / "data/parquet/train.parquet").to_pylist()
        assert [e["document"] for e in row["turn_evidence"][0]] == ["rain.md", "kb/sub/snow.md", "fog.md"]
        (event,) = row["turn_tools"][0]
        assert "https://ok.test/home/rain" in event["result"]
        assert len(event["result"]) <= MAX_TOOL_TEXT_CHARS + 1
        assert event["error"] == "FileNotFoundError: rain.md of x.py, a.md"
        assert row["messages"][1]["content"] == "Look in x.md."

    @settings(max_examples=200, deadline=None)
    @given(any_text)
    def test_other_text_is_left_alone(self, text: str) -> None:
        scrubber = Scrubber({self.SECRET}, {"/srv/planted"})
        assert scrubber.text(text) == text
        assert self.SECRET not in scrubber.text(f"{text}{self.SECRET}{text}")

    def test_plain_words_are_no_secrets(self) -> None:
        environment = {
            "OPENAI_API_KEY": "not-needed",
            "PGPASSWORD": "postgres",
            "A_TOKEN": "",
            "B_KEY": "sk-12345678",
            "PATH": "/usr/bin:/x1",
            "C_DSN": "postgresql://u:abc12345@h/d",
        }
        assert secrets_of(environment) == {"sk-12345678", "abc12345", "postgresql://u:abc12345@h/d"}


class TestCard:
    def test_what_only_its_maker_knows(self, tmp_path: Path) -> None:
        card = {"title": "Support talks", "description": "Of *one* shop.", "license": "cc-by-4.0"}
        write(tmp_path, [make_dialogue()], card=card)
        head, text = header(tmp_path), (tmp_path / "README.md").read_text("utf-8")
        assert (head["pretty_name"], head["license"]) == ("Support talks", "cc-by-4.0")
        assert "# Support talks\n\n1 dialogue" in text
        assert "\nOf *one* shop.\n" in text
        assert "No licence" not in text
        assert load_dataset(tmp_path, "sharegpt", tmp_path / "cache")["train"].num_rows == 1

    @pytest.mark.parametrize("name", ["CC-BY-4.0", "apache2", "my own"])
    def test_a_licence_that_the_hub_does_not_know(self, name: str) -> None:
        with pytest.raises(ConfigError, match="knows no such identifier"):
            validate(SavingConfig, {"card": {"license": name}}, "saving")

    def test_a_dialogue_that_was_led_off_its_topic(self, tmp_path: Path) -> None:
        on, off = grounded(0), grounded(1)
        turns = tuple(replace(t, details=replace(t.details, off_topic=True)) for t in off.turns)
        write(tmp_path, [on, replace(off, turns=turns)])
        rows = pq.read_table(tmp_path / file_name("parquet", "train")).to_pylist()
        assert [row["topic"] for row in rows] == ["topic 0", ""]
        assert [row["documents"] for row in rows] == [["guides/rain.md"]] * 2
        assert [r["documents"] for r in lines(tmp_path / file_name("sharegpt", "train"))] == [
            ["guides/rain.md"]
        ] * 2
        assert "1 dialogue went off the seed topic" in (tmp_path / "README.md").read_text("utf-8")
        assert stats(tmp_path)["off_topic"] == 1
        assert "### \u2068guides/rain.md\u2069" in sample_markdown([replace(off, turns=turns)])

    def test_it_says_what_is_so(self, tmp_path: Path) -> None:
        dialogues = [grounded(0, language="Moroccan Arabic"), grounded(1, language="pt-BR"), judged(2, GOOD)]
        asked, answered = grounded(3, 0, language="Elvish").turns
        evidence = (replace(answered.details.evidence[1], cited=False),)
        # One question that has passages and an answer without, and an answer that makes nothing of its own.
        first = replace(asked, details=TurnDetails(evidence=asked.details.evidence[:1]))
        second = replace(answered, details=TurnDetails(evidence=evidence))
        dialogues.append(replace(grounded(3, 0, language="Elvish"), turns=(first, second)))
        write_dataset(dialogues, tmp_path, title="Rain & *snow*", drop_reasons={"refused": 2})
        head, card = header(tmp_path), (tmp_path / "README.md").read_text("utf-8")
        assert head["pretty_name"] == "Rain & *snow*"
        assert head["language"] == ["ar", "en", "pt"]
        assert head["size_categories"] == ["n<1K"]
        assert head["task_categories"] == ["text-generation"]
        assert {"grounded", "tool-use"} <= set(head["tags"])
        assert "license" not in head
        for said in (
            "# Rain & \\*snow\\*",
            "4 dialogues with 7 turns",
            "As the assistant answered: `m`.",
            "| `Moroccan Arabic` | ar | 1 |",
            "Passages of 2 documents were given. Answers written with some: 5 of 7; answers that draw on "
            "them: 4.",
            "`vector_db_search` was called 4 times",
            "Given up while generating, `refused`: 2 dialogues.",
            "1 verdict on 1 dialogue, mean score 9.00 of 10.",
            "No language tag is known for `Elvish`.",
            "Everything is in one split.",
        ):
            assert said in card, said

    def test_it_names_the_judge_where_one_has_judged(self, tmp_path: Path) -> None:
        def named(verdict: Judgement | None, judges: list[str]) -> tuple[dict[str, str], str]:
            dialogue = replace(judged(0, verdict), models={"kb_responder": "m", "qa_judge": "planned"})
            write_dataset([dialogue], tmp_path, judges=judges)
            (record,) = lines(tmp_path / "data/sharegpt/train.jsonl")
            card = (tmp_path / "README.md").read_text("utf-8")
            return record["models"], card

        models, card = named(None, [])
        assert models == {"kb_responder": "m"}
        assert "As the judge" not in card
        models, card = named(GOOD, [])
        assert models == {"kb_responder": "m", "qa_judge": "planned"}
        models, card = named(GOOD, ["strict", "/models/kind"])
        assert models == {"kb_responder": "m", "qa_judge": "strict, kind"}
        assert "As the judge scored: `strict, kind`." in card

    def test_it_says_nothing_of_what_is_not_there(self, tmp_path: Path) -> None:
        write_dataset([make_dialogue()], tmp_path)
        card = (tmp_path / "README.md").read_text("utf-8")
        for word in ("passages", "tool ", "Json", "Left out", "Given up", "scores and reasons"):
            assert word not in card.split("## Columns")[0] + card.split("## Known limits")[1], word
        assert not {"grounded", "tool-use"} & set(header(tmp_path)["tags"])
        assert "- Nothing was judged." in card

    @settings(max_examples=12, deadline=None)
    @given(names=st.lists(any_text, min_size=1, max_size=3))
    def test_no_name_breaks_it(self, tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
        folder = tmp_path_factory.mktemp("card")
        dialogues = [
            grounded(i, language=name, model=name, topic=name, seed_id=name) for i, name in enumerate(names)
        ]
        write_dataset(dialogues, folder, title=names[0])
        assert header(folder)["configs"][0]["config_name"] == "sharegpt"
        for row in re.findall(r"^\|.*$", (folder / "README.md").read_text("utf-8"), re.MULTILINE):
            assert row.count("|") in (3, 4, 5)
        for plot in (folder / "plots").iterdir():
            ElementTree.parse(plot)

    @pytest.mark.parametrize(
        ("name", "tag"),
        [
            ("en", "en"),
            ("pt-BR", "pt"),
            ("zh_Hant", "zh"),
            ("Moroccan Arabic", "ar"),
            ("Gulf Arabic", "ar"),
            ("Levantine Arabic", "ar"),
            ("Egyptian Arabic", "ar"),
            ("Swiss German", "de"),
            ("Brazilian Portuguese", "pt"),
            ("Haitian Creole", "ht"),
            ("Cantonese", "yue"),
            ("no", "no"),
            ("iw", "he"),
            ("français québécois", "fr"),
            ("العربية", "ar"),
            ("हिन्दी", "hi"),
            ("Dari", "fa"),
            ("Tok Pisin", "tpi"),
            ("Min Nan Chinese", "zh"),
            ("ary", "ary"),
            ("Elvish", None),
            ("", None),
        ],
    )
    def test_language_tags(self, name: str, tag: str | None) -> None:
        assert language_tag(name) == tag


class TestStatsAndPlots:
    def test_figures(self, tmp_path: Path) -> None:
        summary = write(tmp_path, [grounded(i) for i in range(10)] + [judged(10, GOOD, BAD)], splits=THREE)
        figures = stats(tmp_path)
        assert list(figures) == sorted(figures)
        assert (figures["dialogues"], figures["turns"], figures["read"]) == (11, 22, 11)
        assert {s: f["dialogues"] for s, f in figures["by_split"].items()} == dict(
            sorted(summary.by_split.items())
        )
        assert figures["turn_counts"] == {"2": 11}
        assert figures["scores"]["verdicts"] == {"2": 1, "9": 1}
        assert figures["scores"]["reasons"] == {"helpful": 1, "incorrect": 1}
        assert figures["documents"]["most_used"] == [
            {"document": "guides/rain.md", "turns_cited": 0, "turns_given": 20},
            {"document": "snow.pdf", "turns_cited": 20, "turns_given": 20},
        ]
        assert figures["tools"] == {"vector_db_search": {"calls": 20, "errors": 0}}
        assert figures["lengths"]["user"]["p50"] == pytest.approx(6, abs=1)
        assert sum(f["dialogues"] for f in figures["formats"]["sharegpt"]) == 11

    def test_splits_have_their_colours_in_the_order_of_the_configuration(self, tmp_path: Path) -> None:
        def order(numbers: list[int]) -> list[str]:
            write(tmp_path, [grounded(i) for i in numbers], splits={"train": 0.5, "test": 0.5})
            svg = (tmp_path / "plots/languages.svg").read_text("utf-8")
            return sorted(("train", "test"), key=lambda split: svg.index(f">{split}<"))

        assert order(list(range(10))) == order(list(range(10))[::-1]) == ["train", "test"]

    def test_plots_are_named_in_the_card_and_hold_text(self, tmp_path: Path) -> None:
        write(tmp_path, [grounded(i, language="العربية") for i in range(3)] + [judged(9, GOOD)])
        names = {path.name for path in (tmp_path / "plots").iterdir()}
        assert names == {
            f"{n}.svg" for n in ("turns", "lengths", "scores", "reasons", "languages", "documents")
        }
        card = (tmp_path / "README.md").read_text("utf-8")
        assert all(f"(plots/{name})" in card for name in names)
        assert "العربية" in (tmp_path / "plots/languages.svg").read_text("utf-8")
        write(tmp_path, [make_dialogue()])
        assert {p.name for p in (tmp_path / "plots").iterdir()} == {
            "turns.svg",
            "lengths.svg",
            "languages.svg",
        }


def test_ten_thousand_dialogues_in_bounded_memory(tmp_path: Path) -> None:
    script = textwrap.dedent(
        """
        import resource, sys
        from pathlib import Path
        from dlgforge_core.dialogue import Turn
        from tests.unit.test_dataset import ALL, DatasetFilesConfig, THREE, grounded, write_dataset
        from dataclasses import replace
        def made(n):
            for i in range(n):
                d = grounded(i, seed_id=f"s{i % 500}", topic=f"t{i % 500}")
                yield replace(d, turns=tuple(replace(t, assistant=t.assistant * 100) for t in d.turns))
        saving = DatasetFilesConfig(formats=ALL, splits=THREE)
        write_dataset(made(200), Path(sys.argv[1]), saving=saving)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        summary = write_dataset(made(10_000), Path(sys.argv[1]), saving=saving)
        assert summary.n_dialogues == 10_000
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert writer.ROW_GROUP_ROWS < 10_000
    assert int(done.stdout) < 120, "MiB more than for 200"
