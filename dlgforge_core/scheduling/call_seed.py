"""Sampling seeds: the seed of each call, derived from the run's, the same in every run of a plan."""

from __future__ import annotations

import hashlib

from dlgforge_core.dialogue import Role


def call_seed(seed: int, dialogue_id: str, turn_index: int, role: Role, attempt: int) -> int:
    """Return the sampling seed of a call, the same in every run of the plan; 31 bits, as all servers take."""
    name = f"{seed}:{dialogue_id}:{turn_index}:{role}:{attempt}"
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest(), "big") >> 1
