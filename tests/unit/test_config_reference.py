"""The page of configuration keys: as the models are now, and complete."""

from __future__ import annotations

import re
import typing
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from dlgforge_core import config
from dlgforge_core.config.environment import ROLE_VARIABLES
from scripts.config_reference import ENVIRONMENT, PLACES, TARGET, field_rows, render

ROOT = TARGET.parents[1]
# Not settings of a user: told from one process to another, or read by scripts and tests alone.
ROLES = tuple(f"{prefix}_" for prefix in ROLE_VARIABLES)
INTERNAL = {"DLGFORGE_RUN_BOOTSTRAPPED", "DLGFORGE_VLLM_MODEL"}


def test_the_page_is_as_the_models_are() -> None:
    assert TARGET.read_text("utf-8") == render(), "docs/configuration.md is stale; run `make docs`"


def nested(annotation: object) -> set[type]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        inside = [nested(field.annotation) for field in annotation.model_fields.values()]
        return {annotation}.union(*inside)
    return set().union(*(nested(part) for part in typing.get_args(annotation)))


def test_every_section_is_reported() -> None:
    reported = set().union(*(nested(place.model) for place in PLACES))
    bases = {base for model in reported for base in model.__mro__[1:]}
    exported = {getattr(config, name) for name in config.__all__}
    models = {x for x in exported if isinstance(x, type) and issubclass(x, config.ConfigModel)}
    missing = sorted(
        model.__name__
        for model in models - reported - bases - {config.ConfigModel, config.Recipe, config.SavingConfig}
    )
    assert missing == [], "name where they go in PLACES of scripts/config_reference.py"


def test_every_variable_is_reported_and_read() -> None:
    files = [path for part in ("dlgforge_core", "dlgforge_dagster") for path in (ROOT / part).rglob("*.py")]
    code = "\n".join(path.read_text("utf-8") for path in files)
    assert [name for name in ENVIRONMENT if name not in code and not name.startswith(ROLES)] == []
    read = set(re.findall(r"[\"'](DLGFORGE_[A-Z_]+)[\"']", code))
    assert sorted(read - set(ENVIRONMENT) - INTERNAL) == []


class _Inner(config.ConfigModel):
    size: Annotated[int, Field(ge=1)] = Field(3, description="How big.")


class _Outer(config.ConfigModel):
    name: str = Field(description="What it is | called.")
    inner: _Inner = Field(default=_Inner(size=7), description="Inside.")
    many: list[_Inner] = Field([], description="A list.")
    named: dict[str, _Inner] = Field({}, description="By name.")
    maybe: _Inner | None = Field(None, description="Perhaps.")
    choice: Literal["a", "b"] = Field("a", description="One of two.")


def test_rows_of_all_kinds_of_fields() -> None:
    rows = {row[0]: row[1:] for key, field in _Outer.model_fields.items() for row in field_rows(key, field)}
    assert rows == {
        "`name`": ["required", "text", "What it is \\| called."],
        "`inner.size`": ["`7`", "integer 1 or more", "How big."],
        "`many`": ["none", "list", "A list."],
        "`many[].size`": ["`3`", "integer 1 or more", "How big."],
        "`named`": ["none", "mapping of names", "By name."],
        "`named[].size`": ["`3`", "integer 1 or more", "How big."],
        "`maybe`": ["unset", "section", "Perhaps."],
        "`maybe.size`": ["`3`", "integer 1 or more", "How big."],
        "`choice`": ["`a`", "`a`, `b`", "One of two."],
    }


def test_the_page_holds_no_long_paths() -> None:
    assert str(Path.home()) not in render()
