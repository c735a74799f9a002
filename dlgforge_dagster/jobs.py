"""The jobs of a dataset."""

from __future__ import annotations

from dataclasses import dataclass

import dagster as dg

from dlgforge_core.config.asset_names import DIALOGUES, KNOWLEDGE_INDEX, MATERIALIZED, SEED_TOPICS
from dlgforge_dagster.dataset import DatasetSpec
from dlgforge_dagster.endpoint_check import ENDPOINTS_READY
from dlgforge_dagster.tags import PREVIEW_TAG


@dataclass(frozen=True)
class Jobs:
    """`all` makes the whole dataset; `partition` the dialogues of one language and seed batch.

    `preview` makes a few dialogues of the plan and estimates what all of it takes.
    `check` looks at what they need, and makes nothing.
    """

    all: dg.UnresolvedAssetJobDefinition
    partition: dg.UnresolvedAssetJobDefinition
    preview: dg.UnresolvedAssetJobDefinition
    check: dg.UnresolvedAssetJobDefinition


def build_jobs(dataset: DatasetSpec) -> Jobs:
    """Return the jobs of a dataset: `generate_dialogues` (`generate_dialogues_<name>`), its partition's."""
    ready = dg.AssetSelection.checks(dg.AssetCheckKey(dataset.key(DIALOGUES), ENDPOINTS_READY))

    def of(*assets: str) -> dg.AssetSelection:
        return dg.AssetSelection.assets(*(dataset.key(asset) for asset in assets)) - ready

    return Jobs(
        all=dg.define_asset_job(
            dataset.label("generate_dialogues"),
            selection=of(*MATERIALIZED),
            description="Read the seed topics and documents, generate the dialogues, write the dataset. "
            "Judge offline before, and push to a hub after, where these are turned on.",
        ),
        preview=dg.define_asset_job(
            dataset.label("preview_dialogues"),
            # The same, so that a run config for one job is one for the other; what follows `dialogues` is
            # skipped.
            selection=of(*MATERIALIZED),
            tags={PREVIEW_TAG: "true"},
            description="Make the first few dialogues of the plan (run.preview_dialogues), show the prompts "
            "of each role beside what came back, and estimate calls, tokens, time and cost of all of it. "
            "They are the plan's own: generate_dialogues goes on after them.",
        ),
        check=dg.define_asset_job(
            dataset.label("check_endpoints"),
            selection=ready,
            description="Look at every endpoint, role and model, the servers of the knowledge, Postgres and "
            "Ray, without making anything: before a long run, or on a schedule.",
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
