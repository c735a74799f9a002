"""Runs whose process was killed, whatever step it was in: found by the sensor, marked as failed, resumed."""

from __future__ import annotations

import json
import subprocess
import sys

import dagster as dg
import pytest

from dlgforge_core.database.named_locks import liveness_lock_is_free
from dlgforge_core.store.run_store import RunStore
from dlgforge_dagster.dataset import DatasetSpec
from dlgforge_dagster.jobs import build_jobs
from dlgforge_dagster.resources import StoreResource
from dlgforge_dagster.stale_runs import build_stale_runs
from dlgforge_dagster.tags import LIVENESS_TAG, RESUMES_TAG
from tests.support.judging import generated
from tests.support.processes import kill
from tests.support.simulated_endpoint import SimulatedEndpoint
from tests.support.waiting import wait_until

JOB = "generate_dialogues"
_RUN = """
import json, sys
import dagster as dg
from dlgforge_dagster.definitions import defs

job = defs.resolve_job_def("generate_dialogues").get_subset(asset_selection={dg.AssetKey("judgements")})
job.execute_in_process(json.loads(sys.argv[1]), instance=dg.DagsterInstance.get())
"""


def look(store: RunStore, instance: dg.DagsterInstance, cursor: str | None) -> dg.SensorResult:
    """One tick of the sensor."""
    sensor = build_stale_runs({"": (DatasetSpec(), build_jobs(DatasetSpec()))})
    resources = {"store": StoreResource(postgres={"dsn": store.database.dsn})}
    with dg.build_sensor_context(instance, cursor=cursor, resources=resources) as context:
        result = sensor(context)
    assert isinstance(result, dg.SensorResult)
    return result


@pytest.mark.timeout(120)
def test_a_run_killed_while_it_judges_is_failed_and_resumed(
    store: RunStore, sim: SimulatedEndpoint, instance: dg.DagsterInstance
) -> None:
    generated(store, sim, 2)
    sim.configure(latency_s=60.0)
    config = {
        "ops": {"judgements": {"config": {"mode": "offline"}}},
        "resources": {
            "store": {"config": {"postgres": {"dsn": store.database.dsn}}},
            "llm": {"config": {"backend": "openai", "model": "simulated", "base_url": sim.base_url}},
        },
    }
    process = subprocess.Popen([sys.executable, "-c", _RUN, json.dumps(config)])

    def under_way() -> dg.DagsterRun | None:
        return next((run for run in instance.get_runs() if LIVENESS_TAG in run.tags), None)

    try:
        run = wait_until(under_way, 60, "the run shows that it lives")
        alive = look(store, instance, look(store, instance, None).cursor)
        assert (alive.run_requests, alive.cursor) == ([], "[]")
    finally:
        kill(process)
    wait_until(lambda: liveness_lock_is_free(store.database, run.run_id), 20, "the lock is free")
    first = look(store, instance, alive.cursor)
    assert not first.run_requests, "it may have lost its connection: it is looked at again"
    second = look(store, instance, first.cursor)
    dead = instance.get_run_by_id(run.run_id)
    assert dead is not None
    assert dead.status is dg.DagsterRunStatus.FAILURE
    (request,) = second.run_requests or ()
    assert request.job_name == JOB
    assert request.tags[RESUMES_TAG] == run.run_id
    assert LIVENESS_TAG not in request.tags


def test_a_run_whose_state_is_in_another_database_is_left_alone(
    store: RunStore, instance: dg.DagsterInstance
) -> None:
    tags = {LIVENESS_TAG: "of another database, or of the run that this one tries again"}
    run = dg.DagsterRun(JOB, status=dg.DagsterRunStatus.STARTED, tags=tags)
    instance.add_run(run)
    cursor = None
    for _ in range(3):
        cursor = look(store, instance, cursor).cursor
    found = instance.get_run_by_id(run.run_id)
    assert found is not None
    assert found.status is dg.DagsterRunStatus.STARTED
