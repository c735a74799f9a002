"""The record of a Ray cluster in the temporary folder: who must have written it; a folder of our own."""

from __future__ import annotations

import logging
import os
import socket
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dlgforge_core.errors import RayError
from dlgforge_core.runtime.cluster.private_folder import MODE, TOKEN, TOKEN_PATH, PrivateFolder
from dlgforge_core.runtime.cluster.record import foreign_listener, recorded_address
from tests.support.ports import closed_port

OTHER = 12345
ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    path = tmp_path / "ray" / "ray_current_cluster"
    path.parent.mkdir()
    path.parent.chmod(0o777)  # as Ray makes it
    return path


def test_a_record_of_ours_is_believed(record: Path) -> None:
    assert recorded_address() == ""
    record.write_text("127.0.0.1:6379\n")
    assert recorded_address() == "127.0.0.1:6379"


def give_away(record: Path) -> None:
    os.chown(record, OTHER, OTHER)


def open_to_all(record: Path) -> None:
    record.chmod(0o666)


def open_to_the_group(record: Path) -> None:
    record.chmod(0o664)


def make_a_link(record: Path) -> None:
    record.rename(record.parent / "elsewhere")
    record.symlink_to(record.parent / "elsewhere")


def give_a_second_name(record: Path) -> None:
    os.link(record, record.parent / "second")


def make_a_pipe(record: Path) -> None:
    record.unlink()
    os.mkfifo(record)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        pytest.param(give_away, f"uid {OTHER} wrote it", marks=ROOT_ONLY),
        (open_to_all, "others may write to it"),
        (open_to_the_group, "others may write to it"),
        (make_a_link, "symbolic links"),
        (give_a_second_name, "a second name"),
        (make_a_pipe, "no plain file"),
    ],
)
def test_a_record_that_somebody_else_may_have_written_is_not_believed(
    record: Path, spoil: Callable[[Path], None], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    record.write_text("127.0.0.1:6379\n")
    record.chmod(0o644)
    spoil(record)
    with caplog.at_level(logging.WARNING):
        assert recorded_address() == ""
    assert reason in caplog.text


@ROOT_ONLY
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_port_that_another_user_has_taken_is_not_ours(host: str) -> None:
    os.seteuid(OTHER)
    try:
        server = socket.create_server((host, 0))
    finally:
        os.seteuid(0)
    with server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        assert foreign_listener(address) == f"what listens there is run by uid {OTHER}"


def test_our_own_listener_a_closed_port_and_another_machine_are_not_foreign() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert foreign_listener(f"127.0.0.1:{server.getsockname()[1]}") == ""
    with closed_port() as port:
        assert foreign_listener(f"127.0.0.1:{port}") == ""
    assert foreign_listener("192.0.2.1:6379") == ""


# The folder of a cluster of our own


@pytest.fixture
def token_env(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (MODE, TOKEN, TOKEN_PATH, "RAY_TMPDIR"):
        monkeypatch.delenv(name, raising=False)


def test_each_cluster_has_a_folder_and_a_token_of_its_own(token_env: None) -> None:
    first = PrivateFolder(lambda _: None)
    second = PrivateFolder(lambda _: None)
    try:
        tokens = set()
        for folder in (first, second):
            assert stat.S_IMODE(os.stat(folder.path).st_mode) == 0o700
            token = Path(folder.path) / "token"
            assert stat.S_IMODE(token.stat().st_mode) == 0o600
            tokens.add(token.read_text())
        assert len(tokens) == 2
        assert os.environ[MODE] == "token"
        assert os.environ[TOKEN_PATH] == f"{second.path}/token"
    finally:
        second.remove()
        first.remove()
    assert MODE not in os.environ
    assert TOKEN_PATH not in os.environ
    assert not os.path.exists(first.path)


@pytest.fixture
def short_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Yield a folder for Ray's files, with a path as short as its sockets need."""
    with tempfile.TemporaryDirectory(prefix="d", dir="/tmp") as folder:
        monkeypatch.setenv("RAY_TMPDIR", folder)
        yield Path(folder)


def test_folders_that_no_process_uses_any_more_are_deleted_by_the_next_session(
    token_env: None, short_folder: Path
) -> None:
    used, killed, failed, old_failed = (PrivateFolder(lambda _: None) for _ in range(4))
    failed.release()
    old_failed.release()
    os.close(killed.in_use)  # as the kernel does when its process and its reaper are killed
    elsewhere = short_folder / "elsewhere"
    elsewhere.mkdir()
    link = short_folder / "dlgforge-ray-planted0"
    link.symlink_to(elsewhere)
    for folder, hours in [(used, 48), (killed, 1), (failed, 1), (old_failed, 48)]:
        then = time.time() - 3600 * hours
        os.utime(folder.path, (then, then))
    PrivateFolder(lambda _: None).remove()
    assert set(short_folder.iterdir()) == {Path(used.path), Path(failed.path), elsewhere, link}
    used.remove()


def test_a_temporary_folder_with_a_long_path_is_passed_over(
    token_env: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 80)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    folder = PrivateFolder(lambda _: None)
    assert folder.path.startswith("/tmp/dlgforge-ray-")
    folder.remove()
    monkeypatch.setenv("RAY_TMPDIR", str(long))  # what was asked for in so many words is not replaced
    with pytest.raises(RayError, match=r"is too long a path for Ray's sockets, which leave \d+ bytes for it"):
        PrivateFolder(lambda _: None)
