"""Seed files that are tables: CSV, TSV, JSON and Parquet, their columns, and what is wrong with them."""

from __future__ import annotations

import datetime
import io
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlgforge_core.config import SeedsConfig, read_recipe
from dlgforge_core.errors import ConfigError, SeedError
from dlgforge_core.planning.seed_folder import read_seed_batches
from dlgforge_core.planning.seeds import SeedBatch, parse_seed_batch

GERMAN = SeedsConfig.model_validate({"columns": {"topic": "Thema", "question": "Frage"}, "language": "de"})


def parquet(*rows: dict[str, Any], schema: pa.Schema | None = None) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), out)
    return out.getvalue()


def read(name: str, data: str | bytes, config: SeedsConfig | None = None) -> SeedBatch:
    content = data.encode() if isinstance(data, str) else data
    return parse_seed_batch(name, content, config=config or SeedsConfig())


ROWS = [
    {"language": "en", "topic": "tea", "question": "How long?", "source": "forum"},
    {"language": "fr", "topic": "thé", "source": "mail"},
]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.csv", "language,topic,question,source\r\nen,tea,How long?,forum\r\n\r\nfr,thé,,mail\r\n"),
        ("a.csv", "\ufefflanguage;topic;question;source\nen;tea;How long?;forum\nfr;thé;;mail\n"),
        ("a.tsv", "language\ttopic\tquestion\tsource\nen\ttea\tHow long?\tforum\nfr\tthé\t\tmail"),
        ("a.JSON", json.dumps(ROWS, ensure_ascii=False)),
        ("a.parquet", parquet(*ROWS)),
    ],
)
def test_every_kind_of_table_gives_the_same_topics(name: str, data: str | bytes) -> None:
    batch = read(name, data)
    assert batch.problems == ()
    assert [(t.language, t.topic, t.question, dict(t.metadata)) for t in batch.topics] == [
        ("en", "tea", "How long?", {"source": "forum"}),
        ("fr", "thé", None, {"source": "mail"}),
    ]
    lines = "\n".join(json.dumps({k: v for k, v in row.items() if k != "source"}) for row in ROWS)
    assert [t.id for t in batch.topics] == [t.id for t in read("a.jsonl", lines).topics]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.csv", 'Thema,Frage,id\n"Tee, grün","Wie\nlange?",7\n'),
        ("a.json", '[{"Thema": "Tee, grün", "Frage": "Wie\\nlange?", "id": 7}]'),
        ("a.jsonl", '{"Thema": "Tee, grün", "Frage": "Wie\\nlange?", "id": 7}'),
        ("a.parquet", parquet({"Thema": "Tee, grün", "Frage": "Wie\nlange?", "id": 7})),
    ],
)
def test_columns_have_names_of_their_own_and_rows_a_language(name: str, data: str | bytes) -> None:
    (topic,) = read(name, data, GERMAN).topics
    assert (topic.language, topic.topic, topic.question) == ("de", "Tee, grün", "Wie\nlange?")
    assert (topic.id, topic.metadata) == ("7", {})


def test_another_mapping_is_another_content_and_the_usual_one_is_not() -> None:
    data = b"language,topic,other\nen,tea,coffee\n"
    usual = parse_seed_batch("a.csv", data)
    other = parse_seed_batch(
        "a.csv", data, config=SeedsConfig.model_validate({"columns": {"topic": "other"}})
    )
    assert (usual.topics[0].topic, other.topics[0].topic) == ("tea", "coffee")
    assert usual.digest != other.digest
    assert other.topics[0].metadata == {"topic": "tea"}
    yaml = b"en:\n  tea:\n"
    assert parse_seed_batch("a.yaml", yaml, config=GERMAN).digest == parse_seed_batch("a.yaml", yaml).digest


def test_metadata_of_parquet_is_what_json_can_hold() -> None:
    row = {
        "language": "en",
        "topic": "tea",
        "day": datetime.date(2025, 3, 4),
        "price": Decimal("1.50"),
        "share": float("nan"),
        "tags": ["a", "b"],
        "metadata": {"page": 3},
    }
    (topic,) = read("a.parquet", parquet(row)).topics
    expected = {"page": 3, "day": "2025-03-04", "price": "1.50", "tags": ["a", "b"]}
    assert json.loads(json.dumps(topic.metadata)) == expected


HEAD = "language,topic,question\n"


