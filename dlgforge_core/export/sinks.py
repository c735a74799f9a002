"""Files of a dataset while they are written: a row, or a group of rows, at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from dlgforge_core.config.saving import DatasetFilesConfig
from dlgforge_core.dialogue import Dialogue, Turn, TurnDetails
from dlgforge_core.export.format_context import FormatContext, Record
from dlgforge_core.export.formats import FORMATS, Format

# A row group is held in memory until it is written: this many rows, or about this much text.
ROW_GROUP_ROWS = 2_000
ROW_GROUP_CHARS = 16_000_000


class Sink(Protocol):
    """What writes dialogues to a file of a format; `suffix` is that of its name."""

    suffix: str

    def write(self, dialogue: Dialogue, records: Sequence[Record]) -> None:
        """Write the rows of a dialogue."""
        ...

    def close(self) -> None:
        """Write what is held back, and close the file."""
        ...


def open_sinks(
    stack: contextlib.ExitStack, folder: Path, saving: DatasetFilesConfig, context: FormatContext
) -> dict[str, list[Sink]]:
    """Open `<format>.<suffix>` of every format in `folder`, by format; `stack` closes them."""
    sinks: dict[str, list[Sink]] = {}
    for form in formats_of(saving):
        made: list[Sink] = []
        if form.schema is not None:
            made.append(_ParquetSink(folder, form.name, form.schema(context)))
        if form.schema is None or has_twin(form, saving):
            made.append(_JsonlSink(folder, form.name))
        for sink in made:
            stack.callback(sink.close)
        sinks[form.name] = made
    return sinks


def formats_of(saving: DatasetFilesConfig) -> list[Format]:
    """Return the formats to write."""
    return [FORMATS[name] for name in saving.formats]


def has_twin(form: Format, saving: DatasetFilesConfig) -> bool:
    """Whether the rows of Parquet files are written as JSONL, too, for `load_dataset`."""
    return form.schema is not None and len(saving.formats) > 1


class _JsonlSink:
    suffix = "jsonl"

    def __init__(self, folder: Path, name: str) -> None:
        self._file = (folder / f"{name}.{self.suffix}").open("wb")

    def write(self, dialogue: Dialogue, records: Sequence[Record]) -> None:
        for record in records:
            self._file.write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))

    def close(self) -> None:
        self._file.close()


class _ParquetSink:
    suffix = "parquet"

    def __init__(self, folder: Path, name: str, schema: pa.Schema) -> None:
        self._schema = schema
        self._writer = pq.ParquetWriter(folder / f"{name}.{self.suffix}", self._schema, compression="zstd")
        self._rows: list[Record] = []
        self._chars = 0

    def write(self, dialogue: Dialogue, records: Sequence[Record]) -> None:
        self._rows.extend(records)
        self._chars += sum(_size(turn) for turn in dialogue.turns)
        if len(self._rows) >= ROW_GROUP_ROWS or self._chars >= ROW_GROUP_CHARS:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows, self._chars = [], 0

    def close(self) -> None:
        try:
            self._flush()
        finally:
            self._writer.close()


def _size(turn: Turn) -> int:
    """About how many characters of a turn a row group holds."""
    details = turn.details
    passages = sum(len(evidence.text) + 200 for evidence in details.evidence)
    others = sum(len(one.answer) + _size_behind(one.details) + 400 for one in details.candidates)
    messages = len(details.opening) + len(turn.user) + len(turn.assistant)
    return messages + _size_behind(details) + passages + others


def _size_behind(details: TurnDetails) -> int:
    tools = sum(len(event.result) + len(event.error) + 200 for event in details.tools)
    return len(details.reasoning) + tools
