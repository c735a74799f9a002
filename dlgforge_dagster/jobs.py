"""The jobs of the code location."""

from __future__ import annotations

import dagster as dg

generate_dialogues = dg.define_asset_job(
    "generate_dialogues",
    selection=dg.AssetSelection.assets("seed_topics", "dialogues", "dialogue_dataset"),
    description="Read the seed topics, generate the dialogues, write the dataset.",
)

generate_partition = dg.define_asset_job(
    "generate_partition",
    selection=dg.AssetSelection.assets("seed_topics", "dialogues"),
    description="Read one seed batch and generate its dialogues in one language: what sensors and backfills "
    "start. The dataset follows by itself.",
)
