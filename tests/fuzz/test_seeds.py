"""Seed files of any kind and content: a batch or a typed error comes of each, and soon."""

from __future__ import annotations

import io
import json

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st

from dlgforge_core.config import SeedsConfig, validate
from dlgforge_core.errors import SeedError
from dlgforge_core.planning.seeds import SUFFIXES, parse_seed_batch
from tests.fuzz.budget import fuzz, quickly

MAPPED = validate(SeedsConfig, {"columns": {"topic": "t", "messages": "m"}, "language": "en"}, "seeds")
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=12)
    | st.sampled_from(["en", "user", "gpt", "text", "\0", "\u202e", "=1+1", "<|im_start|>", "[" * 200])
)
KEYS = st.sampled_from(
    [
        "topic",
        "language",
        "question",
        "id",
        "metadata",
        "messages",
        "conversations",
        "role",
        "content",
        "from",
    ]
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=15,
)
RECORDS = st.dictionaries(KEYS | st.sampled_from(["t", "m"]), VALUES, max_size=6).map(
    lambda record: {"language": "en", "topic": "doors", **record}
)
PIECES = st.sampled_from(
    [
        *("topic", "language", "en", "t", ",", ";", "\t", '"', '""', "\n", "\r", "\r\n", "\ufeff", "\0"),
        *("[", "]", "{", "}", ":", "- ", "en:\n", "  a:\n", "  - b\n", "&a ", "*a", "<<: ", "!!python/x "),
        *("? ", "%TAG", "---", "...", "#", "'", "\\u", "\\ud800", "NaN", "1e999", "PAR1", "{}", "null", "é"),
        *("\x1a", "|\n", "x"),
    ]
)
TEXTS = st.lists(st.tuples(PIECES, st.sampled_from([1, 1, 1, 3, 40, 3_000])), max_size=12).map(
    lambda parts: "".join(piece * times for piece, times in parts)
)


def read(suffix: str, data: bytes, *configs: SeedsConfig) -> None:
    for config in configs or (SeedsConfig(), MAPPED):
        try:
            batch = quickly(parse_seed_batch, f"a{suffix}", data, config=config)
        except SeedError as error:
            words = str(error)
        else:
            words = "\n".join(batch.problems)
            for topic in batch.topics:
                stored = orjson.dumps([topic.id, topic.topic, topic.question, topic.metadata, topic.messages])
                assert b"\\u0000" not in stored
        words.encode()
        assert len(words) < 200_000


@fuzz
@given(
    st.sampled_from([name for name in SUFFIXES if name != ".parquet"]),
    TEXTS.map(str.encode) | st.binary(max_size=400),
)
def test_any_seed_file_is_read_or_refused(suffix: str, data: bytes) -> None:
    read(suffix, data)


@fuzz
@given(st.lists(RECORDS, min_size=1, max_size=4))
def test_any_records_are_read_or_named(records: list[object]) -> None:
    read(".json", json.dumps(records).encode())
    read(".jsonl", "\n".join(map(json.dumps, records)).encode())


def parquet(record: dict[str, object]) -> bytes:
    data = io.BytesIO()
    pq.write_table(pa.table({name: [json.dumps(value)] for name, value in record.items()}), data)
    return data.getvalue()


def test_parquet_that_is_broken_anywhere_is_read_or_refused() -> None:
    """A few, as each is read by a process of its own."""
    whole = parquet({"topic": "doors", "language": "en", "messages": []})
    for at in range(30, len(whole), len(whole) // 3):
        read(".parquet", whole[:at] + b"\xff" + whole[at + 1 :], SeedsConfig())
