"""Seed files in Parquet, read in a child process: one that is a bomb costs itself, and is named."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from typing import Any

import orjson

from dlgforge_core.common.child_environment import child_environment
from dlgforge_core.common.child_limits import OUT_OF_MEMORY, fault_of, limited_command
from dlgforge_core.errors import SeedError
from dlgforge_core.planning.seed_entries import MAX_LINE_BYTES
from dlgforge_core.planning.seed_tables import Row, Table, check_columns

MAX_UNPACKED_BYTES = 1024 * 1024 * 1024
SECONDS = 120.0
MEMORY_BYTES = 512 * 1024 * 1024


def read_parquet(data: bytes, label: str) -> Table:
    """Return the table in the content of a file. `label` names it in messages. Raises SeedError."""
    lines = _lines(data, label)
    head = next(lines)
    if isinstance(head, str):
        raise SeedError(f"{label}: {head}")
    columns = tuple(str(name) for name in head)
    check_columns(columns, label)
    return Table(_rows(lines, label), columns, "row")


def _rows(lines: Iterator[Any], label: str) -> Iterator[Row]:
    for number, found in enumerate(lines, start=1):
        if isinstance(found, str):
            raise SeedError(f"{label}: {found}")
        if found is None:
            yield Row(number, problem=f"the row has more than {MAX_LINE_BYTES:,} bytes")
        else:
            yield Row(number, found)


def _lines(data: bytes, label: str) -> Iterator[Any]:
    """Yield what the child process writes. Raises SeedError when the file takes more than it may."""
    n_bytes = 0
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.seek(0)
        child = subprocess.Popen(
            limited_command("dlgforge_core.planning.parquet_process", SECONDS, MEMORY_BYTES),
            stdin=file,
            stdout=subprocess.PIPE,
            env={**child_environment(), "ARROW_DEFAULT_MEMORY_POOL": "system"},
        )
        assert child.stdout is not None
        try:
            for line in child.stdout:
                n_bytes += len(line)
                if n_bytes > MAX_UNPACKED_BYTES:
                    raise SeedError(
                        f"{label}: a file may have {MAX_UNPACKED_BYTES:,} bytes at most unpacked, so split "
                        "it into several"
                    )
                yield orjson.loads(line)
            if status := child.wait():
                raise SeedError(f"{label}: {_failure(status)}")
        finally:
            child.kill()
            child.wait()
            with contextlib.suppress(OSError):
                child.stdout.close()


def _failure(status: int) -> str:
    if status == -signal.SIGPROF:
        return f"it takes more than {SECONDS:g} s of a processor to read; split it into several"
    if status == OUT_OF_MEMORY:
        return f"it takes more than {MEMORY_BYTES // 2**20:,} MiB of memory to read; split it into several"
    return f"reading it ends in {fault_of(status) or f'the exit status {status}'}"
