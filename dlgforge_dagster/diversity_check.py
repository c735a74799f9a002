"""The asset check of a dataset's diversity."""

# No `from __future__ import annotations` here: Dagster reads the annotations of checks as types.

from typing import Any

import dagster as dg

from dlgforge_core.config import ChecksConfig, validate
from dlgforge_core.config.asset_names import DIALOGUE_DATASET
from dlgforge_core.export.verify import DatasetError, read_stats
from dlgforge_core.quality.diversity_check import NAME, check_diversity
from dlgforge_dagster.config import config_class, plain
from dlgforge_dagster.dataset import DatasetSpec
from dlgforge_dagster.metadata.checks import check_metadata


def build_diversity_check(dataset: DatasetSpec) -> dg.AssetChecksDefinition:
    """Return the check of how much of a dataset is said over and over. It only warns."""
    base: Any = config_class(dataset.recipe.checks)
    key = dataset.key(DIALOGUE_DATASET)

    class DatasetChecksConfig(base):  # type: ignore[misc]
        """Config of the check of `dialogue_dataset`: what is said there of diversity counts."""

    @dg.multi_asset_check(
        name=dataset.op("dataset_checks"),
        description="Reads the dataset's statistics alone.",
        specs=[
            dg.AssetCheckSpec(
                NAME, asset=key, description="Questions differ in how they begin and in their words."
            )
        ],
    )
    def dataset_checks(
        context: dg.AssetCheckExecutionContext, config: DatasetChecksConfig
    ) -> dg.AssetCheckResult:
        source = f"ops.{dataset.op('dataset_checks')}.config"
        thresholds = validate(ChecksConfig, plain(config, ChecksConfig), source)
        passed, text, metadata = _outcome(dataset, context.instance, thresholds)
        if not passed:
            context.log.warning(f"{NAME}: {text}")
        return dg.AssetCheckResult(
            asset_key=key,
            check_name=NAME,
            passed=passed,
            severity=dg.AssetCheckSeverity.WARN,
            description=text,
            metadata=metadata,
        )

    return dataset_checks


def _outcome(
    dataset: DatasetSpec, instance: dg.DagsterInstance, thresholds: ChecksConfig
) -> tuple[bool, str, dict[str, Any]]:
    folder = dataset.latest_folder(instance)
    if folder is None:
        return False, "no dataset was written yet", {}
    try:
        figures = read_stats(folder).get("diversity")
    except DatasetError as error:
        return False, str(error), {}
    if figures is None:
        return False, f"the dataset in {folder} has no figures of diversity: write it again", {}
    report = check_diversity(figures, thresholds)
    return report.passed, report.summary, dict(check_metadata(report))
