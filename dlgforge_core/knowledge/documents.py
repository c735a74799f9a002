"""Files as documents: the plain text of .txt, .md, .pdf, .html and .jsonl, or why there is none.

What files hold is foreign: `reading` has this module run in a child process with limits. It imports little,
so that the child starts quickly, and its patterns take time in proportion to the text.
"""

from __future__ import annotations

import json
import logging
import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import BinaryIO

from dlgforge_core.knowledge.encodings import Decoded, EncodingError, decode, decode_page
from dlgforge_core.knowledge.html_text import html_text
from dlgforge_core.prompting.quoting import neutralise

MAX_NAME_CHARS = 400
MAX_TITLE_CHARS = 120
# Raised whenever the same file would give other documents: files are read anew then.
READER_VERSION = 3

_FRONT_MATTER = re.compile(r"\A---\n(?P<head>.*?)\n---[^\S\n]*(?:\n|\Z)", re.DOTALL)
# A title stands near the top; one on line 10,000 is none.
_TITLE_LINES = 10_000
_RULE = re.compile(r"(?:=+|-+)\s*")
_HASHES = re.compile(r"\s{0,3}#{1,6}(?=\s)")
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


class _Unreadable(Exception):
    """Why a file is no document."""


# Title, text, and what is wrong with parts of it.
_Read = tuple[str, str, list[str]]


@dataclass(frozen=True, slots=True)
class Reading:
    """How files are read: `text_key` is the key of a document's text in a JSONL line, `encoding` the label of
    the encoding of text that states none and is not UTF-8, `text_chars` how long a text may be."""

    text_key: str = "text"
    encoding: str = ""
    text_chars: int = 16_000_000


def read_document(name: str, stream: BinaryIO, how: Reading) -> list[ReadDocument | Problem]:
    """The document in a file, and what is wrong with it. Raises OSError, MemoryError."""
    try:
        title, text, broken = _read(PurePosixPath(name).suffix.lower(), stream, how)
        text = _cleaned(text)
        if not text:
            raise _Unreadable("it holds no text")
        _check_length(text, how)
    except (_Unreadable, EncodingError) as error:
        return [Problem(f"{name}: {error}")]
    problems = [Problem(f"{name}: {message}; the rest of it is read") for message in broken]
    return [*problems, ReadDocument(name, _title(title) or PurePosixPath(name).stem, text)]


def read_line(name: str, number: int, line: bytes, how: Reading) -> ReadDocument | Problem:
    """The document in a line of the JSONL file called `name`. Raises MemoryError."""
    try:
        return _json_document(name, number, line.removeprefix(b"\xef\xbb\xbf"), how)
    except _Unreadable as error:
        return Problem(f"{name}, line {number}: {error}")


def _read(suffix: str, stream: BinaryIO, how: Reading) -> _Read:
    if suffix == ".pdf":
        return _pdf(stream)
    data = stream.read()
    if suffix in (".html", ".htm"):
        return _html(data, how)
    decoded = decode(data, fallback=how.encoding)
    if "\0" in decoded.text:
        raise _Unreadable("it is no text: it holds NUL characters")
    del data
    title, text = _markdown(decoded.text) if suffix in (".md", ".markdown") else ("", decoded.text)
    return title, text, _broken(decoded)


def _broken(decoded: Decoded) -> list[str]:
    return [decoded.problem] if decoded.problem else []


def _check_length(text: str, how: Reading) -> None:
    if len(text) > how.text_chars:
        raise _Unreadable(
            f"its text has {len(text):,} characters; a document may have {how.text_chars:,} at most "
            "(knowledge.limits.text_chars)"
        )


def _markdown(text: str) -> tuple[str, str]:
    text = text.replace("\r\n", "\n")
    title = ""
    if front := _FRONT_MATTER.match(text):
        text = text[front.end() :]
        title = _front_title(front["head"])
    return title or _heading(text), text


def _front_title(head: str) -> str:
    for line in head.split("\n", _TITLE_LINES)[:_TITLE_LINES]:
        if line.startswith("title:") and (title := line.removeprefix("title:").strip()):
            quoted = title[0] in "\"'" and len(title) > 1
            return title[1:].removesuffix(title[0]) if quoted else title
    return ""


def _heading(text: str) -> str:
    """The first heading, of either form; empty without one."""
    before = ""
    for line in text.split("\n", _TITLE_LINES)[:_TITLE_LINES]:
        if (hashes := _HASHES.match(line)) and (title := _closed(line[hashes.end() :])):
            return title
        if before[:1].strip() and _RULE.fullmatch(line):
            return before.rstrip()
        before = line
    return ""


def _closed(heading: str) -> str:
    """A heading's text without the hashes that may close it, which is not the one of C#."""
    heading = heading.strip()
    bare = heading.rstrip("#")
    return bare.rstrip() if bare != heading and bare[-1:].isspace() else heading if bare else ""


def _html(data: bytes, how: Reading) -> _Read:
    decoded = decode_page(data, how.encoding)
    try:
        return *html_text(decoded.text), _broken(decoded)
    except ValueError as error:
        raise _Unreadable(str(error)) from None


def _pdf(stream: BinaryIO) -> _Read:
    import pypdf

    logging.getLogger("pypdf").setLevel(logging.ERROR)  # it tells of every small flaw it has mended
    try:
        reader = pypdf.PdfReader(stream)
        if reader.is_encrypted and not reader.decrypt(""):
            raise _Unreadable("it is encrypted; save it without a password")
        n_pages = len(reader.pages)
        title = str(reader.metadata.title or "") if reader.metadata else ""
    except (_Unreadable, MemoryError):
        raise
    except Exception as error:  # a broken file may raise anything at all
        raise _Unreadable(f"it cannot be read as PDF: {type(error).__name__}: {error}") from None
    pages, broken = list[str](), list[str]()
    for number in range(n_pages):
        try:
            pages.append(reader.pages[number].extract_text())
        except MemoryError:
            raise
        except Exception as error:
            broken.append(f"page {number + 1} cannot be read: {type(error).__name__}: {error}")
    text = "\n\n".join(pages)
    if not text.strip():
        raise _Unreadable(
            broken[0] if broken else "it holds no text; scanned pages need text recognition (OCR) first"
        )
    return title, text, broken


def _json_document(file: str, number: int, line: bytes, how: Reading) -> ReadDocument:
    text_key = how.text_key
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
