"""Seed files wherever they are kept: a local folder, or any address that fsspec knows (s3://, gs://, ...)."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from dlgforge_core.errors import SeedError
from dlgforge_core.seeds import SUFFIXES, SeedBatch, batch_name, parse_seed_batch, read_seeds

SEED_FOLDER_ENV = "DLGFORGE_SEED_FOLDER"
MAX_FILE_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class SeedFile:
    """A file in a seed folder. `state` changes whenever its content may have."""

    name: str
    path: str
    size: int
    state: str

    @property
    def batch(self) -> str:
        """The seed batch, and partition, the file stands for."""
        return batch_name(self.name)


def seed_place(path: str, env: Mapping[str, str] = os.environ) -> str:
    """`path`, or where it is empty the folder in DLGFORGE_SEED_FOLDER; empty: the shipped topics."""
    return path or env.get(SEED_FOLDER_ENV, "").strip()


def read_seed_batches(place: str, *, strict: bool = False, only: str | None = None) -> list[SeedBatch]:
    """The seed batches at a path or address, or `only` the one of this name; see `read_seeds`.

    Raises SeedError.
    """
    if "://" not in place and (only is None or not Path(place).is_dir()):
        return _named(read_seeds(place, strict=strict), only)
    files = [file for file in list_seed_files(place) if only in (None, file.batch)]
    if not files and only is not None:
        raise SeedError(f"{place} holds no seed file for the seed batch {only!r}")
    if not files:
        raise SeedError(f"{place} holds no seed file; seed files end in {', '.join(SUFFIXES)}")
    batches = [
        parse_seed_batch(f.name, read_seed_bytes(place, f), label=f"{place}/{f.name}", strict=strict)
        for f in files
    ]
    names = [batch.name for batch in batches]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise SeedError(f"{place}: several files would be the seed batch {', '.join(twice)}; rename them")
    return batches


def _named(batches: list[SeedBatch], only: str | None) -> list[SeedBatch]:
    if only is None:
        return batches
    found = [batch for batch in batches if batch.name == only]
    if not found:
        known = ", ".join(batch.name for batch in batches)
        raise SeedError(f"there is no seed batch {only!r}; there are: {known}")
    return found


def list_seed_files(place: str) -> list[SeedFile]:
    """The seed files of a folder, by name; hidden ones and subfolders are left alone. Raises SeedError."""
    import fsspec

    try:
        filesystem, root = fsspec.core.url_to_fs(place)
        filesystem.invalidate_cache()
        entries = filesystem.ls(root, detail=True)
    except (OSError, ValueError, ImportError) as error:
        raise SeedError(f"{place} cannot be listed: {error}") from None
    files = []
    for entry in entries:
        name = PurePosixPath(str(entry["name"])).name
        if entry.get("type") != "file" or name.startswith(".") or not name.lower().endswith(SUFFIXES):
            continue
        size = int(entry.get("size") or 0)
        files.append(SeedFile(name, str(entry["name"]), size, file_state(entry)))
    return sorted(files, key=lambda file: file.name)


def file_state(entry: Mapping[str, Any]) -> str:
    """A digest of what a filesystem tells of a file that changes whenever its content may have."""
    # A local one tells the time and inode, stores an ETag.
    told = [entry.get(key) for key in ("mtime", "ino", "ETag", "etag", "LastModified", "updated")]
    state = json.dumps([int(entry.get("size") or 0), *(str(value) for value in told)])
    return hashlib.sha256(state.encode()).hexdigest()[:12]


def read_seed_bytes(place: str, file: SeedFile) -> bytes:
    """The content of a file. Raises SeedError when it cannot be read or is no seed file by its size."""
    import fsspec

    if file.size > MAX_FILE_BYTES:
        raise SeedError(
            f"{file.name} has {file.size:,} bytes; a seed file may have {MAX_FILE_BYTES:,} at most"
        )
    try:
        filesystem, _ = fsspec.core.url_to_fs(place)
        data: bytes = filesystem.cat_file(file.path)
    except (OSError, ValueError) as error:
        raise SeedError(f"{file.name} cannot be read: {error}") from None
    return data
