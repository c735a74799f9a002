"""Backfills over 3 seed batches and 4 languages, launched as the UI does, with a run killed in the middle."""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from dlgforge_core.database.embedded import release_embedded
from dlgforge_core.store.results import Scope
from tests.browser.test_sensors import Site, ended
from tests.support.dagster_dev import DagsterDev, dagster_dev, run_workers
from tests.support.postgres import wait_until_stopped
from tests.support.simulated_endpoint import simulated_endpoint
from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(300)

LANGUAGES = ["en", "fr", "ar", "es"]
BATCHES = ["a", "b", "c"]
PARTITIONS = [f"{language}|{batch}" for batch in BATCHES for language in LANGUAGES]
EXPECTED = Counter({(batch, language): 2 for batch in BATCHES for language in LANGUAGES})
TURNS = 2 * EXPECTED.total()
CONCURRENCY = 4
RUN = {
    "total_samples": 8,
    "target_languages": LANGUAGES,
    "n_turns": 2,
    "concurrency": CONCURRENCY,
}
REPOSITORY = {"repositoryName": "__repository__", "repositoryLocationName": "dlgforge"}
# What the UI asks for on an asset's page, and on the job's.
TARGETS: dict[str, dict[str, Any]] = {
    "asset": {"assetSelection": [{"path": ["dialogues"]}]},
    "job": {
        "selector": {"partitionSetName": "generate_partition_partition_set", "repositorySelector": REPOSITORY}
    },
}

LAUNCH = """mutation ($params: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $params) {
    __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message }
    ... on RunConfigValidationInvalid { errors { message } } } }"""
BACKFILL = """query ($id: String!) { partitionBackfillOrError(backfillId: $id) {
    ... on PartitionBackfill { status } } }"""
PARTITION_COUNTS = """query ($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) { ... on AssetNode {
    partitionStats { numMaterialized numFailed numPartitions } } } }"""
METADATA = """query ($key: AssetKeyInput!, $partition: String!) { assetOrError(assetKey: $key) {
    ... on Asset {
    assetMaterializations(limit: 1, partitions: [$partition]) { metadataEntries { label
        ... on IntMetadataEntry { intValue } ... on MarkdownMetadataEntry { mdStr }
        ... on TableMetadataEntry { table { records } } } } } } }"""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    release_embedded(site.project.home)
    wait_until_stopped(site.project.home, 20)


def set_run_retries(site: Site, enabled: bool) -> None:
    """Dagster's own run retries: on in the shipped dagster.yaml."""
    path = site.project.folder / "dagster.yaml"
    before = "run_retries:\n  enabled: true"
    assert before in path.read_text()
    path.write_text(path.read_text().replace(before, before if enabled else "run_retries:\n  enabled: false"))


def make_partitions(site: Site, dev: DagsterDev) -> None:
    """Read the seed topics. The sensor that would start runs for them is stopped: a user does it here."""
    find = "query ($s: SensorSelector!) { sensorOrError(sensorSelector: $s) { ... on Sensor { id } } }"
    sensor = dev.query(find, s={**REPOSITORY, "sensorName": "new_seed_batches"})["sensorOrError"]["id"]
    stop = "mutation ($id: String!) { stopSensor(id: $id) { __typename } }"
    assert dev.query(stop, id=sensor)["stopSensor"]["__typename"] == "StopSensorMutationResult"
    for name in BATCHES:
        site.drop(name, LANGUAGES)
    run = dev.client.submit_job_execution("generate_dialogues", asset_selection=["seed_topics"])
    assert dev.wait_for_run(run) == "SUCCESS", dev.log()[-5000:]
    assert sorted(dev.partitions("dialogues", "seed_batch")) == BATCHES


def launch(dev: DagsterDev, target: str) -> str:
    config = {"ops": {"dialogues": {"config": {"run": RUN}}}}
    params = {**TARGETS[target], "partitionNames": PARTITIONS, "runConfigData": config}
    answer = dev.query(LAUNCH, params=params)["launchPartitionBackfill"]
    assert answer["__typename"] == "LaunchBackfillSuccess", answer
    return str(answer["backfillId"])


