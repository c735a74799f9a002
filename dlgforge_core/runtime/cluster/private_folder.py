"""The folder and the token of a local Ray cluster of ours: nobody else enters the one or knows the other.

By itself Ray puts the folders of its sessions, open to all, below one in the temporary folder, and shares one
token among all clusters of a user. There another user could plant links for what root writes.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from dlgforge_core.errors import RayError

MODE, TOKEN, TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
_PREFIX = "dlgforge-ray-"
_TOKEN = "token"
_RANDOM_CHARS = 8  # that `mkdtemp` puts after it
_MAKING_S = 60.0
"""Seconds after which a folder that nobody has locked is not one that is just being made."""
_KEEP_LOGS_S = 24 * 3600.0
"""Seconds that the logs of a cluster that could not be started stay for whoever looks into it."""
# Ray opens the folder that it is given to all: it is one below ours.
_RAYS = "r"
# What Ray makes of it: FOLDER/r/session_2026-01-31_12-00-00_123456_1234567/sockets/plasma_store. A socket's
# path holds 107 bytes on Linux, 103 on macOS.
_RAYS_PART = len("/r/session_2026-01-31_12-00-00_123456_1234567/sockets/plasma_store")
_SOCKET_PATH_BYTES = 103 if sys.platform == "darwin" else 107


class PrivateFolder:
    """A new folder for a cluster's session, with a token of its own that this process and its children use.

    Raises RayError when there is no place for one.
    """

    def __init__(self, progress: Callable[[str], None]) -> None:
        self.path = _new_folder()
        self.in_use = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        """A descriptor that locks the folder (flock): while a process has it open, the folder is in use."""
        fcntl.flock(self.in_use, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self.for_ray = os.path.join(self.path, _RAYS)
        os.mkdir(self.for_ray, 0o700)
        self._before = {name: os.environ.get(name) for name in (MODE, TOKEN, TOKEN_PATH)}
        if (self._before[MODE] or "token").lower() != "token":
            progress(
                f"{MODE}={self._before[MODE]} does not count for a local cluster of dlgforge's own: it wants "
                "a token"
            )
        token = os.path.join(self.path, _TOKEN)
        with open(os.open(token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
        os.environ.pop(TOKEN, None)  # it would go before the file
        os.environ.update({MODE: "token", TOKEN_PATH: token})
        _reread_token()

    def forget_token(self) -> None:
        """Let this process use the token that it used before. Idempotent."""
        for name, value in self._before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        _reread_token()
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(self.path, _TOKEN))

    def release(self) -> None:
        """Forget the token, and leave what the cluster has written for a day. Idempotent."""
        self.forget_token()
        if self.in_use >= 0:
            os.close(self.in_use)
            self.in_use = -1

    def remove(self) -> None:
        """Delete everything that the cluster has written. Idempotent."""
        self.release()
        shutil.rmtree(self.path, ignore_errors=True)


def _new_folder() -> str:
    """Return a new folder that only this user enters, with a path short enough for Ray's sockets."""
    set_by_user = os.environ.get("RAY_TMPDIR")
    most = _SOCKET_PATH_BYTES - len("/") - len(_PREFIX) - _RANDOM_CHARS - _RAYS_PART
    problems = []
    for base in [set_by_user] if set_by_user else dict.fromkeys([tempfile.gettempdir(), "/tmp"]):
        folder = os.path.abspath(base)
        _remove_orphans(folder)
        if len(os.fsencode(folder)) > most:
            problems.append(f"{base} is too long a path for Ray's sockets, which leave {most} bytes for it")
            continue
        try:
            return tempfile.mkdtemp(prefix=_PREFIX, dir=folder)  # mode 0700
        except OSError as error:
            problems.append(str(error))
    raise RayError(
        "there is no place for the files of a local Ray cluster: "
        + "; ".join(problems)
        + "; set RAY_TMPDIR to a folder with a short path that this user may write to"
    )


def _remove_orphans(base: str) -> None:
    """Delete the folders of processes that were killed together with their reapers."""
    with contextlib.suppress(OSError), os.scandir(base) as entries:
        for entry in entries:
            if entry.name.startswith(_PREFIX) and _is_orphan(entry.path):
                shutil.rmtree(entry.path, ignore_errors=True)


def _is_orphan(path: str) -> bool:
    try:
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return False  # another user's, a link, or deleted just now
    try:
        status = os.fstat(folder)
        is_of_failed_start = not os.path.exists(os.path.join(path, _TOKEN))
        age_s = time.time() - status.st_mtime
        if status.st_uid != os.getuid() or age_s < (_KEEP_LOGS_S if is_of_failed_start else _MAKING_S):
            return False
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError:
        return False  # in use
    finally:
        os.close(folder)


def _reread_token() -> None:
    """Have Ray, which keeps what it has read, read mode and token anew."""
    from ray import _raylet

    internals: Any = _raylet
    internals.Config.initialize("")
    internals.AuthenticationTokenLoader.instance().reset_cache()
