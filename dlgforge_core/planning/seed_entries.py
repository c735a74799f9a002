"""Values of seed files' entries: read, checked, and reported with key, value and what would be right."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

import orjson

from dlgforge_core.common.hints import hint
from dlgforge_core.common.invisible import is_visible
from dlgforge_core.common.yaml_source import bad_character, shown

MAX_LINE_BYTES = 1024 * 1024
MAX_TOPIC_CHARS = 500
MAX_QUESTION_CHARS = 10_000
MAX_ID_CHARS = 200
MAX_METADATA_DEPTH = 50
LINE_KEYS = ("id", "language", "topic", "question", "metadata", "messages", "conversations")
_LANGUAGE = re.compile(r"[^\W\d_][\w ()'-]{0,58}[\w)]?")  # a code, or a dialect by name


class BadEntryError(Exception):
    """An entry that cannot be used; the message says key, value and what would be right."""


def json_object(line: bytes, known: Sequence[str] = LINE_KEYS) -> dict[str, Any]:
    """Return the object in a line of JSONL, with `known` keys where there are some. Raises BadEntryError."""
    if len(line) > MAX_LINE_BYTES:
        raise BadEntryError(f"the line has {len(line)} bytes; a line may have {MAX_LINE_BYTES} at most")
    try:
        line.decode("utf-8")
        data = orjson.loads(line)
    except UnicodeDecodeError as error:
        raise BadEntryError(f"byte 0x{line[error.start]:02x} is not UTF-8; write the line in UTF-8") from None
    except orjson.JSONDecodeError as error:
        raise BadEntryError(f"not valid JSON: {error.msg} at column {error.colno}") from None
    if not isinstance(data, dict):
        raise BadEntryError(
            f"{shown(data)} is no object; a line looks like "
            '{"language": "en", "topic": "home repair", "question": "..."}'
        )
    for key in data:
        if known and key not in known:
            raise BadEntryError(f"{shown(key)}: unknown key; {hint(key, known)}")
    return data


def language_of(value: object, key: str = "language") -> str:
    """Return a language, as it stands. Raises BadEntryError."""
    language = text_of(key, value, MAX_ID_CHARS)
    if not _LANGUAGE.fullmatch(language):
        raise BadEntryError(
            f"{key} = {shown(language)} is not a language; it looks like 'en', 'pt-BR' or 'Gulf Arabic'"
        )
    return language


def text_of(key: str, value: object, max_chars: int) -> str:
    """Return a text in the normal form, without space around it. Raises BadEntryError."""
    if value is None:
        raise BadEntryError(f"{key} is missing; it must be text")
    if not isinstance(value, str):
        raise BadEntryError(f"{key} = {shown(value)} is not text; put it in quotes")
    if bad := bad_character(value):
        raise BadEntryError(f"{key} {bad}")
    # One form of each accented letter, so that the same topic has the same id whatever wrote the file.
    text = unicodedata.normalize("NFC", value).strip()
    if not text:
        raise BadEntryError(f"{key} = {shown(value)} is empty; it must be text")
    if not is_visible(text):
        raise BadEntryError(f"{key} = {ascii(text)[:60]} has no character that can be seen; it must be text")
    if len(text) > max_chars:
        raise BadEntryError(f"{key} has {len(text)} characters; it may have {max_chars} at most")
    return text


def check_metadata(value: object) -> None:
    """Refuse what a database or JSON cannot hold. Raises BadEntryError."""
    if not isinstance(value, dict):
        raise BadEntryError(f"metadata = {shown(value)} is no object; it must be an object")
    # Walked without recursion: the parser allows more levels than what writes JSON.
    waiting: list[tuple[object, int]] = [(value, 0)]
    while waiting:
        part, depth = waiting.pop()
        if depth > MAX_METADATA_DEPTH:
            raise BadEntryError(
                f"metadata is nested more than {MAX_METADATA_DEPTH} levels deep; keep what is above"
            )
        if isinstance(part, dict):
            waiting.extend((item, depth + 1) for item in (*part.keys(), *part.values()))
        elif isinstance(part, list):
            waiting.extend((item, depth + 1) for item in part)
        elif isinstance(part, str) and "\0" in part:
            raise BadEntryError("metadata holds the control character U+0000; remove it")
        elif isinstance(part, float) and not math.isfinite(part):  # pragma: no cover - orjson refuses these
            raise BadEntryError("metadata holds a number that is not finite")
