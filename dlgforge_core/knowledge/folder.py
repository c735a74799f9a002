"""The files of a knowledge folder, local or at any address that fsspec knows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import resources
from pathlib import PurePosixPath
from typing import BinaryIO

from dlgforge_core.common.files import Folder, FoundFile
from dlgforge_core.common.secrets import shown_address, shown_error
from dlgforge_core.config import SHIPPED_KNOWLEDGE, DocumentLinks
from dlgforge_core.errors import KnowledgeError
from dlgforge_core.knowledge.document_types import SUFFIXES


@dataclass(frozen=True, slots=True)
class FolderListing:
    """The files of a known format by name, the names of others, and what is wrong with further ones."""

    files: list[FoundFile]
    unknown: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


class KnowledgeFolder:
    """The documents' files at a path or address; `shipped` are those that come with dlgforge.

    `shown` is that path or address as it may be shown.
    """

    def __init__(self, address: str, links: DocumentLinks = "anywhere") -> None:
        self.shown = shown_address(address)
        self._address = address
        if address == SHIPPED_KNOWLEDGE:
            address = str(resources.files("dlgforge_core").joinpath("data/knowledge"))
        try:
            self._folder = Folder(address, links=links)
        except (OSError, ValueError, ImportError) as error:
            reported = shown_error(error, self._address)
            raise KnowledgeError(f"knowledge.path = {self.shown} cannot be used: {reported}") from None

    def files(self) -> list[FoundFile]:
        """All files of a known format, subfolders included, by name; hidden ones are left alone.

        Raises KnowledgeError when the folder cannot be listed or holds no such file.
        """
        return self.listing().files

    def listing(self) -> FolderListing:
        """Return the `files`, and what else is there. Raises KnowledgeError as `files` does."""
        try:
            found = self._folder.listing()
        except (OSError, ValueError) as error:
            reported = shown_error(error, self._address)
            raise KnowledgeError(f"{self.shown} cannot be listed: {reported}") from None
        files = [file for file in found.files if file.name.lower().endswith(SUFFIXES)]
        problems = [
            f"{name}: {shown_address(why)}"
            for name, why in sorted(found.unreadable.items())
            if PurePosixPath(name).suffix.lower() in ("", *SUFFIXES)
        ]
        if not files:
            why = "holds no document" if found.exists else "does not exist"
            listed = "".join(f"\n  {problem}" for problem in problems[:20])
            raise KnowledgeError(f"{self.shown} {why}; documents end in {', '.join(SUFFIXES)}{listed}")
        unknown = [file.name for file in found.files if not file.name.lower().endswith(SUFFIXES)]
        return FolderListing(files, unknown, problems)

    @contextmanager
    def open(self, file: FoundFile) -> Iterator[BinaryIO]:
        """Yield the file's content, to be read once from its beginning. Raises OSError."""
        with self._folder.open(file) as stream:
            yield stream

    def reported(self, error: BaseException) -> str:
        """Return what a filesystem says, without the passwords and signatures in the folder's address."""
        return shown_error(error, self._address)
