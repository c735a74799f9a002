"""Files of ours in a folder that may be another user's: opened without following what was planted there.

Root may run dlgforge in a folder that somebody else owns, and users may share one. What lies at a name of
ours there may be a link to a file that only we may write, or a pipe that nobody reads. So each file is opened
below its folder's descriptor, never through a link, and used only when it is a plain file of ours or of the
folder's owner with no second name. The standard library alone: the embedded Postgres' supervisor imports
this.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator


def open_owned(path: str, flags: int) -> int:
    """Open or create a file for its folder's owner; return the descriptor.

    A file that is created belongs to the folder's owner even when root creates it; one that is there keeps
    its owner. Raises OSError, PermissionError for a link, a second name or somebody else's file.
    """
    with _folder(path) as (folder, owner):
        name = os.path.basename(path)
        safe = flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        for _ in range(10):
            try:
                return _created(folder, name, safe, owner)
            except FileExistsError:
                pass
            try:
                return _checked(os.open(name, safe, dir_fd=folder), path, owner)
            except FileNotFoundError:
                continue  # somebody has just removed it
            except OSError as error:
                if error.errno in (errno.ELOOP, errno.ENXIO):
                    raise _refused(path, "is a link or a pipe") from error
                raise
    raise OSError(errno.EBUSY, "somebody creates and removes it all the time", path)


def read_owned(path: str, most_bytes: int) -> bytes:
    """Return the first bytes of a file that is ours or its folder's owner's. Raises as `open_owned` does."""
    with _folder(path) as (folder, owner):
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            fd = os.open(os.path.basename(path), flags, dir_fd=folder)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise _refused(path, "is a link") from error
            raise
        with os.fdopen(_checked(fd, path, owner), "rb") as file:
            return file.read(most_bytes)


def replace_owned(path: str, text: str, mode: int = 0o600) -> None:
    """Put a new file with this text in the place of whatever is at `path`, for the folder's owner."""
    with _folder(path) as (folder, owner):
        new = f"{os.path.basename(path)}.{secrets.token_hex(8)}.new"
        flags = os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            with os.fdopen(_created(folder, new, flags, owner), "w", encoding="utf-8") as file:
                file.write(text)
                os.fchmod(file.fileno(), mode)
            os.rename(new, os.path.basename(path), src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(new, dir_fd=folder)
            raise


def make_owned_folder(path: str, uid: int, gid: int) -> None:
    """Make the folder `path`, open to `uid` alone. Raises FileExistsError when there is something already."""
    with _folder(path) as (folder, _):
        name = os.path.basename(path)
        os.mkdir(name, 0o700, dir_fd=folder)
        made = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        try:
            # The folder's owner may have put something else in its place.
            if os.fstat(made).st_uid != os.geteuid() or os.listdir(made):
                raise _refused(path, "is not the folder that was just made there")
            if os.geteuid() == 0:
                os.fchown(made, uid, gid)
        finally:
            os.close(made)


@contextlib.contextmanager
def _folder(path: str) -> Iterator[tuple[int, int]]:
    """Yield a descriptor of the folder in which `path` lies, and that folder's owner.

    A link to the folder is followed when it is ours or root's.
    """
    parent = os.path.dirname(path) or "."
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    try:
        folder = os.open(parent, flags | os.O_NOFOLLOW)
    except OSError:
        link = os.lstat(parent)
        if not stat.S_ISLNK(link.st_mode):
            raise
        if link.st_uid not in (os.geteuid(), 0):
            raise _refused(parent, f"is a link that uid {link.st_uid} made") from None
        folder = os.open(parent, flags)
    try:
        yield folder, os.fstat(folder).st_uid
    finally:
        os.close(folder)


def _created(folder: int, name: str, flags: int, owner: int) -> int:
    fd = os.open(name, flags | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=folder)
    if os.geteuid() == 0 and owner != 0:
        os.fchown(fd, owner, -1)
    return fd


def _checked(fd: int, path: str, owner: int) -> int:
    """`fd`, known to be a plain file of ours or of the folder's owner with one name; else it is closed."""
    found = os.fstat(fd)
    problem = ""
    if not stat.S_ISREG(found.st_mode):
        problem = "is no plain file"
    elif found.st_uid not in (os.geteuid(), owner):
        problem = f"belongs to uid {found.st_uid}"
    elif found.st_nlink > 1:
        problem = "has a second name elsewhere"
    if problem:
        os.close(fd)
        raise _refused(path, problem)
    os.set_blocking(fd, True)
    return fd


def _refused(path: str, problem: str) -> PermissionError:
    return PermissionError(f"{path} {problem}: dlgforge does not use it; see who put it there, and remove it")
