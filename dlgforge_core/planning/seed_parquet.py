"""Seed files in Parquet, read row by row."""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dlgforge_core.errors import SeedError
from dlgforge_core.planning.seed_tables import Row, Table

MAX_UNPACKED_BYTES = 1024 * 1024 * 1024
_ROWS_AT_ONCE = 1000


def read_parquet(data: bytes, label: str) -> Table:
    """Return the table in the content of a file. `label` names it in messages. Raises SeedError."""
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
    return Table(_rows(file, label), columns, "row")


def _rows(file: Any, label: str) -> Iterator[Row]:
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
