"""Shards: files of a split with a run of its dialogues each, written by whichever process, once.

Dialogues wait on disk, in a spool. The shards that they make depend on them and their order alone, so that
the files are the same from any number of processes. A shard is made under another name and then renamed to
the key of its content: one with its name is whole, and the writer that comes after a killed one keeps it.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import pickle
import shutil
import struct
import uuid
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO

from dlgforge_core.config.saving import DatasetFilesConfig
from dlgforge_core.dialogue import Dialogue, Ending
from dlgforge_core.export.folder import SHARDS
from dlgforge_core.export.format_context import FormatContext
from dlgforge_core.export.formats import FORMATS
from dlgforge_core.export.preference_figures import PreferenceFigures
from dlgforge_core.export.records import clean
from dlgforge_core.export.sinks import open_sinks
from dlgforge_core.export.splits import SplitAssigner
from dlgforge_core.export.stats import DatasetFigures
from dlgforge_core.export.token_counts import MessageSizes, TokenCounter, estimated_tokens, token_counter
from dlgforge_core.quality.diversity import Diversity, FrequentTexts, LanguageDiversity, MessageSample
from dlgforge_core.quality.figures import DialogueFigures, RatingFigures
from dlgforge_core.tool_events import ToolProblem
from dlgforge_core.usage import RoleUsage

_DONE = "done"
_INDEX = struct.Struct("<QI16s")  # place in the spool, number of the topic, digest
# All that the figures of a shard are made of: what lies in a folder is not trusted to name anything else.
_KNOWN = {
    (one.__module__, one.__qualname__): one
    for one in (
        *(Counter, set, DatasetFigures, DialogueFigures, RatingFigures, Diversity, LanguageDiversity),
        *(MessageSample, FrequentTexts, MessageSizes, TokenCounter, estimated_tokens, PreferenceFigures),
        *(RoleUsage, Ending, ToolProblem),
    )
}


@dataclass(frozen=True, slots=True)
class Shard:
    """A run of a split's dialogues: where each is in the `spool`, and the folder for the files."""

    split: str
    folder: Path
    spool: Path
    places: array[int]


@dataclass(frozen=True, slots=True)
class ShardFile:
    """A file of a shard; `dialogues` are those that have rows in it."""

    format: str
    suffix: str
    path: Path
    dialogues: int
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class WrittenShard:
    """What became of a shard."""

    split: str
    files: Sequence[ShardFile]
    figures: DatasetFigures


