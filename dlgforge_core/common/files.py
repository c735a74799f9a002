"""Files in a folder on any filesystem that fsspec knows: listed, read, and whether one has changed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import stat
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any, BinaryIO, TypeVar

from dlgforge_core.common.plain_files import open_plain

_CHANGE_KEYS = ("mtime", "ino", "ETag", "etag", "LastModified", "updated")
_OTHER_KEYS = re.compile(r"^(.*name|path|type|.*size|url|.*link|mode|perm|[ug]id)$|^_|access|atime", re.I)
_PLAIN = (str, bytes, int, float, tuple, date)
_CONTROL = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029]")
# Web folders are found by following links, which may lead on for ever.
_MAX_WEB_DEPTH = 20
_MAX_WEB_ENTRIES = 500_000
_MAX_FOLDERS = 500_000
# What a web server may answer at once: a page that lists a folder, or a part of a file.
MAX_ANSWER_BYTES = 64 * 1024 * 1024
# What stands there as files is made by the kernel, the environment with its secrets among it.
_NO_FILES = ("/proc/", "/sys/", "/dev/")


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file in a folder. `name` is its path within the folder.

    `state` changes with its content; it is empty where the filesystem does not tell whether that changed.
    """

    name: str
    path: str
    size: int
    state: str


F = TypeVar("F", bound=FoundFile)


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of a folder, by name, and by name why others cannot be read. Hidden ones are in neither."""

    files: tuple[FoundFile, ...]
    unreadable: Mapping[str, str] = field(default_factory=dict)
    exists: bool = True


class Folder:
    """A folder, or a single file, at a local path or an address that fsspec knows (s3://, https://, ...).

    Raises OSError, ValueError or ImportError for an address that cannot be used.
    """

    def __init__(self, address: str, *, links: str = "anywhere") -> None:
        import fsspec

        self._links = links
        if "://" in address:
            self._filesystem, root = fsspec.core.url_to_fs(address, **_web_options(address))
            self._root, self._local = str(root), _is_local(self._filesystem)
        else:  # fsspec would take a local name that holds "::" for a chain of addresses
            self._filesystem = fsspec.filesystem("file")
            self._root, self._local = os.path.abspath(address), True

    def listing(self, *, recursive: bool = True) -> Listing:
        """All files but hidden ones, with those of subfolders if `recursive`. Raises OSError, ValueError."""
        if self._local:
            return _LocalLister(self._root, self._links, recursive=recursive).listing()
        self._filesystem.invalidate_cache()
        unreadable: dict[str, str] = {}
        files = [
            FoundFile(name, path, int(entry.get("size") or 0), file_state(entry))
            for path, entry in self._entries(recursive, unreadable)
            if entry.get("type", "file") == "file" and not _is_hidden(name := self._name(path))
        ]
        files.sort(key=lambda file: file.name)
        for file in [file for file in files if _bad_name(file.name)]:
            files.remove(file)
            unreadable[_shown_name(file.name)] = _bad_name(file.name)
        return Listing(tuple(files), unreadable, exists=bool(files) or self._exists())

    def _entries(self, recursive: bool, unreadable: dict[str, str]) -> Iterator[tuple[str, dict[str, Any]]]:
        if not recursive:
            for entry in self._filesystem.ls(self._root, detail=True):
                yield str(entry["name"]), entry
        elif not _is_web(self._filesystem):
            yield from self._filesystem.find(self._root, detail=True).items()
        else:
            yield from self._web_entries(unreadable)

    def _web_entries(self, unreadable: dict[str, str]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the files that the pages of a web folder, and of those in it, link to."""
        base = self._root.split("?")[0].rstrip("/") + "/"
        todo, seen, n_files = deque([(self._root, 0)]), {self._root}, 0
        while todo:
            url, depth = todo.popleft()
            try:
                entries = self._filesystem.ls(url, detail=True)
            except (OSError, ValueError) as error:
                if not depth:
                    raise
                unreadable[self._name(url)] = f"the folder cannot be listed: {error}"
                continue
            for entry in entries:
                name = str(entry["name"])
                if name in seen or not name.startswith(base):
                    continue
                seen.add(name)
                if len(seen) > _MAX_WEB_ENTRIES:
                    raise ValueError(f"it has more than {_MAX_WEB_ENTRIES:,} files and folders")
                if entry.get("type") != "directory":
                    n_files += 1
                    yield name, entry
                elif depth < _MAX_WEB_DEPTH and not _is_hidden(self._name(name)):
                    todo.append((name, depth + 1))
        if not n_files and self._filesystem.isfile(self._root):
            yield self._root, self._filesystem.info(self._root)

    def _name(self, path: str) -> str:
        root = self._root.rstrip("/")
        if _is_web(self._filesystem):  # a signature is no part of a name
            path, root = path.split("?", maxsplit=1)[0], root.split("?")[0]
        return PurePosixPath(path).name if path == root else path.removeprefix(root).lstrip("/")

    def _exists(self) -> bool:
        try:
            return bool(self._filesystem.exists(self._root))
        except (OSError, ValueError):
            return False

    @contextmanager
    def open(self, file: FoundFile) -> Iterator[BinaryIO]:
        """Yield the file's content, to be read once from its beginning. Raises OSError."""
        if not self._local:
            with self._filesystem.open(file.path, "rb") as stream:
                yield stream
            return
        with open_plain(file.path) as stream:
            # What was listed may have been replaced since, by a link to a file of ours.
            if problem := _leads_away(_opened(stream, file.path), os.path.realpath(self._root), self._links):
                raise PermissionError(errno.EPERM, f"it has become {problem}", file.path)
            yield stream

    def read(self, file: FoundFile, limit: int) -> bytes | None:
        """Return the file's content; None when it is longer than `limit`, whatever its size is said to be."""
        parts, n_bytes = list[bytes](), 0
        with self.open(file) as stream:
            while part := stream.read(1 << 20):
                n_bytes += len(part)
                if n_bytes > limit:
                    return None
                parts.append(part)
        return b"".join(parts)


class _LocalLister:
    """Lists a local folder, following links to files and folders.

    The volumes of Kubernetes and the snapshots of hubs are made of links. Every folder is listed once, by
    its own name where it has one here: links cannot lead round in a ring, nor make many folders of a few.
    """

    def __init__(self, root: str, links: str, *, recursive: bool) -> None:
        self._root, self._real_root = root, os.path.realpath(root)
        self._links, self._recursive = links, recursive
        self._files: list[FoundFile] = []
        self._unreadable: dict[str, str] = {}
        self._listed: dict[tuple[int, int], str] = {}
        self._linked: deque[tuple[str, str]] = deque()

    def listing(self) -> Listing:
        try:
            facts = os.stat(self._root)
        except FileNotFoundError:
            return Listing((), exists=False)
        if not stat.S_ISDIR(facts.st_mode):
            self._file(PurePosixPath(self._root).name, self._root, facts)
        else:
            self._tree("", self._root)
            while self._linked:  # after all that stands here itself, so that its own name counts
                self._tree(*self._linked.popleft())
        return Listing(tuple(sorted(self._files, key=lambda file: file.name)), self._unreadable)

    def _tree(self, name: str, path: str) -> None:
        if not self._is_new(name, os.stat(path)):
            return
        todo = deque([(name, path)])
        while todo:
            name, path = todo.popleft()
            try:
                entries = sorted(os.scandir(path), key=lambda entry: entry.name)
            except OSError as error:
                if path == self._root:
                    raise
                self._unreadable[name] = f"the folder cannot be listed: {error.strerror or error}"
                continue
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if problem := _bad_name(entry.name):
                    self._unreadable[_shown_name(f"{name}/{entry.name}" if name else entry.name)] = problem
                    continue
                self._entry(entry, f"{name}/{entry.name}" if name else entry.name, todo)

    def _entry(self, entry: os.DirEntry[str], name: str, todo: deque[tuple[str, str]]) -> None:
        link = entry.is_symlink()
        try:
            facts = os.stat(entry.path)
        except OSError as error:
            # One to itself, or to others in a ring, is told by ELOOP.
            why = "a link that leads nowhere" if link else "it cannot be read"
            self._unreadable[name] = f"{why}: {error.strerror or error}"
            return
        if link and (problem := _leads_away(os.path.realpath(entry.path), self._real_root, self._links)):
            self._unreadable[name] = problem
        elif stat.S_ISREG(facts.st_mode):
            self._file(name, entry.path, facts)
        elif not stat.S_ISDIR(facts.st_mode):
            self._unreadable[name] = "neither a file nor a folder"
        elif link and self._recursive:
            self._linked.append((name, entry.path))
        elif self._recursive and self._is_new(name, facts):
            todo.append((name, entry.path))

    def _is_new(self, name: str, facts: os.stat_result) -> bool:
        """Whether a folder has not been listed under another name."""
        first = self._listed.setdefault((facts.st_dev, facts.st_ino), name)
        if first != name:
            self._unreadable[name] = f"the folder is read already, as {first or 'the whole one'}"
        elif len(self._listed) > _MAX_FOLDERS:
            raise ValueError(f"it has more than {_MAX_FOLDERS:,} folders")
        return first == name

    def _file(self, name: str, path: str, facts: os.stat_result) -> None:
        entry = {"size": facts.st_size, "mtime": facts.st_mtime, "ino": facts.st_ino}
        self._files.append(FoundFile(name, path, facts.st_size, file_state(entry)))


def _leads_away(target: str, real_root: str, links: str) -> str:
    """Return what is wrong with where a link leads; empty when it may be followed."""
    if target == real_root or target.startswith(real_root.rstrip("/") + "/"):
        return ""
    if target == "/" or f"{target}/".startswith(_NO_FILES):
        return "a link to what is no file of a disk"
    if links == "inside":
        return "a link that leads out of the folder, and those are not followed"
    return ""


def _opened(stream: BinaryIO, path: str) -> str:
    """Return the path of the file that was opened, whatever is at that path by now."""
    try:
        return os.readlink(f"/proc/self/fd/{stream.fileno()}")
    except OSError:  # there is no /proc
        return os.path.realpath(path)


def _bad_name(name: str) -> str:
    """Why a file of this name is not read; empty when it is: names stand in Postgres, logs and datasets."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8; rename it"
    return "its name holds control characters; rename it" if _CONTROL.search(name) else ""


def _shown_name(name: str) -> str:
    r"""Return a name as messages show it: what is no text as \x80, so that two names are told apart."""
    shown = os.fsencode(name).decode("utf-8", "backslashreplace")
    return _CONTROL.sub(lambda found: f"\\x{ord(found.group()):02x}", shown)


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in PurePosixPath(name).parts)


def _protocols(filesystem: Any) -> tuple[str, ...]:
    protocol = filesystem.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)


def _is_local(filesystem: Any) -> bool:
    return "file" in _protocols(filesystem)


def _is_web(filesystem: Any) -> bool:
    return "http" in _protocols(filesystem)


def _web_options(address: str) -> dict[str, Any]:
    """Options by which web servers' answers are bounded; for whichever part of a chain is a web address."""
    used = {part.split("://")[0] for part in address.split("::")} & {"http", "https"}
    if not used:
        return {}
    options = {"get_client": bounded_client}
    return {name: options for name in used} if "::" in address else options


async def bounded_client(**options: Any) -> Any:
    """Return a session of aiohttp whose answers are counted where they are read as a whole."""
    import aiohttp

    return aiohttp.ClientSession(response_class=_bounded_response(), **options)


@lru_cache(maxsize=1)
def _bounded_response() -> Any:
    import aiohttp

    class BoundedResponse(aiohttp.ClientResponse):
        async def read(self) -> bytes:
            if self._body is None:
                body = bytearray()
                async for part in self.content.iter_chunked(1 << 16):  # decoded already
                    body += part
                    if len(body) > MAX_ANSWER_BYTES:
                        self.close()
                        raise OSError(f"the server's answer has more than {MAX_ANSWER_BYTES:,} bytes")
                self._body = bytes(body)
            return self._body

    return BoundedResponse


def file_state(entry: Mapping[str, Any]) -> str:
    """File state: a digest of those facts about a file that change whenever its content may have.

    `entry` is fsspec's description of the file. Empty when it holds no such fact, as with plain web servers:
    only the content shows a change then.
    """
    # Local filesystems report the time and inode, object stores an ETag.
    facts: list[Any] = [entry.get(key) for key in _CHANGE_KEYS]
    if all(value is None for value in facts):
        # Others have names of their own: a checksum in a ZIP, a commit, the time of writing.
        facts = sorted(
            f"{key}={value!r}"
            for key, value in entry.items()
            if isinstance(value, _PLAIN) and not _OTHER_KEYS.search(key)
        )
        if not facts:
            return ""
    state = json.dumps([int(entry.get("size") or 0), *(str(value) for value in facts)])
    return hashlib.sha256(state.encode()).hexdigest()[:12]
