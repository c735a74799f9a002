"""Seed files that are tables: CSV, JSON and Parquet, read row by row, each value under its column."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

import orjson

from dlgforge_core.common import yaml_source
from dlgforge_core.common.yaml_source import shown
from dlgforge_core.errors import SeedError

TABLE_SUFFIXES = (".csv", ".tsv", ".json", ".parquet")
MAX_COLUMNS, MAX_COLUMN_CHARS = 1_000, 200
MAX_VALUES = 2_000_000
"""Of a file in JSON, which is parsed as a whole: ten million empty lists take a gigabyte."""
_MAX_DELIMITERS = 200_000
"""Of a line of CSV; those in a quoted cell, which is shorter, count."""
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"?', re.DOTALL)
_DELIMITERS = (",", ";", "\t")


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
            # It uses what is here.
            from dlgforge_core.planning.seed_parquet import read_parquet

            return read_parquet(data, label)
        case ".json":
            return Table(_json_rows(_json(data, label)), None, "row")
        case suffix:
            return _csv(data, label, "\t" if suffix == ".tsv" else "")


def _csv(data: bytes, label: str, delimiter: str) -> Table:
    """Read a table whose first line names the columns; without a `delimiter` that line shows it."""
    text = yaml_source.decoded(data, label)
    head = text.lstrip("\n").partition("\n")[0]
    delimiter = delimiter or max(_DELIMITERS, key=head.count)
    reader = csv.reader(_lines(text, delimiter, label), delimiter=delimiter, strict=True)
    try:
        names = next(line for line in reader if line)
    except csv.Error as error:
        raise SeedError(f"{label}:1: not valid CSV: {error}") from None
    columns = tuple(name.strip() for name in names)
    check_columns(columns, f"{label}:{reader.line_num}")
    return Table(_csv_rows(reader, columns), columns, "line")


def _lines(text: str, delimiter: str, label: str) -> Iterator[str]:
    """Yield the lines with their ends. Raises SeedError for one that makes cells without end."""
    for number, line in enumerate(io.StringIO(text, newline=""), start=1):
        if line.count(delimiter) > _MAX_DELIMITERS:
            raise SeedError(f"{label}:{number}: the line has more than {_MAX_DELIMITERS:,} cells")
        yield line


def check_columns(columns: tuple[str, ...], place: str) -> None:
    """Raise SeedError for columns that are too many, have no name, or one that another has."""
    if len(columns) > MAX_COLUMNS:
        raise SeedError(f"{place}: there are {len(columns):,} columns; {MAX_COLUMNS:,} are the most")
    for number, name in enumerate(columns, start=1):
        if not name:
            raise SeedError(f"{place}: column {number} has no name; give it one")
        if len(name) > MAX_COLUMN_CHARS:
            raise SeedError(
                f"{place}: the name of column {number}, {shown(name)}, has {len(name):,} characters; it may "
                f"have {MAX_COLUMN_CHARS} at most"
            )
        if name in columns[: number - 1]:
            raise SeedError(f"{place}: two columns are called {shown(name)}; rename one of them")


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
    yaml_source.decoded(data, label)  # so that what is not UTF-8 is named as in other files
    _check_values(data, label)
    try:
        found = orjson.loads(data)
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


def _check_values(data: bytes, label: str) -> None:
    def n_values(text: bytes) -> int:
        return text.count(b",") + text.count(b"[") + text.count(b"{")

    # Commas in texts are no values, and taking the texts out takes time.
    if n_values(data) > MAX_VALUES and n_values(_STRING.sub(b"", data)) > MAX_VALUES:
        raise SeedError(
            f"{label}: a JSON file may have {MAX_VALUES:,} values at most; split it into several, or write "
            "it as JSONL, an object a line"
        )


def _kind(value: Any) -> str:
    return "an object" if isinstance(value, dict) else shown(value)


def _json_rows(found: list[Any]) -> Iterator[Row]:
    for number, item in enumerate(found, start=1):
        if isinstance(item, dict):
            yield Row(number, {name: value for name, value in item.items() if value is not None})
        else:
            yield Row(number, problem=f"{shown(item)} is no object; it looks like {{...}}")


def normalised(file_name: str, data: bytes, label: str) -> bytes:
    """Return the content with one form of line ends where it is text. Raises SeedError when it is empty."""
    if PurePath(file_name).suffix.lower() != ".parquet":
        return yaml_source.normalise(data, label)
    if not data:
        raise SeedError(f"{label}: the file is empty")
    return data
