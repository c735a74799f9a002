"""Reading a written dataset back, to be sure that others can."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from dlgforge_core.common.processes import most_processes, spread
from dlgforge_core.config.attributes import COLUMN_PREFIX
from dlgforge_core.config.review import MARKS
from dlgforge_core.errors import DlgforgeError
from dlgforge_core.export.columns import OptionalColumns
from dlgforge_core.export.format_context import FormatContext
from dlgforge_core.export.formats import FORMATS, Format
from dlgforge_core.export.schema import (
    CANDIDATES,
    FINAL_STATE,
    SEED_METADATA,
    conversation_columns,
    rated_dimensions,
    reasoning_form,
)
from dlgforge_core.export.stats import STATS_NAME

_WORTH_A_PROCESS = 50_000_000
"""Bytes that take longer to read than a process takes to start."""

# What is wrong with one record of a file, or None.
_Check = Callable[[dict[str, Any]], str | None]


class DatasetError(DlgforgeError):
    """A dataset's file cannot be read, or the files do not hold the same dialogues."""


@dataclass(frozen=True, slots=True)
class _File:
    """A file to be read: of which format, and whether it is the JSONL beside a Parquet file."""

    format: str
    path: Path
    renamed: Mapping[str, str]
    twin: bool = False

    @property
    def split(self) -> str:
        """The split of a file or of a shard, <split>-00000-of-00012: names of splits have no dash."""
        return self.path.stem.partition("-")[0]


def verify_dataset(folder: Path) -> dict[str, int]:
    """Dialogues by format in the files of `folder`, each read whole, a piece at a time, on all cores.

    Every format must hold the same number in each split, but for pairs, which not all have; and no seed topic
    may be in two splits. Raises DatasetError naming file and line or column.
    """
    stats = read_stats(folder)
    files = list(_files(folder, stats.get("output_columns", {})))
    if not files:
        raise DatasetError(f"{folder} holds no dataset; its files would be data/<format>/<split>.jsonl")
    worth = sum(file.path.stat().st_size for file in files) // _WORTH_A_PROCESS
    processes = min(most_processes(), worth)
    counts: dict[str, dict[str, int]] = {}
    twins: dict[tuple[str, str], tuple[Path, int]] = {}
    topics: dict[str, dict[str, str]] = {}
    for file, (n, seeds) in zip(files, spread(_read, files, processes), strict=True):
        if file.twin:
            key = file.format, file.split
            twins[key] = file.path, twins.get(key, (file.path, 0))[1] + n
            continue
        here = counts.setdefault(file.format, {})
        here[file.split] = here.get(file.split, 0) + n
        known = topics.setdefault(file.format, {})
        for seed in seeds:
            if known.setdefault(seed, file.split) != file.split:
                raise DatasetError(f"{file.path}: seed topic {seed!r} is in the split {known[seed]}, too")
    for (name, split), (twin, n) in twins.items():
        if n != (there := counts.get(name, {}).get(split)):
            raise DatasetError(f"{twin} has {n} rows, and the Parquet file beside it {there}")
    _compare(folder, counts, stats)
    return {name: sum(by_split.values()) for name, by_split in counts.items()}


def _files(folder: Path, renamed: Mapping[str, str]) -> Iterator[_File]:
    for name, form in FORMATS.items():
        data = folder / "data" / name
        yield from (_File(name, path, renamed) for path in sorted(data.glob(f"*.{form.suffix}")))
        if form.schema is not None:
            yield from (_File(name, path, renamed, twin=True) for path in sorted(data.glob("*.jsonl")))


def _read(file: _File) -> tuple[int, list[str]]:
    """Return how many dialogues, or rows, a file has, and its seed topics. Raises DatasetError."""
    form = FORMATS[file.format]
    if file.twin:
        return sum(1 for _ in _jsonl(file.path, lambda record: form.problem(record, {}))), []
    seeds = Counter(_seeds(form, file.path, file.renamed))
    return seeds.total(), [seed for seed in seeds if seed is not None]


