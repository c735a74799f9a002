"""The code location: what workspace.yaml loads."""

from __future__ import annotations

import dagster as dg

from dlgforge_dagster.assets import dialogue_dataset, dialogues, seed_topics
from dlgforge_dagster.checks import all_checks
from dlgforge_dagster.jobs import generate_dialogues, generate_partition
from dlgforge_dagster.resources import LlmResource, RayResource, StoreResource

defs = dg.Definitions(
    assets=[seed_topics, dialogues, dialogue_dataset],
    asset_checks=[*all_checks()],
    jobs=[generate_dialogues, generate_partition],
    resources={"ray": RayResource(), "store": StoreResource(), "llm": LlmResource()},
    # The heavy work is not in the steps, and one process gives a run's resources one lifetime.
    executor=dg.in_process_executor,
)
