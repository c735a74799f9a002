"""Names in the code are words that an engineer of the field would guess."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("dlgforge_core", "dlgforge_dagster", "tests", "bench", "scripts", "examples")
UNUSUAL = re.compile(r"(?:^|_)(?:sitting|said|told|in_a_hurry)(?:_|$)")


def names(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and name of all that a module names."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield line, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield line, node.attr
        elif isinstance(node, ast.arg):
            yield line, node.arg
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield line, node.name


def test_no_name_is_an_unusual_word() -> None:
    paths = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    assert len(paths) > 500
    found = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in paths
        for line, name in names(path)
        if UNUSUAL.search(name)
    ]
    found += [str(path.relative_to(ROOT)) for path in paths if UNUSUAL.search(path.stem)]
    assert not found
