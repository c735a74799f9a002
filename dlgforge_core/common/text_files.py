"""Small text files that a configuration refers to: plain files beside it, read as far as they may go."""

from __future__ import annotations

import os
from pathlib import Path, PurePath

from dlgforge_core.common.plain_files import open_plain
from dlgforge_core.common.yaml_source import bad_character


def read_beside(folder: Path, name: str, most_bytes: int) -> str:
    """Return the text of the file `name` in `folder` or below, with plain line ends.

    Links are followed as long as they stay in the folder, as those of Kubernetes' volumes do. Raises
    ValueError, which says what is wrong and what would be right.
    """
    pure = PurePath(name)
    if not name or pure.is_absolute() or ".." in pure.parts:
        raise ValueError(
            f"file = {name!r} must be a path in the recipe's folder, for example prompts/answer.jinja"
        )
    try:
        root, path = os.path.realpath(folder), os.path.realpath(folder / pure)
        if not path.startswith(f"{root.rstrip('/')}/"):
            raise ValueError(f"file = {name!r} is a link that leads out of {folder}; copy the file there")
        with open_plain(path) as file:
            data = file.read(most_bytes + 1)
    except OSError as error:
        problem = error.strerror or error
        raise ValueError(f"file = {name!r}: {folder / pure} cannot be read: {problem}") from None
    return _text(data, folder / pure, most_bytes)


def _text(data: bytes, path: Path, most_bytes: int) -> str:
    if len(data) > most_bytes:
        raise ValueError(f"{path} has more than {most_bytes:,} bytes")
    try:
        text = data.removeprefix(b"\xef\xbb\xbf").decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path}:{line}: byte 0x{data[error.start]:02x} is not UTF-8; save it as UTF-8"
        ) from None
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if bad := bad_character(text):
        raise ValueError(f"{path}: it {bad}")
    return text
