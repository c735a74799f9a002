"""Who may use whom in `dlgforge_core`: arrows between its folders go one way, and none to Dagster."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import dlgforge_core

ROOT = Path(dlgforge_core.__file__).parent
MAX_LINES = 400

ARROWS = {
    "common": set[str](),
    "config": {"common"},
    "scheduling": set[str](),
    "conversation": {"common", "config"},
    "llm": {"common", "config"},
    "database": {"common", "config"},
    "planning": {"common", "config", "prompting"},
    "prompting": {"common", "config", "llm"},
    "store": {"common", "conversation", "database", "planning"},
    "knowledge": {"common", "config", "database", "llm", "prompting", "store"},
    "quality": {"common", "config", "database", "llm", "prompting", "store"},
    "tools": {"common", "config", "knowledge", "llm", "prompting"},
    "export": {"common", "config", "prompting", "quality"},
    "generation": {
        "common",
        "config",
        "conversation",
        "database",
        "knowledge",
        "llm",
        "planning",
        "prompting",
        "quality",
        "scheduling",
        "store",
        "tools",
    },
    "judging": {
        "config",
        "database",
        "export",
        "knowledge",
        "llm",
        "prompting",
        "scheduling",
        "store",
    },
    "review": {
        "common",
        "config",
        "database",
        "judging",
        "knowledge",
        "store",
    },
    "runtime": {"common", "config", "generation", "judging", "llm", "scheduling", "database"},
    "preflight": {
        "common",
        "config",
        "database",
        "export",
        "generation",
        "judging",
        "knowledge",
        "llm",
        "prompting",
        "runtime",
        "tools",
    },
}
"""Folders, and those they use. Modules beside the folders are for everyone, and use only each other and
`config`."""


@cache
def imports(path: Path) -> tuple[str, ...]:
    """Return the modules that a file imports, wherever in it; of `from x import y` also `x.y`."""
    return tuple(_imports(path))


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import; name the module whole"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def used() -> dict[str, set[str]]:
    """Folders and modules at the root, and which of those each uses."""
    nodes = {path.stem for path in ROOT.iterdir() if path.is_dir() or path.suffix == ".py"} - {"__init__"}
    graph: dict[str, set[str]] = {}
    for path in ROOT.rglob("*.py"):
        node = path.relative_to(ROOT).parts[0].removesuffix(".py")
        parts = (module.split(".") for module in imports(path) if module.startswith("dlgforge_core."))
        graph.setdefault(node, set()).update({names[1] for names in parts} & nodes - {node})
    return graph


def test_there_is_no_cycle() -> None:
    TopologicalSorter(used()).prepare()  # names the cycle


@pytest.mark.parametrize("folder", sorted(ARROWS))
def test_a_folder_uses_what_it_may(folder: str) -> None:
    others = used()[folder] & {path.name for path in ROOT.iterdir() if path.is_dir()}
    assert others == ARROWS[folder]


def test_every_folder_is_known_and_modules_beside_them_use_config_alone() -> None:
    folders = {path.name for path in ROOT.iterdir() if (path / "__init__.py").exists()}
    assert folders == set(ARROWS)
    graph = used()
    modules = set(graph) - folders
    wrong = {module: graph[module] & folders - {"config"} for module in modules}
    assert not {module: uses for module, uses in wrong.items() if uses}


def test_core_knows_no_dagster() -> None:
    named = {module.split(".")[0] for path in ROOT.rglob("*.py") for module in imports(path)}
    assert "psycopg" in named
    assert not {name for name in named if name.startswith(("dagster", "dlgforge_dagster"))}


def test_no_module_is_longer_than_a_reader_can_hold() -> None:
    paths = [path for folder in (ROOT, ROOT.parent / "dlgforge_dagster") for path in folder.rglob("*.py")]
    lengths = {path: len(path.read_text("utf-8").splitlines()) for path in paths}
    assert len(lengths) > 100
    too_long = {str(path.relative_to(ROOT.parent)): n for path, n in lengths.items() if n > MAX_LINES}
    assert not too_long, f"split along a seam what has more than {MAX_LINES} lines: {too_long}"


def test_a_worker_loads_no_library_that_it_does_not_use() -> None:
    """Each takes memory in every worker."""
    loaded = subprocess.run(
        [sys.executable, "-c", "import sys, dlgforge_core.generation.worker; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert "dlgforge_core.llm.client" in loaded
    assert not {"pyarrow", "matplotlib", "lingua", "ray", "datasets"} & set(loaded)
