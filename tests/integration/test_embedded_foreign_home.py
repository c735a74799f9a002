"""Root uses the embedded Postgres in a home that another user owns, who has planted links there."""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from dlgforge_core.database.embedded import embedded_dsn, find_install, release_embedded
from dlgforge_core.database.embedded_account import Account, SupervisorError, server_account
from dlgforge_core.errors import StoreError
from tests.support.postgres import wait_until_stopped

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can use a home of another user")

OWNER = 1
"""A user that every system has an entry for, and that is none of those which the server may run as."""
PLANT = """
import os, sys
home, victim, name = sys.argv[1:]
os.umask(0o022)
os.makedirs(os.path.dirname(os.path.join(home, name)), exist_ok=True)
os.symlink(victim, os.path.join(home, name))
"""


@pytest.fixture
def home() -> Iterator[Path]:
    """Yield a home that its owner can enter, which pytest's temporary folders are not."""
    pwd.getpwuid(OWNER)
    parent = Path(tempfile.mkdtemp(prefix="dlgforge-test-"))
    parent.chmod(0o755)
    home = parent / "home"
    home.mkdir()
    os.chown(home, OWNER, OWNER)
    try:
        server_account(str(home), str(home / "postgres"), str(find_install()))
    except SupervisorError as error:
        pytest.skip(f"the tests are installed where no other user can read them: {error}")
    yield home
    release_embedded(home)
    if not (home / "postgres").is_symlink():
        wait_until_stopped(home)
    shutil.rmtree(parent, ignore_errors=True)


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """Return a file that root alone may read and write."""
    path = tmp_path / "shadow"
    path.write_text("root:secret\n")
    path.chmod(0o600)
    return path


def plant(home: Path, victim: Path, name: str) -> None:
    """Make a link as the home's owner."""
    # The capability lets them read an interpreter that may lie in root's own folder.
    subprocess.run(
        [sys.executable, "-I", "-S", "-c", PLANT, home, victim, name],
        check=True,
        preexec_fn=Account(OWNER, OWNER, 2).become,
    )


def untouched(victim: Path) -> bool:
    found = victim.stat()
    return (found.st_uid, stat.S_IMODE(found.st_mode), victim.read_text()) == (0, 0o600, "root:secret\n")


@pytest.mark.parametrize(
    "name", ["postgres.log", "postgres.users.lock", "postgres.start.lock", "postgres.keeper.lock", "postgres"]
)
def test_a_planted_link_is_refused(home: Path, victim: Path, name: str) -> None:
    plant(home, victim, name)
    with pytest.raises(StoreError, match=f"{name}.*(is a link|second name)"):
        embedded_dsn(home)
    assert untouched(victim)


@pytest.mark.parametrize("name", ["postgres.socket", "postgres.socket.new"])
def test_a_link_in_the_place_of_what_is_written_anew_is_replaced(home: Path, victim: Path, name: str) -> None:
    plant(home, victim, name)
    with psycopg.connect(embedded_dsn(home)) as connection:
        connection.execute("SELECT 1")
    assert untouched(victim)


def test_access_rules_are_not_written_through_a_link(home: Path, victim: Path) -> None:
    embedded_dsn(home)
    release_embedded(home)
    wait_until_stopped(home)
    for name in ("pg_hba.conf", "pg_ident.conf"):
        (home / "postgres" / name).unlink()
        plant(home, victim, f"postgres/{name}")
    with psycopg.connect(embedded_dsn(home)) as connection:
        connection.execute("SELECT 1")
    assert untouched(victim)
    assert (home / "postgres" / "pg_hba.conf").stat().st_uid == OWNER


def test_a_server_that_the_owner_can_steer_gets_no_capability(home: Path, tmp_path: Path) -> None:
    """The home's owner is the database's superuser: it would read root's files for them."""
    home.chmod(0)  # as its owner may do at any time: then the account cannot enter it either
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(SupervisorError, match="cannot enter"):
        server_account(str(closed / "home"), str(home), str(find_install()))
