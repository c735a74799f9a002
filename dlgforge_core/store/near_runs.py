"""Runs of an index as files that the workers of a machine share, so that each question is in memory once.

A folder for each log and threshold is in the machine's folder of temporary files. Who uses it holds a lock on
it. The last to leave removes it, and whoever comes next removes what killed workers have left.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import shutil
import stat
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from hashlib import blake2b
from pathlib import Path

import numpy as np

from dlgforge_core.common.file_lock import try_lock
from dlgforge_core.store.near_index import Place, Run

SHARED = 16_384
"""Questions from which on a run is a file."""

_FORMAT = 1
"""To be raised with what is in the files, which those of another version would misread."""

_log = logging.getLogger(__name__)
_ARRAYS = [field.name for field in fields(Run) if field.name not in ("start", "end")]
_NAME = re.compile(r"(\d+)-(\d+)-(\d+)-(\d+)-(\d+)")


@dataclass(frozen=True, slots=True)
class SharedRun:
    """A run that somebody on this machine has made."""

    start: int
    size: int
    end: Place
    path: Path

    def is_part_of(self, other: SharedRun) -> bool:
        """Whether the other one has these questions among more."""
        return other.start <= self.start < other.start + other.size and self.size < other.size

    def open(self) -> Run:
        """Map its arrays into memory. Raises OSError, or ValueError for what is no such file."""
        arrays = {name: np.asarray(np.load(self.path / f"{name}.npy", mmap_mode="r")) for name in _ARRAYS}
        return Run(self.start, self.end, **arrays)


class SharedRuns:
    """The runs that workers of this machine share, of the log and threshold that `name` stands for."""

    def __init__(self, name: str) -> None:
        self._folder: Path | None = None
        try:
            home = _home()
            _sweep(home)
            self._folder, used = _enter(
                home / blake2b(f"{_FORMAT} {name}".encode(), digest_size=16).hexdigest()
            )
            weakref.finalize(self, _leave, self._folder, used, os.getpid())
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        _log.warning("questions are indexed in this worker's own memory: no files to share them (%s)", error)
        self._folder = None

    @contextlib.contextmanager
    def alone(self, doing: str) -> Iterator[bool]:
        """Whether nobody else on this machine is doing that; nobody begins until the end of the block."""
        if self._folder is None:
            yield True
            return
        with contextlib.ExitStack() as stack:
            try:
                file = stack.enter_context((self._folder / doing).open("w"))
                alone = try_lock(file.fileno(), fcntl.LOCK_EX)
            except OSError as error:
                self._give_up(error)
                alone = True
            yield alone

    def merged(self, before: Run, after: Run) -> Run | None:
        """Return the run of two, a file unless it is small; None while another worker is making it."""
        size = before.size + after.size
        if self._folder is None or size < SHARED:
            return before.merged(after)
        wanted = self._at(before.start, size, after.end)
        try:
            if any(wanted.is_part_of(other) for other in self._files()):
                return before.merged(after)  # others are further, and this worker soon as well
            with self.alone("merging") as alone:
                if not wanted.path.exists():
                    if not alone:
                        return None
                    self._write(before.merged(after), wanted)
                return wanted.open()
        except FileNotFoundError:  # just merged into a larger one
            return before.merged(after)
        except (OSError, ValueError) as error:
            self._give_up(error)
            return before.merged(after)

    def from_beginning(self) -> list[SharedRun]:
        """Return runs that follow one another from the beginning of the log on, the largest ones."""
        largest: dict[int, SharedRun] = {}
        try:
            for run in sorted(self._files(), key=lambda run: run.size):
                largest[run.start] = run
        except OSError as error:
            self._give_up(error)
        runs: list[SharedRun] = []
        while following := largest.get(runs[-1].start + runs[-1].size if runs else 0):
            runs.append(following)
        return runs

    def discard(self, runs: Sequence[SharedRun]) -> None:
        """Remove files; who has them open keeps them."""
        for run in runs:
            shutil.rmtree(run.path, ignore_errors=True)

    def _at(self, start: int, size: int, end: Place) -> SharedRun:
        assert self._folder is not None
        path = self._folder / f"{start}-{size}-{end.seq}-{end.tag}-{end.included}"
        return SharedRun(start, size, end, path)

    def _files(self) -> Iterator[SharedRun]:
        for path in self._folder.iterdir() if self._folder is not None else ():
            if match := _NAME.fullmatch(path.name):
                start, size, *end = map(int, match.groups())
                yield SharedRun(start, size, Place(*end), path)

    def _write(self, run: Run, shared: SharedRun) -> None:
        """Make a run a file, in place of those of its parts."""
        for left in shared.path.parent.glob("draft-*"):  # by one that was killed: only one at a time writes
            shutil.rmtree(left, ignore_errors=True)
        draft = Path(tempfile.mkdtemp(dir=shared.path.parent, prefix="draft-"))
        try:
            for name in _ARRAYS:
                np.save(draft / f"{name}.npy", getattr(run, name))
            draft.rename(shared.path)
        except OSError:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        self.discard([other for other in self._files() if other.is_part_of(shared)])


def _home() -> Path:
    """Return this user's folder, which nobody else may write to. Raises OSError."""
    home = Path(tempfile.gettempdir()) / f"dlgforge-questions-{os.getuid()}"
    home.mkdir(mode=0o700, exist_ok=True)
    found = home.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise PermissionError(f"{home} is not a folder of this user's alone")
    return home


def _enter(folder: Path) -> tuple[Path, int]:
    """Make the folder, and hold a lock on it with others who use it."""
    while True:
        folder.mkdir(mode=0o700, exist_ok=True)
        try:
            used = os.open(folder / "used", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:  # removed meanwhile
            continue
        fcntl.flock(used, fcntl.LOCK_SH)
        with contextlib.suppress(FileNotFoundError):
            if (folder / "used").stat().st_ino == os.fstat(used).st_ino:
                return folder, used
        os.close(used)


def _leave(folder: Path, used: int, pid: int) -> None:
    if os.getpid() != pid:  # a fork, which shares the lock
        return
    if try_lock(used, fcntl.LOCK_EX):  # nobody else is there
        with contextlib.suppress(OSError):
            for entry in folder.iterdir():  # `used` goes last, by which the folder would be found again
                if entry.is_dir():
                    shutil.rmtree(entry, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)
    os.close(used)


def _sweep(home: Path) -> None:
    """Remove the folders of those who were killed."""
    for folder in home.iterdir():
        with contextlib.suppress(OSError):
            _leave(folder, os.open(folder / "used", os.O_RDWR | os.O_CLOEXEC), os.getpid())
