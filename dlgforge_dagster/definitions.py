"""The code location: what workspace.yaml loads."""

from __future__ import annotations

import dagster as dg

from dlgforge_dagster.assets import dialogue_dataset, dialogues, seed_topics
from dlgforge_dagster.checks import all_checks
from dlgforge_dagster.jobs import generate_dialogues, generate_partition
from dlgforge_dagster.resources import LlmResource, RayResource, StoreResource
from dlgforge_dagster.sensors import new_seed_batches, stale_runs

defs = dg.Definitions(
    assets=[seed_topics, dialogues, dialogue_dataset],
    asset_checks=[*all_checks()],
    jobs=[generate_dialogues, generate_partition],
    sensors=[
        new_seed_batches,
        stale_runs,
        # On by default, unlike the one Dagster makes for assets that have a condition.
        dg.AutomationConditionSensorDefinition(
            "fresh_dataset",
            target=dg.AssetSelection.assets(dialogue_dataset),
            default_status=dg.DefaultSensorStatus.RUNNING,
        ),
    ],
    resources={"ray": RayResource(), "store": StoreResource(), "llm": LlmResource()},
    # The heavy work is not in the steps, and one process gives a run's resources one lifetime.
    executor=dg.in_process_executor,
)
