"""The code location: what workspace.yaml loads. The default dataset, and one for each recipe."""

from __future__ import annotations

import logging
import os
import warnings
from pathlib import Path

import dagster as dg

from dlgforge_core.config import Recipe, check_apart, read_recipes
from dlgforge_core.config.asset_names import DIALOGUE_DATASET, HF_DATASET, JUDGEMENTS
from dlgforge_core.errors import ConfigError
from dlgforge_dagster.assets.dialogue_dataset import build_dialogue_dataset
from dlgforge_dagster.assets.dialogues import build_dialogues
from dlgforge_dagster.assets.hf_dataset import build_hf_dataset
from dlgforge_dagster.assets.judgements import build_judgements
from dlgforge_dagster.assets.knowledge_index import build_knowledge_index
from dlgforge_dagster.assets.seed_topics import build_seed_files, build_seed_topics
from dlgforge_dagster.checks import build_checks
from dlgforge_dagster.config import config_class
from dlgforge_dagster.dataset import DatasetSpec
from dlgforge_dagster.jobs import Jobs, build_jobs
from dlgforge_dagster.resources import LlmResource, RayResource, StoreResource
from dlgforge_dagster.run_config import default_recipe, read_run_config
from dlgforge_dagster.sensors import build_new_seed_batches
from dlgforge_dagster.stale_runs import build_stale_runs

RECIPES_ENV = "DLGFORGE_RECIPES"
_log = logging.getLogger(__name__)
_ASSETS = (
    build_seed_topics,
    build_knowledge_index,
    build_dialogues,
    build_judgements,
    build_dialogue_dataset,
    build_hf_dataset,
)

_FOLLOWING = (JUDGEMENTS, DIALOGUE_DATASET, HF_DATASET)  # where the recipe turns them on


def build_definitions(recipes_folder: str) -> dg.Definitions:
    """Everything of the default dataset and of every recipe in a folder. Raises ConfigError for a bad one."""
    recipes = {"": _default_recipe(), **read_recipes(recipes_folder)}
    check_apart(recipes)
    specs = [DatasetSpec(*item) for item in recipes.items()]
    datasets = {spec.name: (spec, build_jobs(spec)) for spec in specs}
    return dg.Definitions.merge(
        *(_of_dataset(spec, jobs) for spec, jobs in datasets.values()),
        dg.Definitions(
            sensors=[
                build_stale_runs(datasets),
                # On by default, unlike the one Dagster makes for assets that have a condition.
                dg.AutomationConditionSensorDefinition(
                    "fresh_dataset",
                    target=dg.AssetSelection.assets(
                        *(spec.key(name) for spec in specs for name in _FOLLOWING)
                    ),
                    default_status=dg.DefaultSensorStatus.RUNNING,
                ),
            ],
            resources={"ray": RayResource(), "store": StoreResource()},
            # The heavy work is not in the steps, and one process gives a run's resources one lifetime.
            executor=dg.in_process_executor,
        ),
    )


def _default_recipe() -> Recipe:
    """As the run config file says, if there is one; what is wrong with it the sensor's ticks tell, too."""
    try:
        return default_recipe(read_run_config())
    except ConfigError as error:
        _log.warning("%s\nThe default dataset has its usual defaults until that is right.", error)
        return Recipe()


def _recipes_folder() -> str:
    """Return the folder in DLGFORGE_RECIPES, else `recipes`, which need not be there. Raises ConfigError."""
    given = os.environ.get(RECIPES_ENV, "").strip()
    if given and not Path(given).is_dir():
        raise ConfigError(f"{RECIPES_ENV} names {given}, which is no folder (from {Path.cwd()})")
    return given or "recipes"


def _assets(spec: DatasetSpec) -> list[dg.AssetsDefinition]:
    with warnings.catch_warnings():
        # `backfill_policy` is said to be beta, once for each dataset and process; it is used knowingly.
        warnings.filterwarnings("ignore", "Parameter `backfill_policy`", dg.BetaWarning)
        return [build(spec) for build in _ASSETS]


def _of_dataset(spec: DatasetSpec, jobs: Jobs) -> dg.Definitions:
    return dg.Definitions(
        assets=[build_seed_files(spec), *_assets(spec)],
        asset_checks=build_checks(spec),
        jobs=[jobs.all, jobs.partition, jobs.preview, jobs.check],
        schedules=[
            dg.ScheduleDefinition(
                name=spec.label("check_endpoints_daily"),
                job=jobs.check,
                cron_schedule="0 5 * * *",
                description="Off unless it is turned on: the endpoints get a few short calls.",
            )
        ],
        sensors=[build_new_seed_batches(spec, jobs)],
        # The recipe's values as defaults of the class: given to an instance, they would all be dropped as
        # soon as a run's config says anything of the resource.
        resources={spec.llm_key: config_class(spec.recipe.llm, LlmResource)()},
    )


defs = build_definitions(_recipes_folder())
