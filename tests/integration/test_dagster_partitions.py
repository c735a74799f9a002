"""Partitions, in one process against a simulated endpoint: all at once, one by one, and never twice."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dlgforge_core.config import PostgresConfig
from dlgforge_core.store import lock_keys
from dlgforge_core.store.advisory import generation_slot, hold_process_lock, process_lock_is_free
from dlgforge_core.store.run_store import RunStore
from dlgforge_dagster.definitions import defs
from dlgforge_dagster.partitions import SEED_BATCHES, dialogue_key
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
    """The topics of a dataset's dialogues."""
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
        planned.append(made.metadata["dialogues_planned"].value)
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


def test_a_partition_without_topics_is_empty_and_no_failure(
    sim: SimulatedEndpoint, dsn: str, seeds: Path, instance: dg.DagsterInstance
) -> None:
    write_seeds(seeds, "english", ("en",))
    instance.add_dynamic_partitions(SEED_BATCHES, ["english"])
    calls = sim.stats()["calls"]
    job = defs.resolve_job_def("generate_partition").get_subset(
        asset_selection={dg.AssetKey("seed_topics"), dg.AssetKey("dialogues")}, asset_check_selection=set()
    )
    result = job.execute_in_process(
        config(sim, dsn, seeds), instance=instance, partition_key=dialogue_key("fr", "english")
    )
    assert result.success
    assert sim.stats()["calls"] == calls


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
    assert evaluations["drop_rate"].metadata["dropped"].value > 4
    assert not (tmp_path / "out").exists()


def test_runs_that_use_the_endpoints_take_turns(dsn: str) -> None:
    order: list[str] = []
    waits = threading.Event()

    def on_wait() -> None:
        order.append("waits")
        waits.set()

    def second() -> None:
        with generation_slot(dsn, PostgresConfig(), 1, on_wait):
            order.append("second")

    with generation_slot(dsn, PostgresConfig(), 1, lambda: None):
        with generation_slot(dsn, PostgresConfig(), 2, lambda: None):
            order.append("beside")
        thread = threading.Thread(target=second)
        thread.start()
        assert waits.wait(30)
        order.append("first")
    thread.join(30)
    assert order == ["beside", "waits", "first", "second"]


def test_a_process_lock_tells_whether_somebody_works_on_it_and_comes_back(store: RunStore) -> None:
    config = PostgresConfig()
    assert process_lock_is_free(store.dsn, config, "run-1")
    held = hold_process_lock(store.dsn, config, "run-1")
    assert held is not None
    assert not process_lock_is_free(store.dsn, config, "run-1")
    assert process_lock_is_free(store.dsn, config, "run-2")
    with store.connection() as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND classid = %s",
            (lock_keys.PROCESSES,),
        )
    deadline = time.monotonic() + 15
    while process_lock_is_free(store.dsn, config, "run-1"):
        assert time.monotonic() < deadline, "a lock whose connection was lost is taken again"
        time.sleep(0.2)
    held.release()
    deadline = time.monotonic() + 5
    while not process_lock_is_free(store.dsn, config, "run-1"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
