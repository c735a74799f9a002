"""The files of a knowledge folder, local or at any address that fsspec knows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import PurePosixPath
from typing import Any, BinaryIO

from dlgforge_core.common.files import file_state
from dlgforge_core.config import SHIPPED_KNOWLEDGE
from dlgforge_core.errors import KnowledgeError

SUFFIXES = (".txt", ".md", ".markdown", ".pdf", ".html", ".htm", ".jsonl")


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file that holds documents. `name` is its path within the folder.

    `state` changes with its content; it is empty where the filesystem does not tell whether that changed.
    """

    name: str
    path: str
    size: int
    state: str

    @property
    def suffix(self) -> str:
        """The lower-case end of the name, which tells the format."""
        return PurePosixPath(self.name).suffix.lower()


class KnowledgeFolder:
    """The documents' files at a path or address; `shipped` are those that come with dlgforge."""

    def __init__(self, place: str) -> None:
        import fsspec

        self.place = place
        if place == SHIPPED_KNOWLEDGE:
            place = str(resources.files("dlgforge_core").joinpath("data/knowledge"))
        try:
            self._filesystem, self._root = fsspec.core.url_to_fs(place)
        except (OSError, ValueError, ImportError) as error:
            raise KnowledgeError(f"knowledge.path = {place} cannot be used: {error}") from None

    def files(self) -> list[SourceFile]:
        """All files of a known format, subfolders included, by name; hidden ones are left alone.

        Raises KnowledgeError when the folder cannot be listed or holds no such file.
        """
        return self.listing()[0]

    def listing(self) -> tuple[list[SourceFile], list[str]]:
        """The `files`, and the names of those that are not read because their format is not known."""
        try:
            self._filesystem.invalidate_cache()
            entries: dict[str, dict[str, Any]] = self._filesystem.find(self._root, detail=True)
        except (OSError, ValueError) as error:
            raise KnowledgeError(f"{self.place} cannot be listed: {error}") from None
        known: list[SourceFile] = []
        unknown: list[str] = []
        for path, entry in entries.items():
            name = self._name(path)
            hidden = any(part.startswith(".") for part in PurePosixPath(name).parts)
            if entry.get("type", "file") != "file" or hidden:
                continue
            if name.lower().endswith(SUFFIXES):
                known.append(SourceFile(name, path, int(entry.get("size") or 0), file_state(entry)))
            else:
                unknown.append(name)
        if not known:
            exists = bool(entries) or self._exists()
            why = "holds no document" if exists else "does not exist"
            raise KnowledgeError(f"{self.place} {why}; documents end in {', '.join(SUFFIXES)}")
        return sorted(known, key=lambda file: file.name), sorted(unknown)

    def _name(self, path: str) -> str:
        root = str(self._root).rstrip("/")
        return PurePosixPath(path).name if path == root else path.removeprefix(root).lstrip("/")

    def _exists(self) -> bool:
        try:
            return bool(self._filesystem.exists(self._root))
        except (OSError, ValueError):
            return False

    @contextmanager
    def open(self, file: SourceFile) -> Iterator[BinaryIO]:
        """The file's content, to be read once from its beginning. Raises OSError."""
        with self._filesystem.open(file.path, "rb") as stream:
            yield stream
