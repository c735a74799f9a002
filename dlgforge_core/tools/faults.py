"""Faults that calls of tools meet: drawn from the call alone, so that every run draws the same."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from dlgforge_core.config.functions import FaultsConfig


class Fault(StrEnum):
    """What happens instead of a call."""

    TIMEOUT = "timeout"
    ERROR = "error"
    EMPTY = "empty"


def fault_of(config: FaultsConfig, key: str) -> Fault | None:
    """Return the fault that a call meets, if any; `key` is the call's own."""
    drawn = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8, person=b"fault").digest()) / 2**64
    for fault in Fault:
        share: float = getattr(config, fault.value)
        if drawn < share:
            return fault
        drawn -= share
    return None


def empty_result(schema: Mapping[str, Any]) -> Any:
    """Return a result that says nothing, of the kind that a tool gives."""
    kind = schema.get("type")
    return [] if kind == "array" else {} if kind == "object" else None
