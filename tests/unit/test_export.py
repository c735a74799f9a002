"""Datasets on disk: every text comes back as it was, and a reader never sees half a dataset."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import tracemalloc
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from dlgforge_core.config.saving import JUDGED_COLUMNS, SHAREGPT_COLUMNS, DatasetFilesConfig
from dlgforge_core.dialogue import Dialogue, Turn
from dlgforge_core.export import folder as folder_module
from dlgforge_core.export import sinks
from dlgforge_core.export.filters import EmptyDatasetError
from dlgforge_core.export.markdown import escape_markdown, sample_markdown
from dlgforge_core.export.records import clean
from dlgforge_core.export.schema import PARQUET_SCHEMA
from dlgforge_core.export.writer import DatasetSummary, write_dataset
from dlgforge_core.usage import RoleUsage
from dlgforge_core.verdicts import Judgement
from tests.support.dialogues import any_text, file_name, lines, make_dialogue

ALL = ["sharegpt", "sharegpt_judged", "openai_messages", "parquet"]
FILES = {
    "README.md",
    "dataset_stats.json",
    "data/sharegpt/train.jsonl",
    "data/sharegpt_judged/train.jsonl",
    "data/openai_messages/train.jsonl",
    "data/parquet/train.parquet",
    "data/parquet/train.jsonl",
}
judgements = st.none() | st.builds(
    Judgement,
    score=st.integers(0, 10),
    reasons=st.lists(any_text, max_size=2).map(tuple),
    comment=any_text,
)


def write(dialogues: Iterable[Dialogue], folder: Path, formats: list[str] = ALL) -> DatasetSummary:
    return write_dataset(dialogues, folder, saving=DatasetFilesConfig(formats=formats))


any_dialogue = st.builds(
    make_dialogue,
    turns=st.lists(st.builds(Turn, st.just(0), any_text, any_text, judgements), max_size=4).map(tuple),
    language=st.sampled_from(["en", "ar"]),
    topic=any_text,
    judgement=judgements,
)


def files(folder: Path) -> set[str]:
    """Every file, without locks and plots."""
    found = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    return {name for name in found if name != ".lock" and not name.startswith("plots/")}


def of(folder: Path, format_name: str, split: str = "train") -> Path:
    return folder / file_name(format_name, split)


def words(dialogue: Dialogue) -> list[str]:
    return [clean(text) for turn in dialogue.turns for text in (turn.user, turn.assistant)]


@settings(max_examples=15, deadline=None)
@given(dialogues=st.lists(any_dialogue, min_size=1, max_size=4))
@example(
    [make_dialogue(turns=(Turn(0, "a\ud800", "\u2028\r\n\x00\ufeff", Judgement(1, ("\udc00",), "\ud83d")),))]
)
def test_every_text_comes_back(tmp_path_factory: pytest.TempPathFactory, dialogues: list[Dialogue]) -> None:
    folder = tmp_path_factory.mktemp("dataset")
    summary = write(dialogues, folder)
    sharegpt = lines(of(folder, "sharegpt_judged"))
    openai = lines(of(folder, "openai_messages"))
    rows = pq.read_table(of(folder, "parquet")).to_pylist()
    assert lines(folder / "data/parquet/train.jsonl") == rows
    for dialogue, a, b, c in zip(dialogues, sharegpt, openai, rows, strict=True):
        assert [m["value"] for m in a["conversations"]] == words(dialogue)
        assert [m["content"] for m in b["messages"]] == words(dialogue)
        assert [m["content"] for m in c["messages"]] == words(dialogue)
        assert a["topic"] == c["topic"] == clean(dialogue.plan.topic.topic)
        verdicts = [clean(t.judgement.to_json()) if t.judgement else None for t in dialogue.turns]
        assert a["turn_judgements"] == c["turn_judgements"] == verdicts
        assert a["judgement"] == c["judgement"]
    assert summary.n_dialogues == len(dialogues)
    assert summary.figures.n_turns == sum(len(d.turns) for d in dialogues)
    for file in summary.files:
        content = (folder / file.name).read_bytes()
        assert (file.bytes, file.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert {file.name for file in summary.files} == {name for name in files(folder) if name[:4] == "data"} - {
        "dataset_stats.json"
    }


@given(any_text)
def test_clean_text_is_unicode_and_valid_text_is_kept(text: str) -> None:
    cleaned = clean(text)
    cleaned.encode()
    assert clean(cleaned) == cleaned
    if not any(0xD800 <= ord(c) < 0xE000 for c in text):
        assert cleaned == text


def test_surrogates() -> None:
    assert clean("\ud83d\ude00") == "😀"
    assert clean("a\ud83db") == "a\ufffdb"


class TestRecords:
    def test_sharegpt(self, tmp_path: Path) -> None:
        turns = (Turn(0, "¿Por qué?", "لأنّ", Judgement(8, ("clear",), "Bien")), Turn(1, "q", "a"))
        dialogue = make_dialogue(turns=turns, language="es")
        write([dialogue], tmp_path, ["sharegpt", "sharegpt_judged"])
        assert "¿Por qué?" in of(tmp_path, "sharegpt").read_text("utf-8")
        (plain,), (judged,) = lines(of(tmp_path, "sharegpt")), lines(of(tmp_path, "sharegpt_judged"))
        assert (tuple(plain), tuple(judged)) == (SHAREGPT_COLUMNS, JUDGED_COLUMNS)
        assert judged == {
            **plain,
            "score": 8.0,
            "turn_judgements": [{"score": 8, "reasons": ["clear"], "comment": "Bien"}, None],
            "judgement": None,
            "judge_verdicts": [],
        }
        assert [plain] == [
            {
                "id": "d0",
                "conversations": [
                    {"from": "human", "value": "¿Por qué?"},
                    {"from": "gpt", "value": "لأنّ"},
                    {"from": "human", "value": "q"},
                    {"from": "gpt", "value": "a"},
                ],
                "language": "es",
                "topic": "rain",
                "documents": [],
                "seed_id": "s1",
                "seed_batch": "weather.yaml",
                "user_persona": "novice",
                "assistant_persona": "expert",
                "n_turns": 2,
                "models": {"kb_responder": "m"},
            }
        ]

    def test_openai_messages(self, tmp_path: Path) -> None:
        write([make_dialogue()], tmp_path, ["openai_messages"])
        (record,) = lines(of(tmp_path, "openai_messages"))
        assert record == {
            "messages": [
                {"role": "user", "content": "Why?"},
                {"role": "assistant", "content": "Because."},
            ]
        }

    def test_parquet_has_its_schema(self, tmp_path: Path) -> None:
        write([make_dialogue()], tmp_path, ["parquet"])
        table = pq.read_table(of(tmp_path, "parquet"))
        assert table.schema.equals(PARQUET_SCHEMA)
        assert table.num_rows == 1

    def test_no_path_of_a_machine_is_shown(self, tmp_path: Path) -> None:
        dialogue = make_dialogue(batch="/home/someone/seeds/w.yaml", model="C:\\models\\llama")
        write([dialogue], tmp_path)
        (record,) = lines(of(tmp_path, "sharegpt"))
        assert (record["seed_batch"], record["models"]) == ("w.yaml", {"kb_responder": "llama"})
        for path in (path for path in tmp_path.rglob("*") if path.is_file()):
            content = path.read_bytes()
            assert b"someone" not in content
            assert str(tmp_path).encode() not in content

    def test_model_names_with_a_slash_are_kept(self, tmp_path: Path) -> None:
        write([make_dialogue(model="Qwen/Qwen3-8B")], tmp_path, ["sharegpt"])
        assert lines(of(tmp_path, "sharegpt"))[0]["models"] == {"kb_responder": "Qwen/Qwen3-8B"}


class TestWholeOrNotAtAll:
    def test_no_dialogues_leave_the_old_dataset(self, tmp_path: Path) -> None:
        write([make_dialogue(1)], tmp_path)
        before = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}
        with pytest.raises(EmptyDatasetError, match="there is no dialogue to write"):
            write([], tmp_path)
        assert {name: (tmp_path / name).read_bytes() for name in files(tmp_path)} == before
        with pytest.raises(EmptyDatasetError):
            write([], tmp_path / "new" / "folder")
        assert not files(tmp_path / "new" / "folder")

    def test_a_failure_leaves_the_old_dataset(self, tmp_path: Path) -> None:
        write([make_dialogue(1)], tmp_path)
        before = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}

        def failing() -> Iterator[Dialogue]:
            yield make_dialogue(2)
            raise RuntimeError("store is gone")

        with pytest.raises(RuntimeError, match="store is gone"):
            write(failing(), tmp_path)
        assert {name: (tmp_path / name).read_bytes() for name in files(tmp_path)} == before

    def test_a_new_dataset_takes_the_old_ones_place(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("mine")
        write([make_dialogue(1)], tmp_path)
        write([make_dialogue(2)], tmp_path, ["sharegpt", "sharegpt"])
        assert files(tmp_path) == {
            "data/sharegpt/train.jsonl",
            "dataset_stats.json",
            "README.md",
            "notes.txt",
        }
        assert not (tmp_path / "data" / "parquet").exists()
        assert [r["id"] for r in lines(of(tmp_path, "sharegpt"))] == ["d2"]

    def test_a_reader_meets_no_mixture_of_old_files_and_new_ones(self, tmp_path: Path) -> None:
        write([make_dialogue(0)], tmp_path)
        stop = threading.Event()
        met: list[set[str]] = []

        def read() -> None:
            while not stop.is_set():
                data = os.open(tmp_path / "data", os.O_RDONLY)  # the folder as it is now, wherever it goes
                try:
                    found = set()
                    for name in ("sharegpt/train.jsonl", "openai_messages/train.jsonl"):
                        with open(os.open(name, os.O_RDONLY, dir_fd=data), encoding="utf-8") as file:
                            found.add(len(file.readlines()))
                    met.append({str(n) for n in found})
                except FileNotFoundError:
                    pass  # what was read is gone: it was the old one
                finally:
                    os.close(data)

        reader = threading.Thread(target=read)
        reader.start()
        for n in range(2, 6):
            write([make_dialogue(i) for i in range(n)], tmp_path)
        stop.set()
        reader.join()
        assert met
        assert [mixed for mixed in met if len(mixed) > 1] == []
        assert files(tmp_path) == FILES

    @pytest.mark.parametrize("exchange", [True, False])
    def test_what_others_put_into_its_folders_stays(
        self, tmp_path: Path, exchange: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if not exchange:
            monkeypatch.setattr(folder_module, "_rename_exchange", lambda one, other: False)
        write([make_dialogue(0)], tmp_path)
        (tmp_path / "data" / "notes.txt").write_text("mine")
        write([make_dialogue(1)], tmp_path, ["sharegpt"])
        assert (tmp_path / "data" / "notes.txt").read_text() == "mine"
        assert [r["id"] for r in lines(of(tmp_path, "sharegpt"))] == ["d1"]
        assert not (tmp_path / "data" / "parquet").exists()
        (tmp_path / "data" / "notes.txt").unlink()
        write([make_dialogue(2)], tmp_path, ["openai_messages"])
        assert files(tmp_path) == {"README.md", "dataset_stats.json", "data/openai_messages/train.jsonl"}

    def test_nothing_shows_before_all_is_written(self, tmp_path: Path) -> None:
        seen: list[set[str]] = []

        def watching() -> Iterator[Dialogue]:
            for i in range(3):
                seen.append({n for n in files(tmp_path) if not n.startswith(".writing-")})
                yield make_dialogue(i)

        write(watching(), tmp_path)
        assert seen == [set()] * 3

    def test_two_writers_at_once(self, tmp_path: Path) -> None:
        meet = threading.Barrier(2)

        def slow(first: int) -> Iterator[Dialogue]:
            for i in range(20):
                if i in (1, 19):
                    meet.wait(timeout=20)
                yield make_dialogue(first + i)

        writers = [threading.Thread(target=write, args=(slow(first), tmp_path)) for first in (0, 100)]
        for w in writers:
            w.start()
        for w in writers:
            w.join()
        ids = [r["id"] for r in lines(of(tmp_path, "sharegpt"))]
        assert ids in ([f"d{i}" for i in range(20)], [f"d{i}" for i in range(100, 120)])
        assert pq.read_table(of(tmp_path, "parquet"))["id"].to_pylist() == ids
        assert files(tmp_path) == FILES

    def test_what_a_killed_writer_left_is_removed(self, tmp_path: Path) -> None:
        script = textwrap.dedent(
            """
            import sys, time
            from pathlib import Path
            from dlgforge_core.export.writer import write_dataset
            def never():
                print("writing", flush=True)
                time.sleep(60)
                yield
            write_dataset(never(), Path(sys.argv[1]))
            """
        )
        killed = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE)
        assert killed.stdout
        killed.stdout.readline()
        (left,) = tmp_path.glob(".writing-*")
        write([make_dialogue()], tmp_path, ["sharegpt"])
        assert left.exists(), "a living writer's folder is not to be touched"
        os.kill(killed.pid, signal.SIGKILL)
        killed.wait()
        killed.stdout.close()
        write([make_dialogue()], tmp_path, ["sharegpt"])
        assert files(tmp_path) == {"data/sharegpt/train.jsonl", "dataset_stats.json", "README.md"}


def test_memory_does_not_grow_with_the_dialogues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sinks, "ROW_GROUP_CHARS", 200_000)

    def peak(n: int) -> int:
        tracemalloc.start()
        turns = (Turn(0, "q" * 1000, "a" * 1000),)
        write((make_dialogue(i, turns) for i in range(n)), tmp_path)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(10)
    assert peak(1000) < 2 * peak(300)
    assert pq.ParquetFile(of(tmp_path, "parquet")).num_row_groups >= 3


def test_the_card_says_which_file_is_which(tmp_path: Path) -> None:
    dialogues = [make_dialogue(0, language="no"), make_dialogue(1, language="ar")]
    summary = write(dialogues, tmp_path)
    assert summary.by_language == {"ar": 1, "no": 1}
    head = yaml.safe_load((tmp_path / "README.md").read_text("utf-8").split("---\n")[1])
    assert head["language"] == ["ar", "no"]
    assert {c["config_name"]: c["data_files"] for c in head["configs"]} == {
        name: [{"split": "train", "path": f"data/{name}/train.jsonl"}] for name in ALL
    }


class TestSampleMarkdown:
    def test_reads_well(self) -> None:
        turns = (Turn(0, "كم مرة أسقي؟", "مرة *واحدة*.", Judgement(7, ("clear",), "# fine")),)
        text = sample_markdown([make_dialogue(turns=turns, language="ar")])
        assert text == (
            "### \u2068rain\u2069 (\u2068ar\u2069)\n\n"
            "**User**\n\n\u2068كم مرة أسقي؟\u2069\n\n"
            "**Assistant**\n\n\u2068مرة \\*واحدة\\*.\u2069\n\n"
            "*Judge: 7/10* · \u2068clear\u2069 · \u2068\\# fine\u2069\n"
        )

    def test_takes_no_more_than_asked(self) -> None:
        endless = (make_dialogue(i, turns=(Turn(0, "x" * 5000, "y"),)) for i in range(10**9))
        assert len(sample_markdown(endless, limit=2)) < 4000
        assert sample_markdown([]) == "No dialogues yet.\n"

    @example("- a\n\n1. b\n\n+ c\nd\n===\n---\n\n    code\n\n\tcode")
    @settings(max_examples=300, deadline=None)
    @given(
        st.text(st.sampled_from("a1 \n\t#*_`~<>[]()!|+-=.:\\&;@/wW\"'\ufffd🙂م\u2028\x0b\ud800"), max_size=40)
        | any_text
    )
    def test_no_text_becomes_markup(self, text: str) -> None:
        tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(escape_markdown(text, 1000))
        assert {t.type for t in tokens} <= {"paragraph_open", "paragraph_close", "inline"}
        inline = [child for t in tokens for child in t.children or []]
        assert {t.type for t in inline} <= {"text", "text_special", "hardbreak"}
        shown = "".join("\n" if t.type == "hardbreak" else t.content for t in inline)
        kept = "".join(shown.split()).replace("\u2068", "").replace("\u2069", "")
        assert [c for c in kept if c.isalnum() or c in "#*_`<>[]|&\\"] == [
            c for c in clean(text) if c.isalnum() or c in "#*_`<>[]|&\\"
        ]

    @pytest.mark.parametrize("text", ["see http://evil.test/x", "www.evil.test", "me@evil.test"])
    def test_no_text_becomes_a_link(self, text: str) -> None:
        escaped = escape_markdown(text, 100)
        assert text not in escaped
        assert text in escaped.replace("\\", "")


def test_the_figures_tell_what_was_called_for_the_dialogues_and_its_cost(tmp_path: Path) -> None:
    known = replace(make_dialogue(0), usage={"kb_responder": RoleUsage(2, 100, 20, 10, 0.5)})
    unknown = replace(make_dialogue(1), usage={"qa_judge": RoleUsage(1, 7, 3, 0, 0.0, 1)})
    write([known, unknown, make_dialogue(2)], tmp_path)
    usage = json.loads((tmp_path / "dataset_stats.json").read_text())["usage"]
    assert usage["kb_responder"] == {
        "calls": 2,
        "prompt_tokens": 100,
        "completion_tokens": 20,
        "cost_usd": 0.5,
    }
    assert usage["qa_judge"]["cost_usd"] is None
    assert usage["total"]["cost_usd"] == 0.5
    assert usage["total"]["calls_of_unknown_price"] == 1
    write([make_dialogue(2)], tmp_path)
    assert "usage" not in json.loads((tmp_path / "dataset_stats.json").read_text())
