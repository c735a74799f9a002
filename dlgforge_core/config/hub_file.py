"""A file on a hub, as a configuration names it: hf://org/repo/file.gguf@revision."""

from __future__ import annotations

import re
from dataclasses import dataclass

PREFIX = "hf://"
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
# Folders and files may have blanks, brackets and letters of any language in their names.
_PART = r"(?![.\s])[^/@?#\\\x00-\x1f\x7f]+(?<!\s)"
_FILE = re.compile(rf"hf://({_NAME}/{_NAME})/((?:{_PART}/)*{_PART})(?:@([A-Za-z0-9][\w./-]*))?")
_SIZE = re.compile(r"(?<![A-Za-z0-9.])(\d+(?:\.\d+)?)\s?([bBmM])(?![A-Za-z0-9])")


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file in a repository of models; `revision` is a branch, a tag or a commit."""

    repo_id: str
    path: str
    revision: str = "main"

    @property
    def address(self) -> str:
        """As it is written in a configuration."""
        return f"{PREFIX}{self.repo_id}/{self.path}@{self.revision}"

    @property
    def billions(self) -> float | None:
        """How many parameters the names tell of: 1.5 for Qwen2.5-1.5B-Instruct; None where they do not."""
        for name in (self.path, self.repo_id):
            if found := _SIZE.search(name):
                return float(found[1]) / (1 if found[2] in "bB" else 1000)
        return None


def hub_file(address: str) -> HubFile | None:
    """Return the file that an address names; None for what is no address of a hub. Raises ValueError."""
    if not address.startswith(PREFIX):
        return None
    found = _FILE.fullmatch(address)
    if found is None or ".." in address or not found[2].endswith(".gguf"):
        raise ValueError(
            f"{address!r} names no GGUF file on the hub; write hf://org/repo/file.gguf, with @revision "
            "behind it for a branch, tag or commit"
        )
    return HubFile(found[1], found[2], found[3] or "main")
