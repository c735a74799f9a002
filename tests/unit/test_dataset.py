"""A written dataset as those who train with it meet it: loaded, split, filtered, nothing private in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings

from dlgforge_core.config import DatasetFilesConfig, FiltersConfig, SavingConfig, validate
from dlgforge_core.dialogue import Dialogue, Evidence, Role, Turn, TurnDetails
from dlgforge_core.errors import ConfigError
from dlgforge_core.export import sinks
from dlgforge_core.export.columns import OptionalColumns
from dlgforge_core.export.filters import MIN_SCORE, REASONS, SEMANTIC_DEDUP, UNJUDGED, EmptyDatasetError
from dlgforge_core.export.format_context import FormatContext
from dlgforge_core.export.formats import FORMATS
from dlgforge_core.export.scrub import MAX_TOOL_TEXT_CHARS, Scrubber, secrets_of
from dlgforge_core.export.verify import DatasetError, verify_dataset
from dlgforge_core.export.writer import write_dataset
from dlgforge_core.quality.semantic import SemanticDedup
from dlgforge_core.sources import SeedTopic
from dlgforge_core.tool_events import ToolEvent
from dlgforge_core.verdicts import Judgement, JudgeVerdict
from tests.support.datasets import load_dataset
from tests.support.dialogues import (
    ALL,
    BAD,
    GOOD,
    THREE,
    any_text,
    everything,
    file_name,
    grounded,
    header,
    judged,
    lines,
    make_dialogue,
    stats,
    write,
)


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
            expected = list(FORMATS[name].columns(FormatContext(reasoning="column", tools=n_tools > 0)))
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
            assert rows.column_names == [
                names.get(column, column) for column in FORMATS[name].columns(FormatContext())
            ]
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
        with pytest.raises(ConfigError, match=r"choose from:? sharegpt, sharegpt_judged, sharegpt_tools"):
            validate(SavingConfig, {"formats": formats}, "saving")

    def test_a_format_named_twice_is_written_once(self) -> None:
        saving = validate(SavingConfig, {"formats": ["parquet", "sharegpt", "parquet"]}, "saving")
        assert saving.files.formats == ["parquet", "sharegpt"]


def nothing_less(row: Any) -> Any:
    """Return a row without keys that are None: JSON lines leave out what a table shows as null."""
    if isinstance(row, dict):
        return {key: nothing_less(value) for key, value in row.items() if value is not None}
    return [nothing_less(item) for item in row] if isinstance(row, list) else row


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
            from tests.support.dialogues import THREE, grounded, write
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

    def test_a_turn_without_a_verdict_among_others(self, tmp_path: Path) -> None:
        write(tmp_path, [judged(0, GOOD, None), judged(1, None, BAD)], filters={"min_score": 5.0})
        (kept,) = lines(tmp_path / "data/sharegpt_judged/train.jsonl")
        assert (kept["id"], kept["score"]) == ("d0", GOOD.score)

    @pytest.mark.parametrize(
        ("filters", "kept", "refused"),
        [
            ({}, [0, 1, 2, 3, 4], {}),
            ({"min_score": 5.5}, [0, 1, 2], {"min_score": 2}),
            ({"min_score": 9.5}, [2], {"min_score": 4}),
            ({"judge_reasons": ["incorrect"]}, [0, 2], {"judge_reasons": 3}),
            ({"drop_reasons": ["incorrect"]}, [0, 2], {"judge_reasons": 3}),
            ({"keep_unjudged": False}, [0, 1, 3, 4], {"unjudged": 1}),
            (
                {"min_score": 5.0, "judge_reasons": ["incorrect", "x"], "keep_unjudged": False},
                [0],
                {"unjudged": 1, "min_score": 2, "judge_reasons": 1},
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

    def test_filters_that_refuse_all_are_reported_and_the_old_dataset_stays(self, tmp_path: Path) -> None:
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
        filters = FiltersConfig(min_score=5.0, judge_reasons=["incorrect"], keep_unjudged=False)
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
        filters = FiltersConfig(judge_reasons=["incorect", "clear"])
        (problem,) = filters.notes(["incorrect", "clear"])
        assert "did you mean 'incorrect'" in problem

    def test_the_former_name_of_the_labels_is_taken_and_noted(self) -> None:
        filters = FiltersConfig.model_validate({"judge_reasons": ["a"], "drop_reasons": ["b", "a"]})
        assert filters.labels == ["a", "b"]
        assert FiltersConfig.model_validate(filters.model_dump()) == filters
        (note,) = filters.notes(["a", "b"])
        assert "drop_reasons is deprecated; it is called saving.filters.judge_reasons" in note
        assert FiltersConfig(judge_reasons=["a"]).notes(["a"]) == []


class TestSeedMetadata:
    METADATA: ClassVar = {"level": 3, "from": "/home/ann/x.csv", "api_key": "k", "é": [1]}
    PLAIN = make_dialogue(0)
    DIALOGUES = (
        replace(PLAIN, plan=replace(PLAIN.plan, topic=SeedTopic("s", "en", "rain"))),
        replace(
            PLAIN,
            plan=replace(PLAIN.plan, dialogue_id="d1", topic=SeedTopic("t", "en", "snow", metadata=METADATA)),
        ),
    )
    WRITTEN: ClassVar = [{}, {"level": 3, "from": "x.csv", "api_key": "[secret]", "é": [1]}]

    def test_it_is_a_column_where_there_is_a_place_for_it(self, tmp_path: Path) -> None:
        saving = DatasetFilesConfig(formats=ALL)
        write_dataset(self.DIALOGUES, tmp_path, saving=saving, columns=OptionalColumns(seed_metadata=True))
        assert verify_dataset(tmp_path) == dict.fromkeys(ALL, 2)
        rows = pq.read_table(tmp_path / "data/parquet/train.parquet").to_pylist()
        for name in ("sharegpt", "sharegpt_judged", "parquet"):
            kept = lines(tmp_path / f"data/{name}/train.jsonl")
            for found in (kept, rows):
                assert [json.loads(str(row["seed_metadata"])) for row in found] == self.WRITTEN
            loaded = load_dataset(tmp_path, name, tmp_path / "cache")
            assert json.loads(loaded["train"]["seed_metadata"][1]) == self.WRITTEN[1]
        assert "`seed_metadata`" in (tmp_path / "README.md").read_text("utf-8")

    def test_without_any_nothing_changes(self, tmp_path: Path) -> None:
        write_dataset(self.DIALOGUES[:1], tmp_path, saving=DatasetFilesConfig(formats=ALL))
        assert "seed_metadata" not in pq.read_schema(tmp_path / "data/parquet/train.parquet").names
        assert "seed_metadata" not in (tmp_path / "README.md").read_text("utf-8")


class TestSeveralJudges:
    def of_two(self, ordinal: int, *scores: tuple[int, int]) -> Dialogue:
        """Return a dialogue whose turns two judges gave these scores, merged as the reading does it."""
        dialogue = judged(ordinal, *(Judgement((a + b + 1) // 2, ("mixed",)) for a, b in scores))
        words = [
            JudgeVerdict(name, index, Judgement(score, (f"{name}-reason",), f"{name} says"))
            for index, pair in enumerate(scores)
            for name, score in zip(("/models/strict", "kind"), pair, strict=True)
        ]
        return replace(dialogue, by_judge=tuple(words))

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
        words = tuple(JudgeVerdict(name, None, Judgement(score, ())) for name, score in (("a", 3), ("b", 8)))
        dialogue = replace(make_dialogue(judgement=Judgement(6, ())), by_judge=words)
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


def test_thousands_of_dialogues_in_bounded_memory(tmp_path: Path) -> None:
    script = textwrap.dedent(
        """
        import resource, sys
        from pathlib import Path
        from dlgforge_core.dialogue import Turn
        from dlgforge_core.config import DatasetFilesConfig
        from dlgforge_core.export.writer import write_dataset
        from tests.support.dialogues import ALL, THREE, grounded
        from dataclasses import replace
        def made(n):
            for i in range(n):
                d = grounded(i, seed_id=f"s{i % 500}", topic=f"t{i % 500}")
                yield replace(d, turns=tuple(replace(t, assistant=t.assistant * 100) for t in d.turns))
        saving = DatasetFilesConfig(formats=ALL, splits=THREE)
        write_dataset(made(200), Path(sys.argv[1]), saving=saving)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        summary = write_dataset(made(5_000), Path(sys.argv[1]), saving=saving)
        assert summary.n_dialogues == 5_000
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert sinks.ROW_GROUP_ROWS < 5_000
    assert int(done.stdout) < 120, "MiB more than for 200"
