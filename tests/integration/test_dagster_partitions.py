"""Partitions, in one process against a simulated endpoint: all at once, one by one, and never twice."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dlgforge_core.database import lock_keys
from dlgforge_core.database.database import Database
from dlgforge_core.database.named_locks import generation_slot, hold_liveness_lock, liveness_lock_is_free
from dlgforge_core.store.run_store import RunStore
from dlgforge_dagster.definitions import defs
from dlgforge_dagster.partitions import RANGE_END, RANGE_START, SEED_BATCHES, dialogue_key
from tests.support.simulated_endpoint import SimulatedEndpoint


@pytest.fixture
def seeds(tmp_path: Path) -> Path:
    folder = tmp_path / "seeds"
    folder.mkdir()
    for name in ("alpha", "beta"):
        write_seeds(folder, name)
    return folder


def write_seeds(folder: Path, name: str, languages: tuple[str, ...] = ("en", "fr")) -> None:
    lines = [
        json.dumps({"language": language, "topic": f"{name} {n} in {language}"})
        for language in languages
        for n in range(4)
    ]
    (folder / f"{name}.jsonl").write_text("\n".join(lines))


def config(sim: SimulatedEndpoint, dsn: str, seeds: Path, **run: Any) -> dict[str, Any]:
    run = {"total_samples": 4, "target_languages": ["en", "fr"], "n_turns": 1, "patience_s": 3.0, **run}
    return {
        "ops": {
            "seed_topics": {"config": {"path": str(seeds)}},
            "dialogues": {"config": {"run": run}},
        },
        "resources": {
            "store": {"config": {"postgres": {"dsn": dsn}}},
            "llm": {"config": {"backend": "openai", "model": "simulated", "base_url": sim.base_url}},
        },
    }


def execute(
    job: str,
    run_config: dict[str, Any],
    instance: dg.DagsterInstance,
    key: dg.MultiPartitionKey | None = None,
) -> dg.ExecuteInProcessResult:
    return defs.resolve_job_def(job).execute_in_process(run_config, instance=instance, partition_key=key)


def dataset(run_config: dict[str, Any], folder: Path) -> dict[str, Any]:
    return {
        "ops": {**run_config["ops"], "dialogue_dataset": {"config": {"output_dir": str(folder)}}},
        "resources": run_config["resources"],
    }


def test_partition_by_partition_and_then_all_makes_each_dialogue_once(
    sim: SimulatedEndpoint, dsn: str, seeds: Path, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    sim.reset()
    settings = config(sim, dsn, seeds)
    instance.add_dynamic_partitions(SEED_BATCHES, ["alpha"])
    assert execute("generate_partition", settings, instance, dialogue_key("en", "alpha")).success
    assert sim.stats()["calls"] == 2 * 3, "two of four dialogues of one batch, three calls each"
    assert execute("generate_partition", settings, instance, dialogue_key("fr", "alpha")).success
    assert execute("generate_partition", settings, instance, dialogue_key("en", "alpha")).success
    assert sim.stats()["calls"] == 4 * 3
    assert set(instance.get_materialized_partitions(dg.AssetKey("dialogues"))) == {"en|alpha", "fr|alpha"}
    result = execute("generate_dialogues", dataset(settings, tmp_path / "out"), instance)
    assert result.success
    assert sim.stats()["calls"] == 8 * 3
    assert set(instance.get_dynamic_partitions(SEED_BATCHES)) == {"alpha", "beta"}
    assert set(instance.get_materialized_partitions(dg.AssetKey("seed_files"))) == {"alpha", "beta"}
    assert len(instance.get_materialized_partitions(dg.AssetKey("dialogues"))) == 4
    lines = (tmp_path / "out" / "data" / "sharegpt" / "train.jsonl").read_text().splitlines()
    ids = [json.loads(line)["id"] for line in lines]
    assert len(ids) == len(set(ids)) == 8


def test_the_dataset_holds_what_every_partition_has_made(
    sim: SimulatedEndpoint, dsn: str, seeds: Path, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    settings = config(sim, dsn, seeds)
    instance.add_dynamic_partitions(SEED_BATCHES, ["alpha", "beta"])
    for language, batch in (("en", "alpha"), ("fr", "beta")):
        assert execute("generate_partition", settings, instance, dialogue_key(language, batch)).success
    job = defs.resolve_job_def("generate_dialogues").get_subset(
        asset_selection={dg.AssetKey("dialogue_dataset")}
    )
    only = dataset({"ops": {}, "resources": {"store": settings["resources"]["store"]}}, tmp_path / "out")
    assert job.execute_in_process(only, instance=instance).success
    lines = (tmp_path / "out" / "data" / "sharegpt" / "train.jsonl").read_text().splitlines()
    made = [json.loads(line) for line in lines]
    assert (
        sorted((r["seed_batch"], r["language"]) for r in made) == [("alpha", "en")] * 2 + [("beta", "fr")] * 2
    )


def exported(folder: Path) -> list[str]:
    """Return the topics of a dataset's dialogues."""
    lines = (folder / "data" / "sharegpt" / "train.jsonl").read_text().splitlines()
    return sorted({json.loads(line)["topic"] for line in lines})


