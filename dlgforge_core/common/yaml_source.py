"""Hand-written text files: decoding them, and YAML whose every part still knows its line.

The reader takes libyaml's events instead of composing documents: composing recurses in C, so that a deeply
nested file would end the process. Plain scalars stay text, because in YAML 1.1 the language `no` is a
boolean. Anchors and aliases are errors: a few lines of them can stand for billions of topics.
"""

from __future__ import annotations

import hashlib
import re
import reprlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dlgforge_core.common.plain_files import open_plain
from dlgforge_core.errors import SeedError

MAX_FILE_BYTES = 256 * 1024 * 1024
_MAX_DEPTH = 8
MAX_NODES = 500_000
"""Of a YAML file: each takes a hundred bytes of memory, for two of the file's."""
_SHOWN_CHARS = 60
_BRIEF = reprlib.Repr()  # for lists that may be very long, or deeper than Python's stack
_BRIEF.maxlevel, _BRIEF.maxlist, _BRIEF.maxdict, _BRIEF.maxstring = 4, 20, 20, 200
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# Postgres text holds no NUL, and no other control character belongs into a prompt.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Scalar:
    """A text; None where the file has nothing, `~` or `null`."""

    text: str | None
    line: int


@dataclass(frozen=True, slots=True)
class Listing:
    """A YAML sequence."""

    items: tuple[Node, ...]
    line: int


@dataclass(frozen=True, slots=True)
class Mapping:
    """A YAML mapping, repeated keys included."""

    pairs: tuple[tuple[Scalar, Node], ...]
    line: int


Node = Scalar | Listing | Mapping


def shown(value: object) -> str:
    """`value` as it appears in a message, cut where it is long."""
    if isinstance(value, Scalar):
        value = value.text
    elif isinstance(value, Listing | Mapping):
        return "a list" if isinstance(value, Listing) else "a mapping"
    text = _BRIEF.repr(value) if isinstance(value, list | dict) else repr(value)
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}..."


def read_bytes(path: Path) -> bytes:
    """Return the content of `path`. Raises SeedError when it cannot be read or is larger than 256 MiB."""
    try:
        with open_plain(path) as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise SeedError(f"{path} cannot be read: {error.strerror or error}") from None
    if len(data) > MAX_FILE_BYTES:
        raise SeedError(
            f"{path} has more bytes than the {MAX_FILE_BYTES:,} that a file may have; split it into several"
        )
    return data


def normalise(data: bytes, label: str) -> bytes:
    r"""Return `data` without a UTF-8 byte order mark and with line ends `\n`.

    Raises SeedError when it is empty or UTF-16. `label` names the file in messages.
    """
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise SeedError(f"{label}:1: the file is UTF-16; save it as UTF-8")
    data = data.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if not data.strip():
        raise SeedError(f"{label}: the file is empty")
    return data


def content_digest(data: bytes) -> str:
    """Hex SHA-256 of normalised content: the same for Windows and Unix line ends."""
    return hashlib.sha256(data).hexdigest()


def bad_character(text: str) -> str | None:
    """Return what keeps `text` out of a prompt or the database, or None."""
    if found := _CONTROL.search(text):
        return f"holds the control character U+{ord(found.group()):04X}; remove it"
    return None


def decoded(data: bytes, label: str) -> str:
    """Return the content of a file as text. Raises SeedError, naming the line, where it is not UTF-8."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SeedError(
            f"{label}:{line}: byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8"
        ) from None


def parse_yaml(data: bytes, label: str) -> Node:
    """Return the one document in `data`, which `normalise` has seen.

    Raises SeedError, naming the line, for anything that is not plain YAML in UTF-8.
    """
    text = decoded(data, label)
    if found := _CONTROL.search(text):
        line = text.count("\n", 0, found.start()) + 1
        raise SeedError(f"{label}:{line}: the line {bad_character(found.group())}")
    try:
        return _document(_counted(yaml.parse(text, Loader=_Loader), label), label)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark if error.problem_mark is not None else error.context_mark
        # An unclosed bracket is noticed after the last line; name that one.
        last = text.rstrip("\n").count("\n") + 1
        line = min(mark.line + 1, last) if mark is not None else 1
        hint = "; indent with spaces" if "\t" in _line(text, line) else ""
        raise SeedError(f"{label}:{line}: not valid YAML: {error.problem or error.context}{hint}") from None
    except yaml.YAMLError as error:
        position = getattr(error, "position", 0)
        line = text.count("\n", 0, position) + 1
        raise SeedError(f"{label}:{line}: not valid YAML: {getattr(error, 'reason', error)}") from None


def _line(text: str, number: int) -> str:
    lines = text.split("\n")
    return lines[number - 1] if number <= len(lines) else ""


def _counted(events: Iterator[Any], label: str) -> Iterator[Any]:
    """Yield the events. Raises SeedError when they make too many nodes."""
    for number, event in enumerate(events):
        if number > MAX_NODES:
            raise SeedError(
                f"{label}:{event.start_mark.line + 1}: a YAML file may have {MAX_NODES:,} entries at most; "
                "split it into several, or write topics as JSONL, one a line"
            )
        yield event


def _document(events: Iterator[Any], label: str) -> Node:
    node: Node | None = None
    for event in events:
        if isinstance(event, yaml.DocumentStartEvent):
            if node is not None:
                mark: Any = event.start_mark
                raise SeedError(f"{label}:{mark.line + 1}: a second document starts here; keep one a file")
        elif isinstance(event, yaml.NodeEvent):
            node = _node(event, events, label, 0)
    if node is None:
        raise SeedError(f"{label}: the file holds nothing but comments")
    return node


def _node(event: Any, events: Iterator[Any], label: str, depth: int) -> Node:
    line = event.start_mark.line + 1
    if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
        raise SeedError(f"{label}:{line}: anchors (&) and aliases (*) are not supported; write the text out")
    if depth > _MAX_DEPTH:
        raise SeedError(f"{label}:{line}: nested more than {_MAX_DEPTH} levels deep")
    if isinstance(event, yaml.ScalarEvent):
        plain = event.style in (None, "")
        return Scalar(None if plain and event.value in ("", "~", "null") else event.value, line)
    if isinstance(event, yaml.SequenceStartEvent):
        items = []
        while not isinstance(inner := next(events), yaml.SequenceEndEvent):
            items.append(_node(inner, events, label, depth + 1))
        return Listing(tuple(items), line)
    pairs = []
    while not isinstance(inner := next(events), yaml.MappingEndEvent):
        key = _node(inner, events, label, depth + 1)
        if not isinstance(key, Scalar):
            raise SeedError(f"{label}:{key.line}: a key is {shown(key)}; a key must be plain text")
        pairs.append((key, _node(next(events), events, label, depth + 1)))
    return Mapping(tuple(pairs), line)
