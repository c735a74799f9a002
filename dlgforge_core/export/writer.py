"""Writing a dataset: in one pass, with bounded memory, and whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from dlgforge_core.dialogue import Dialogue
from dlgforge_core.errors import ConfigError
from dlgforge_core.export.formats import (
    FILE_NAMES,
    JSONL_RECORDS,
    PARQUET_SCHEMA,
    Record,
    clean,
    parquet_record,
)

CARD_NAME = "README.md"
# A row group is held in memory until it is written: this many rows, or about this much text.
ROW_GROUP_ROWS = 2_000
ROW_GROUP_CHARS = 16_000_000
_LOCK_NAME = ".lock"
_WRITING_PREFIX = ".writing-"


@dataclass(frozen=True, slots=True)
class DatasetSummary:
    """What was written: the file and its size in bytes by format, and how much is in it."""

    paths: Mapping[str, Path]
    n_dialogues: int
    n_turns: int
    bytes_by_format: Mapping[str, int]
    by_language: Mapping[str, int] = field(default_factory=dict)


class _Sink(Protocol):
    def write(self, dialogue: Dialogue) -> None: ...

    def close(self) -> None: ...


def write_dataset(dialogues: Iterable[Dialogue], folder: Path, formats: Sequence[str]) -> DatasetSummary:
    """Write `dialogues` to `folder`, one file for each of `formats` and a dataset card beside them.

    Files are written whole in a temporary folder inside `folder` and then moved into place: readers never
    see half a file, and a failure leaves the old dataset. The dataset takes the place of the one before:
    files of formats that are no longer written are removed; other files in `folder` stay. Of two writers at
    once the later one wins, with all its files. Raises ConfigError for unknown or no formats, OSError when
    the folder cannot be written, and whatever `dialogues` raises.
    """
    unknown = [f for f in formats if f not in FILE_NAMES]
    if unknown or not formats:
        raise ConfigError(f"formats = {list(formats)}: choose from {', '.join(FILE_NAMES)}")
    formats = list(dict.fromkeys(formats))
    folder.mkdir(parents=True, exist_ok=True)
    with _writing_folder(folder) as writing:
        counts, n_turns = _write_files(dialogues, writing, formats)
        sizes = {f: (writing / FILE_NAMES[f]).stat().st_size for f in formats}
        _write_card(writing / CARD_NAME, formats, counts, n_turns)
        for name in (*(FILE_NAMES[f] for f in formats), CARD_NAME):
            _fsync(writing / name)
        with _locked(folder):
            _move_into_place(writing, folder, formats)
    return DatasetSummary(
        paths={f: folder / FILE_NAMES[f] for f in formats},
        n_dialogues=counts.total(),
        n_turns=n_turns,
        bytes_by_format=sizes,
        by_language=dict(sorted(counts.items())),
    )


def _write_files(
    dialogues: Iterable[Dialogue], folder: Path, formats: Sequence[str]
) -> tuple[Counter[str], int]:
    counts: Counter[str] = Counter()
    n_turns = 0
    with contextlib.ExitStack() as stack:
        sinks: list[_Sink] = []
        for name in formats:
            sink: _Sink = _ParquetSink(folder) if name == "parquet" else _JsonlSink(folder, name)
            stack.callback(sink.close)
            sinks.append(sink)
        for dialogue in dialogues:
            for sink in sinks:
                sink.write(dialogue)
            counts[clean(dialogue.plan.language)] += 1
            n_turns += len(dialogue.turns)
    return counts, n_turns


class _JsonlSink:
    def __init__(self, folder: Path, name: str) -> None:
        self._record = JSONL_RECORDS[name]
        self._file = (folder / FILE_NAMES[name]).open("wb")

    def write(self, dialogue: Dialogue) -> None:
        self._file.write(orjson.dumps(clean(self._record(dialogue)), option=orjson.OPT_APPEND_NEWLINE))

    def close(self) -> None:
        self._file.close()


class _ParquetSink:
    def __init__(self, folder: Path) -> None:
        self._writer = pq.ParquetWriter(folder / FILE_NAMES["parquet"], PARQUET_SCHEMA, compression="zstd")
        self._rows: list[Record] = []
        self._chars = 0

    def write(self, dialogue: Dialogue) -> None:
        self._rows.append(clean(parquet_record(dialogue)))
        self._chars += sum(len(turn.user) + len(turn.assistant) for turn in dialogue.turns)
        if len(self._rows) >= ROW_GROUP_ROWS or self._chars >= ROW_GROUP_CHARS:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=PARQUET_SCHEMA))
        self._rows, self._chars = [], 0

    def close(self) -> None:
        try:
            self._flush()
        finally:
            self._writer.close()


def _write_card(path: Path, formats: Sequence[str], counts: Mapping[str, int], n_turns: int) -> None:
    """The card tells Hugging Face's `load_dataset(folder, <format>)` which file is which."""
    lines = ["---", "configs:"]
    for name in formats:
        lines += [f"  - config_name: {name}", f"    data_files: {FILE_NAMES[name]}"]
    if counts:
        lines += ["language:", *(f"  - {json.dumps(language)}" for language in sorted(counts))]
    lines += ["---", "# Synthetic dialogues", ""]
    lines += [f"{sum(counts.values())} dialogues with {n_turns} turns, made by dlgforge.", ""]
    path.write_text("\n".join(lines), encoding="utf-8")


def _move_into_place(writing: Path, folder: Path, formats: Sequence[str]) -> None:
    for name in formats:
        os.replace(writing / FILE_NAMES[name], folder / FILE_NAMES[name])
    os.replace(writing / CARD_NAME, folder / CARD_NAME)
    for name in set(FILE_NAMES) - set(formats):
        (folder / FILE_NAMES[name]).unlink(missing_ok=True)
    _fsync(folder)


@contextlib.contextmanager
def _writing_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder in `folder`, so that moving out is a rename; removes what dead writers left."""
    with _locked(folder):
        for left in folder.glob(f"{_WRITING_PREFIX}*"):
            _remove_unless_in_use(left)
        writing = Path(tempfile.mkdtemp(prefix=_WRITING_PREFIX, dir=folder))
        in_use = os.open(writing, os.O_RDONLY)
        fcntl.flock(in_use, fcntl.LOCK_EX)
    try:
        yield writing
    finally:
        shutil.rmtree(writing, ignore_errors=True)
        os.close(in_use)


def _remove_unless_in_use(left: Path) -> None:
    with contextlib.suppress(OSError):  # in use, or gone by now
        descriptor = os.open(left, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left, ignore_errors=True)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One writer at a time; the lock goes with its holder, however that ends."""
    descriptor = os.open(folder / _LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
