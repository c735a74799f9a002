"""Asset checks: of the dialogues in the run state, and of the dataset's files."""

# No `from __future__ import annotations` here: Dagster reads the annotations of checks as types.

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import dagster as dg

from dlgforge_core.config import ChecksConfig, validate
from dlgforge_core.errors import DlgforgeError
from dlgforge_core.export.verify import verify_dataset
from dlgforge_core.judging.reading import judged_dialogues
from dlgforge_core.quality.checks import CHECKS, CheckReport, run_checks
from dlgforge_core.store.finished import Scope
from dlgforge_core.store.run_store import RunStore
from dlgforge_dagster.config import config_class, plain
from dlgforge_dagster.dataset import DatasetSpec
from dlgforge_dagster.tags import RUN_ID_TAG


def build_checks(dataset: DatasetSpec) -> list[dg.AssetChecksDefinition]:
    """The checks of a dataset."""
    return [_dialogue_checks(dataset), _files_valid(dataset)]


def _dialogue_checks(dataset: DatasetSpec) -> dg.AssetChecksDefinition:
    base: Any = config_class(dataset.recipe.checks)
    key = dataset.key("dialogues")

    class DialogueChecksConfig(base):  # type: ignore[misc]
        """Config of the checks of `dialogues`: their thresholds."""

    @dg.multi_asset_check(
        name=dataset.op("dialogue_checks"),
        description="One pass over the dialogues; no model is asked and no server is started.",
        specs=[
            dg.AssetCheckSpec(check.name, asset=key, description=check.description, blocking=check.blocking)
            for check in CHECKS
        ],
        required_resource_keys={"store"},
    )
    def dialogue_checks(
        context: dg.AssetCheckExecutionContext, config: DialogueChecksConfig
    ) -> Iterable[dg.AssetCheckResult]:
        source = f"ops.{dataset.op('dialogue_checks')}.config"
        thresholds = validate(ChecksConfig, plain(config, ChecksConfig), source)
        yield from _check(dataset, context, thresholds)

    return dialogue_checks


def _check(
    dataset: DatasetSpec, context: dg.AssetCheckExecutionContext, thresholds: ChecksConfig
) -> Iterator[dg.AssetCheckResult]:
    """Check what this Dagster run has made, or, when checks are run by themselves, what was made last."""
    run_store = dataset.store(context).run_store(dataset.name)
    run_id = _run_id(context, run_store)
    scope = Scope(run_id=run_id)
    languages = run_store.progress(run_id).done_by_language
    blocking = {check.name: check.blocking for check in CHECKS}
    for report in run_checks(
        lambda: judged_dialogues(run_store, scope), run_store.outcomes(scope), languages, thresholds
    ):
        if not report.passed:
            context.log.warning(f"{report.name}: {report.summary}")
        yield dg.AssetCheckResult(
            asset_key=dataset.key("dialogues"),
            check_name=report.name,
            passed=report.passed,
            severity=dg.AssetCheckSeverity.ERROR if blocking[report.name] else dg.AssetCheckSeverity.WARN,
            description=report.summary,
            metadata=_metadata(report, run_id),
        )


def _run_id(context: dg.AssetCheckExecutionContext, store: RunStore) -> str:
    run = context.instance.get_run_by_id(context.run.run_id)  # `dialogues` has tagged it meanwhile
    tagged = run.tags.get(RUN_ID_TAG) if run is not None else None
    record = store.run(tagged)
    if record is None:
        raise dg.Failure("there are no dialogues to check yet: materialize `dialogues` first")
    return record.run_id


def _metadata(report: CheckReport, run_id: str) -> Mapping[str, Any]:
    metadata: dict[str, Any] = dict(report.figures)
    if report.examples:
        metadata["examples"] = dg.MetadataValue.table(
            records=[
                dg.TableRecord(
                    {"problem": e.problem, "text": e.excerpt, "turn": e.turn, "dialogue": e.dialogue_id}
                )
                for e in report.examples
            ]
        )
    return {**metadata, "dlgforge_run_id": run_id}


def _files_valid(dataset: DatasetSpec) -> dg.AssetChecksDefinition:
    key = dataset.key("dialogue_dataset")

    @dg.asset_check(
        name="files_valid",
        asset=key,
        description="The files can be read, and all hold the same dialogues, at least one.",
        blocking=True,
    )
    def files_valid(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        folder = dataset.latest_folder(context.instance)
        if folder is None:
            return dg.AssetCheckResult(passed=False, description="no dataset was written yet")
        try:
            counts = verify_dataset(folder)
        except DlgforgeError as error:
            return dg.AssetCheckResult(passed=False, description=str(error))
        if not any(counts.values()):
            return dg.AssetCheckResult(passed=False, description=f"{folder} holds no dialogue")
        return dg.AssetCheckResult(
            passed=True,
            description=f"{max(counts.values(), default=0)} dialogues in each of {len(counts)} formats",
            metadata={"folder": dg.MetadataValue.path(folder), **counts},
        )

    return files_valid
