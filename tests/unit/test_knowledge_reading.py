"""Documents that are bombs: each costs itself alone, within limits of time and memory, and is named."""

from __future__ import annotations

import io
import json
import os
import signal
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

import pytest

from dlgforge_core.config import DocumentLimitsConfig, KnowledgeConfig
from dlgforge_core.knowledge.chunking import chunk_spans
from dlgforge_core.knowledge.detection import detect_language
from dlgforge_core.knowledge.documents import Problem, ReadDocument
from dlgforge_core.knowledge.reading import DocumentReader, ReaderError
from tests.support.documents import pdf

LIMITS = DocumentLimitsConfig(seconds=0.5, memory_mib=128)


@pytest.fixture(scope="module")
def reader() -> Iterator[DocumentReader]:
    with DocumentReader(KnowledgeConfig(limits=LIMITS)) as reader:
        yield reader


def read(reader: DocumentReader, name: str, data: bytes | BinaryIO) -> list[ReadDocument | Problem]:
    stream = io.BytesIO(data) if isinstance(data, bytes) else data
    items = list(reader.read(name, stream))
    (after,) = reader.read("after.txt", io.BytesIO(b"still read"))
    assert after == ReadDocument("after.txt", "after", "still read")
    return items


def reported(items: list[ReadDocument | Problem]) -> list[str]:
    return [item.message for item in items if isinstance(item, Problem)]


@pytest.mark.parametrize(
    "text",
    [
        "# " + " " * 6_000 + "x",
        "---\ntitle:" + " " * 6_000 + "\n x\n---\nabc",
        "title\n" + "-" * 200_000 + "x",
        "a@" * 3_000,
        "@" * 6_000,
        "." * 1_000_000,
        ".'" * 500_000,
        "```" * 300_000,
        "data: " + "![](data:" * 100_000,
        "data: " + "![" * 500_000,
        "data: " + "[a]:\n" * 200_000,
        "data:a/b" + ";c" * 500_000,
        "\n \n" * 300_000 + "x",
        "\n" + "\t" * 1_000_000 + "x",
    ],
    ids=lambda text: repr(text[:14]),
)
def test_patterns_take_time_in_proportion(reader: DocumentReader, text: str) -> None:
    """A text is read, cut and told its language in a fraction of a second, whatever it is made of."""
    (document,) = read(reader, "a.md", text.encode())
    assert isinstance(document, ReadDocument)
    started = time.process_time()
    list(chunk_spans(document.text, 800, 100))
    detect_language(document.text, ["en"])
    assert time.process_time() - started < 5


def bomb_pdf(n_pages: int, content: bytes) -> bytes:
    """Return a PDF whose pages all have the same content, packed."""
    packed = zlib.compress(content)
    data = pdf(*["x"] * n_pages)
    stream = b"<< /Filter /FlateDecode /Length %d >>\nstream\n%s\nendstream" % (len(packed), packed)
    start = data.index(b"<< /Length ")
    return data[:start] + stream + data[data.index(b"endstream", start) + 9 :]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("deep.html", b"<div>" * 60_000 + b"x"),
        ("asides.html", b"<aside>" * 20_000 + b"x"),
        ("slow.pdf", bomb_pdf(1, b"BT /F1 12 Tf " + b"(x) Tj " * 2_000_000 + b"ET")),
    ],
)
def test_a_document_that_takes_long_is_left_out(reader: DocumentReader, name: str, data: bytes) -> None:
    assert reported(read(reader, name, data)) == [
        f"{name}: it takes more than 0.5 s of a processor to read (knowledge.limits.seconds)"
    ]


def test_a_reader_that_works_is_waited_for_and_one_that_stands_still_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dlgforge_core.knowledge.reading._PATIENCE", 0.05)
    monkeypatch.setattr("dlgforge_core.knowledge.reading._MOMENT_S", 0.05)  # 0.3 s in all
    page = b"<main>a</main>" + b"<b hidden>" * 4_000
    with DocumentReader(KnowledgeConfig(limits=DocumentLimitsConfig(seconds=5))) as reader:
        assert [type(item) for item in reader.read("a.html", io.BytesIO(page))] == [ReadDocument]
        assert reader._child is not None
        os.kill(reader._child.pid, signal.SIGSTOP)
        with pytest.raises(ReaderError, match="was not read within"):
            list(reader.read("a.html", io.BytesIO(page)))


def test_a_document_that_takes_much_memory_is_left_out() -> None:
    lines = b'{"text": "a"}\n[' + b"[]," * 3_000_000 + b'[]]\n{"text": "z"}'
    limits = DocumentLimitsConfig(seconds=30, memory_mib=128)
    with DocumentReader(KnowledgeConfig(limits=limits)) as reader:
        why = "it takes more than 128 MiB of memory to read (knowledge.limits.memory_mib)"
        assert reported(read(reader, "big.txt", b"a " * 60_000_000)) == [f"big.txt: {why}"]
        first, problem, last = read(reader, "x.jsonl", lines)
        assert (first, last) == (ReadDocument("x.jsonl#1", "", "a"), ReadDocument("x.jsonl#3", "", "z"))
        assert problem == Problem(f"x.jsonl, line 2: {why}")


