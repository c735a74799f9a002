"""Reading a written dataset back, to be sure that others can."""

from __future__ import annotations

from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from dlgforge_core.errors import DlgforgeError
from dlgforge_core.export.formats import FILE_NAMES, PARQUET_SCHEMA

_MESSAGES = {
    "sharegpt": ("conversations", "from", "value"),
    "openai_messages": ("messages", "role", "content"),
}


class DatasetError(DlgforgeError):
    """A dataset's file cannot be read, or the files do not hold the same dialogues."""


def verify_dataset(folder: Path) -> dict[str, int]:
    """Dialogues by format in the files of `folder`, each read whole, a piece at a time.

    Raises DatasetError naming file and line or column.
    """
    counts: dict[str, int] = {}
    for name, file_name in FILE_NAMES.items():
        path = folder / file_name
        if path.exists():
            counts[name] = _parquet(path) if name == "parquet" else _jsonl(path, *_MESSAGES[name])
    if not counts:
        raise DatasetError(f"{folder} holds no dataset; its files would be {', '.join(FILE_NAMES.values())}")
    if len(set(counts.values())) > 1:
        shown = ", ".join(f"{FILE_NAMES[name]} {n}" for name, n in counts.items())
        raise DatasetError(f"the files in {folder} hold different numbers of dialogues: {shown}")
    return counts


def _jsonl(path: Path, messages: str, role: str, text: str) -> int:
    number = 0
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                record = orjson.loads(line)
                said = record[messages]
                good = bool(said) and all(isinstance(m[role], str) and isinstance(m[text], str) for m in said)
            except (ValueError, KeyError, TypeError) as error:
                raise DatasetError(f"{path}:{number}: {type(error).__name__}: {error}") from None
            if not good:
                raise DatasetError(f"{path}:{number}: {messages!r} must be a list of {role!r} and {text!r}")
    return number


def _parquet(path: Path) -> int:
    try:
        with pq.ParquetFile(path) as file:
            if not file.schema_arrow.equals(PARQUET_SCHEMA):
                different = [
                    name
                    for name in {*file.schema_arrow.names, *PARQUET_SCHEMA.names}
                    if name not in file.schema_arrow.names
                    or name not in PARQUET_SCHEMA.names
                    or not file.schema_arrow.field(name).equals(PARQUET_SCHEMA.field(name))
                ]
                raise DatasetError(f"{path}: columns differ from the schema: {', '.join(sorted(different))}")
            return sum(file.read_row_group(i).num_rows for i in range(file.num_row_groups))
    except (pa.ArrowInvalid, OSError) as error:
        raise DatasetError(f"{path} cannot be read: {error}") from None
