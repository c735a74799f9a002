"""The lock files: every version with the hashes of its files, so that pip takes no other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from packaging.version import Version

from scripts.lock import pinned, runs_here

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-dev.lock"])
def test_every_version_has_hashes_and_nothing_else_is_there(name: str) -> None:
    text = (ROOT / name).read_text()
    entries = re.split(r"\n(?=\S)", text.strip())[1:]
    for entry in entries:
        pattern = r"[a-z0-9.-]+==[^\s\\]+( \\\n    --hash=sha256:[0-9a-f]{64})+"
        assert re.fullmatch(pattern, entry), f"{entry.splitlines()[0]}: run `python -m scripts.lock --keep`"
    assert len(pinned(ROOT / name)) == len(entries) > 10


@pytest.mark.parametrize("makefile", ["Makefile", "examples/ci/github-actions.yaml"])
def test_the_lock_files_are_installed_by_their_hashes(makefile: str) -> None:
    text = (ROOT / makefile).read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if re.search(r"-r\s+requirements", line)]
    assert lines
    assert all("--require-hashes" in line for line in lines)


@pytest.mark.parametrize(
    ("filename", "expected"),
    [
        ("pkg-1.2.tar.gz", True),
        ("pkg-1.2-py3-none-any.whl", True),
        ("pkg-1.2-py2.py3-none-any.whl", True),
        ("pkg-1.2-cp311-cp311-manylinux2014_x86_64.manylinux_2_17_x86_64.whl", True),
        ("pkg-1.2-cp313-cp313-manylinux_2_28_aarch64.whl", True),
        ("pkg-1.2-cp312-cp312-macosx_11_0_arm64.whl", True),
        ("pkg-1.2-cp39-abi3-manylinux_2_17_x86_64.whl", True),
        ("pkg-1.2-py3-none-manylinux_2_17_x86_64.whl", True),
        ("pkg-1.3-py3-none-any.whl", False),
        ("pkg-1.2-cp310-cp310-manylinux_2_17_x86_64.whl", False),
        ("pkg-1.2-cp313-cp313t-manylinux_2_17_x86_64.whl", False),
        ("pkg-1.2-cp311-cp311-win_amd64.whl", False),
        ("pkg-1.2-cp311-cp311-musllinux_1_2_x86_64.whl", False),
        ("pkg-1.2-cp315-abi3-manylinux_2_17_x86_64.whl", False),
        ("not a file.txt", False),
    ],
)
def test_files_for_the_systems_and_pythons_that_we_run_on(filename: str, expected: bool) -> None:
    assert runs_here(filename, Version("1.2")) is expected
