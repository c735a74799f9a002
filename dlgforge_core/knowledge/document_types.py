"""Types of documents: the suffixes of their files, and what reads a file's title and text.

This runs in a child process (see `reading`) and imports little, so that the child starts quickly.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import BinaryIO

from dlgforge_core.knowledge.encodings import Decoded, decode, decode_page
from dlgforge_core.knowledge.html_text import html_text

_FRONT_MATTER = re.compile(r"\A---\n(?P<head>.*?)\n---[^\S\n]*(?:\n|\Z)", re.DOTALL)
# A title stands near the top; one on line 10,000 is none.
_TITLE_LINES = 10_000
_RULE = re.compile(r"(?:=+|-+)\s*")
_HASHES = re.compile(r"\s{0,3}#{1,6}(?=\s)")


class UnreadableError(Exception):
    """Why a file is no document."""


Read = tuple[str, str, list[str]]
"""Title, text, and what is wrong with parts of it."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How files are read.

    `text_key` is the key of a document's text in a JSONL line, `encoding` the label of
    the encoding of text that states none and is not UTF-8, `text_chars` how long a text may be.
    """

    text_key: str = "text"
    encoding: str = ""
    text_chars: int = 16_000_000


@dataclass(frozen=True, slots=True)
class DocumentType:
    """A type of document.

    `read` gives title and text of a file and raises UnreadableError, EncodingError, OSError and MemoryError;
    None: each line of a file is a document, as JSON.
    """

    suffixes: tuple[str, ...]
    read: Callable[[BinaryIO, Reading], Read] | None


def type_of(name: str) -> DocumentType | None:
    """Return the type of the file with this name; None: of no known one."""
    return _BY_SUFFIX.get(PurePosixPath(name).suffix.lower())


def _plain(stream: BinaryIO, how: Reading) -> Read:
    text, broken = _decoded(stream, how)
    return "", text, broken


def _markdown(stream: BinaryIO, how: Reading) -> Read:
    text, broken = _decoded(stream, how)
    return *_titled(text), broken


def _decoded(stream: BinaryIO, how: Reading) -> tuple[str, list[str]]:
    decoded = decode(stream.read(), fallback=how.encoding)
    if "\0" in decoded.text:
        raise UnreadableError("it is no text: it holds NUL characters")
    return decoded.text, _broken(decoded)


def _broken(decoded: Decoded) -> list[str]:
    return [decoded.problem] if decoded.problem else []


def _titled(text: str) -> tuple[str, str]:
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
    """Return the first heading, of either form; empty without one."""
    before = ""
    for line in text.split("\n", _TITLE_LINES)[:_TITLE_LINES]:
        if (hashes := _HASHES.match(line)) and (title := _closed(line[hashes.end() :])):
            return title
        if before[:1].strip() and _RULE.fullmatch(line):
            return before.rstrip()
        before = line
    return ""


def _closed(heading: str) -> str:
    """Return a heading's text without the hashes that may close it, which is not the one of C#."""
    heading = heading.strip()
    bare = heading.rstrip("#")
    return bare.rstrip() if bare != heading and bare[-1:].isspace() else heading if bare else ""


def _html(stream: BinaryIO, how: Reading) -> Read:
    decoded = decode_page(stream.read(), how.encoding)
    try:
        return *html_text(decoded.text), _broken(decoded)
    except ValueError as error:
        raise UnreadableError(str(error)) from None


def _pdf(stream: BinaryIO, _: Reading) -> Read:
    import pypdf

    logging.getLogger("pypdf").setLevel(logging.ERROR)  # it tells of every small flaw it has mended
    try:
        reader = pypdf.PdfReader(stream)
        if reader.is_encrypted and not reader.decrypt(""):
            raise UnreadableError("it is encrypted; save it without a password")
        n_pages = len(reader.pages)
        title = str(reader.metadata.title or "") if reader.metadata else ""
    except (UnreadableError, MemoryError):
        raise
    except Exception as error:  # a broken file may raise anything at all
        raise UnreadableError(f"it cannot be read as PDF: {type(error).__name__}: {error}") from None
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
        raise UnreadableError(
            broken[0] if broken else "it holds no text; scanned pages need text recognition (OCR) first"
        )
    return title, text, broken


DOCUMENT_TYPES = (
    DocumentType((".txt",), _plain),
    DocumentType((".md", ".markdown"), _markdown),
    DocumentType((".pdf",), _pdf),
    DocumentType((".html", ".htm"), _html),
    DocumentType((".jsonl",), None),
)
_BY_SUFFIX = {suffix: kind for kind in DOCUMENT_TYPES for suffix in kind.suffixes}
SUFFIXES = tuple(_BY_SUFFIX)
"""What the names of documents' files end in."""