@dataclass(frozen=True)
class ShardWriter:
    """What writes shards, in any process; it is the same one for all shards of a process."""

    saving: DatasetFilesConfig
    context: FormatContext
    writing: str = field(default_factory=lambda: uuid.uuid4().hex)
    """Tells the writers of several datasets apart."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (self.saving, self.context, self.writing)

    @functools.cached_property
    def tokens(self) -> TokenCounter:
        """What counts tokens, read once. Raises ConfigError when there is no such tokenizer."""
        return token_counter(self.saving.tokenizer)

    def no_figures(self) -> DatasetFigures:
        """Return the figures of no dialogue. Raises ConfigError when there is no such tokenizer."""
        return DatasetFigures(
            sizes=MessageSizes(self.tokens),
            conversation=self.context.optional.conversation,
            preferences=PreferenceFigures(self.saving.min_margin),
        )

    def __call__(self, shard: Shard) -> WrittenShard:
        """Write the files of a shard, unless they are there."""
        found = _finished(shard)
        if found is not None:
            return found
        making = shard.folder.with_name(f".{shard.folder.name}")
        for left in (making, shard.folder):
            shutil.rmtree(left, ignore_errors=True)
        making.mkdir(parents=True)
        figures = self.no_figures()
        written: Counter[tuple[str, str]] = Counter()
        with contextlib.ExitStack() as stack:
            sinks = open_sinks(stack, making, self.saving, self.context)
            for dialogue in self._dialogues(shard):
                for name, of_format in sinks.items():
                    records = list(map(clean, FORMATS[name].written(dialogue, self.context)))
                    for sink in of_format:
                        written[name, sink.suffix] += bool(records)
                        sink.write(dialogue, records)
                figures.add(dialogue, shard.split)
        kinds = [(name, sink.suffix) for name, of_format in sinks.items() for sink in of_format]
        files = [(*kind, written[kind], *_size_and_sha256(_path(making, *kind))) for kind in kinds]
        figures.sizes.counter = TokenCounter(estimated_tokens)  # a tokenizer cannot be pickled
        with (making / _DONE).open("wb") as file:
            pickle.dump((files, figures), file, pickle.HIGHEST_PROTOCOL)
        making.rename(shard.folder)
        return _written(shard, files, figures)

    def _dialogues(self, shard: Shard) -> Iterator[Dialogue]:
        with shard.spool.open("rb") as spool:
            for place in shard.places:
                spool.seek(place)
                yield pickle.load(spool)

    def key(self) -> bytes:
        """Return what decides on the files of a shard besides its dialogues."""
        code = hashlib.sha256()
        for path in sorted(Path(__file__).parent.glob("*.py")):
            code.update(path.read_bytes())
        settings = self.saving.model_dump(exclude={"output_dir", "card", "filters", "semantic_dedup"})
        known = (version("dlgforge"), version("pyarrow"), settings, self.tokens.name, self.context)
        code.update(repr(known).encode("utf-8", "surrogatepass"))
        return code.digest()


_writers: dict[str, ShardWriter] = {}
"""The one whose shards come to this process."""


def _received(saving: DatasetFilesConfig, context: FormatContext, writing: str) -> ShardWriter:
    """Return the writer that is meant: what it has read it has still."""
    if writing not in _writers:
        _writers.clear()
        _writers[writing] = ShardWriter(saving, context, writing)
    return _writers[writing]


def _member(kind: type[Enum], name: str) -> Enum:
    return kind[name]


class _Restricted(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("builtins", "getattr"):  # how Python before 3.11.4 keeps a member of an Enum
            return _member
        known = _KNOWN.get((module, name))
        if known is None:
            raise pickle.UnpicklingError(f"{module}.{name} is no part of a shard's figures")
        return known


def _finished(shard: Shard) -> WrittenShard | None:
    """Return the shard where it is there and its files are as they were written; else None."""
    try:
        with (shard.folder / _DONE).open("rb") as file:
            files, figures = _Restricted(file).load()
        for form, suffix, _, size, sha256 in files:
            if _size_and_sha256(_path(shard.folder, form, suffix)) != (size, sha256):
                return None
        return _written(shard, files, figures)
    except Exception:  # whatever is wrong with what was left, it is written anew
        return None


def _written(
    shard: Shard, files: Sequence[tuple[str, str, int, int, str]], figures: DatasetFigures
) -> WrittenShard:
    found = [ShardFile(file[0], file[1], _path(shard.folder, file[0], file[1]), *file[2:]) for file in files]
    return WrittenShard(shard.split, found, figures)


def _path(folder: Path, form: str, suffix: str) -> Path:
    return folder / f"{form}.{suffix}"


def _size_and_sha256(path: Path) -> tuple[int, str]:
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return file.tell(), sha256


class _Cutter:
    """Cuts the dialogues of splits, as they come, into shards."""

    def __init__(self, spool: BinaryIO, path: Path, writer: ShardWriter) -> None:
        self._spool, self._path, self._most = spool, path, writer.saving.max_shard_dialogues
        self._key = writer.key()
        self._numbers: Counter[str] = Counter()
        self._open: dict[str, tuple[array[int], Any]] = {}

    def add(self, split: str, place: int, digest: bytes) -> Iterator[Shard]:
        """Take one dialogue in; yield the shard that is full."""
        if split not in self._open:
            start = f"{split}\0{self._numbers[split]}".encode()
            self._open[split] = (array("Q"), hashlib.blake2b(start, key=self._key, digest_size=16))
            self._numbers[split] += 1
        places, key = self._open[split]
        places.append(place)
        key.update(digest)
        if len(places) == self._most:
            yield self._close(split)

    def rest(self) -> Iterator[Shard]:
        """Yield the shards that are not full."""
        for split in list(self._open):
            yield self._close(split)

    def _close(self, split: str) -> Shard:
        places, key = self._open.pop(split)
        self._spool.flush()
        folder = self._path.parent / SHARDS / key.hexdigest()
        return Shard(split, folder, self._path, places)


def shards_of(dialogues: Iterable[Dialogue], writing: Path, writer: ShardWriter) -> Iterator[Shard]:
    """Yield the shards of `dialogues`, which wait on disk in `writing`, scrubbed as they must be.

    With one split as they fill; with more when the topics of all are known. Memory grows with the topics.
    """
    path, shares = writing / "spool", writer.saving.splits
    with path.open("wb") as spool:
        cutter = _Cutter(spool, path, writer)
        waiting = _spooled(dialogues, spool)
        if len(shares) == 1:
            (split,) = shares
            for _, place, digest in waiting:
                yield from cutter.add(split, place, digest)
        else:
            for split, place, digest in _with_splits(waiting, writing / "index", writer):
                yield from cutter.add(split, place, digest)
        yield from cutter.rest()


def _spooled(dialogues: Iterable[Dialogue], spool: BinaryIO) -> Iterator[tuple[Dialogue, int, bytes]]:
    place = 0
    for dialogue in dialogues:
        data = pickle.dumps(dialogue, pickle.HIGHEST_PROTOCOL)
        spool.write(data)
        yield dialogue, place, hashlib.blake2b(data, digest_size=16).digest()
        place += len(data)


def _with_splits(
    waiting: Iterable[tuple[Dialogue, int, bytes]], path: Path, writer: ShardWriter
) -> Iterator[tuple[str, int, bytes]]:
    assigner = SplitAssigner(writer.saving.splits)
    numbers: dict[str, int] = {}
    with path.open("wb") as index:
        for dialogue, place, digest in waiting:
            topic = dialogue.plan.topic
            assigner.add(topic)
            index.write(_INDEX.pack(place, numbers.setdefault(topic.id, len(numbers)), digest))
    splits = [assigner.split_of_id(one) for one in numbers]
    with path.open("rb") as index:
        while record := index.read(_INDEX.size):
            place, number, digest = _INDEX.unpack(record)
            yield splits[number], place, digest