@pytest.mark.parametrize(
    ("name", "data", "problem"),
    [
        ("a.csv", HEAD + "en,tea\n", "a.csv:2: the row has 2 cells, and there are 3 columns"),
        ("a.csv", HEAD + 'en,"te"a,\n', "a.csv:2: not valid CSV: "),
        ("a.csv", HEAD + 'en,"x\ny",\nen,"tea,\n', "a.csv:4: not valid CSV: unexpected end of data"),
        ("a.csv", HEAD + "en,,Why?\n", "a.csv:2: topic is missing; it must be text"),
        ("a.csv", HEAD + "12,tea,\n", "a.csv:2: language = '12' is not a language"),
        ("a.csv", HEAD + "en,x\u2028y,\nen,x\u2028y,\n", "a.csv:3: id = "),
        (
            "a.csv",
            "language,topik\nen,tea\n",
            "a.csv:1: there is no column 'topic' for the topic; did",
        ),
        ("a.csv", "topic,x\ntea,1\n", "seeds.columns.language, or set seeds.language"),
        ("a.csv", "topic,topic\n", "a.csv:1: two columns are called 'topic'"),
        ("a.csv", "topic,,x\n", "a.csv:1: column 2 has no name"),
        ("a.csv", b"language,topic\nen,caf\xe9\n", "a.csv:2: byte 0xe9 is not UTF-8"),
        ("a.json", '{"language": "en"}', "a.json:1: the file is an object; it must be a list of objects"),
        ("a.json", '[{"language": "en"},\n x]', "a.json:2: not valid JSON: "),
        ("a.json", '["tea"]', "a.json: row 1: 'tea' is no object"),
        ("a.json", '[{"language": "en", "topic": 5}]', "a.json: row 1: topic = 5 is not text"),
        ("a.parquet", b"PAR1 no", "a.parquet: not valid Parquet: "),
        ("a.parquet", parquet({"language": "en", "topic": 5}), "a.parquet: row 1: topic = 5 is not text"),
        ("a.parquet", parquet({"topic": "x"}), "a.parquet: there is no column 'language' for the language"),
        (
            "a.parquet",
            parquet({"language": "en", "topic": "x", "image": b"GIF"}),
            "a.parquet: the column 'image' is of the type binary, which is no text",
        ),
    ],
)
def test_problems_are_reported_with_file_row_and_column(name: str, data: str | bytes, problem: str) -> None:
    with pytest.raises(SeedError) as error:
        parse_seed_batch(name, data.encode() if isinstance(data, str) else data, strict=True)
    assert problem in str(error.value)


def test_a_column_that_was_named_is_named_in_problems() -> None:
    batch = read("a.csv", "Thema,Frage\nTee,\n,Warum?\n", GERMAN)
    assert [topic.topic for topic in batch.topics] == ["Tee"]
    assert batch.problems == ("a.csv:3: topic (column 'Thema') is missing; it must be text",)
    with pytest.raises(SeedError, match=r"no column 'Frage' for the question; there are: Thema"):
        read("a.csv", "Thema\nTee\n", GERMAN)


cells = st.text(st.sampled_from("ab\"',;\n\t é\u2028"), max_size=12)


@settings(max_examples=60, deadline=None)
@given(st.lists(cells, min_size=1, max_size=5))
def test_whatever_a_cell_holds_csv_and_json_read_the_same(questions: list[str]) -> None:
    visible = [f"q{text}" for text in questions]
    quoted = ['en,topic {},"{}"\n'.format(i, q.replace('"', '""')) for i, q in enumerate(visible)]
    rows = [{"language": "en", "topic": f"topic {i}", "question": q} for i, q in enumerate(visible)]
    assert read("a.csv", HEAD + "".join(quoted)).topics == read("a.json", json.dumps(rows)).topics


def test_a_folder_has_tables_among_its_batches(tmp_path: Path) -> None:
    (tmp_path / "one.csv").write_text("Thema,Frage\nTee,Wie?\n")
    (tmp_path / "two.parquet").write_bytes(parquet({"Thema": "Kaffee", "Frage": "Was?"}))
    (tmp_path / "three.yaml").write_text("de:\n  Wasser:\n")
    found = read_seed_batches(str(tmp_path), strict=True, config=GERMAN)
    assert {batch.name: batch.topics[0].topic for batch in found.batches} == {
        "one": "Tee",
        "three": "Wasser",
        "two": "Kaffee",
    }


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ("{topic: ''}", "2: seeds.columns.topic: it is empty; name the column that holds it"),
        ("{question: topic}", "2: seeds.columns.topic: 'topic' is columns.question, too"),
        ("{topik: x}", "2: seeds.columns.topik: unknown key; did you mean 'topic'?"),
    ],
)
def test_a_mapping_that_cannot_be_is_refused_with_its_line(
    tmp_path: Path, columns: str, problem: str
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"seeds:\n  columns: {columns}\n")
    with pytest.raises(ConfigError) as error:
        read_recipe(path)
    assert f"{path}:{problem}" in str(error.value)
