"""Reading a written dataset back, to be sure that others can."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from dlgforge_core.config.saving import FORMATS
from dlgforge_core.errors import DlgforgeError
from dlgforge_core.export.schema import SEED_METADATA, parquet_schema
from dlgforge_core.export.stats import STATS_NAME

# What is wrong with one record of a file, or None.
_Check = Callable[[dict[str, Any]], str | None]


class DatasetError(DlgforgeError):
    """A dataset's file cannot be read, or the files do not hold the same dialogues."""


def verify_dataset(folder: Path) -> dict[str, int]:
    """Dialogues by format in the files of `folder`, each read whole, a piece at a time.

    Every format must hold the same number in each split, and no seed topic may be in two splits. Raises
    DatasetError naming file and line or column.
    """
    stats = _stats(folder)
    renamed = stats.get("output_columns", {})
    counts: dict[str, dict[str, int]] = {}
    for name in FORMATS:
        topics: dict[str, str] = {}
        for path in sorted((folder / "data" / name).glob("*.parquet" if name == "parquet" else "*.jsonl")):
            here = counts.setdefault(name, {})
            here[path.stem] = 0
            for seed in _seeds(name, path, renamed):
                here[path.stem] += 1
                if seed is not None and topics.setdefault(seed, path.stem) != path.stem:
                    raise DatasetError(f"{path}: seed topic {seed!r} is in the split {topics[seed]}, too")
    if not counts:
        raise DatasetError(f"{folder} holds no dataset; its files would be data/<format>/<split>.jsonl")
    for twin in (folder / "data" / "parquet").glob("*.jsonl"):
        n, there = sum(1 for _ in _jsonl(twin, _no_problem)), counts.get("parquet", {}).get(twin.stem)
        if n != there:
            raise DatasetError(f"{twin} has {n} rows, and the Parquet file beside it {there}")
    _compare(folder, counts, stats)
    return {name: sum(by_split.values()) for name, by_split in counts.items()}


def _stats(folder: Path) -> dict[str, Any]:
    try:
        stats = orjson.loads((folder / STATS_NAME).read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise DatasetError(f"{folder / STATS_NAME} cannot be read: {error}") from None
    return stats if isinstance(stats, dict) else {}


def _compare(folder: Path, counts: Mapping[str, Mapping[str, int]], stats: Mapping[str, Any]) -> None:
    first = next(iter(counts))
    for name, by_split in counts.items():
        if by_split != counts[first]:
            raise DatasetError(
                f"the files in {folder} hold different numbers of dialogues: "
                f"{_shown(first, counts[first])}; {_shown(name, by_split)}"
            )
    said = {name: {f["split"]: f["dialogues"] for f in files} for name, files in _formats(stats)}
    if said and said != counts:
        raise DatasetError(
            f"{folder / STATS_NAME} tells of other files than there are: "
            + "; ".join(_shown(name, by_split) for name, by_split in said.items())
        )


def _formats(stats: Mapping[str, Any]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    yield from stats.get("formats", {}).items()


def _shown(name: str, by_split: Mapping[str, int]) -> str:
    return f"{name} " + ", ".join(f"{split} {n}" for split, n in by_split.items())


def _seeds(name: str, path: Path, renamed: Mapping[str, str]) -> Iterator[str | None]:
    """The seed topic of each dialogue in a file, or None where the format does not name it."""
    if name == "parquet":
        yield from _parquet(path)
    elif name == "openai_messages":
        yield from (None for _ in _jsonl(path, _openai_problem))
    else:
        conversations = renamed.get("conversations", "conversations")
        for record in _jsonl(path, lambda record: _sharegpt_problem(record, conversations)):
            yield record.get(renamed.get("seed_id", "seed_id"))


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


def _no_problem(record: dict[str, Any]) -> None:
    record["seed_id"]  # a KeyError is problem enough


def _sharegpt_problem(record: dict[str, Any], conversations: str) -> str | None:
    said = record[conversations]
    if not said or not all(isinstance(m["from"], str) and isinstance(m["value"], str) for m in said):
        return f"{conversations!r} must be a list of 'from' and 'value'"
    if [m["from"] for m in said] != ["human", "gpt"] * (len(said) // 2):
        return f"{conversations!r} must go from human to gpt, turn by turn"
    return None


def _openai_problem(record: dict[str, Any]) -> str | None:
    """What is wrong with a record: user, then calls each with its result, then an answer, turn by turn."""
    if unknown := set(record) - {"messages", "tools"}:
        return f"OpenAI takes no key {sorted(unknown)[0]!r}"
    tools = {tool["function"]["name"] for tool in record.get("tools", ())}
    expected, open_calls, seen = "user", dict[str, str](), set[str]()
    for place, message in enumerate(record["messages"]):
        role = message["role"]
        where = f"'messages'[{place}]"
        if role == "tool":
            if open_calls.pop(message["tool_call_id"], None) is None:
                return f"{where} answers no call that is open"
        elif open_calls or role != expected:
            return f"{where} is of {role!r}, and {'tool' if open_calls else expected!r} must speak"
        if role == "assistant" and message.get("tool_calls"):
            for call in message["tool_calls"]:
                name, arguments = call["function"]["name"], call["function"]["arguments"]
                if call["id"] in seen:
                    return f"{where}: the call id {call['id']!r} was used before"
                if name not in tools:
                    return f"{where} calls {name!r}, which is not in 'tools'"
                if not isinstance(arguments, str) or not isinstance(orjson.loads(arguments), dict):
                    return f"{where}: arguments must be the text of a JSON object"
                seen.add(call["id"])
                open_calls[call["id"]] = name
            continue
        if not isinstance(message["content"], str):
            return f"{where}: 'messages' must be a list of 'role' and 'content'"
        if role != "tool":
            expected = "assistant" if role == "user" else "user"
    return None if record["messages"] and expected == "user" else "the messages must end with an answer"


def _parquet(path: Path) -> Iterator[str]:
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            schema = parquet_schema("turn_reasoning" in names, SEED_METADATA in names)
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
