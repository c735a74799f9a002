"""Files of ours in a folder that is another user's: what was planted there is not used."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from dlgforge_core.common.owned_files import make_owned_folder, open_owned, read_owned, replace_owned

OTHER = 12345
ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")


def plant_link(at: Path, victim: Path) -> None:
    at.symlink_to(victim)


def plant_second_name(at: Path, victim: Path) -> None:
    os.link(victim, at)


def plant_dangling_link(at: Path, victim: Path) -> None:
    at.symlink_to(victim.parent / "not-there")


def plant_pipe(at: Path, victim: Path) -> None:
    os.mkfifo(at)


def plant_folder(at: Path, victim: Path) -> None:
    at.mkdir()


Plant = Callable[[Path, Path], None]
PLANTS = [plant_link, plant_second_name, plant_dangling_link, plant_pipe, plant_folder]


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    path = tmp_path / "victim"
    path.write_text("mine")
    path.chmod(0o600)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder that belongs to somebody else where we can give it away."""
    path = tmp_path / "folder"
    path.mkdir()
    if os.geteuid() == 0:
        os.chown(path, OTHER, OTHER)
    return path


@pytest.mark.parametrize("plant", PLANTS)
@pytest.mark.parametrize("flags", [os.O_RDWR, os.O_WRONLY | os.O_APPEND])
def test_what_was_planted_is_neither_opened_nor_given_away(
    folder: Path, victim: Path, plant: Plant, flags: int
) -> None:
    at = folder / "postgres.log"
    plant(at, victim)
    before = victim.stat()
    with pytest.raises(OSError, match=r"postgres\.log"):
        open_owned(str(at), flags)
    after = victim.stat()
    assert (after.st_uid, after.st_mode, victim.read_text()) == (before.st_uid, before.st_mode, "mine")
    assert not (victim.parent / "not-there").exists()


@pytest.mark.parametrize("plant", PLANTS)
def test_what_was_planted_is_not_read(folder: Path, victim: Path, plant: Plant) -> None:
    at = folder / "postgres.socket"
    plant(at, victim)
    with pytest.raises(OSError, match=r"postgres\.socket"):
        read_owned(str(at), 100)


@pytest.mark.parametrize("plant", [plant for plant in PLANTS if plant is not plant_folder])
def test_what_was_planted_is_replaced_and_not_written_through(
    folder: Path, victim: Path, plant: Plant
) -> None:
    at = folder / "pg_hba.conf"
    plant(at, victim)
    replace_owned(str(at), "rules")
    assert at.read_text() == "rules"
    assert victim.read_text() == "mine"
    assert os.listdir(folder) == ["pg_hba.conf"]


@ROOT_ONLY
def test_created_files_are_the_folders_owners_and_others_files_are_refused(folder: Path) -> None:
    os.close(open_owned(str(folder / "lock"), os.O_RDWR))
    replace_owned(str(folder / "state"), "text", 0o644)
    for name, mode in (("lock", 0o600), ("state", 0o644)):
        found = (folder / name).stat()
        assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (OTHER, mode)

    (folder / "third").write_text("")
    os.chown(folder / "third", OTHER + 1, OTHER)
    with pytest.raises(PermissionError, match=f"belongs to uid {OTHER + 1}"):
        open_owned(str(folder / "third"), os.O_RDWR)
    # A file that is there stays as it is: root's own is not given away.
    (folder / "ours").write_text("")
    os.close(open_owned(str(folder / "ours"), os.O_RDWR))
    assert (folder / "ours").stat().st_uid == 0


@ROOT_ONLY
def test_a_folder_that_another_user_linked_is_not_entered(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "system").mkdir()
    (folder / "postgres").symlink_to(tmp_path / "system")
    os.chown(folder / "postgres", OTHER, OTHER, follow_symlinks=False)
    with pytest.raises(PermissionError, match=f"a link that uid {OTHER} made"):
        replace_owned(str(folder / "postgres" / "pg_hba.conf"), "rules")
    assert os.listdir(tmp_path / "system") == []


def test_a_link_of_ours_to_a_folder_is_followed(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "postgres").symlink_to(tmp_path / "disk")
    replace_owned(str(tmp_path / "postgres" / "state"), "text")
    assert read_owned(str(tmp_path / "disk" / "state"), 100) == b"text"


@ROOT_ONLY
def test_a_folder_is_made_for_one_user_and_never_taken_over(folder: Path, victim: Path) -> None:
    make_owned_folder(str(folder / "new"), OTHER, OTHER)
    found = (folder / "new").stat()
    assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (OTHER, 0o700)
    (folder / "planted").symlink_to(victim.parent)
    with pytest.raises(FileExistsError):
        make_owned_folder(str(folder / "planted"), OTHER, OTHER)
    assert victim.parent.stat().st_uid == 0
