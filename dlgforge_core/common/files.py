"""Files on any filesystem that fsspec knows: whether one has changed, seen without reading it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Mapping
from datetime import date
from typing import Any

_CHANGE_KEYS = ("mtime", "ino", "ETag", "etag", "LastModified", "updated")
_OTHER_KEYS = re.compile(r"^(.*name|path|type|.*size|url|.*link|mode|perm|[ug]id)$|^_|access|atime", re.I)
_PLAIN = (str, bytes, int, float, tuple, date)


def file_state(entry: Mapping[str, Any]) -> str:
    """File state: a digest of those facts about a file that change whenever its content may have.

    `entry` is fsspec's description of the file. Empty when it holds no such fact, as with plain web servers:
    only the content shows a change then.
    """
    if entry.get("islink") and "ino" in entry:  # of a local link, the time and inode of where it leads
        with contextlib.suppress(OSError):
            target = os.stat(entry["name"])
            entry = {**entry, "mtime": target.st_mtime, "ino": target.st_ino}
    # Local filesystems report the time and inode, object stores an ETag.
    facts: list[Any] = [entry.get(key) for key in _CHANGE_KEYS]
    if all(value is None for value in facts):
        # Others have names of their own: a checksum in a ZIP, a commit, the time of writing.
        facts = sorted(
            f"{key}={value!r}"
            for key, value in entry.items()
            if isinstance(value, _PLAIN) and not _OTHER_KEYS.search(key)
        )
        if not facts:
            return ""
    state = json.dumps([int(entry.get("size") or 0), *(str(value) for value in facts)])
    return hashlib.sha256(state.encode()).hexdigest()[:12]
