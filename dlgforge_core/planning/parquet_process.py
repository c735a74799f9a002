"""The child process that reads a Parquet file, standard input, and writes its rows as lines of JSON.

A few bytes of Parquet can stand for any number of rows of any length, and what reads them is C++. The first
line has the names of the columns. A row is an object, or null when it is too long; a text says why the file,
or the rest of it, cannot be read.
"""

from __future__ import annotations

import datetime
import math
import os
import sys
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from dlgforge_core.common.child_limits import OUT_OF_MEMORY, limit_memory, processor_limit
from dlgforge_core.planning.seed_entries import MAX_LINE_BYTES

MAX_ROWS = 1_000_000
_ROWS_AT_ONCE = 200


class _FileError(Exception):
    """Why the file, or the rest of it, cannot be read."""


def main() -> None:
    """Read the file."""
    seconds, memory = float(sys.argv[1]), int(sys.argv[2])
    limit_memory(memory)
    lines = sys.stdout.buffer
    with processor_limit(seconds):
        try:
            for line in _lines():
                lines.write(line + b"\n")
        except MemoryError:
            os._exit(OUT_OF_MEMORY)
        except _FileError as error:
            lines.write(orjson.dumps(str(error).encode("utf-8", "replace").decode()) + b"\n")
        except BrokenPipeError:
            os._exit(1)  # nobody reads on
        lines.flush()
        # Not by way of Python's end: threads of Arrow's that have not ended yet abort it now and then.
        os._exit(0)


def _lines() -> Iterator[bytes]:
    stdin: Any = sys.stdin.buffer
    try:
        file = pq.ParquetFile(pa.PythonFile(stdin, mode="r"))
    except MemoryError:  # one of Arrow's is of both kinds
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _FileError(f"not valid Parquet: {_first_line(error)}") from None
    yield orjson.dumps(file.schema_arrow.names)
    for column in file.schema_arrow:
        if _is_binary(column.type):
            raise _FileError(
                f"the column {column.name!r} is of the type {column.type}, which is no text; leave it out of "
                "the file, or write it as text"
            )
    number = 0
    try:
        for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE, use_threads=False):
            for values in batch.to_pylist():
                number += 1
                if number > MAX_ROWS:
                    raise _FileError(f"a file may have {MAX_ROWS:,} rows at most; split it into several")
                row = orjson.dumps(
                    {name: plain for name, x in values.items() if (plain := _plain(x)) is not None}
                )
                yield row if len(row) <= MAX_LINE_BYTES else b"null"
    except MemoryError:
        raise
    except (pa.ArrowException, OSError, ValueError, TypeError) as error:
        raise _FileError(f"row {number + 1} cannot be read: {_first_line(error)}") from None


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
