"""Draws of the plan: functions of a key and an ordinal; any can be worked out without the others."""

from __future__ import annotations

import hashlib
import json
import struct
from array import array
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import lru_cache, reduce
from math import gcd, lcm

_MAX_BLOCK = 1000


def hex_digest(parts: list[str | int], n_bytes: int) -> str:
    """Return a digest of parts that are kept apart: ["ab", "c"] and ["a", "bc"] differ."""
    content = json.dumps(parts, ensure_ascii=False, separators=(",", ":"))
    return hashlib.blake2b(content.encode(), digest_size=n_bytes).hexdigest()


def uniform(key: bytes, ordinal: int) -> float:
    """Return a number between 0 and 1, from 52 bits, so that rounding never reaches either end."""
    digest = hashlib.blake2b(ordinal.to_bytes(8, "little"), key=key, digest_size=8).digest()
    return float((int.from_bytes(digest, "little") >> 12) + 0.5) / float(1 << 52)


def in_cycle(key: bytes, size: int, ordinal: int) -> int:
    """Which of `size` things comes at `ordinal`, when each comes once before any comes again."""
    epoch, position = divmod(ordinal, size)
    return _order_of(size)(key, size, epoch)[position]


def several_in_cycle(key: bytes, size: int, ordinal: int, count: int) -> tuple[int, ...]:
    """Return `count` different ones of `size` things; in every `size` ordinals each comes `count` times."""
    epoch, position = divmod(ordinal, size)
    order = _order_of(size)(key, size, epoch)
    return tuple(order[(position + i) % size] for i in range(min(count, size)))


def block_of(weights: Sequence[float]) -> list[int]:
    """Return the things of a cycle in which each comes as often as its weight says, by their number.

    The cycle is as short as the weights allow. Where it would have more than 1,000 places they are rounded to
    as many, and each thing has one at least.
    """
    exact = [Fraction(str(weight)) for weight in weights]
    scale = lcm(*(weight.denominator for weight in exact))
    counts = [int(weight * scale) for weight in exact]
    common = reduce(gcd, counts)
    counts = [count // common for count in counts]
    if (total := sum(counts)) > _MAX_BLOCK:
        counts = [max(1, round(count * _MAX_BLOCK / total)) for count in counts]
    return [number for number, count in enumerate(counts) for _ in range(count)]


def _order(key: bytes, size: int, epoch: int) -> array[int]:
    """Return a random order of range(size), by sorting random 64-bit numbers."""
    stream = hashlib.shake_256(key + epoch.to_bytes(8, "little")).digest(8 * size)
    numbers = struct.unpack(f"<{size}Q", stream)
    return array("I", sorted(range(size), key=numbers.__getitem__))


# Two caches, so that both are bounded in memory: 4 MiB, and 64 orders of a large batch.
_order_of_few = lru_cache(maxsize=1024)(_order)
_order_of_many = lru_cache(maxsize=64)(_order)


def _order_of(size: int) -> Callable[[bytes, int, int], array[int]]:
    return _order_of_few if size <= 1024 else _order_of_many
