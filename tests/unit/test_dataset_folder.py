"""The folder of a dataset: who may read what is in it, and its lock."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.dialogues import make_dialogue, write


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def modes(folder: Path) -> set[int]:
    """Of the folder and all that is in it: what others than the owner may do."""
    return {stat.S_IMODE(path.stat().st_mode) & 0o077 for path in (folder, *folder.rglob("*"))}


def test_a_dataset_is_for_its_owner_alone(tmp_path: Path) -> None:
    place = tmp_path / "out" / "dataset"
    for _ in range(2):
        write(place, [make_dialogue(n, seed_id=f"s{n}") for n in range(5)])
        assert modes(place) == {0}


@pytest.mark.parametrize("mode", [0o755, 0o750, 0o711])
def test_a_folder_that_was_opened_to_others_stays_open(tmp_path: Path, mode: int) -> None:
    place = tmp_path / "dataset"
    place.mkdir()
    place.chmod(mode)
    for _ in range(2):
        write(place, [make_dialogue()])
    assert stat.S_IMODE(place.stat().st_mode) == mode
    assert stat.S_IMODE((place / "data").stat().st_mode) == mode
    (file,) = (place / "data" / "sharegpt").glob("*.jsonl")
    assert stat.S_IMODE(file.stat().st_mode) == mode & 0o644
    assert not stat.S_IMODE((place / ".lock").stat().st_mode) & 0o077
