"""The sensor `stale_runs`: runs whose process died are marked as failed, and taken up again."""

# No `from __future__ import annotations` here: Dagster reads the annotations of sensors as types.

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

import dagster as dg
from dagster import DagsterRunStatus
from dagster._core.storage.tags import MAX_RETRIES_TAG, WILL_RETRY_TAG
from dagster._utils.tags import get_boolean_tag_value

from dlgforge_core.store.run_store import RunStore
from dlgforge_dagster.dataset import DatasetSpec
from dlgforge_dagster.jobs import Jobs
from dlgforge_dagster.liveness import has_no_process, is_watched
from dlgforge_dagster.partitions import PARTITION, RANGE_END, RANGE_START
from dlgforge_dagster.resources import StoreResource
from dlgforge_dagster.sensors import INTERVAL_S
from dlgforge_dagster.tags import RESUME_NUMBER_TAG, RESUMES_TAG

MAX_RESUMES = 3
"""How often in a row: what kills its process every time is not tried for ever."""
# By these a run that resumes another one counts to the same backfill, and is for the same partitions.
_KEPT_TAGS = ("dagster/backfill", RANGE_START, RANGE_END)
_RESUMED_WITHIN = timedelta(hours=1)


def build_stale_runs(datasets: Mapping[str, tuple[DatasetSpec, Jobs]]) -> dg.SensorDefinition:
    """Return the sensor that takes up dead runs, of all datasets of the code location."""

    @dg.sensor(
        jobs=[job for _, made in datasets.values() for job in (made.partition, made.all, made.preview)],
        minimum_interval_seconds=INTERVAL_S,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Runs whose process died are marked as failed. Dagster's run retries start them again; "
        f"where they do not, this sensor does, {MAX_RESUMES} times in a row at most, as the tag "
        f"{RESUME_NUMBER_TAG} counts. What was committed is not made again.",
    )
    def stale_runs(
        context: dg.SensorEvaluationContext, store: StoreResource
    ) -> dg.SensorResult | dg.SkipReason:
        return _take_up(context, store.run_store(), list(datasets.values()))

    return stale_runs


def _take_up(
    context: dg.SensorEvaluationContext, run_store: RunStore, datasets: Sequence[tuple[DatasetSpec, Jobs]]
) -> dg.SensorResult:
    """Return a living process holds a lock on its run's id; it must be free at two ticks in a row."""
    instance = context.instance
    suspects_before = set(json.loads(context.cursor or "[]"))
    suspects: list[str] = []
    requests: list[dg.RunRequest] = []
    for run in _perhaps_dead(instance):
        if not is_watched(run, run_store) or not _is_dead(instance, run, run_store):
            continue
        if run.status is not DagsterRunStatus.FAILURE and run.run_id not in suspects_before:
            suspects.append(run.run_id)
            continue
        if run.status is DagsterRunStatus.CANCELING:
            instance.report_run_canceled(run, "The process of this run died before it could be cancelled.")
            continue
        if run.status is DagsterRunStatus.STARTED:
            instance.report_run_failed(
                run, "The process of this run died. What it had committed is kept; a new run resumes it."
            )
            context.log.info(f"run {run.run_id} is dead")
        current = instance.get_run_by_id(run.run_id) or run  # with what Dagster has made of the failure
        if (request := resume_request(instance, current, datasets)) is not None:
            context.log.info(f"run {run.run_id} is resumed")
            requests.append(request)
    return dg.SensorResult(
        run_requests=requests,
        skip_reason=None if requests else "every run that is under way has a living process",
        cursor=json.dumps(suspects),
    )


def _perhaps_dead(instance: dg.DagsterInstance) -> list[dg.DagsterRun]:
    """Return the runs under way, and those that failed of late without run retries to start them again.

    For the code server that started a run may be the first to tell that its process died.
    """
    under_way = [DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING]
    runs = list(instance.get_runs(dg.RunsFilter(statuses=under_way), limit=200))
    since = datetime.now(UTC) - _RESUMED_WITHIN
    failed = dg.RunsFilter(statuses=[DagsterRunStatus.FAILURE], updated_after=since)
    return [
        *runs,
        *(run for run in instance.get_runs(failed, limit=200) if not dagster_resumes(instance, run)),
    ]


def dagster_resumes(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Whether it is for Dagster's run retries to start a failed run again.

    It is not when they are off, have been tried often enough, or are for runs of a code location alone, which
    one that `dagster job execute` has started is not.
    """
    if not instance.run_retries_enabled or run.remote_job_origin is None:
        return False
    # Written down with the failure; until then it is not decided.
    return get_boolean_tag_value(run.tags.get(WILL_RETRY_TAG), default_value=True)


def _is_dead(instance: dg.DagsterInstance, run: dg.DagsterRun, store: RunStore) -> bool:
    """Whether the process of a run that is watched is gone, and its run was not over.

    Of one that has failed, only a step without an end tells it: one that failed by itself has an end, unlike
    one that was killed.
    """
    if run.status is DagsterRunStatus.FAILURE:
        stats = instance.get_run_step_stats(run.run_id)
        if not any(step.start_time is not None and step.end_time is None for step in stats):
            return False
    return has_no_process(run, store)


def resume_request(
    instance: dg.DagsterInstance, run: dg.DagsterRun, datasets: Sequence[tuple[DatasetSpec, Jobs]]
) -> dg.RunRequest | None:
    """Return a run that goes on with a dead one.

    None when Dagster's run retries do that, the run is not to be tried again, or was often enough.
    """
    if dagster_resumes(instance, run) or run.tags.get(MAX_RETRIES_TAG) == "0":
        return None
    number = int(run.tags.get(RESUME_NUMBER_TAG, "0")) + 1
    if number > MAX_RESUMES or instance.get_runs(dg.RunsFilter(tags={RESUMES_TAG: run.run_id}), limit=1):
        return None
    selection = set(run.asset_selection or ())
    for dataset, jobs in datasets:
        # What is launched from an asset's page, and backfills, have a job that sensors cannot start; a job
        # of the dataset runs the same assets.
        ours = run.job_name in (jobs.all.name, jobs.partition.name, jobs.preview.name)
        if ours or any(dataset.owns(key) for key in selection):
            return dg.RunRequest(
                run_key=f"resume:{run.run_id}",
                job_name=run.job_name if ours else jobs.all.name,
                asset_selection=sorted(selection, key=str) or None,
                run_config=run.run_config,
                partition_key=run.tags.get(PARTITION),
                tags={
                    **{tag: run.tags[tag] for tag in _KEPT_TAGS if tag in run.tags},
                    RESUMES_TAG: run.run_id,
                    RESUME_NUMBER_TAG: str(number),
                },
            )
    return None