class Endless(io.RawIOBase):
    """A server's answer that has no end, and of which no size is known."""

    def __init__(self) -> None:
        self.n_bytes = 0

    def read(self, size: int = -1) -> bytes:
        assert size >= 0, "all of it would be read at once"
        self.n_bytes += size
        return b"x" * size


@pytest.mark.parametrize("name", ["a.txt", "a.html", "a.pdf"])
def test_files_without_a_size_are_counted_as_they_are_read(name: str) -> None:
    endless = Endless()
    with DocumentReader(KnowledgeConfig(limits=DocumentLimitsConfig(file_mib=2))) as reader:
        assert reported(read(reader, name, cast(BinaryIO, endless))) == [
            f"{name}: more than 2,097,152 bytes; a document may have that many at most "
            "(knowledge.limits.file_mib)"
        ]
    assert endless.n_bytes < 4 * 2**20


def test_a_text_may_have_so_many_characters() -> None:
    limits = DocumentLimitsConfig(text_chars=10)
    with DocumentReader(KnowledgeConfig(limits=limits)) as reader:
        for name, data in (("a.txt", b"12345678901"), ("a.jsonl", b'{"text": "12345678901"}')):
            (problem,) = reported(read(reader, name, data))
            assert "its text has 11 characters; a document may have 10 at most" in problem


def test_long_lines_are_reported_and_the_rest_is_read(
    reader: DocumentReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dlgforge_core.knowledge.reading.MAX_LINE_BYTES", 3_000_000)
    line = json.dumps({"text": "x" * 5_000_000}).encode()
    items = read(reader, "x.jsonl", line + b'\n{"text": "b"}\r\n\n' + line)
    assert items == [
        Problem("x.jsonl, line 1: longer than 3,000,000 bytes"),
        ReadDocument("x.jsonl#2", "", "b"),
        Problem("x.jsonl, line 4: longer than 3,000,000 bytes"),
    ]


def test_a_file_of_lines_that_each_end_the_reader_is_not_read_on() -> None:
    bad = b"[" + b"[]," * 3_000_000 + b"[]]\n"
    limits = DocumentLimitsConfig(seconds=0.1)
    with DocumentReader(KnowledgeConfig(limits=limits)) as reader:
        problems = reported(list(reader.read("x.jsonl", io.BytesIO(bad * 11))))
    assert len(problems) == 11
    assert problems[-1] == "x.jsonl: 10 lines were like this; the rest of it is not read"


def test_many_documents_need_one_process(reader: DocumentReader) -> None:
    list(reader.read("a.txt", io.BytesIO(b"x")))
    child = reader._child
    for n in range(300):
        list(reader.read(f"{n}.md", io.BytesIO(b"# x\n\ny")))
    lines = b"\n".join(b'{"text": "%d"}' % n for n in range(3_000))
    assert [
        item.text for item in reader.read("a.jsonl", io.BytesIO(lines)) if isinstance(item, ReadDocument)
    ] == [str(n) for n in range(3_000)]
    assert reader._child is child


def test_the_reader_knows_no_secret_and_ends_with_its_user(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SOME_API_KEY", "sk-not-for-children-1")
    reader = DocumentReader(KnowledgeConfig())
    with reader:
        list(reader.read("a.txt", io.BytesIO(b"x")))
        assert reader._child is not None
        pid = reader._child.pid
        assert b"sk-not-for-children-1" not in Path(f"/proc/{pid}/environ").read_bytes()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_reader_that_is_killed_is_no_file_s_fault() -> None:
    with DocumentReader(KnowledgeConfig()) as reader:
        list(reader.read("a.txt", io.BytesIO(b"x")))
        assert reader._child is not None
        reader._child.kill()
        reader._child.wait()
        with pytest.raises(ReaderError, match="ended with -9"):
            list(reader.read("b.txt", io.BytesIO(b"x")))
        assert list(reader.read("b.txt", io.BytesIO(b"x"))) == [ReadDocument("b.txt", "b", "x")]


def test_what_reading_raises_is_passed_on_and_the_next_file_is_read(reader: DocumentReader) -> None:
    class Torn(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise OSError("the connection is gone")

    for name in ("a.txt", "a.jsonl"):
        with pytest.raises(OSError, match="gone"):
            list(reader.read(name, Torn()))
        assert list(reader.read("b.txt", io.BytesIO(b"x"))) == [ReadDocument("b.txt", "b", "x")]
