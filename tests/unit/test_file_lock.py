"""Locks on files: waited for with an end, with the name of the holder, and not to be held by others."""

from __future__ import annotations

import fcntl
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from dlgforge_core.common.file_lock import holders, wait_for_lock
from dlgforge_core.errors import DlgforgeError
from dlgforge_core.export import folder as export_folder
from dlgforge_core.export.folder import LOCK_NAME, locked, writing_folder

HOLDER = """
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.flock(fd, getattr(fcntl, sys.argv[2]))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("how", ["LOCK_EX", "LOCK_SH"])
def test_a_lock_that_somebody_holds_is_not_waited_for_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(export_folder, "LOCK_TIMEOUT_S", 0.1)
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / LOCK_NAME), how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(DlgforgeError, match=r"written by somebody else.*\.lock.*") as caught,
            locked(tmp_path),
        ):
            pass
        if sys.platform == "linux":
            assert f"process {holder.pid} (" in str(caught.value)
        holder.stdin.close()
    with locked(tmp_path):
        pass


def test_the_lock_is_got_as_soon_as_it_is_free(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    first, second = (os.open(path, os.O_RDWR | os.O_CREAT) for _ in range(2))
    assert wait_for_lock(first, 1.0)
    assert not wait_for_lock(second, 0.05)
    if sys.platform == "linux":
        assert str(os.getpid()) in holders(second)
    fcntl.flock(first, fcntl.LOCK_UN)
    assert wait_for_lock(second, 1.0)
    os.close(first)
    os.close(second)


def test_nobody_else_can_open_a_lock_of_ours_and_no_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / LOCK_NAME).write_text("")
    (tmp_path / LOCK_NAME).chmod(0o644)  # as earlier versions made it
    with writing_folder(tmp_path) as writing:
        assert stat.S_IMODE((tmp_path / LOCK_NAME).stat().st_mode) == 0o600
        assert stat.S_IMODE(writing.stat().st_mode) == 0o700
    (tmp_path / LOCK_NAME).unlink()
    (tmp_path / LOCK_NAME).symlink_to(tmp_path / "victim")
    with pytest.raises(PermissionError, match="is a link"), locked(tmp_path):
        pass
    assert not (tmp_path / "victim").exists()