def kill_a_run(site: Site) -> None:
    """SIGKILL to a process that makes dialogues, in the middle of them."""

    def at_work() -> psutil.Process | None:
        record = site.store.run()
        if record is None or site.store.progress(record.run_id).turns < 2:
            return None
        return next(iter(run_workers(site.store)), None)

    wait_until(at_work, 120, "a run has made turns").send_signal(signal.SIGKILL)
    assert site.done() != EXPECTED


def metadata(dev: DagsterDev, asset: str, partition: str) -> dict[str, dict[str, Any]]:
    """Return the metadata of a partition's latest materialization, by label."""
    found = dev.query(METADATA, key={"path": [asset]}, partition=partition)["assetOrError"]
    return {entry["label"]: entry for entry in found["assetMaterializations"][0]["metadataEntries"]}


@pytest.mark.nightly
@pytest.mark.parametrize(("target", "retries"), [("asset", False), ("job", True)])
def test_a_backfill_with_a_run_killed_ends_complete(site: Site, target: str, retries: bool) -> None:
    set_run_retries(site, retries)
    with (
        simulated_endpoint(latency_s=0.4) as sim,
        dagster_dev(site.project, **site.env(sim, LANGUAGES)) as dev,
    ):
        site.store.migrate()
        make_partitions(site, dev)
        backfill = launch(dev, target)
        kill_a_run(site)
        wait_until(lambda: site.done() == EXPECTED, 150, "every dialogue")

        def status() -> str:
            return str(dev.query(BACKFILL, id=backfill)["partitionBackfillOrError"]["status"])

        wait_until(lambda: status() != "REQUESTED", 90, "the end of the backfill")
        wait_until(lambda: ended(dev, 5), 240, "all runs end")
        # A job's backfill counts as failed when any of its runs did, also one that was tried again.
        assert status() == ("COMPLETED_SUCCESS" if target == "asset" else "COMPLETED_FAILED")
        counts = dev.query(PARTITION_COUNTS, key={"path": ["dialogues"]})["assetNodeOrError"]
        assert counts["partitionStats"] == {"numMaterialized": 12, "numFailed": 0, "numPartitions": 12}

        runs = [run for run in dev.runs() if run["tags"].get("dagster/backfill") == backfill]
        (killed,) = [run["runId"] for run in runs if run["status"] == "FAILURE"]
        assert len(runs) == 4, "one run for each seed batch, of all its languages, and the one that resumes"
        resumed_by = {
            tag for run in runs for tag, value in run["tags"].items() if value == killed and "root" not in tag
        }
        assert resumed_by == ({"dagster/parent_run_id"} if retries else {"dlgforge/resumes"})

        record = site.store.run()
        assert record is not None
        dialogues = list(site.store.dialogues(Scope(fingerprint=record.fingerprint)))
        assert len({dialogue.plan.dialogue_id for dialogue in dialogues}) == len(dialogues) == 24
        assert len({turn.user for dialogue in dialogues for turn in dialogue.turns}) == TURNS
        # Only the calls that were in flight are made again.
        assert TURNS <= sim.stats()["by_role"]["kb_responder"] <= TURNS + CONCURRENCY
        if target == "asset":
            look_at_metadata(dev)


def look_at_metadata(dev: DagsterDev) -> None:
    shown = metadata(dev, "dialogues", "fr|b")
    assert "data:image/png;base64," in shown["plots"]["mdStr"]
    assert "**User**" in shown["samples"]["mdStr"]
    assert shown["dialogues_done"]["intValue"] == 8, "of the run, which was for all languages of the batch"
    roles = {record["role"]: record for record in map(json.loads, shown["roles"]["table"]["records"])}
    assert set(roles) == {"qa_generator", "kb_responder", "qa_judge"}
    (endpoint,) = map(json.loads, shown["endpoints"]["table"]["records"])
    assert endpoint["state"] == "well"
    assert endpoint["calls"] == sum(role["calls"] for role in roles.values())
    assert endpoint["tokens/s"] > 0
