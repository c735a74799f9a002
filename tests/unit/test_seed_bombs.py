"""Small seed files that stand for much, or are nested deep: told by place and reason, and soon."""

from __future__ import annotations

import io
import os
import time
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dlgforge_core.common import yaml_source
from dlgforge_core.errors import SeedError
from dlgforge_core.planning.personas import read_personas
from dlgforge_core.planning.seeds import parse_seed_batch, read_seeds

DEEP = b"[" * 900 + b"]" * 900
GOOD = b'{"language": "en", "topic": "doors"}'


def parquet(**columns: object) -> bytes:
    data = io.BytesIO()
    pq.write_table(pa.table(columns), data, compression="zstd", store_schema=False)
    return data.getvalue()


def same_text(chars: int, rows: int) -> object:
    return pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array(["x" * chars]))


@pytest.mark.parametrize(
    ("name", "data", "problem"),
    [
        ("a.csv", b",".join(b"c%d" % i for i in range(100_000)) + b"\n1\n", "a.csv:1: there are 100,000 co"),
        ("a.csv", b"topic,language\n" + b"," * 300_000, "a.csv:2: the line has more than 200,000 cells"),
        ("a.tsv", b"t" * 100_000 + b"\tlanguage\nx\ten\n", "name of column 1, 'ttt"),
        ("a.json", b"[" + b"[]," * 1_000_001 + b"1]", "a.json: a JSON file may have 2,000,000 values"),
        ("a.json", b"[" * 1000 + b"]" * 1000, "a.json: row 1: [[[[["),
        ("a.yaml", b"en: {a: [" + b"b," * 2_000 + b"]}", "a.yaml:1: a YAML file may have 1,000 entries"),
        ("a.parquet", parquet(**{f"c{i}": [1] for i in range(1_001)}), "there are 1,001 columns"),
    ],
)
def test_a_file_that_stands_for_much_is_refused_soon(
    name: str, data: bytes, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(yaml_source, "MAX_NODES", 1_000)
    started = time.process_time()
    with pytest.raises(SeedError) as caught:
        parse_seed_batch(name, data)
    assert problem in str(caught.value)
    assert len(str(caught.value)) < 5_000
    assert time.process_time() - started < 9


def test_two_kilobytes_of_parquet_do_not_become_gigabytes() -> None:
    bomb = parquet(topic=same_text(8_000_000, 400), language=["en"] * 400)
    assert len(bomb) < 3_000
    with pytest.raises(SeedError, match=r"a\.parquet: it takes more than 512 MiB of memory to read"):
        parse_seed_batch("a.parquet", bomb)


def test_a_row_of_parquet_is_as_long_as_a_line_may_be() -> None:
    rows = pa.table({"topic": ["doors", "x" * 2_000_000, "locks"], "language": ["en"] * 3})
    data = io.BytesIO()
    pq.write_table(rows, data)
    batch = parse_seed_batch("a.parquet", data.getvalue())
    assert [topic.topic for topic in batch.topics] == ["doors", "locks"]
    assert batch.problems == ("a.parquet: row 2: the row has more than 1,048,576 bytes",)


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        (b'"topic": "x", "metadata": {"a": %b}' % DEEP, "metadata is nested more than 50 levels deep"),
        (b'"topic": %b' % DEEP, "topic = [[[[["),
        (b'"messages": [{"role": %b, "content": "x"}]' % DEEP, "messages[0].role = [[[[["),
        (b'"messages": [{"role": "user", "content": [{"type": "text", "text": %b}]}]' % DEEP, "is no text"),
        (b'"messages": [{"role": "user", "content": %b}]' % DEEP, "messages[0].content[0] = [[[[["),
        (b'"topic": "x", "%b": 1' % (b"k" * 900_000), ": unknown key"),
    ],
)
def test_a_deep_or_long_entry_is_left_out_and_the_rest_is_read(entry: bytes, problem: str) -> None:
    batch = parse_seed_batch("a.jsonl", b'{"language": "en", %b}\n%b' % (entry, GOOD))
    (reported,) = batch.problems
    assert reported.startswith("a.jsonl:1: ")
    assert problem in reported
    assert len(reported) < 400
    assert [topic.topic for topic in batch.topics] == ["doors"]


def test_metadata_that_is_taken_can_be_written_wherever_it_goes() -> None:
    deep = b'{"a":' * 50 + b"1" + b"}" * 50
    (topic,) = parse_seed_batch("a.jsonl", b'{"language":"en","topic":"x","metadata":%b}' % deep).topics
    assert orjson.loads(orjson.dumps(topic.metadata)) == topic.metadata


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: os.symlink("/dev/zero", path), os.mkdir])
def test_nobody_waits_for_what_is_no_plain_file(make: object, tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    assert callable(make)
    make(path)
    for read in (read_seeds, read_personas):
        with pytest.raises(SeedError, match=r"cannot be read: (it is no plain file|Is a directory)"):
            read(str(path))
