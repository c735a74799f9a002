"""The jobs of a dataset."""

from __future__ import annotations

from dataclasses import dataclass

import dagster as dg

from dlgforge_core.config.asset_names import DIALOGUES, KNOWLEDGE_INDEX, MATERIALIZED, SEED_TOPICS
from dlgforge_dagster.dataset import DatasetSpec


@dataclass(frozen=True)
class Jobs:
    """`all` makes the whole dataset; `partition` the dialogues of one language and seed batch."""

    all: dg.UnresolvedAssetJobDefinition
    partition: dg.UnresolvedAssetJobDefinition


def build_jobs(dataset: DatasetSpec) -> Jobs:
    """Return the jobs of a dataset: `generate_dialogues` (`generate_dialogues_<name>`), its partition's."""

    def of(*assets: str) -> dg.AssetSelection:
        return dg.AssetSelection.assets(*(dataset.key(asset) for asset in assets))

    return Jobs(
        all=dg.define_asset_job(
            dataset.label("generate_dialogues"),
            selection=of(*MATERIALIZED),
            description="Read the seed topics and documents, generate the dialogues, write the dataset. "
            "Judge offline before, and push to a hub after, where these are turned on.",
        ),
        partition=dg.define_asset_job(
            dataset.label("generate_partition"),
            # What the recipe's documents are by then: unchanged ones are not read again.
            selection=of(
                SEED_TOPICS, *([KNOWLEDGE_INDEX] if dataset.recipe.knowledge.path else []), DIALOGUES
            ),
            description="Read one seed batch and generate its dialogues in one language: what sensors and "
            "backfills start. The dataset follows by itself.",
        ),
    )
