"""The numbers of our advisory locks: each its own, and written in one place."""

from __future__ import annotations

import re
from pathlib import Path

import dlgforge_core
import dlgforge_dagster
from dlgforge_core.database import lock_keys


def test_no_two_locks_share_a_number() -> None:
    numbers = [value for name, value in vars(lock_keys).items() if name.isupper()]
    assert len(set(numbers)) == len(numbers) == 9


def test_no_other_module_has_a_number_of_its_own() -> None:
    """A lock's number is in the middle of SQL easily, where the test above would not see it."""
    number = re.compile(r"\b744_?[0-9]{3}\b|pg_(try_)?advisory_(xact_)?(un)?lock(_shared)?\([0-9]")
    for package in (dlgforge_core, dlgforge_dagster):
        for path in Path(package.__path__[0]).rglob("*.py"):
            if path != Path(lock_keys.__file__):
                assert not number.search(path.read_text("utf-8")), path
