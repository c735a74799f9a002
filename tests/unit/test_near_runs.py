"""Workers of a machine share the runs of their indexes as files, which go with the last of them."""

from __future__ import annotations

import gc
import logging
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from dlgforge_core.common.questions import question_key
from dlgforge_core.store import near_index, near_runs
from dlgforge_core.store.near_duplicates import marks_of
from dlgforge_core.store.near_index import NearIndex, Searched, entries_of
from dlgforge_core.store.near_runs import SharedRuns

BLOCK = 16


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(near_index, "BLOCK", BLOCK)
    monkeypatch.setattr(near_runs, "SHARED", 2 * BLOCK)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path / f"dlgforge-questions-{os.getuid()}"


def questions(n: int, seed: int = 1) -> list[str]:
    draw = random.Random(seed)
    return [
        " ".join(draw.choices(["ash", "elm", "fir", "oak", "pine", "teak", "yew"], k=12)) for _ in range(n)
    ]


def fill(index: NearIndex, texts: list[str], group: int, tag: int = 7) -> None:
    for seq, begin in enumerate(range(0, len(texts), group), 1):
        part = texts[begin : begin + group]
        entries = entries_of([question_key(text) for text in part], marks_of(part))
        index.add(entries.tobytes(), seq, tag)


def mapped(array: np.ndarray | None) -> bool:
    while isinstance(array, np.ndarray):
        if isinstance(array, np.memmap):
            return True
        array = array.base
    return False


def files(home: Path) -> list[str]:
    return sorted("-".join(path.parent.name.split("-")[:2]) for path in home.glob("*/*-*-*-*-*/bands.npy"))


