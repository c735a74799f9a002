"""Bodies of HTTP responses: read within a limit, and JSON parsed as leniently as is safe."""

from __future__ import annotations

import json
import math
import re
import zlib
from collections.abc import AsyncIterator
from typing import Any, Protocol

import orjson

MAX_VALUES = 500_000
"""Values that one body may hold: a list of ten million empty lists takes a gigabyte once parsed."""

_EXCERPT_CHARS = 200
_ENCODINGS = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
_LONGEST_NUMBER = 20


class BodyError(ValueError):
    """A body that cannot be read; the message says what is there."""


class Response(Protocol):
    """What is needed of `httpx.Response`."""

    @property
    def headers(self) -> Any:
        """By name, without regard to capitals."""

    def aiter_raw(self) -> AsyncIterator[bytes]:
        """Return the body as it came over the line."""


async def read_body(response: Response, limit: int) -> bytes:
    """Return the body, decoded, as `decoded` does."""
    return await decoded(response.aiter_raw(), response.headers.get("content-encoding", ""), limit)


async def decoded(parts: AsyncIterator[bytes], encoding: str, limit: int) -> bytes:
    """Return the body of these `parts`, decoded by its Content-Encoding.

    Raises BodyError for one longer than `limit`, or in more than one encoding. What is decoded is counted
    while it is decoded, so that a small body cannot grow large in memory.
    """
    decoder = _decoder(encoding) if encoding else None
    body = bytearray()
    async for part in parts:
        if decoder is None:
            body += part
        else:
            decoder.feed(part, body, limit)
        if len(body) > limit:
            raise BodyError(f"the answer is longer than {limit} bytes")
    return bytes(body)


def _decoder(header: str) -> _Decoder | None:
    names = [name for name in (part.strip().lower() for part in header.split(",")) if name]
    names = [name for name in names if name != "identity"]
    if not names:
        return None
    if len(names) > 1 or names[0] not in _ENCODINGS:
        shown = re.sub(r"[^\w, .-]", "?", header[:60])
        raise BodyError(f"the answer is encoded as {shown!r}; one encoding is read: gzip or deflate")
    return _Decoder(names[0])


class _Decoder:
    """Decompression that never makes more than asked for."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._bits = _ENCODINGS[name]
        self._zlib = zlib.decompressobj(self._bits)
        self._head = b""

    def feed(self, part: bytes, body: bytearray, limit: int) -> None:
        """Decode `part` to the end of `body`, one byte beyond `limit` at most."""
        if self._name == "deflate" and len(self._head) < 2:
            part = self._head = self._head + part
            if len(part) < 2:
                return
            if part[0] & 15 != zlib.DEFLATED or int.from_bytes(part[:2]) % 31:
                self._bits = -zlib.MAX_WBITS  # as some servers take it: without zlib's header
                self._zlib = zlib.decompressobj(self._bits)
        while part and len(body) <= limit:
            try:
                body += self._zlib.decompress(part, limit + 1 - len(body))
            except zlib.error:
                raise BodyError(f"the answer is not {self._name} data, as its header says") from None
            part = self._zlib.unconsumed_tail
            if self._zlib.eof:
                part = self._zlib.unused_data
                self._zlib = zlib.decompressobj(self._bits)


def read_json(body: bytes, *, max_values: int = MAX_VALUES) -> Any:
    """Return the JSON value that `body` holds. Raises BodyError, saying what is there, when it holds none.

    Read as well: a byte order mark, broken UTF-8 and lone surrogates (U+FFFD takes their place), control
    characters in strings, NaN (as null), and what follows the value.
    """
    check_size(body, max_values)
    try:
        return orjson.loads(body)
    except ValueError:
        return read_first_value(decode(body))[0]


def check_size(body: bytes, max_values: int = MAX_VALUES) -> None:
    """Raise BodyError when `body` may hold more than `max_values` values; text with commas counts, too."""
    if len(body) > max_values and body.count(b",") + body.count(b"[") + body.count(b"{") > max_values:
        raise BodyError(f"it holds more than {max_values} values")


def decode(body: bytes) -> str:
    """Return the text of a body, with U+FFFD for what is broken."""
    for mark, encoding in ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
        if body.startswith(mark):
            return body.decode(encoding, "replace")
    return body.decode("utf-8", "replace")


def read_first_value(text: str, start: int = 0) -> tuple[Any, int]:
    """Return the JSON value at `start` in `text`, past white space, and where it ends. Raises BodyError."""
    start = skip_space(text, start)
    try:
        value, end = _DECODER.raw_decode(text, start)
        return (_without_surrogates(value) if _SURROGATE.search(text, start, end) else value), end
    except json.JSONDecodeError as error:
        raise BodyError(_diagnosis(text[start:], error, start)) from None
    except RecursionError:
        raise BodyError("it is nested too deep") from None


def skip_space(text: str, start: int) -> int:
    """Where the next character after white space stands."""
    match = _SPACE.match(text, start)
    return match.end() if match else start


_SPACE = re.compile(r"[\s\ufeff]*")
# As an escape, or as it is.
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]|[\ud800-\udfff]")


def _whole(digits: str) -> int | float:
    return int(digits) if len(digits) <= _LONGEST_NUMBER else _number(digits[:400])


def _number(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else math.copysign(1e308, value)


_DECODER = json.JSONDecoder(
    strict=False, parse_constant=lambda name: None, parse_int=_whole, parse_float=_number
)


def _without_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_without_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {_without_surrogates(key): _without_surrogates(item) for key, item in value.items()}
    return value


def _diagnosis(text: str, error: json.JSONDecodeError, start: int) -> str:
    stripped = text.strip()
    if not stripped:
        return "it is empty"
    if stripped[0] == "<":
        return f"it is a web page or XML, not JSON: {_page(stripped)}"
    if stripped[0] not in '{["':
        return f"it is not JSON: {_shown(stripped)}"
    cut = error.msg.startswith("Unterminated string") or error.pos - start >= len(text.rstrip())
    if cut:
        return f"it is cut short after {len(stripped)} characters: {_shown(stripped)}"
    return f"it is broken JSON ({error.msg}, character {error.pos - start}): {_shown(stripped)}"


_TITLE = re.compile(r"<title[^<>]{0,200}>([^<]{1,200})", re.IGNORECASE)
_TAG = re.compile(r"<[^<>]{0,500}>")


def _page(text: str) -> str:
    head = text[:20_000]
    if title := _TITLE.search(head):
        return repr(" ".join(title[1].split()))
    return _shown(_TAG.sub(" ", head))


def _shown(text: str) -> str:
    line = " ".join(text[: 8 * _EXCERPT_CHARS].split())
    return line if len(line) <= _EXCERPT_CHARS else f"{line[: _EXCERPT_CHARS - 3]}..."
