"""Reading a written dataset back, to be sure that others can."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

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

# What is wrong with one record of a file, or None.
_Check = Callable[[dict[str, Any]], str | None]


class DatasetError(DlgforgeError):
    """A dataset's file cannot be read, or the files do not hold the same dialogues."""


def verify_dataset(folder: Path) -> dict[str, int]:
    """Dialogues by format in the files of `folder`, each read whole, a piece at a time.

    Every format must hold the same number in each split, but for pairs, which not all have; and no seed topic
    may be in two splits. Raises DatasetError naming file and line or column.
    """
    stats = read_stats(folder)
    renamed = stats.get("output_columns", {})
    counts: dict[str, dict[str, int]] = {}
    for name, form in FORMATS.items():
        topics: dict[str, str] = {}
        for path in sorted((folder / "data" / name).glob(f"*.{form.suffix}")):
            here, split = counts.setdefault(name, {}), _split_of(path)
            here.setdefault(split, 0)
            for seed in _seeds(form, path, renamed):
                here[split] += 1
                if seed is not None and topics.setdefault(seed, split) != split:
                    raise DatasetError(f"{path}: seed topic {seed!r} is in the split {topics[seed]}, too")
    if not counts:
        raise DatasetError(f"{folder} holds no dataset; its files would be data/<format>/<split>.jsonl")
    for form in FORMATS.values():
        if form.schema is not None:
            _compare_twins(folder, form, counts.get(form.name, {}))
    _compare(folder, counts, stats)
    return {name: sum(by_split.values()) for name, by_split in counts.items()}


def read_stats(folder: Path) -> dict[str, Any]:
    """Return the statistics of a dataset folder; empty without any. Raises DatasetError."""
    try:
        stats = orjson.loads((folder / STATS_NAME).read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise DatasetError(f"{folder / STATS_NAME} cannot be read: {error}") from None
    return stats if isinstance(stats, dict) else {}


def _compare_twins(folder: Path, form: Format, counts: Mapping[str, int]) -> None:
    """Hold the JSONL files that stand beside Parquet files against those."""
    twins: dict[str, tuple[Path, int]] = {}
    for twin in sorted((folder / "data" / form.name).glob("*.jsonl")):
        n = sum(1 for _ in _jsonl(twin, lambda record: form.problem(record, {})))
        twins[_split_of(twin)] = (twin, twins.get(_split_of(twin), (twin, 0))[1] + n)
    for split, (twin, n) in twins.items():
        if n != (there := counts.get(split)):
            raise DatasetError(f"{twin} has {n} rows, and the Parquet file beside it {there}")


def _split_of(path: Path) -> str:
    """Return the split of a file or of a shard, <split>-00000-of-00012: names of splits have no dash."""
    return path.stem.partition("-")[0]


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
