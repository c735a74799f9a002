"""Documents and file names of any kind: none ends a run, and none takes more than it may."""

from __future__ import annotations

import io
import json
import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dlgforge_core.config import DocumentLimitsConfig, KnowledgeConfig
from dlgforge_core.errors import KnowledgeError, SeedError
from dlgforge_core.knowledge.chunking import chunk_spans
from dlgforge_core.knowledge.detection import detect_language
from dlgforge_core.knowledge.document_types import SUFFIXES
from dlgforge_core.knowledge.documents import Problem, ReadDocument
from dlgforge_core.knowledge.folder import KnowledgeFolder
from dlgforge_core.knowledge.reading import DocumentReader
from dlgforge_core.planning.seed_folder import read_seed_batches
from tests.fuzz.budget import FUZZ_S
from tests.support.documents import pdf

EXAMPLES = int(FUZZ_S * 10) or 150
FUZZ = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.function_scoped_fixture,
        HealthCheck.data_too_large,
    ],
)
LIMITS = DocumentLimitsConfig(seconds=5, memory_mib=256)
READER = DocumentReader(KnowledgeConfig(limits=LIMITS))


@pytest.fixture(scope="module", autouse=True)
def reader() -> Iterator[None]:
    with READER:
        yield


# Pieces that patterns of readers stumble over, repeated often.
PIECES = [
    *(
        "# ",
        "#",
        "---\n",
        "title:",
        " ",
        "\t",
        "\n",
        "\r",
        "\0",
        "\x85",
        "\ufeff",
        ".",
        "!",
        "…",
        "。",
        "'",
        '"',
        "@",
        "a@a.",
    ),
    *(
        "![",
        "](",
        "[a]:",
        "data:",
        "data:image/png;base64,",
        ";c",
        "```",
        "~~~",
        "`",
        "<",
        ">",
        "</",
        "<!--",
        "-->",
        "]]>",
    ),
    *(
        "<div>",
        "<table><tr><td>",
        "<aside>",
        "<header>",
        "<div class=cookie-bar>",
        "<b hidden>",
        "<main>",
        "<p",
        " style='display:none'",
        "<b a=",
        "<script>",
        "<![CDATA[",
    ),
    *(
        "<meta charset=",
        "utf-7",
        "utf-16",
        "iso-2022-jp",
        "&",
        "&#",
        "&#x110000;",
        "&amp",
        "é",
        "\u200d",
        "\ud7ff",
        "😀",
    ),
    *(
        "=",
        "-",
        "_",
        "*",
        "|",
        "\\",
        "{",
        "}",
        "[",
        "]",
        '{"text": ',
        '{"text": "x", "id": ',
        "1e999",
        "9" * 40,
    ),
]
texts = st.lists(st.tuples(st.sampled_from(PIECES), st.sampled_from([1, 1, 2, 50, 3_000])), max_size=8).map(
    lambda parts: "".join(piece * times for piece, times in parts)
)
pdf_streams = st.lists(
    st.sampled_from(
        [b"BT ", b"ET ", b"(x) Tj ", b"/F1 1e9 Tf ", b"q ", b"Q ", b"[", b"]", b"<<", b"BI ID ", b"\xff"]
    ),
    max_size=8,
).map(lambda parts: zlib.compress(b"".join(part * 200 for part in parts)))


@st.composite
def pdfs(draw: st.DrawFn) -> bytes:
    data = pdf(*draw(st.lists(st.sampled_from(["", "one", "two"]), min_size=1, max_size=3)))
    packed = draw(pdf_streams)
    if draw(st.booleans()):
        stream = b"<< /Filter /FlateDecode /Length %d >>\nstream\n%s\nendstream" % (len(packed), packed)
        data = re.sub(
            rb"<< /Length \d+ >>\nstream\n.*?\nendstream", lambda _: stream, data, count=1, flags=re.S
        )
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data) - 1))
        data = (
            data[:at]
            + draw(st.sampled_from([b"", b"\0", b"9" * 12, b"<<", b"R 1 0 R", b"/Kids"]))
            + data[at + 1 :]
        )
    return data


documents = st.one_of(
    st.tuples(st.sampled_from(SUFFIXES), texts.map(str.encode) | st.binary(max_size=2_000)),
    st.tuples(st.just(".pdf"), pdfs()),
    st.tuples(st.just(".html"), texts.map(lambda text: f"<html><body>{text}</body></html>".encode("utf-16"))),
    st.tuples(st.just(".jsonl"), texts.map(lambda text: json.dumps({"text": text, "id": text[:9]}).encode())),
)


@given(documents)
@FUZZ
def test_any_document_is_read_or_reported(document: tuple[str, bytes]) -> None:
    suffix, data = document
    items = list(READER.read(f"a{suffix}", io.BytesIO(data)))
    assert READER._child is None or psutil.Process(READER._child.pid).memory_info().rss < 256 * 2**20
    for item in items:
        if isinstance(item, Problem):
            assert item.message.startswith(f"a{suffix}")
            continue
        assert item.text
        item.text.encode()
        assert "\0" not in item.name + item.title + item.text
        before = psutil.Process().cpu_times().user
        spans = list(chunk_spans(item.text, 800, 100))
        detect_language(item.text, ["en"])
        assert psutil.Process().cpu_times().user - before < 5
        assert all(item.text[start:end].strip() for start, end in spans)
    assert list(READER.read("b.txt", io.BytesIO(b"x"))) == [ReadDocument("b.txt", "b", "x")]


file_names = st.binary(min_size=1, max_size=40).map(
    lambda name: name.replace(b"/", b"_").replace(b"\0", b"_") + b".md"
) | st.lists(
    st.sampled_from(
        ["a", ".", "..", "::", "%2F", "\n", "\x1b[31m", "\u202e", "\\", " ", "é", "e\u0301", "?x=", "#"]
    ),
    min_size=1,
    max_size=8,
).map(lambda parts: ("".join(parts) + ".md").encode())


@given(st.lists(file_names, min_size=1, max_size=5))
@FUZZ
def test_file_names_are_read_or_reported(
    tmp_path_factory: pytest.TempPathFactory, names: list[bytes]
) -> None:
    folder = tmp_path_factory.mktemp("names")
    for name in names:
        Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_bytes(b"text")
        Path(os.fsdecode(os.fsencode(folder) + b"/" + name[:-3] + b".yaml")).write_bytes(b"en:\n  a:\n")
    try:
        listing = KnowledgeFolder(str(folder)).listing()
    except KnowledgeError as error:
        str(error).encode()
    else:
        for file in listing.files:
            with KnowledgeFolder(str(folder)).open(file) as stream:
                (document,) = READER.read(file.name, stream)
            assert isinstance(document, ReadDocument)
            assert document.name == file.name
        hidden = sum(name.startswith(b".") for name in set(names))
        assert len(listing.files) + len([p for p in listing.problems if ".md: " in p]) + hidden == len(
            set(names)
        )
        "\n".join(listing.problems).encode()
    try:
        "\n".join(read_seed_batches(str(folder)).problems).encode()
    except SeedError as error:
        str(error).encode()
