"""The index of the example recipes: each one is in it, can be read, and is run by a test."""

from __future__ import annotations

import re

import pytest

from dlgforge_core.config import check_apart, read_recipe
from tests.support.recipes import ROOT

FOLDER = ROOT / "examples/recipes"
NAMES = sorted(path.name for path in FOLDER.glob("*.y*ml"))
INDEX = (FOLDER / "README.md").read_text("utf-8")
RUNS = {path: path.read_text("utf-8") for path in (ROOT / "tests/integration").glob("test_*.py")}


def test_the_index_names_each_recipe_once_in_order() -> None:
    rows = re.findall(r"^\| \[([\w.]+)\]\(([\w.]+)\) \| [^|]+ \| (\[.+\]\(.+\)) \|$", INDEX, re.MULTILINE)
    assert [name for name, _, _ in rows] == [link for _, link, _ in rows] == NAMES


def test_what_the_index_links_to_is_there() -> None:
    for link in re.findall(r"\]\(([^)#]+)", INDEX):
        assert (FOLDER / link).is_file(), link


def test_they_can_stand_side_by_side() -> None:
    check_apart({name: read_recipe(FOLDER / name) for name in NAMES})


@pytest.mark.parametrize("name", NAMES)
def test_each_recipe_can_be_read_and_is_run_by_a_test(name: str) -> None:
    recipe = read_recipe(FOLDER / name)
    assert recipe.description
    assert any(f'"{name}"' in text or f'/{name}"' in text for text in RUNS.values()), "no test runs it"
