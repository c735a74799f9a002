"""Which partitions a run is for, and how a dead run is resumed."""

# No `from __future__ import annotations` here: Dagster reads the annotations of assets as types.

import uuid
from typing import Any

import dagster as dg
import pytest
from dagster._core.remote_origin import (
    RegisteredCodeLocationOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)

from dlgforge_dagster.dataset import DatasetSpec
from dlgforge_dagster.jobs import build_jobs
from dlgforge_dagster.partitions import (
    PARTITION,
    RANGE_END,
    RANGE_START,
    DialoguePartitions,
    is_mislabelled,
    seed_batch_of,
)
from dlgforge_dagster.stale_runs import MAX_RESUMES, resume_request
from dlgforge_dagster.tags import RESUME_NUMBER_TAG, RESUMES_TAG

RANGE = {RANGE_START: "en|b", RANGE_END: "fr|b"}
ONE = {"dagster/partition/language": "en", "dagster/partition/seed_batch": "a"}


@pytest.mark.parametrize(
    ("tags", "chosen", "batch"),
    [
        ({}, None, None),
        ({**ONE, PARTITION: "en|a"}, (["en"], ["a"]), "a"),
        (RANGE, (["en", "fr"], ["b"]), None),
        # A range in the backfill of a job: Dagster adds the first key of the first range.
        ({**RANGE, **ONE}, (["en", "fr"], ["b"]), None),
    ],
)
def test_the_partitions_of_a_run(tags: dict[str, str], chosen: Any, batch: str | None) -> None:
    partitions = DialoguePartitions("seed_batches", ("en", "fr"))
    found = []

    @dg.asset(partitions_def=partitions.dialogues, backfill_policy=dg.BackfillPolicy.single_run())
    def probe(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
        found.append(partitions.selected(context))
        return dg.MaterializeResult()

    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("seed_batches", ["a", "b"])
        job = dg.Definitions([probe], jobs=[dg.define_asset_job("job", [probe])]).resolve_job_def("job")
        assert job.execute_in_process(instance=instance, tags=tags).success
    assert found == [chosen]
    assert seed_batch_of(tags) == batch
    assert is_mislabelled(tags) == (RANGE_START in tags and len(tags) > 2)


DATASETS = [(spec, build_jobs(spec)) for spec in (DatasetSpec(), DatasetSpec("support"))]


def dead_run(job: str, tags: dict[str, str], *selection: str) -> dg.DagsterRun:
    keys = frozenset(dg.AssetKey(key.split("/")) for key in selection) or None
    config: dict[str, Any] = {"ops": {"dialogues": {"config": {}}}}
    return dg.DagsterRun(job, run_id=str(uuid.uuid4()), tags=tags, run_config=config, asset_selection=keys)


def test_a_run_of_a_backfill_is_resumed_as_part_of_it() -> None:
    run = dead_run("__ASSET_JOB", {**RANGE, **ONE, "dagster/backfill": "abc", "x": "y"}, "dialogues")
    with dg.DagsterInstance.ephemeral() as instance:
        request = resume_request(instance, run, DATASETS)
    assert request is not None
    assert (request.job_name, request.partition_key) == ("generate_dialogues", None)
    assert request.asset_selection == [dg.AssetKey("dialogues")]
    assert request.run_config == run.run_config
    resume = {RESUMES_TAG: run.run_id, RESUME_NUMBER_TAG: "1"}
    assert request.tags == {**RANGE, "dagster/backfill": "abc", **resume}


def test_a_run_of_a_job_or_of_another_dataset_is_resumed_by_its_own_job() -> None:
    one = dead_run("generate_partition", {**ONE, PARTITION: "en|a"})
    other = dead_run("__ASSET_JOB", RANGE, "support/seed_topics", "support/dialogues")
    with dg.DagsterInstance.ephemeral() as instance:
        request = resume_request(instance, one, DATASETS)
        assert request is not None
        assert (request.job_name, request.partition_key) == ("generate_partition", "en|a")
        assert request.asset_selection is None
        request = resume_request(instance, other, DATASETS)
        assert request is not None
        assert request.job_name == "generate_dialogues_support"
        # Whatever it was making: automation starts runs of the assets behind the dialogues alone.
        alone = dead_run("__ASSET_JOB", {}, "support/dialogue_dataset", "support/hf_dataset")
        request = resume_request(instance, alone, DATASETS)
        assert request is not None
        assert request.job_name == "generate_dialogues_support"
        assert set(request.asset_selection or ()) == alone.asset_selection
        others = dead_run("__ASSET_JOB", RANGE, "others/dialogues")
        assert resume_request(instance, others, DATASETS) is None


def test_a_run_is_resumed_once_and_three_times_in_a_row_at_most() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        run = dead_run("generate_partition", {RESUME_NUMBER_TAG: "2"})
        request = resume_request(instance, run, DATASETS)
        assert request is not None
        assert request.tags[RESUME_NUMBER_TAG] == "3"
        instance.add_run(dead_run("generate_partition", dict(request.tags)))
        assert resume_request(instance, run, DATASETS) is None
        assert (
            resume_request(instance, dead_run("generate_partition", {RESUME_NUMBER_TAG: "3"}), DATASETS)
            is None
        )


def of_code_location(job: str, tags: dict[str, str]) -> dg.DagsterRun:
    """Return a dead run that was started by way of a code location: by the UI, a sensor, a schedule."""
    repository = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("dlgforge"), "__repository__")
    origin = RemoteJobOrigin(repository, job)
    return dg.DagsterRun(job, run_id=str(uuid.uuid4()), tags=tags, remote_job_origin=origin)


@pytest.mark.parametrize("decided", [{}, {"dagster/will_retry": "true"}])
def test_what_dagsters_run_retries_start_again_the_sensor_leaves_to_them(decided: dict[str, str]) -> None:
    with dg.instance_for_test(overrides={"run_retries": {"enabled": True}}) as instance:
        run = of_code_location("generate_partition", decided)
        assert resume_request(instance, run, DATASETS) is None


def test_what_they_do_not_start_again_the_sensor_does() -> None:
    with dg.instance_for_test(overrides={"run_retries": {"enabled": True}}) as instance:
        # `dagster job execute` knows no code location.
        by_hand = dead_run("generate_dialogues", {"dagster/will_retry": "true"})
        # Killed again after it was tried again.
        again = of_code_location("generate_partition", {"dagster/will_retry": "false"})
        for run in (by_hand, again):
            request = resume_request(instance, run, DATASETS)
            assert request is not None
            assert request.tags == {RESUMES_TAG: run.run_id, RESUME_NUMBER_TAG: "1"}
        enough = of_code_location(
            "generate_partition", {"dagster/will_retry": "false", RESUME_NUMBER_TAG: str(MAX_RESUMES)}
        )
        assert resume_request(instance, enough, DATASETS) is None


def test_a_run_that_is_not_to_be_tried_again_is_not_resumed() -> None:
    for retries in (False, True):
        with dg.instance_for_test(overrides={"run_retries": {"enabled": retries}}) as instance:
            run = dead_run("generate_dialogues", {"dagster/max_retries": "0"})
            assert resume_request(instance, run, DATASETS) is None