def test_runs_are_made_once_and_mapped_by_all(home: Path) -> None:
    texts = questions(7 * BLOCK)
    one, other = SharedRuns("f 0.8"), SharedRuns("f 0.8")
    first, second, private = NearIndex(0.8, one), NearIndex(0.8, other), NearIndex(0.8)
    for index in (first, second, private):
        fill(index, texts, group=5)
    assert [run.size // BLOCK for run in second.runs] == [4, 2, 1]
    assert [mapped(run.bands) for run in second.runs] == [True, True, False]
    assert files(home) == ["0-64", "64-32"], "parts of larger ones are gone"
    asked = Searched(marks_of(texts[::3]), 0.8)
    assert first.find(asked) == second.find(asked) == private.find(asked)


def test_while_one_merges_runs_the_others_go_on_with_the_parts(home: Path) -> None:
    texts = questions(5 * BLOCK)
    one, other = SharedRuns("f 0.8"), SharedRuns("f 0.8")
    index = NearIndex(0.8, other)
    asked = Searched(marks_of(texts[:20]), 0.8)
    with one.alone("merging"):
        fill(index, texts[: 2 * BLOCK], group=8)
        assert [run.size // BLOCK for run in index.runs] == [1, 1]
        before = index.find(asked)
    assert len(before) == 20
    fill(index, texts[2 * BLOCK :], group=8)
    assert [run.size // BLOCK for run in index.runs] == [4, 1]


def test_an_index_begins_with_the_runs_that_are_there(home: Path) -> None:
    texts = questions(6 * BLOCK)
    one = SharedRuns("f 0.8")
    fill(NearIndex(0.8, one), texts, group=10)
    found = SharedRuns("f 0.8").from_beginning()
    assert [(run.start, run.size) for run in found] == [(0, 64), (64, 32)]
    assert (found[1].end.seq, found[1].end.tag, found[1].end.included) == (10, 7, 6)
    again = NearIndex(0.8, None, [run.open() for run in found])
    assert again.size == 96
    assert SharedRuns("another 0.8").from_beginning() == []


def test_runs_of_another_log_of_the_same_name_are_not_taken(home: Path) -> None:
    shared = SharedRuns("f 0.8")
    fill(NearIndex(0.8, shared), questions(2 * BLOCK), group=8)
    other = NearIndex(0.8, shared)
    texts = questions(2 * BLOCK, seed=2)
    fill(other, texts, group=8, tag=8)
    assert len(other.find(Searched(marks_of(texts), 0.8))) == len(texts)
    assert len(files(home)) == 2


def test_the_last_to_leave_removes_the_folder(home: Path) -> None:
    one, other = SharedRuns("f 0.8"), SharedRuns("f 0.8")
    fill(NearIndex(0.8, one), questions(2 * BLOCK), group=8)
    del one
    gc.collect()
    assert files(home) == ["0-32"]
    del other
    gc.collect()
    assert list(home.iterdir()) == []


def test_what_a_killed_worker_left_is_removed_by_the_next(home: Path) -> None:
    code = (
        "import os, signal, sys, tempfile; tempfile.tempdir = sys.argv[1]\n"
        "from dlgforge_core.store.near_runs import SharedRuns\n"
        "kept = SharedRuns('killed'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, str(home.parent)], check=False)
    assert len(list(home.iterdir())) == 1
    here = SharedRuns("f 0.8")
    assert len(list(home.iterdir())) == 1
    assert here.from_beginning() == []


def test_one_at_a_time_reads_a_log_from_its_beginning() -> None:
    one, other = SharedRuns("f 0.8"), SharedRuns("f 0.8")
    with one.alone("reading") as first, other.alone("reading") as second:
        assert (first, second) == (True, False)
    with other.alone("reading") as second:
        assert second


def test_without_a_folder_an_index_is_in_the_workers_own_memory(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    home.mkdir(mode=0o777)
    home.chmod(0o777)  # somebody else could write there
    with caplog.at_level(logging.WARNING):
        shared = SharedRuns("f 0.8")
    assert "own memory" in caplog.text
    index = NearIndex(0.8, shared)
    texts = questions(4 * BLOCK)
    fill(index, texts, group=8)
    assert not mapped(index.runs[0].bands)
    with shared.alone("reading") as alone:
        assert alone
    assert shared.from_beginning() == []


def test_a_full_disk_costs_no_more_than_the_sharing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = SharedRuns("f 0.8")

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    index = NearIndex(0.8, shared)
    texts = questions(4 * BLOCK)
    fill(index, texts, group=8)
    assert len(index.find(Searched(marks_of(texts), 0.8))) == len(texts)
    assert files(home) == []


def test_a_run_that_was_just_merged_into_a_larger_one_is_merged_again(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shared = SharedRuns("f 0.8")

    def gone(run: near_runs.SharedRun) -> near_index.Run:
        raise FileNotFoundError(run.path)

    index = NearIndex(0.8, shared)
    with monkeypatch.context() as patched:
        patched.setattr(near_runs.SharedRun, "open", gone)
        fill(index, questions(2 * BLOCK), group=8)
    assert [run.size // BLOCK for run in index.runs] == [2]
    fill(NearIndex(0.8, shared), questions(4 * BLOCK), group=8)
    assert files(home) == ["0-64"], "files are shared as before"
    assert not caplog.records


def test_a_folder_that_was_removed_costs_no_more_than_the_sharing(home: Path) -> None:
    shared = SharedRuns("f 0.8")
    shutil.rmtree(home)
    with shared.alone("reading") as alone:
        assert alone
    assert shared.from_beginning() == []
    fill(NearIndex(0.8, shared), questions(2 * BLOCK), group=8)


def test_a_fork_leaves_the_folder_to_its_parent(home: Path) -> None:
    code = (
        "import os, sys, tempfile; tempfile.tempdir = sys.argv[1]\n"
        "from dlgforge_core.store.near_runs import SharedRuns\n"
        "kept = SharedRuns('f')\n"
        "if os.fork() == 0: sys.exit()\n"
        "os.wait(); print(len(os.listdir(kept._folder)))"
    )
    found = subprocess.run([sys.executable, "-c", code, str(home.parent)], capture_output=True, text=True)
    assert found.stdout == "1\n"
