"""Seed files that are tables: CSV, JSON and Parquet, read row by row, each value under its column."""

from __future__ import annotations

import csv
import datetime
import io
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import PurePath
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from dlgforge_core.common import yaml_source
from dlgforge_core.common.yaml_source import shown
from dlgforge_core.errors import SeedError

TABLE_SUFFIXES = (".csv", ".tsv", ".json", ".parquet")
MAX_UNPACKED_BYTES = 1024 * 1024 * 1024
_DELIMITERS = (",", ";", "\t")
_ROWS_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class Row:
    """A row, counted from 1 (of CSV by the line that it begins on), or what is wrong with it."""

    number: int
    values: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """The rows of a file; `columns` are None where every row has keys of its own.

    `unit` says what its numbers count: "line" or "row".
    """

    rows: Iterator[Row]
    columns: tuple[str, ...] | None
    unit: str


def read_table(file_name: str, data: bytes, label: str) -> Table:
    """Return the table in the content of a file. `label` names it in messages. Raises SeedError."""
    match PurePath(file_name).suffix.lower():
        case ".parquet":
            return _parquet(data, label)
        case ".json":
            return Table(_json_rows(_json(data, label)), None, "row")
        case suffix:
            return _csv(data, label, "\t" if suffix == ".tsv" else "")


def _csv(data: bytes, label: str, delimiter: str) -> Table:
    """Read a table whose first line names the columns; without a `delimiter` that line shows it."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SeedError(
            f"{label}:{line}: byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8"
        ) from None
    head = text.lstrip("\n").partition("\n")[0]
    delimiter = delimiter or max(_DELIMITERS, key=head.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        names = next(line for line in reader if line)
    except csv.Error as error:
        raise SeedError(f"{label}:1: not valid CSV: {error}") from None
    columns = tuple(name.strip() for name in names)
    for place, name in enumerate(columns, start=1):
        if not name:
            raise SeedError(f"{label}:{reader.line_num}: column {place} has no name; give it one")
        if name in columns[: place - 1]:
            raise SeedError(f"{label}:{reader.line_num}: two columns are called {name!r}; rename one of them")
    return Table(_csv_rows(reader, columns), columns, "line")


def _csv_rows(reader: Any, columns: tuple[str, ...]) -> Iterator[Row]:
    while True:
        number = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Row(
                number,
                problem=f"not valid CSV: {error}; double the quotes in a cell, and quote it whole",
            )
            continue
        if not cells:
            continue
        if len(cells) != len(columns):
            yield Row(
                number,
                problem=f"the row has {len(cells)} cells, and there are {len(columns)} columns; put "
                "a cell that holds the separator or a line's end in quotes",
            )
            continue
        yield Row(number, {name: cell for name, cell in zip(columns, cells, strict=True) if cell.strip()})


def _json(data: bytes, label: str) -> list[Any]:
    try:
        data.decode("utf-8")
        found = orjson.loads(data)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SeedError(
            f"{label}:{line}: byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8"
        ) from None
    except orjson.JSONDecodeError as error:
        raise SeedError(
            f"{label}:{error.lineno}: not valid JSON: {error.msg} at column {error.colno}"
        ) from None
    if not isinstance(found, list):
        raise SeedError(
            f"{label}:1: the file is {_kind(found)}; it must be a list of objects, as in "
            '[{"language": "en", "topic": "home repair"}]; one object a line is JSONL, and ends in .jsonl'
        )
    return found


def _kind(value: Any) -> str:
    return "an object" if isinstance(value, dict) else shown(value)


def _json_rows(found: list[Any]) -> Iterator[Row]:
    for number, item in enumerate(found, start=1):
        if isinstance(item, dict):
            yield Row(number, {name: value for name, value in item.items() if value is not None})
        else:
            yield Row(number, problem=f"{shown(item)} is no object; it looks like {{...}}")


def _parquet(data: bytes, label: str) -> Table:
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise SeedError(f"{label}: not valid Parquet: {_first_line(error)}") from None
    groups = (file.metadata.row_group(i) for i in range(file.metadata.num_row_groups))
    if (size := sum(group.total_byte_size for group in groups)) > MAX_UNPACKED_BYTES:
        raise SeedError(
            f"{label} has {size:,} bytes unpacked; a file may have {MAX_UNPACKED_BYTES:,} at most, so split "
            "it into several"
        )
    columns = tuple(file.schema_arrow.names)
    if twice := next((name for i, name in enumerate(columns) if name in columns[:i]), None):
        raise SeedError(f"{label}: two columns are called {twice!r}; rename one of them")
    for column in file.schema_arrow:
        if _is_binary(column.type):
            raise SeedError(
                f"{label}: the column {column.name!r} is of the type {column.type}, which is no text; "
                "leave it out of the file, or write it as text"
            )
    return Table(_parquet_rows(file, label), columns, "row")


def _parquet_rows(file: Any, label: str) -> Iterator[Row]:
    number = 0
    try:
        for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE):
            for values in batch.to_pylist():
                number += 1
                yield Row(
                    number, {name: plain for name, x in values.items() if (plain := _plain(x)) is not None}
                )
    except (pa.ArrowException, OSError, ValueError) as error:
        raise SeedError(f"{label}: row {number + 1} cannot be read: {_first_line(error)}") from None


def _is_binary(kind: Any) -> bool:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _is_binary(kind.value_type)
    if pa.types.is_struct(kind):
        return any(_is_binary(kind.field(i).type) for i in range(kind.num_fields))
    if pa.types.is_map(kind):
        return _is_binary(kind.key_type) or _is_binary(kind.item_type)
    binary = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)
    return any(is_one(kind) for is_one in binary)


def _plain(value: Any) -> Any:
    """Return a value as JSON has it: times and exact numbers as text, and what is no number as nothing."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta | Decimal) or not isinstance(value, str | int | None):
        return str(value)
    return value


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def normalised(file_name: str, data: bytes, label: str) -> bytes:
    """Return the content with one form of line ends where it is text. Raises SeedError when it is empty."""
    if PurePath(file_name).suffix.lower() != ".parquet":
        return yaml_source.normalise(data, label)
    if not data:
        raise SeedError(f"{label}: the file is empty")
    return data
