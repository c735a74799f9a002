"""`make check`: what a run of a recipe needs, looked at before anything is made.

    python -m dlgforge_dagster.preflight recipes/mine.yaml

Takes a recipe, or a run config file like that of `dagster job execute`. Its exit code is 1 when something is
there that a run could not do its work with.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import yaml

from dlgforge_core.common.yaml_aliases import load_yaml
from dlgforge_core.config import (
    LlmConfig,
    PostgresConfig,
    RayConfig,
    Recipe,
    StoreConfig,
    addresses_replaced,
    llm_from_environment,
    read_recipe,
    validate,
)
from dlgforge_core.database.dsn import DSN_ENV, ResolvedDsn, resolve_dsn
from dlgforge_core.database.embedded import dlgforge_home
from dlgforge_core.errors import ConfigError, DlgforgeError, StoreError
from dlgforge_core.preflight.check import TIMEOUT_S, SetUp, check_setup
from dlgforge_dagster.run_config import RUN_CONFIG_ENV, read_run_config, recipe_data, resolved
from dlgforge_dagster.storage import instance_dsn

_WIDTH = 120
"""Of the table where it does not go to a terminal."""


def setup_of(path: Path) -> SetUp:
    """Return the set-up that a recipe or a run config file describes. Raises ConfigError."""
    resources: Mapping[str, Any] = {}
    if _is_run_config(path):
        config = read_run_config({RUN_CONFIG_ENV: str(path)})
        recipe = validate(Recipe, recipe_data(config), str(path))
        resources = config.get("resources") or {}
    else:
        recipe = read_recipe(path)
    if note := addresses_replaced(recipe.llm.model_dump()):
        print(note, file=sys.stderr)
    data = llm_from_environment(recipe.llm.model_dump(), os.environ)
    llm = validate(LlmConfig, data, f"llm of {path} (with LLM_* of the environment)")
    store = validate(StoreConfig, _section(resources, "store"), f"resources.store.config of {path}")
    ray = validate(RayConfig, _section(resources, "ray"), f"resources.ray.config of {path}")
    return SetUp(
        recipe.model_copy(update={"llm": llm}),
        dsn=lambda: _dsn(store.postgres),
        ray=ray,
        postgres=store.postgres,
    )


def _is_run_config(path: Path) -> bool:
    try:
        _, data = load_yaml(path.read_text("utf-8"), str(path))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError):
        return False  # said of a recipe
    return isinstance(data, Mapping) and not {"ops", "resources"}.isdisjoint(data)


def _section(resources: Mapping[str, Any], name: str) -> dict[str, Any]:
    section = resources.get(name)
    config = resolved(section.get("config") or {}) if isinstance(section, Mapping) else {}
    return dict(config) if isinstance(config, Mapping) else {}


def _dsn(config: PostgresConfig) -> ResolvedDsn:
    """Find the run state's database as a run would: Dagster's own where no other is named."""
    own: str | None = None
    named = config.dsn.get_secret_value().strip() or os.environ.get(DSN_ENV, "").strip()
    if not named and os.environ.get("DAGSTER_HOME"):
        try:
            own = instance_dsn(dg.DagsterInstance.get())
        except dg.DagsterError as error:
            raise StoreError(f"Dagster's storage cannot be used ({error}); see dagster.yaml") from None
    return resolve_dsn(config.dsn, os.environ, own, dlgforge_home(os.environ))


@contextlib.contextmanager
def _errors_alone(logger: logging.Logger) -> Iterator[None]:
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; returns 1 when a run could not do its work, or the file cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m dlgforge_dagster.preflight", description=__doc__)
    parser.add_argument("recipe", type=Path, help="a recipe, or a run config file")
    parser.add_argument(
        "--timeout", type=float, default=TIMEOUT_S, help=f"seconds for everything ({TIMEOUT_S:g})"
    )
    given = parser.parse_args(arguments)
    try:
        if not given.recipe.is_file():
            raise ConfigError(
                f"{given.recipe} is no file; name a recipe: make check RECIPE=recipes/mine.yaml"
            )
        with _errors_alone(
            logging.getLogger("dlgforge_core")
        ):  # what is learned of endpoints is in the table
            report = check_setup(setup_of(given.recipe), max(1.0, given.timeout))
    except DlgforgeError as error:
        print(error, file=sys.stderr)
        return 1
    width = shutil.get_terminal_size((_WIDTH, 0)).columns if sys.stdout.isatty() else _WIDTH
    print(report.text(width))
    return int(report.failed)


if __name__ == "__main__":
    sys.exit(main())
