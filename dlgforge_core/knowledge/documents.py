"""Files as documents: the plain text of .txt, .md, .pdf, .html and .jsonl, or why there is none."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import BinaryIO

from dlgforge_core.knowledge.folder import SourceFile
from dlgforge_core.knowledge.html_text import html_text
from dlgforge_core.prompting.quoting import neutralise

MAX_FILE_BYTES = 256 * 1024 * 1024
MAX_LINE_BYTES = 16 * 1024 * 1024
MAX_NAME_CHARS = 400
MAX_TITLE_CHARS = 120
# Raised whenever the same file would give other documents: files are read anew then.
READER_VERSION = 2

_FRONT_MATTER = re.compile(r"\A---\n(?P<head>.*?)\n---[^\S\n]*(?:\n|\Z)", re.DOTALL)
_FRONT_TITLE = re.compile(r"^title:\s*[\"']?(.+?)[\"']?\s*$", re.MULTILINE)
_HEADING = re.compile(r"^\s{0,3}#{1,6}\s+(.+?)\s*#*\s*$|^(\S.*)\n(?:=+|-+)\s*$", re.MULTILINE)
_CONTROL = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_BLANK_LINES = re.compile(r"\n(?:[^\S\n]*\n){2,}")
# Images within the text: a link to one, the definition of one, and any other.
_INLINE_IMAGE = re.compile(r"!\[([^\]\n]*)\]\(\s*<?data:[^)\n]*\)", re.IGNORECASE)
_INLINE_DATA = re.compile(
    r"^[^\S\n]*\[[^\]\n]+\]:\s*<?data:\S+.*$|\bdata:[\w.+-]+/[\w.+-]+(?:;[\w.+=-]+)*;base64,[\w+/=%-]*",
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


class _Unreadable(Exception):
    """Why a file is no document."""


# Title, text, and what is wrong with parts of it.
_Read = tuple[str, str, list[str]]


def read_documents(
    file: SourceFile, stream: BinaryIO, text_key: str = "text"
) -> Iterator[ReadDocument | Problem]:
    """The documents of a file, one after the other, and what is wrong with it. Raises OSError.

    `text_key` is that of a document's text in a JSONL line.
    """
    if file.suffix == ".jsonl":
        yield from _json_lines(file, stream, text_key)
        return
    if file.size > MAX_FILE_BYTES:
        yield Problem(f"{file.name}: {file.size:,} bytes; a document may have {MAX_FILE_BYTES:,} at most")
        return
    data = stream.read()
    try:
        title, text, broken = _READERS[file.suffix](data)
        text = _cleaned(text)
        if not text:
            raise _Unreadable("it holds no text")
    except _Unreadable as error:
        yield Problem(f"{file.name}: {error}")
        return
    yield from (Problem(f"{file.name}: {message}; the rest of it is read") for message in broken)
    yield ReadDocument(file.name, _title(title) or PurePosixPath(file.name).stem, text)


def _decoded(data: bytes) -> str:
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        name = encoding.removesuffix("-sig").upper()
        raise _Unreadable(f"not {name} (byte {error.start:,}); save it as UTF-8") from None
    if "\0" in text:
        raise _Unreadable("it is no text: it holds NUL characters")
    return text


def _plain(data: bytes) -> _Read:
    return "", _decoded(data), []


def _markdown(data: bytes) -> _Read:
    text = _decoded(data).replace("\r\n", "\n")
    title = ""
    if front := _FRONT_MATTER.match(text):
        text = text[front.end() :]
        if named := _FRONT_TITLE.search(front["head"]):
            title = named[1]
    if not title and (heading := _HEADING.search(text)):
        title = heading[1] or heading[2]
    return title, text, []


def _html(data: bytes) -> _Read:
    try:
        return *html_text(data), []
    except ValueError as error:
        raise _Unreadable(str(error)) from None


def _pdf(data: bytes) -> _Read:
    import pypdf

    logging.getLogger("pypdf").setLevel(logging.ERROR)  # it tells of every small flaw it has mended
    try:
        reader = pypdf.PdfReader(io.BytesIO(data))
        if reader.is_encrypted and not reader.decrypt(""):
            raise _Unreadable("it is encrypted; save it without a password")
        n_pages = len(reader.pages)
        title = str(reader.metadata.title or "") if reader.metadata else ""
    except _Unreadable:
        raise
    except Exception as error:  # a broken file may raise anything at all
        raise _Unreadable(f"it cannot be read as PDF: {type(error).__name__}: {error}") from None
    pages, broken = list[str](), list[str]()
    for number in range(n_pages):
        try:
            pages.append(reader.pages[number].extract_text())
        except Exception as error:
            broken.append(f"page {number + 1} cannot be read: {type(error).__name__}: {error}")
    text = "\n\n".join(pages)
    if not text.strip():
        raise _Unreadable(
            broken[0] if broken else "it holds no text; scanned pages need text recognition (OCR) first"
        )
    return title, text, broken


_READERS = {
    ".txt": _plain,
    ".md": _markdown,
    ".markdown": _markdown,
    ".html": _html,
    ".htm": _html,
    ".pdf": _pdf,
}


def _json_lines(file: SourceFile, stream: BinaryIO, text_key: str) -> Iterator[ReadDocument | Problem]:
    number = 0
    while line := stream.readline(MAX_LINE_BYTES):
        number += 1
        if len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
            yield Problem(f"{file.name}, line {number}: longer than {MAX_LINE_BYTES:,} bytes")
            while line and not line.endswith(b"\n"):
                line = stream.readline(MAX_LINE_BYTES)
            continue
        if not line.strip():
            continue
        try:
            yield _json_document(file, number, line.removeprefix(b"\xef\xbb\xbf"), text_key)
        except _Unreadable as error:
            yield Problem(f"{file.name}, line {number}: {error}")


def _json_document(file: SourceFile, number: int, line: bytes, text_key: str) -> ReadDocument:
    try:
        data = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _Unreadable(f"not JSON: {error}") from None
    if not isinstance(data, dict):
        raise _Unreadable(f'no document; it looks like {{"id": "...", "{text_key}": "...", "title": "..."}}')
    if not isinstance(data.get(text_key), str):
        keys = ", ".join(f"{key:.40}" for key in list(data)[:10]) or "none"
        raise _Unreadable(f"no text under {text_key!r} (its keys: {keys}); set knowledge.text_key")
    text = _cleaned(data[text_key])
    if not text:
        raise _Unreadable("its text is empty")
    identity = data.get("id")
    if identity is None or isinstance(identity, dict | list | bool):
        identity = number
    name = _CONTROL.sub("", f"{file.name}#{_encodable(str(identity))}")[:MAX_NAME_CHARS]
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
