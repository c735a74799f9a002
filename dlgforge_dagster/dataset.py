"""Dataset of the code location: its recipe, and what its assets, jobs and sensors are called."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import dagster as dg

from dlgforge_core.config import Recipe
from dlgforge_core.config.asset_names import DIALOGUE_DATASET
from dlgforge_core.errors import ConfigError
from dlgforge_dagster.launch_policy import check_launch
from dlgforge_dagster.partitions import DialoguePartitions
from dlgforge_dagster.resources import LlmResource, RayResource, StoreResource
from dlgforge_dagster.run_config import CONFIGURED_ASSETS

DEFAULT_GROUP = "dlgforge"


@dataclass(frozen=True)
class DatasetSpec:
    """A recipe under its name; the default dataset's name is "", and its assets have no prefix.

    Everything that is written down somewhere carries the name: asset keys, ops, jobs, sensors, partitions,
    the run state. So no two datasets share anything by accident.
    """

    name: str = ""
    recipe: Recipe = field(default_factory=Recipe)

    @property
    def group(self) -> str:
        """The asset group of the dataset."""
        return self.name or DEFAULT_GROUP

    def key(self, asset: str) -> dg.AssetKey:
        """Return the key of one of its assets."""
        return dg.AssetKey([self.name, asset] if self.name else [asset])

    def owns(self, key: dg.AssetKey) -> bool:
        """Whether an asset of the code location is one of its."""
        return list(key.path[:-1]) == (self.key_prefix or [])

    @property
    def key_prefix(self) -> list[str] | None:
        """What comes before the assets' names."""
        return [self.name] if self.name else None

    def description(self, text: str) -> str:
        """Return the text of an asset's page: what the recipe says that the dataset is for, then `text`."""
        return "\n\n".join(filter(None, [self.recipe.description.strip(), text]))

    def op(self, asset: str) -> str:
        """Return the name of an asset's op: its key in run config under `ops`."""
        return f"{self.name}__{asset}" if self.name else asset

    def label(self, name: str) -> str:
        """Return the name of a job, sensor or check group of this dataset."""
        return f"{name}_{self.name}" if self.name else name

    @property
    def llm_key(self) -> str:
        """The resource its text comes from: one of its own, for recipes differ in their models."""
        return f"{self.name}_llm" if self.name else "llm"

    @property
    def resource_keys(self) -> set[str]:
        """The resources its assets ask for."""
        return {"ray", "store", self.llm_key}

    def llm(self, context: Any) -> LlmResource:
        """Where this dataset's text comes from."""
        self._check_launch(context)
        resource: LlmResource = getattr(context.resources, self.llm_key)
        return resource

    def ray(self, context: Any) -> RayResource:
        """Return the Ray cluster."""
        self._check_launch(context)
        resource: RayResource = context.resources.ray
        return resource

    def store(self, context: Any) -> StoreResource:
        """Return the database of the run state."""
        self._check_launch(context)
        resource: StoreResource = context.resources.store
        return resource

    def _check_launch(self, context: Any) -> None:
        """Raise dagster.Failure for a run whose config asks for what the deployment has not named."""
        ops = {asset: self.op(asset) for asset in CONFIGURED_ASSETS}
        try:
            check_launch(context.instance, context.run, self.recipe, ops, self.llm_key)
        except ConfigError as error:
            raise dg.Failure(str(error), allow_retries=False) from error

    @cached_property
    def partitions(self) -> DialoguePartitions:
        """How its dialogues are partitioned."""
        if self.name:
            return DialoguePartitions(f"{self.name}_seed_batches", tuple(self.recipe.run.target_languages))
        # Of all languages, whichever the run config file asks for: partitions are not lost by an edit of it.
        return DialoguePartitions("seed_batches", tuple(default_languages(Recipe())))

    def latest_folder(self, instance: dg.DagsterInstance) -> Path | None:
        """Where `dialogue_dataset` was written last; None when it never was."""
        event = instance.get_latest_materialization_event(self.key(DIALOGUE_DATASET))
        materialization = event.asset_materialization if event is not None else None
        value = materialization.metadata.get("folder") if materialization is not None else None
        return Path(str(value.value)) if value is not None else None


def default_languages(recipe: Recipe, env: Mapping[str, str] = os.environ) -> list[str]:
    """Return the languages that are partitions by default: DLGFORGE_LANGUAGES ("en,fr"), else all."""
    given = [name.strip() for name in env.get("DLGFORGE_LANGUAGES", "").split(",")]
    return list(dict.fromkeys(name for name in given if name)) or list(recipe.run.target_languages)
