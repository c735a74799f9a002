"""Shards: what is read of them, the same bytes from any number of processes, and after any kill."""

from __future__ import annotations

import os
import pickle
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from dlgforge_core.common import processes
from dlgforge_core.config import DatasetFilesConfig
from dlgforge_core.dialogue import Dialogue
from dlgforge_core.export import shards, verify, writer
from dlgforge_core.export.format_context import FormatContext
from dlgforge_core.export.sinks import open_sinks
from dlgforge_core.export.token_counts import TokenCounter
from dlgforge_core.export.verify import DatasetError, verify_dataset
from dlgforge_core.export.writer import write_dataset
from tests.support.datasets import load_dataset
from tests.support.dialogues import ALL, THREE, file_name, grounded, header, lines, stats, write

N = 40
SOME = [grounded(i) for i in range(N)]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but the lock, by its path."""
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if name != ".lock"}


def test_a_dataset_in_shards_holds_and_loads_what_one_without_does(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    summary = write(whole, SOME, splits=THREE)
    assert write(cut, SOME, splits=THREE, max_shard_dialogues=7).by_split == summary.by_split
    assert summary.by_split["train"] > 28, "there are five shards of it"
    for name in ALL:
        suffix = "parquet" if name == "parquet" else "jsonl"
        files = sorted((cut / "data" / name).glob(f"train*.{suffix}"))
        assert [path.stem for path in files] == [f"train-{n:05d}-of-00005" for n in range(5)]
        if name == "parquet":
            rows = [row for path in files for row in pq.read_table(path).to_pylist()]
            assert rows == pq.read_table(whole / file_name(name, "train")).to_pylist()
        else:
            rows = [row for path in files for row in lines(path)]
            assert rows == lines(whole / file_name(name, "train"))
        loaded = load_dataset(cut, name, tmp_path / "cache")
        assert {split: data.num_rows for split, data in loaded.items()} == summary.by_split
    assert (cut / "data/sharegpt/test.jsonl").exists(), "no more than a shard keeps its name"
    assert header(cut)["configs"][0]["data_files"][0] == {
        "split": "train",
        "path": "data/sharegpt/train-*.jsonl",
    }
    assert verify_dataset(cut) == verify_dataset(whole) == dict.fromkeys(ALL, N)
    assert {**stats(cut), "formats": None} == {**stats(whole), "formats": None}
    (cut / "data/sharegpt/train-00003-of-00005.jsonl").unlink()
    with pytest.raises(DatasetError):
        verify_dataset(cut)


def test_shards_of_an_earlier_and_larger_dataset_go(tmp_path: Path) -> None:
    write(tmp_path, SOME, max_shard_dialogues=7)
    write(tmp_path, SOME[:20], max_shard_dialogues=7)
    write(tmp_path / "other", SOME[:20], max_shard_dialogues=7)
    other = contents(tmp_path / "other")
    assert {name: data for name, data in contents(tmp_path).items() if not name.startswith("other/")} == other


def test_the_same_bytes_from_two_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "one", SOME, splits=THREE, max_shard_dialogues=7)
    monkeypatch.setattr(writer, "_WORTH_A_PROCESS", 1)
    monkeypatch.setattr(processes, "available_cpus", lambda: 2)
    monkeypatch.setattr(shards.ShardWriter, "__call__", None)  # this process has others do it
    write(tmp_path / "two", SOME, splits=THREE, max_shard_dialogues=7)
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


def test_files_are_read_back_by_two_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, SOME, splits=THREE, max_shard_dialogues=7)
    monkeypatch.setattr(verify, "_WORTH_A_PROCESS", 1)
    monkeypatch.setattr(processes, "available_cpus", lambda: 2)
    monkeypatch.setattr(verify, "_seeds", None)  # this process has others do it
    assert verify_dataset(tmp_path) == dict.fromkeys(ALL, N)
    broken = tmp_path / "data/sharegpt/train-00002-of-00005.jsonl"
    with broken.open("a") as file:
        file.write("{}\n")
    with pytest.raises(DatasetError, match=rf"{re.escape(str(broken))}:8: "):
        verify_dataset(tmp_path)


def test_a_tokenizer_is_read_once_in_each_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def counter(tokenizer: str) -> TokenCounter:
        read.append(tokenizer)
        return TokenCounter(len, "characters")

    monkeypatch.setattr(shards, "token_counter", counter)
    write(tmp_path, SOME, max_shard_dialogues=7)
    assert len(read) == 1
    made = shards.ShardWriter(DatasetFilesConfig(), FormatContext())
    assert made.tokens.count("four") == 4
    first, second = (pickle.loads(pickle.dumps(made)) for _ in range(2))  # as they come for two shards
    assert first is second
    assert (first.saving, first.context) == (made.saving, made.context)
    assert pickle.loads(pickle.dumps(shards.ShardWriter(made.saving, made.context))) is not first


_SCRIPT = textwrap.dedent(
    """
    import sys, time
    from pathlib import Path
    from tests.support.dialogues import ALL, grounded
    from dlgforge_core.config import DatasetFilesConfig
    from dlgforge_core.export.writer import write_dataset
    def made():
        for i in range(40):
            if i == int(sys.argv[2]):
                print("waiting", flush=True)
                time.sleep(60)
            yield grounded(i)
    write_dataset(made(), Path(sys.argv[1]), saving=DatasetFilesConfig(formats=ALL, max_shard_dialogues=7))
    """
)


@pytest.fixture(name="made_anew")
def _made_anew(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    made: list[str] = []

    def spy(stack: ExitStack, folder: Path, *rest: Any) -> Any:
        made.append(folder.name)
        return open_sinks(stack, folder, *rest)

    monkeypatch.setattr(shards, "open_sinks", spy)
    return made


def test_killed_twice_it_is_what_it_would_have_been(tmp_path: Path, made_anew: list[str]) -> None:
    saving = DatasetFilesConfig(formats=ALL, max_shard_dialogues=7)
    write_dataset(iter(SOME), tmp_path / "whole", saving=saving)
    assert len(made_anew) == 6
    del made_anew[:]
    folder = tmp_path / "killed"
    for at in (16, 30):
        command = [sys.executable, "-c", _SCRIPT, str(folder), str(at)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as killed:
            assert killed.stdout
            killed.stdout.readline()
            os.kill(killed.pid, signal.SIGKILL)
        assert len(list(folder.glob(".writing-*/shards/*"))) == at // 7
        assert not (folder / "data").exists()
    write_dataset((grounded(i) for i in range(N)), folder, saving=saving)
    assert len(made_anew) == 6 - 30 // 7, "finished shards are not written again"
    assert contents(folder) == contents(tmp_path / "whole")


@pytest.mark.parametrize("spoiled", ["sharegpt.jsonl", "done"])
def test_a_shard_that_is_not_as_it_was_is_written_again(
    tmp_path: Path, made_anew: list[str], spoiled: str
) -> None:
    def failing() -> Iterator[Dialogue]:
        yield from SOME[:30]
        raise KeyboardInterrupt

    saving = DatasetFilesConfig(formats=ALL, max_shard_dialogues=7)
    with pytest.raises(KeyboardInterrupt):
        write_dataset(failing(), tmp_path / "out", saving=saving)
    left = sorted((tmp_path / "out").glob(".writing-*/shards/*"))
    assert len(left) == 4, "those that were finished wait for the next"
    if spoiled == "done":
        (left[0] / spoiled).write_bytes(pickle.dumps(time.sleep))
    else:
        (left[0] / spoiled).write_bytes((left[0] / spoiled).read_bytes().replace(b"Why", b"How"))
    del made_anew[:]
    write_dataset(iter(SOME), tmp_path / "out", saving=saving)
    assert len(made_anew) == 3
    write_dataset(iter(SOME), tmp_path / "whole", saving=saving)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_what_waits_on_disk_is_scrubbed(tmp_path: Path) -> None:
    secret = "sk-0123456789abcdef"
    spooled: list[bytes] = []

    def looked_at() -> Iterator[Dialogue]:
        for n in range(N):
            yield grounded(n, topic=f"the topic {secret}")
            spooled.extend(path.read_bytes() for path in tmp_path.glob(".writing-*/spool"))

    saving = DatasetFilesConfig(formats=ALL, max_shard_dialogues=7)
    write_dataset(looked_at(), tmp_path, secrets=[secret], saving=saving)
    assert any(spooled)
    assert not any(secret.encode() in data for data in spooled)
