"""Documents: the plain text of files, or why there is none.

What files hold is foreign: `reading` has this module run in a child process with limits. It imports little,
so that the child starts quickly, and its patterns take time in proportion to the text.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import BinaryIO

from dlgforge_core.knowledge.document_types import SUFFIXES, Read, Reading, UnreadableError, type_of
from dlgforge_core.knowledge.encodings import EncodingError
from dlgforge_core.prompting.quoting import neutralise

MAX_NAME_CHARS = 400
MAX_TITLE_CHARS = 120
# Raised whenever the same file would give other documents: files are read anew then.
READER_VERSION = 3

_CONTROL = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_BLANK_LINES = re.compile(r"\n(?:[^\S\n]*\n){2,}")
# Images within the text: a link to one, the definition of one, and any other.
_INLINE_IMAGE = re.compile(r"!\[([^\[\]\n]*)\]\(\s*<?data:[^()\n]*\)", re.IGNORECASE)
_INLINE_DATA = re.compile(
    r"^[^\S\n]*\[[^\]\n]+\]:[^\S\n]*<?data:\S+.*$|\bdata:[\w.+-]+/[\w.+-]+(?:;[\w.+=-]+)*;base64,[\w+/=%-]*",
    re.IGNORECASE | re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class ReadDocument:
    """A document as it was read."""

    name: str
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that could not be read, and was skipped: file, line where it has one, and reason."""

    message: str


def read_document(name: str, stream: BinaryIO, how: Reading) -> list[ReadDocument | Problem]:
    """Return the document in a file, and what is wrong with it. Raises OSError, MemoryError."""
    try:
        title, text, broken = _read(name, stream, how)
        text = _cleaned(text)
        if not text:
            raise UnreadableError("it holds no text")
        _check_length(text, how)
    except (UnreadableError, EncodingError) as error:
        return [Problem(f"{name}: {error}")]
    problems = [Problem(f"{name}: {message}; the rest of it is read") for message in broken]
    return [*problems, ReadDocument(name, _title(title) or PurePosixPath(name).stem, text)]


def read_line(name: str, number: int, line: bytes, how: Reading) -> ReadDocument | Problem:
    """Return the document in a line of the JSONL file called `name`. Raises MemoryError."""
    try:
        return _json_document(name, number, line.removeprefix(b"\xef\xbb\xbf"), how)
    except UnreadableError as error:
        return Problem(f"{name}, line {number}: {error}")


def _read(name: str, stream: BinaryIO, how: Reading) -> Read:
    kind = type_of(name)
    if kind is None or kind.read is None:
        raise UnreadableError(f"it is no document; documents end in {', '.join(SUFFIXES)}")
    return kind.read(stream, how)


def _check_length(text: str, how: Reading) -> None:
    if len(text) > how.text_chars:
        raise UnreadableError(
            f"its text has {len(text):,} characters; a document may have {how.text_chars:,} at most "
            "(knowledge.limits.text_chars)"
        )


def _json_document(file: str, number: int, line: bytes, how: Reading) -> ReadDocument:
    text_key = how.text_key
    try:
        data = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UnreadableError(f"not JSON: {error}") from None
    if not isinstance(data, dict):
        raise UnreadableError(
            f'no document; it looks like {{"id": "...", "{text_key}": "...", "title": "..."}}'
        )
    if not isinstance(data.get(text_key), str):
        keys = ", ".join(f"{key:.40}" for key in list(data)[:10]) or "none"
        raise UnreadableError(f"no text under {text_key!r} (its keys: {keys}); set knowledge.text_key")
    text = _cleaned(data[text_key])
    if not text:
        raise UnreadableError("its text is empty")
    _check_length(text, how)
    identity = data.get("id")
    if identity is None or isinstance(identity, dict | list | bool):
        identity = number
    name = _CONTROL.sub("", f"{file}#{_encodable(str(identity))}")[:MAX_NAME_CHARS]
    title = data.get("title")
    return ReadDocument(name, _title(title) if isinstance(title, str) else "", text)


def _cleaned(text: str) -> str:
    """Without images as text, and what no text holds and Postgres cannot keep; line ends as plain ones."""
    if "data:" in text:
        text = _INLINE_DATA.sub("", _INLINE_IMAGE.sub(r"\1", text))
    text = _CONTROL.sub("", text.replace("\r\n", "\n").replace("\r", "\n").replace("\x85", "\n"))
    return _BLANK_LINES.sub("\n\n", _encodable(text)).strip()


def _encodable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _title(title: str) -> str:
    # Titles stand in prompts, too, and on a line of their own.
    return neutralise(" ".join(_cleaned(title).split())[:MAX_TITLE_CHARS])
