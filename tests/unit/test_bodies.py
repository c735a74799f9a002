"""Bodies of HTTP responses: bounded while they are decoded, and read as leniently as is safe."""

from __future__ import annotations

import asyncio
import gzip
import time
import tracemalloc
import zlib
from collections.abc import AsyncIterator
from contextlib import suppress

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlgforge_core.common.bodies import BodyError, read_body, read_json

MIB = 1024 * 1024


class Response:
    def __init__(self, body: bytes, encoding: str = "", part: int = 16 * 1024) -> None:
        self.headers = httpx.Headers({"content-encoding": encoding} if encoding else {})
        self._parts = [body[n : n + part] for n in range(0, len(body), part)]

    async def aiter_raw(self) -> AsyncIterator[bytes]:
        for part in self._parts:
            yield part


def read(body: bytes, encoding: str = "", limit: int = MIB, part: int = 16 * 1024) -> bytes:
    return asyncio.run(read_body(Response(body, encoding, part), limit))


def deflated(body: bytes) -> bytes:
    squeeze = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return squeeze.compress(body) + squeeze.flush()


@settings(max_examples=30)
@given(st.binary(max_size=2000), st.integers(1, 500))
def test_a_body_is_read_in_any_encoding_that_is_known(body: bytes, part: int) -> None:
    assert read(body, part=part) == body
    assert read(gzip.compress(body), "gzip", part=part) == body
    assert read(gzip.compress(body), "Identity, X-GZip", part=part) == body
    assert read(zlib.compress(body), "deflate", part=part) == body
    assert read(deflated(body), "deflate", part=part) == body
    assert read(gzip.compress(body) + gzip.compress(b"more"), "gzip", part=part) == body + b"more"


@pytest.mark.parametrize(
    "encoding", ["gzip, gzip", "deflate,gzip", "br", "zstd", "compress", "gzip;q=1", "\x1b[2J"]
)
def test_more_than_one_encoding_and_unknown_ones_are_refused(encoding: str) -> None:
    with pytest.raises(BodyError, match="encoded as") as raised:
        read(b"x", encoding)
    assert str(raised.value).isprintable()


def test_what_is_no_gzip_is_reported() -> None:
    with pytest.raises(BodyError, match="not gzip data"):
        read(b"{}", "gzip")


@pytest.mark.parametrize("squeeze", [gzip.compress, zlib.compress])
def test_a_bomb_is_stopped_while_it_is_decoded(squeeze: object) -> None:
    bomb = gzip.compress(bytes(64 * MIB)) if squeeze is gzip.compress else zlib.compress(bytes(64 * MIB))
    tracemalloc.start()
    with pytest.raises(BodyError, match="longer than 1048576 bytes"):
        read(bomb, "gzip" if squeeze is gzip.compress else "deflate")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * MIB
    with pytest.raises(BodyError, match="longer"):
        read(bytes(2 * MIB))


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'{"a": "\\ud83d"}', {"a": "\ufffd"}),
        (b'{"a": "x\\udc00y"}', {"a": "x\ufffdy"}),
        (b'{"a": "\\ud83d\\ude00 \\ud83d"}', {"a": "\U0001f600 \ufffd"}),
        (b'{"a": "caf\xc3"}', {"a": "caf\ufffd"}),
        (b'{"a": "caf\xe9"}', {"a": "caf\ufffd"}),
        (b'{"a": NaN, "b": Infinity, "c": -Infinity}', {"a": None, "b": None, "c": None}),
        (b'{"a": 1e999}', {"a": 1e308}),
        (b'{"a": "one\ntwo\tthree\x01"}', {"a": "one\ntwo\tthree\x01"}),
        (b'\xef\xbb\xbf{"a": 1}', {"a": 1}),
        ('{"a": "é"}'.encode("utf-16"), {"a": "é"}),
        (b'{"a": 1, "a": 2}', {"a": 2}),
        (b'{"a": 1}\n\n<!-- cached -->', {"a": 1}),
        (b'\n  \r\n{"a": 1}\x00\x00', {"a": 1}),
    ],
)
def test_json_is_read_as_leniently_as_is_safe(body: bytes, value: object) -> None:
    assert read_json(body) == value


@pytest.mark.parametrize(
    ("body", "reported"),
    [
        (b"", "it is empty"),
        (b" \r\n", "it is empty"),
        (
            b"<!DOCTYPE html><html><head><title>502 Bad\nGateway</title></head>",
            "a web page or XML.*'502 Bad Gateway'",
        ),
        (b"<html><body><h1>Log in</h1></body></html>", "a web page or XML.*Log in"),
        (b"upstream timed out", "not JSON: upstream timed out"),
        (b'{"choices": [{"mess', "cut short after 19 characters"),
        (b'{"choices": [', "cut short"),
        (b'{"choices": tru', "broken JSON|cut short"),
        (b'{"a": 1,, "b": 2}', "broken JSON .Expecting property name"),
        (b"{'a': 1}", "broken JSON"),
        (b"[" * 100_000, "nested too deep"),
    ],
)
def test_what_is_hopeless_is_reported_as_it_is(body: bytes, reported: str) -> None:
    with pytest.raises(BodyError) as raised:
        read_json(body)
    assert raised.match(reported)
    assert len(str(raised.value)) < 400


def test_millions_of_values_are_refused_before_they_are_made() -> None:
    body = b"[" + b"[]," * 2_000_000 + b"[]]"
    tracemalloc.start()
    with pytest.raises(BodyError, match="more than 500000 values"):
        read_json(body)
    assert tracemalloc.get_traced_memory()[1] < MIB
    tracemalloc.stop()


@pytest.mark.parametrize(
    "piece", [b"[", b'{"a":', b'"\\ud800', b"\xff", b"9", b"<", b'{"', b"\\u", b"-", b" "]
)
def test_a_megabyte_of_anything_takes_no_second(piece: bytes) -> None:
    started = time.process_time()
    for body in (piece * (MIB // len(piece)), b'{"a": ' + piece * (MIB // len(piece))):
        try:
            read_json(body)
        except BodyError:
            continue
    assert time.process_time() - started < 4


@given(st.binary(max_size=300))
def test_any_body_is_a_value_or_an_error_that_tells(body: bytes) -> None:
    with suppress(BodyError):
        read_json(body)
