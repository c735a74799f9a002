"""Seed files wherever they are kept: a local folder, or any address that fsspec knows (s3://, gs://, ...)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dlgforge_core.common.files import Folder, FoundFile
from dlgforge_core.common.secrets import shown_address, shown_error
from dlgforge_core.common.yaml_source import MAX_FILE_BYTES
from dlgforge_core.config import SeedsConfig
from dlgforge_core.errors import SeedError
from dlgforge_core.planning.seeds import (
    DEFAULT,
    SUFFIXES,
    SeedBatch,
    batch_name,
    parse_seed_batch,
    read_seeds,
)

SEED_FOLDER_ENV = "DLGFORGE_SEED_FOLDER"


@dataclass(frozen=True, slots=True)
class SeedFile(FoundFile):
    """A seed file in a folder."""

    @property
    def batch(self) -> str:
        """The seed batch, and partition, the file stands for."""
        return batch_name(self.name)


def seed_location(path: str, env: Mapping[str, str] = os.environ) -> str:
    """`path`, or where it is empty the folder in DLGFORGE_SEED_FOLDER; empty: the shipped topics."""
    return path or env.get(SEED_FOLDER_ENV, "").strip()


@dataclass(frozen=True, slots=True)
class SeedReading:
    """What was read at a location: the batches, and by file name why others could not be used."""

    batches: tuple[SeedBatch, ...]
    unusable: Mapping[str, str] = field(default_factory=dict)

    @property
    def problems(self) -> list[str]:
        """All that was left out and why: whole files first, then entries."""
        return [*self.unusable.values(), *(problem for batch in self.batches for problem in batch.problems)]


def read_seed_batches(
    location: str, *, strict: bool = False, only: str | None = None, config: SeedsConfig = DEFAULT
) -> SeedReading:
    """Return the seed batches at a location, or `only` the one of this name.

    A location is a file, a folder of seed files, or a folder's address that fsspec knows; empty: the shipped
    topics. Of `config` the columns of tables count. Files of a folder that cannot be used, or would share one
    batch name, are left out. Raises SeedError, naming every such file, when none is left, or with `strict`,
    where the first bad entry of a file fails it too.
    """
    if "://" not in location and not (location and Path(location).is_dir()):
        return SeedReading(tuple(_named(read_seeds(location, strict=strict, config=config), only)))
    found, unreadable = _listing(location)
    files = [file for file in found if only in (None, file.batch)]
    if not files and only is not None:
        raise SeedError(f"{shown_address(location)} holds no seed file for the seed batch {only!r}")
    if not files:
        raise SeedError(
            f"{shown_address(location)} holds no seed file; seed files end in {', '.join(SUFFIXES)}"
        )
    folder = shown_address(location).rstrip("/")
    unusable = {name: f"{folder}/{problem}" for name, problem in same_batch(files).items()}
    for name, why in unreadable.items():
        if only in (None, batch_name(name)):
            unusable[name] = f"{folder}/{name}: {why}"
    batches: list[SeedBatch] = []
    for file in files:
        if file.name in unusable:
            continue
        label = f"{folder}/{file.name}"
        try:
            data = read_seed_bytes(location, file)
            batches.append(parse_seed_batch(file.name, data, label=label, strict=strict, config=config))
        except SeedError as error:
            unusable[file.name] = str(error)
    if unusable and (strict or not batches):
        raise SeedError("\n".join(unusable.values()))
    return SeedReading(tuple(batches), unusable)


def same_batch(files: Sequence[SeedFile]) -> dict[str, str]:
    """By file name what is wrong with files that would be one seed batch; none of them can be used."""
    by_batch: dict[str, list[str]] = {}
    for file in files:
        by_batch.setdefault(file.batch, []).append(file.name)
    return {
        name: f"{name} would be the seed batch {batch!r}, and so would "
        f"{', '.join(other for other in names if other != name)}; rename one of them"
        for batch, names in by_batch.items()
        if len(names) > 1
        for name in names
    }


def _named(batches: list[SeedBatch], only: str | None) -> list[SeedBatch]:
    if only is None:
        return batches
    found = [batch for batch in batches if batch.name == only]
    if not found:
        known = ", ".join(batch.name for batch in batches)
        raise SeedError(f"there is no seed batch {only!r}; there are: {known}")
    return found


def list_seed_files(location: str) -> list[SeedFile]:
    """Return the seed files of a folder, by name; hidden ones and subfolders are left alone.

    Raises SeedError.
    """
    return _listing(location)[0]


def _listing(location: str) -> tuple[list[SeedFile], dict[str, str]]:
    """Return the seed files of a folder, and by name why others cannot be read. Raises SeedError."""
    try:
        found = Folder(location).listing(recursive=False)
    except (OSError, ValueError, ImportError) as error:
        raise SeedError(
            f"{shown_address(location)} cannot be listed: {shown_error(error, location)}"
        ) from None
    if not found.exists:
        raise SeedError(f"{shown_address(location)} cannot be listed: no such folder")
    files = [
        SeedFile(file.name, file.path, file.size, file.state)
        for file in found.files
        if file.name.lower().endswith(SUFFIXES)
    ]
    unreadable = {
        name: why for name, why in sorted(found.unreadable.items()) if name.lower().endswith(SUFFIXES)
    }
    return files, unreadable


def read_seed_bytes(location: str, file: SeedFile) -> bytes:
    """Return the content of a file. Raises SeedError when it cannot be read or is too large."""
    too_long = f"a seed file may have {MAX_FILE_BYTES:,} bytes at most"
    if file.size > MAX_FILE_BYTES:
        raise SeedError(f"{file.name} has {file.size:,} bytes; {too_long}")
    try:
        data = Folder(location).read(file, MAX_FILE_BYTES)
    except (OSError, ValueError) as error:
        raise SeedError(f"{file.name} cannot be read: {shown_error(error, location)}") from None
    if data is None:
        raise SeedError(f"{file.name} has more bytes than it is said to have; {too_long}")
    return data
