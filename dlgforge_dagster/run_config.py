"""The run config file of the default dataset: for the runs that sensors start, and its recipe otherwise."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import yaml

from dlgforge_core.common.plain_files import read_plain
from dlgforge_core.common.yaml_aliases import MAX_FILE_BYTES, load_yaml
from dlgforge_core.config import Recipe, llm_from_environment, validate
from dlgforge_core.config.asset_names import DIALOGUES, HF_DATASET, SECTIONS
from dlgforge_core.errors import ConfigError

RUN_CONFIG_ENV = "DLGFORGE_RUN_CONFIG"
CONFIGURED_ASSETS = (*SECTIONS, DIALOGUES, HF_DATASET)
"""Assets whose ops have a config, and checks."""


def read_run_config(env: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Return the content of the YAML file in DLGFORGE_RUN_CONFIG; empty without one. Raises ConfigError."""
    path = env.get(RUN_CONFIG_ENV, "").strip()
    if not path:
        return {}
    try:
        _, config = load_yaml(read_plain(path, MAX_FILE_BYTES).decode("utf-8"), path)
    except OSError as error:
        raise ConfigError(f"{RUN_CONFIG_ENV} names {path}: {error.strerror or error}") from None
    except (UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{RUN_CONFIG_ENV}: {path} is no YAML: {error}") from None
    config = {} if config is None else config
    _check(config, path, "")
    for part in ("ops", "resources"):
        _check(config.get(part) or {}, path, part)
        for name, value in (config.get(part) or {}).items():
            _check(value, path, f"{part}.{name}")
            _check(value.get("config", {}), path, f"{part}.{name}.config")
    return dict(config)


def default_recipe(config: Mapping[str, Any], env: Mapping[str, str] = os.environ) -> Recipe:
    """Return what a run config says of the default dataset, as its recipe.

    Runs that are started without it, those of automation, do the same then. What its `llm` leaves to the
    environment comes from there. Raises ConfigError.
    """
    data = recipe_data(config)
    if "llm" in data:
        data["llm"] = llm_from_environment(data["llm"], env)
    return validate(Recipe, data, f"the file in {RUN_CONFIG_ENV}")


def recipe_data(
    config: Mapping[str, Any], ops: Mapping[str, str] | None = None, llm_key: str = "llm"
) -> dict[str, Any]:
    """Return what a run config says of a dataset, as data of a recipe.

    `ops` are its ops, by the assets' names.

    Without `ops` it is the default dataset, whose ops have the assets' names.
    """
    given = config.get("ops") or {}
    names = ops or {name: name for name in given}
    configs = {asset: _config(given[op]) for asset, op in names.items() if op in given}
    data: dict[str, Any] = {}
    for op, section in SECTIONS.items():
        if op in configs:
            data[section] = {key: value for key, value in configs[op].items() if key != "run_id"}
    data |= configs.get(DIALOGUES, {})
    if HF_DATASET in configs:
        data.setdefault("saving", {})["hf_push"] = configs[HF_DATASET]
    if llm := (config.get("resources") or {}).get(llm_key):
        data["llm"] = _config(llm)
    return data


def _config(value: Mapping[str, Any]) -> dict[str, Any]:
    found = resolved(value.get("config", {}) if isinstance(value, Mapping) else {})
    return dict(found) if isinstance(found, Mapping) else {}


def resolved(value: Any) -> Any:
    """With the environment in it, where Dagster's `{env: NAME}` asks for it."""
    if isinstance(value, Mapping):
        if list(value) == ["env"] and isinstance(value["env"], str):
            return os.environ.get(value["env"], "")
        return {key: resolved(item) for key, item in value.items()}
    return [resolved(item) for item in value] if isinstance(value, list) else value


def _check(value: Any, path: str, where: str) -> None:
    if not isinstance(value, Mapping):
        key = f"{where} " if where else ""
        kind = "empty" if value is None else f"a {type(value).__name__}"
        raise ConfigError(f"{RUN_CONFIG_ENV}: {path}: {key}must be a mapping, as run config is; it is {kind}")