def test_a_dataset_is_of_the_seeds_it_was_given(
    sim: SimulatedEndpoint, dsn: str, seeds: Path, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    settings = dataset(config(sim, dsn, seeds, target_languages=["en"]), tmp_path / "out")

    def run() -> list[str]:
        result = execute("generate_dialogues", settings, instance)
        assert result.success
        events = result.asset_materializations_for_node("dialogues")
        (made,) = (event for event in events if event.partition is None)
        count = made.metadata["dialogues_planned"].value
        assert isinstance(count, int)
        planned.append(count)
        return exported(tmp_path / "out")

    planned: list[int] = []
    assert {topic.split()[0] for topic in run()} == {"alpha", "beta"}
    (seeds / "beta.jsonl").unlink()
    assert {topic.split()[0] for topic in run()} == {"alpha"}
    (seeds / "alpha.jsonl").write_text('{"language": "en", "topic": "edited"}')
    assert run() == ["edited"]
    mine = tmp_path / "mine.jsonl"
    mine.write_text('{"language": "en", "topic": "mine"}')
    settings["ops"]["seed_topics"]["config"]["path"] = str(mine)
    assert run() == ["mine"]
    assert planned == [8, 4, 4, 4]


def test_a_broken_seed_file_stops_no_run_unless_strict(
    sim: SimulatedEndpoint, dsn: str, seeds: Path, instance: dg.DagsterInstance
) -> None:
    (seeds / "broken.yaml").write_text("en: [")
    settings = config(sim, dsn, seeds)
    job = defs.resolve_job_def("generate_dialogues")

    def read() -> dg.ExecuteInProcessResult:
        return job.execute_in_process(
            {"ops": {"seed_topics": settings["ops"]["seed_topics"]}, "resources": settings["resources"]},
            instance=instance,
            asset_selection=[dg.AssetKey("seed_topics")],
            raise_on_error=False,
        )

    result = read()
    assert result.success
    events = result.asset_materializations_for_node("seed_topics")
    (made,) = (event for event in events if event.asset_key == dg.AssetKey("seed_topics"))
    assert (made.metadata["skipped_files"].value, made.metadata["topics"].value) == (1, 16)
    assert "broken.yaml:1" in str(made.metadata["problems"].value)
    seen = instance.fetch_observations(dg.AssetKey("seed_files"), limit=10).records
    (observation,) = (record.asset_observation for record in seen)
    assert observation is not None
    assert "broken.yaml:1" in str(observation.metadata["problem"].value)
    settings["ops"]["seed_topics"]["config"]["strict"] = True
    (failed,) = (event for event in read().all_events if event.is_step_failure)
    assert failed.step_failure_data.user_failure_data is not None, "said plainly, without a traceback of ours"
    assert "broken.yaml:1" in (failed.step_failure_data.user_failure_data.description or "")


def drop_rate(instance: dg.DagsterInstance) -> tuple[str, bool, dg.AssetCheckSeverity]:
    """Return what the check of that name said last."""
    key = dg.AssetCheckKey(dg.AssetKey("dialogues"), "drop_rate")
    record = instance.event_log_storage.get_latest_asset_check_execution_by_key([key])[key]
    assert record.event is not None
    found = record.event.get_dagster_event().asset_check_evaluation_data
    return found.description or "", found.passed, found.severity


def test_a_partition_without_topics_is_empty_and_no_failure(
    sim: SimulatedEndpoint, dsn: str, seeds: Path, instance: dg.DagsterInstance
) -> None:
    write_seeds(seeds, "english", ("en",))
    instance.add_dynamic_partitions(SEED_BATCHES, ["english"])
    calls = sim.stats()["calls"]
    settings = config(sim, dsn, seeds)
    assert execute("generate_partition", settings, instance, dialogue_key("fr", "english")).success
    assert sim.stats()["calls"] == calls
    assert drop_rate(instance)[:2] == ("nothing was to be made here", True)
    assert execute("generate_partition", settings, instance, dialogue_key("en", "english")).success
    assert execute("generate_partition", settings, instance, dialogue_key("fr", "english")).success
    message, passed, _ = drop_rate(instance)
    assert passed
    assert message.startswith(
        "nothing was to be made here; of what was made before: 2 of 2 dialogues are done"
    )


def test_a_partition_whose_file_is_gone_fails_by_itself_and_among_others_is_left_out(
    sim: SimulatedEndpoint, dsn: str, seeds: Path, instance: dg.DagsterInstance
) -> None:
    instance.add_dynamic_partitions(SEED_BATCHES, ["alpha", "gone", "zeta"])
    (seeds / "beta.jsonl").unlink()
    settings = config(sim, dsn, seeds)
    job = defs.resolve_job_def("generate_partition")

    def backfill(start: str, end: str) -> dg.ExecuteInProcessResult:
        tags = {RANGE_START: start, RANGE_END: end, "dagster/backfill": "b"}
        return job.execute_in_process(settings, instance=instance, tags=tags)

    assert backfill("en|alpha", "en|zeta").success
    assert sim.stats()["calls"] == 2 * 3
    assert backfill("en|gone", "en|zeta").success
    for asked in (None, [dg.AssetKey("dialogues")]):
        alone = job.execute_in_process(
            settings,
            instance=instance,
            partition_key=dialogue_key("en", "gone"),
            asset_selection=asked,
            raise_on_error=False,
        )
        assert not alone.success
        (failure,) = (event.step_failure_data.error for event in alone.all_events if event.is_step_failure)
        assert failure is not None
        assert "no seed file" in str(failure)


def test_a_good_partition_does_not_hide_a_bad_one(
    sim: SimulatedEndpoint, dsn: str, seeds: Path, instance: dg.DagsterInstance
) -> None:
    settings = config(sim, dsn, seeds, total_samples=16)
    instance.add_dynamic_partitions(SEED_BATCHES, ["alpha", "beta"])
    job = defs.resolve_job_def("generate_partition")

    def run(batch: str) -> bool:
        key = dialogue_key("en", batch)
        return job.execute_in_process(
            settings, instance=instance, partition_key=key, raise_on_error=False
        ).success

    sim.configure(faults={"refusal": 1.0})
    assert not run("alpha")
    sim.configure(faults={})
    assert run("beta"), "its own dialogues are fine"
    message, passed, severity = drop_rate(instance)
    assert "8 of 8 in en|alpha" in message
    assert (passed, severity) == (False, dg.AssetCheckSeverity.WARN)
    assert execute("generate_partition", settings, instance, dialogue_key("fr", "beta")).success
    assert not drop_rate(instance)[1], "the dataset is not written, for that is of all partitions"


def test_one_check_can_be_run_by_itself(
    sim: SimulatedEndpoint, dsn: str, seeds: Path, instance: dg.DagsterInstance
) -> None:
    settings = config(sim, dsn, seeds)
    assert execute("generate_dialogues", settings, instance).success
    key = dg.AssetCheckKey(dg.AssetKey("dialogues"), "language")
    graph = defs.resolve_asset_graph()
    assert graph.get_execution_set_identifier(key) is None, "the UI offers to run it by itself"
    job = defs.resolve_implicit_global_asset_job_def().get_subset(asset_check_selection={key})
    result = job.execute_in_process(
        {"resources": {"store": settings["resources"]["store"]}}, instance=instance
    )
    assert [found.check_name for found in result.get_asset_check_evaluations()] == ["language"]


def test_a_blocking_check_stops_the_dataset(
    sim: SimulatedEndpoint, dsn: str, seeds: Path, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    settings = dataset(config(sim, dsn, seeds), tmp_path / "out")
    sim.configure(faults={"refusal": 0.7})
    try:
        result = defs.resolve_job_def("generate_dialogues").execute_in_process(
            settings, instance=instance, raise_on_error=False
        )
    finally:
        sim.configure(faults={})
    assert not result.success
    evaluations = {e.check_name: e for e in result.get_asset_check_evaluations()}
    assert not evaluations["drop_rate"].passed
    assert evaluations["schema"].passed
    dropped = evaluations["drop_rate"].metadata["dropped"].value
    assert isinstance(dropped, int)
    assert dropped > 4
    assert not (tmp_path / "out").exists()


def test_runs_that_use_the_endpoints_take_turns(dsn: str) -> None:
    order: list[str] = []
    waits = threading.Event()

    def on_wait() -> None:
        order.append("waits")
        waits.set()

    def second() -> None:
        with generation_slot(Database(dsn), 1, on_wait):
            order.append("second")

    with generation_slot(Database(dsn), 1, lambda: None):
        with generation_slot(Database(dsn), 2, lambda: None):
            order.append("beside")
        thread = threading.Thread(target=second)
        thread.start()
        assert waits.wait(30)
        order.append("first")
    thread.join(30)
    assert order == ["beside", "waits", "first", "second"]


def test_a_process_lock_tells_whether_somebody_works_on_it_and_comes_back(store: RunStore) -> None:
    assert liveness_lock_is_free(store.database, "run-1")
    held = hold_liveness_lock(store.database, "run-1")
    assert held is not None
    assert not liveness_lock_is_free(store.database, "run-1")
    assert liveness_lock_is_free(store.database, "run-2")
    with store.connection() as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND classid = %s",
            (lock_keys.PROCESSES,),
        )
    deadline = time.monotonic() + 15
    while liveness_lock_is_free(store.database, "run-1"):
        assert time.monotonic() < deadline, "a lock whose connection was lost is taken again"
        time.sleep(0.2)
    held.release()
    deadline = time.monotonic() + 5
    while not liveness_lock_is_free(store.database, "run-1"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
