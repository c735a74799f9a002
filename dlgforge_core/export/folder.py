"""A folder that is written whole or not at all, by one writer at a time; a dead one leaves nothing behind.

A folder that is made here is for its owner alone. Whoever wants others to read a dataset makes the folder, or
changes its mode: the files in it are open to those whom it is open to, and no further than the umask allows.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from dlgforge_core.common.file_lock import holders, wait_for_lock
from dlgforge_core.common.owned_files import open_owned
from dlgforge_core.errors import DlgforgeError
from dlgforge_core.export.filters import EmptyDatasetError

LOCK_NAME = ".lock"
LOCK_TIMEOUT_S = 60.0
"""Files are moved under the lock, and made before it is taken."""
WRITING_PREFIX = ".writing-"
SHARDS = "shards"
"""In a temporary folder, those that are written; names with a dot are not whole."""
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def make_private(folder: Path) -> None:
    """Make a folder for its owner alone; leave one that is there as it is."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)


@contextlib.contextmanager
def writing_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder in `folder`, so that moving out is a rename; remove what dead writers left.

    But for the shards that they had finished: those are in the new one. Several that are there when writing
    fails stay for the next.
    """
    with locked(folder):
        lefts = list(folder.glob(f"{WRITING_PREFIX}*"))
        writing = Path(tempfile.mkdtemp(prefix=WRITING_PREFIX, dir=folder))
        in_use = os.open(writing, os.O_RDONLY)
        fcntl.flock(in_use, fcntl.LOCK_EX)
        (writing / SHARDS).mkdir()
        for left in lefts:
            _take_over_unless_in_use(left, writing)
    try:
        yield writing
    except EmptyDatasetError:
        shutil.rmtree(writing, ignore_errors=True)
        raise
    except BaseException:
        _keep_shards(writing)
        raise
    else:
        shutil.rmtree(writing, ignore_errors=True)
    finally:
        os.close(in_use)


def _keep_shards(writing: Path) -> None:
    """Remove all but the finished shards, where there are several."""
    several = len(list((writing / SHARDS).glob("[!.]*"))) > 1
    for path in list(writing.iterdir()):
        if path.is_file():
            path.unlink()
        elif path.name != SHARDS or not several:
            shutil.rmtree(path, ignore_errors=True)
    if not several:
        shutil.rmtree(writing, ignore_errors=True)


def move_into_place(writing: Path, folder: Path, names: Sequence[str], ours: Sequence[str]) -> None:
    """Rename the files `names` (with "/" between folders) from `writing` into `folder`, each synced to disk.

    Other files that match a pattern of `ours` are what an earlier writing left: they are removed. A folder
    that holds nothing but ours is exchanged whole, so that its readers meet either the old files or the new
    ones; where that cannot be, file by file.
    """
    _open_as(folder, writing)
    for name in names:
        fsync(writing / name)
    touched = {folder}
    with locked(folder):
        whole = {
            top
            for top in {name.split("/")[0] for name in names if "/" in name}
            if _is_ours(folder, top, ours) and _exchange(writing, folder, top, names)
        }
        for name in names:
            target = folder / name
            if name.split("/")[0] not in whole:
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(writing / name, target)
            touched |= {parent for parent in target.parents if parent.is_relative_to(folder)}
        keep = {folder / name for name in names}
        for pattern in ours:
            for left in folder.glob(pattern):
                if left not in keep:
                    left.unlink()
                    with contextlib.suppress(OSError):  # there is more in it
                        left.parent.rmdir()
        for target in sorted(touched):
            fsync(target)


def _open_as(folder: Path, writing: Path) -> None:
    """Take from what is in `writing` the permissions that nobody has on `folder`."""
    allowed = stat.S_IMODE(folder.stat().st_mode)
    for path in writing.rglob("*"):
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & ~allowed & 0o777:
            path.chmod(mode & (allowed | 0o700))


def _is_ours(folder: Path, top: str, ours: Sequence[str]) -> bool:
    """Whether all files in the folder `top` match one of the patterns."""
    mine = {path for pattern in ours for path in folder.glob(pattern)}
    return all(path in mine or path.is_dir() for path in (folder / top).rglob("*"))


def _exchange(writing: Path, folder: Path, top: str, names: Sequence[str]) -> bool:
    """Put the new folder `top` in the old one's place in one step; false where the system cannot."""
    new, target = writing / top, folder / top
    wanted = {writing / name for name in names}
    for path in [path for path in new.rglob("*") if path.is_file() and path not in wanted]:
        path.unlink()
    for path in sorted((path for path in new.rglob("*") if path.is_dir()), reverse=True):
        with contextlib.suppress(OSError):  # it holds something
            path.rmdir()
    if not target.exists():
        os.rename(new, target)
        return True
    return _rename_exchange(new, target)


def _rename_exchange(one: Path, other: Path) -> bool:
    """Exchange two folders atomically (Linux's renameat2); false where there is no such call."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    done: int = renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
    return done == 0


def _take_over_unless_in_use(left: Path, writing: Path) -> None:
    with contextlib.suppress(OSError):  # in use, or gone by now
        descriptor = os.open(left, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_uid == os.geteuid():
                for shard in (left / SHARDS).glob("[!.]*"):
                    with contextlib.suppress(OSError):  # there is one of its name
                        os.rename(shard, writing / SHARDS / shard.name)
            shutil.rmtree(left, ignore_errors=True)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One writer at a time; the lock goes with its holder, however that ends."""
    path = str(folder / LOCK_NAME)
    descriptor = open_owned(path, os.O_RDWR)
    try:
        with contextlib.suppress(PermissionError):  # another user's; one of ours nobody else is to hold
            os.fchmod(descriptor, 0o600)
        if not wait_for_lock(descriptor, LOCK_TIMEOUT_S):
            raise DlgforgeError(
                f"{folder} is being written by somebody else, who has held {path} for {LOCK_TIMEOUT_S:g} s: "
                f"{holders(descriptor)}; end that process, or name another output_dir"
            )
        yield
    finally:
        os.close(descriptor)


def fsync(path: Path) -> None:
    """Have a file or folder on disk before going on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
