"""A tool whose side effects can be counted: each call writes a line to a file, and counts in the state."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

VARIABLE = "DLGFORGE_TEST_LEDGER"
"""Names the file. It is for tests alone."""


def advance(state: dict[str, Any]) -> int:
    """Count on by one."""
    with Path(os.environ[VARIABLE]).open("a", encoding="ascii") as file:
        file.write(f"{state['id']} {state['n']}\n")
    time.sleep(0.03)  # so that kills come between the side effect and its record
    state["n"] += 1
    return int(state["n"])
