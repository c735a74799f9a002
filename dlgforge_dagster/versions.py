"""Versions of code and data, by which Dagster tells what is stale."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg
from pydantic import BaseModel

from dlgforge_core.config import Recipe
from dlgforge_core.dialogue import Role
from dlgforge_core.planning.fingerprint import CONTENT_VERSION, ContentSource, content_config
from dlgforge_core.planning.personas import personas_of

DATA_VERSION = "dagster/data_version"
_USER_PROVIDED = "dagster/data_version_is_user_provided"
_CODE_VERSION = "dagster/code_version"
_INPUT_DATA_VERSION, _INPUT_EVENT_POINTER = "dagster/input_data_version/", "dagster/input_event_pointer/"
_NEVER_MADE, _NO_EVENT = "INITIAL", "NULL"  # what Dagster writes of an input that is not there


def code_version(version: int, config: BaseModel, later: Collection[str] = ()) -> str:
    """Of an asset: another one when its code gives other results, or its section of the recipe was edited.

    Keys that came `later`, `key` or `section.key`, count where they are set, so that what was made before is
    not stale.
    """
    data, default = config.model_dump(mode="json"), type(config)().model_dump(mode="json")
    for name in later:
        *sections, key = name.split(".")
        here, usual = data, default
        for section in sections:
            here, usual = here[section], usual[section]
        if here[key] == usual[key]:
            del here[key]
    return f"{version}-{digest(data)}"


def dialogues_version(recipe: Recipe) -> str:
    """Of `dialogues`: without what decides how fast and how far a run goes."""
    content = content_config(
        recipe.generation,
        recipe.llm,
        # The file that the recipe names is read in runs alone; its name counts.
        personas_of(recipe.personas.model_copy(update={"path": ""})),
        ContentSource(index_id="indexed" if recipe.knowledge.path else ""),
    )
    run = recipe.run
    count = [run.count_key, getattr(run, run.count_key)] if run.counts_documents else run.samples
    others = [count, list(run.target_languages), recipe.personas.path]
    return f"{CONTENT_VERSION}-{digest([content, others])}"


def judgements_version(recipe: Recipe) -> str:
    """Of `judgements`: the judge's section, and its own prompts where there are any."""
    version, prompts = code_version(1, recipe.judge), recipe.prompts.of(Role.JUDGE)
    return f"{version}-{digest(prompts)}" if prompts else version


def digest(data: Any) -> str:
    """Return a short digest of plain data."""
    text = json.dumps(data, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class Provenance:
    """What an asset is made from, as Dagster notes it down with what an asset's step returns by itself."""

    code_version: str
    inputs: Mapping[str, tuple[str, str]]

    @classmethod
    def of(cls, context: dg.AssetExecutionContext, deps: Sequence[dg.AssetKey]) -> Provenance:
        """Of the asset at work: its code version, and its inputs' latest data versions and events."""
        inputs: dict[str, tuple[str, str]] = {}
        for key in deps:
            records = context.instance.fetch_materializations(key, limit=1).records
            made = records[0].asset_materialization if records else None
            version = (made.tags or {}).get(DATA_VERSION) if made is not None else None
            pointer = str(records[0].storage_id) if records else _NO_EVENT
            inputs[key.to_user_string()] = (version or _NEVER_MADE, pointer)
        return cls(context.assets_def.specs_by_key[context.asset_key].code_version or "", inputs)

    @property
    def version(self) -> str:
        """The same for as long as code and inputs are."""
        return digest([self.code_version, {name: version for name, (version, _) in self.inputs.items()}])

    def tags(self, data_version: str) -> dict[str, str]:
        """Return the tags of a materialization that is written down by hand."""
        tags = {DATA_VERSION: data_version, _USER_PROVIDED: "true", _CODE_VERSION: self.code_version}
        for name, (version, pointer) in self.inputs.items():
            tags[_INPUT_DATA_VERSION + name] = version
            tags[_INPUT_EVENT_POINTER + name] = pointer
        return tags


def recorded_versions(instance: dg.DagsterInstance, key: dg.AssetKey) -> Mapping[str, str]:
    """Return the data version of every partition of an asset that was ever made, by one query."""
    made = dg.DagsterEventType.ASSET_MATERIALIZATION
    found = instance.event_log_storage.get_latest_tags_by_partition(key, made, [DATA_VERSION])
    return {partition: tags[DATA_VERSION] for partition, tags in found.items() if DATA_VERSION in tags}
