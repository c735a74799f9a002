"""`judgements`: verdicts on dialogues that are there already."""

# No `from __future__ import annotations` here: Dagster reads the annotations of assets as types.

from contextlib import ExitStack
from typing import Any

import dagster as dg
from pydantic import Field

from dlgforge_core.config import JudgeConfig, RunConfig, validate
from dlgforge_core.config.asset_names import DIALOGUES, JUDGEMENTS
from dlgforge_core.judging.results import agreement, lowest_scores, rating_figures
from dlgforge_core.judging.run import JudgingReport, JudgingStatus, judge_dialogues
from dlgforge_core.judging.worker_thread import JudgingSpec
from dlgforge_core.runtime.distributed.runners import needs_of_judging, start_runner
from dlgforge_core.scheduling.background import Runner
from dlgforge_core.store.results import Scope
from dlgforge_core.store.run_records import RunRecord
from dlgforge_core.store.run_store import RunStore
from dlgforge_dagster.automation import keep_fresh
from dlgforge_dagster.config import config_class, plain
from dlgforge_dagster.dataset import DatasetSpec
from dlgforge_dagster.metadata.judgements import judgements_metadata
from dlgforge_dagster.progress import progress_report
from dlgforge_dagster.steps import as_failure, endpoint_slot, run_and_scope
from dlgforge_dagster.tags import JUDGED_TAG, OWNERS
from dlgforge_dagster.versions import digest, judgements_version

_N_LOWEST = 5
_AS_THE_RUN = ("max_concurrent_runs", "distributed", "lease_s")
"""Settings that judging keeps to as the dialogues were made with them."""


def build_judgements(dataset: DatasetSpec) -> dg.AssetsDefinition:
    """Return the asset that judges a dataset's dialogues afterwards."""
    base: Any = config_class(dataset.recipe.judge)

    class JudgementsConfig(base):  # type: ignore[misc]
        """Config of `judgements`."""

        run_id: str = Field(
            "",
            description="Judge this dlgforge run alone. Empty: all that was made with the latest config.",
        )

    @dg.asset(
        name=JUDGEMENTS,
        key_prefix=dataset.key_prefix,
        group_name=dataset.group,
        kinds={"postgres"},
        owners=OWNERS,
        deps=[dataset.key(DIALOGUES)],
        automation_condition=keep_fresh() if dataset.recipe.judge.mode == "offline" else None,
        code_version=judgements_version(dataset.recipe),
        required_resource_keys=dataset.resource_keys,
        description=dataset.description(
            "Verdicts on finished dialogues by one or more judges, with `mode: offline`: each judges "
            "what it has not judged yet. Run it again to resume. In another mode it does nothing."
        ),
    )
    def judgements(context: dg.AssetExecutionContext, config: JudgementsConfig) -> dg.MaterializeResult[None]:
        source = f"ops.{dataset.op(JUDGEMENTS)}.config"
        with as_failure(context, dataset.llm(context), dataset.ray(context)):
            judge = validate(JudgeConfig, plain(config, JudgeConfig), source)
        if judge.mode != "offline":
            note = f"nothing is judged here in mode {judge.mode!r}: set {source}.mode to 'offline'"
            context.log.info(note)
            # Not nothing at all: what follows in the same run would be skipped. See `keep_fresh`.
            return dg.MaterializeResult(
                data_version=dg.DataVersion("none"), metadata={"note": note, "verdicts_given": 0}
            )
        with as_failure(context):
            return _judgements(dataset, context, judge, config.run_id)

    return judgements


def _judgements(
    dataset: DatasetSpec, context: dg.AssetExecutionContext, judge: JudgeConfig, run_id: str
) -> dg.MaterializeResult[None]:
    run_store = dataset.store(context).run_store(dataset.name)
    record, scope = run_and_scope(run_store, run_id, "judge")
    context.instance.add_run_tags(context.run.run_id, {JUDGED_TAG: record.fingerprint[:16]})
    run = _run_settings(dataset, record)
    with as_failure(context, fingerprint=record.fingerprint[:16]):
        report = _judge(dataset, context, run_store, scope, judge, run)
    for tally in report.tallies.values():
        for reason, example in tally.examples.items():
            context.log.warning(
                f"{tally.failures[reason]} verdicts could not be had: {reason}, as: {example}"
            )
    if report.stop_reason is not None:
        context.log.warning(f"stopped before everything was judged: {report.stop_reason}")
    names = {one.key: one.name for one in report.judges}
    with run_store.connection() as connection:
        found = agreement(connection, scope, names)
        lowest = lowest_scores(connection, scope, list(names), _N_LOWEST)
        ratings = rating_figures(connection, scope, names)
    verdicts = {key: tally.kept + tally.given for key, tally in report.tallies.items()}
    return dg.MaterializeResult(
        data_version=dg.DataVersion(digest([report.fingerprint, verdicts])),
        metadata=judgements_metadata(report, found, lowest, ratings),
    )


def _run_settings(dataset: DatasetSpec, record: RunRecord) -> RunConfig:
    """Return how the dialogues were made, whether the recipe says so or the launchpad did."""
    recorded = record.config.get("generation", {}).get("run", {})
    run = dataset.recipe.run.model_dump()
    run |= {name: recorded[name] for name in _AS_THE_RUN if name in recorded}
    return validate(RunConfig, run, f"run {record.run_id}, as it was recorded: run")


def _judge(
    dataset: DatasetSpec,
    context: dg.AssetExecutionContext,
    run_store: RunStore,
    scope: Scope,
    judge: JudgeConfig,
    run: RunConfig,
) -> JudgingReport:
    ray, llm, store = dataset.ray(context), dataset.llm(context), dataset.store(context)
    settings, cluster, progress = llm.settings, ray.settings, context.log.info
    distributed = run.distributed
    if judge.distributed is not None:
        distributed = distributed.model_copy(update={"enabled": judge.distributed})

    def on_status(status: JudgingStatus) -> None:
        figures = {"verdicts": status.judged, "wanted": status.wanted}
        report.show(status, status.judged, status.wanted, figures)

    def make_runner(spec: JudgingSpec) -> Runner:
        held.enter_context(endpoint_slot(context, run_store, run.max_concurrent_runs))
        needs = needs_of_judging(spec, distributed)
        return start_runner(
            spec,
            needs,
            ray.session(progress),
            cluster,
            settings,
            dsn=run_store.database.dsn,
            dsn_source=store.resolve().source.value,
            endpoints=lambda slots: llm.endpoints(needs.callers, slots, progress, ray),
            fleet=lambda: llm.fleet,
            progress=progress,
        )

    with progress_report(context) as report, ExitStack() as held:
        return judge_dialogues(
            run_store,
            scope,
            judge,
            settings,
            make_runner,
            on_status,
            on_wait=lambda: progress("waiting: another process judges the same with the same judges"),
            prompts=dataset.recipe.prompts,
            lease_s=run.lease_s,
        )