def read_stats(folder: Path) -> dict[str, Any]:
    """Return the statistics of a dataset folder; empty without any. Raises DatasetError."""
    try:
        stats = orjson.loads((folder / STATS_NAME).read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise DatasetError(f"{folder / STATS_NAME} cannot be read: {error}") from None
    return stats if isinstance(stats, dict) else {}


def _compare(folder: Path, counts: Mapping[str, Mapping[str, int]], stats: Mapping[str, Any]) -> None:
    whole = {name: by_split for name, by_split in counts.items() if not FORMATS[name].partial}
    first = next(iter(whole), "")
    for name, by_split in whole.items():
        if by_split != counts[first]:
            raise DatasetError(
                f"the files in {folder} hold different numbers of dialogues: "
                f"{_shown(first, counts[first])}; {_shown(name, by_split)}"
            )
    stated = {name: _stated(files, FORMATS[name].suffix) for name, files in _formats(stats)}
    if stated and stated != counts:
        raise DatasetError(
            f"{folder / STATS_NAME} tells of other files than there are: "
            + "; ".join(_shown(name, by_split) for name, by_split in stated.items())
        )


def _stated(files: list[dict[str, Any]], suffix: str) -> dict[str, int]:
    counts: dict[str, int] = {}
    for file in files:
        if file["file"].endswith(f".{suffix}"):
            counts[file["split"]] = counts.get(file["split"], 0) + file["dialogues"]
    return counts


def _formats(stats: Mapping[str, Any]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    yield from stats.get("formats", {}).items()


def _shown(name: str, by_split: Mapping[str, int]) -> str:
    return f"{name} " + ", ".join(f"{split} {n}" for split, n in by_split.items())


def _seeds(form: Format, path: Path, renamed: Mapping[str, str]) -> Iterator[str | None]:
    """Yield the seed topic of each dialogue in a file, or None where the format does not name it."""
    if form.schema is not None:
        yield from _parquet(path, form.schema)
        return
    names = form.renamed(FormatContext(renamed=renamed))
    before = None
    for record in _jsonl(path, lambda record: form.problem(record, names)):
        dialogue = record[form.dialogue_column] if form.dialogue_column else None
        if dialogue is None or dialogue != before:
            yield record.get(names.get("seed_id", "seed_id"))
        before = dialogue


def _jsonl(path: Path, problem_of: _Check) -> Iterator[dict[str, Any]]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                record = orjson.loads(line)
                problem = problem_of(record)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise DatasetError(f"{path}:{number}: {type(error).__name__}: {error}") from None
            if problem is not None:
                raise DatasetError(f"{path}:{number}: {problem}")
            yield record


def _parquet(path: Path, schema_of: Callable[[FormatContext], pa.Schema]) -> Iterator[str]:
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            optional = OptionalColumns(
                seed_metadata=SEED_METADATA in names,
                dimensions=rated_dimensions(file.schema_arrow),
                conversation=conversation_columns(names),
                candidates=CANDIDATES in names,
                marks=MARKS in names,
                final_state=FINAL_STATE in names,
                attributes=[
                    name.removeprefix(COLUMN_PREFIX) for name in names if name.startswith(COLUMN_PREFIX)
                ],
            )
            schema = schema_of(FormatContext(reasoning=reasoning_form(file.schema_arrow), optional=optional))
            if not file.schema_arrow.equals(schema):
                raise DatasetError(f"{path}: columns differ from the schema: {_differences(file, schema)}")
            for group in range(file.num_row_groups):
                seeds: list[Any] = file.read_row_group(group)["seed_id"].to_pylist()
                yield from map(str, seeds)
    except (pa.ArrowInvalid, OSError) as error:
        raise DatasetError(f"{path} cannot be read: {error}") from None


def _differences(file: pq.ParquetFile, schema: pa.Schema) -> str:
    there = file.schema_arrow
    different = [
        name
        for name in {*there.names, *schema.names}
        if name not in there.names
        or name not in schema.names
        or not there.field(name).equals(schema.field(name))
    ]
    return ", ".join(sorted(different)) or "their order"
