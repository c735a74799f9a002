"""The sensor of a seed folder: partitions come and go with their files, and problems are told once."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import dagster as dg
import pytest
import yaml

from dlgforge_core.database.database import Database
from dlgforge_core.store.run_store import RunStore
from dlgforge_dagster.definitions import build_definitions
from dlgforge_dagster.partitions import SEED_BATCHES
from dlgforge_dagster.resources import StoreResource

NAME = "new_seed_batches"


class Watch:
    """A folder, and the ticks of the sensor that watches it."""

    def __init__(
        self, folder: Path, dsn: str, instance: dg.DagsterInstance, sensor: dg.SensorDefinition
    ) -> None:
        self.folder = folder
        self.instance, self._sensor = instance, sensor
        self._dsn = dsn
        self._cursor: str | None = None

    def write(self, name: str, *languages: str) -> None:
        lines = [json.dumps({"language": language, "topic": name}) for language in languages]
        (self.folder / name).write_text("\n".join(lines))

    def tick(self) -> dg.SensorResult:
        """One evaluation, with what the daemon does of its result."""
        with dg.build_sensor_context(instance=self.instance, cursor=self._cursor) as context:
            result = self._sensor(context, store=StoreResource(postgres={"dsn": self._dsn}))
        assert isinstance(result, dg.SensorResult)
        self._cursor = result.cursor
        for request in result.dynamic_partitions_requests or ():
            if isinstance(request, dg.AddDynamicPartitionsRequest):
                self.instance.add_dynamic_partitions(SEED_BATCHES, request.partition_keys)
            else:
                for key in request.partition_keys:
                    self.instance.delete_dynamic_partition(SEED_BATCHES, key)
        return result

    def settled(self) -> dg.SensorResult:
        """Return what the second tick finds: at the first one a file may be half written."""
        assert not self.tick().run_requests
        return self.tick()

    @property
    def partitions(self) -> set[str]:
        return set(self.instance.get_dynamic_partitions(SEED_BATCHES))

    @property
    def current(self) -> set[str]:
        """The seed batches that a dataset is written from."""
        return {batch.name for batch in RunStore(Database(self._dsn)).seed_batches()}


def keys(result: dg.SensorResult) -> list[str]:
    return [str(request.partition_key) for request in result.run_requests or ()]


def reported(result: dg.SensorResult) -> list[str]:
    """Return the problems that the page of `seed_files` shows of a tick."""
    events = result.asset_events or ()
    assert all(event.asset_key == dg.AssetKey("seed_files") for event in events)
    return [str(event.metadata["problem"].value) for event in events]


@pytest.fixture
def watch(tmp_path: Path, dsn: str, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> Watch:
    folder = tmp_path / "seeds"
    folder.mkdir()
    monkeypatch.setenv("DLGFORGE_SEED_FOLDER", str(folder))
    monkeypatch.setenv("DLGFORGE_LANGUAGES", "en,fr")
    monkeypatch.delenv("DLGFORGE_RUN_CONFIG", raising=False)
    sensor = build_definitions(str(tmp_path / "none")).resolve_sensor_def(NAME)
    return Watch(folder, dsn, instance, sensor)


def test_partitions_go_with_their_files(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DLGFORGE_SEED_FOLDER", "")
    watch.tick()
    assert watch.partitions == {"starter"}
    monkeypatch.setenv("DLGFORGE_SEED_FOLDER", str(watch.folder))
    watch.write("one.jsonl", "en", "fr")
    watch.write("two.jsonl", "en")
    assert keys(watch.settled()) == ["en|one", "fr|one", "en|two"]
    assert watch.partitions == {"one", "two"}, "the shipped topics are not in the folder"
    watch.instance.add_dynamic_partitions(SEED_BATCHES, ["elsewhere"])
    aside = watch.folder.parent / "two.jsonl"
    shutil.move(watch.folder / "two.jsonl", aside)
    watch.tick()
    assert watch.partitions == {"one", "two", "elsewhere"}, "it may be replaced just now"
    shutil.copy(aside, watch.folder)
    assert keys(watch.settled()) == [], "the same content makes no run again"
    assert watch.current == {"one", "two"}
    (watch.folder / "two.jsonl").unlink()
    watch.tick()
    watch.tick()
    assert watch.partitions == {"one", "elsewhere"}
    assert watch.current == {"one"}, "what was made of it leaves the dataset"
    shutil.copy(aside, watch.folder)
    assert keys(watch.settled()) == ["en|two"], "under the key of the run that was made of it before"
    assert watch.current == {"one", "two"}


def test_two_files_of_one_batch_are_one_problem_and_no_run(watch: Watch) -> None:
    for name in ("dup.jsonl", "dup.yaml", "good.jsonl"):
        watch.write(name, "en")
    (watch.folder / "dup.yaml").write_text("en:\n  cooking:\n")
    result = watch.settled()
    assert keys(result) == ["en|good"]
    assert len(reported(result)) == 2
    assert all("'dup'" in problem and "rename one of them" in problem for problem in reported(result))
    assert reported(watch.tick()) == []
    (watch.folder / "dup.yaml").rename(watch.folder / "other.yaml")
    found = [*keys(watch.tick()), *keys(watch.tick())]
    assert sorted(found) == ["en|dup", "en|other"]


def test_what_is_wrong_is_reported_where_it_can_be_seen(watch: Watch) -> None:
    watch.write("good.jsonl", "en")
    watch.write("pt.jsonl", "pt")
    (watch.folder / "broken.jsonl").write_text("{no json")
    result = watch.settled()
    assert keys(result) == ["en|good"], "beside files that make runs, as without them"
    broken, other = reported(result)
    assert "broken.jsonl:1" in broken
    assert other.startswith("pt.jsonl has topics in pt; the partitions' languages are en, fr")
    assert reported(watch.tick()) == []


def test_tables_are_read_by_the_columns_that_the_run_config_names(
    watch: Watch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.yaml"
    seeds: dict[str, object] = {"columns": {"topic": "Subject"}, "language": "fr"}
    path.write_text(yaml.safe_dump({"ops": {"seed_topics": {"config": seeds}}}))
    monkeypatch.setenv("DLGFORGE_RUN_CONFIG", str(path))
    (watch.folder / "tickets.csv").write_text("Subject,Channel\nun colis perdu,mail\n")
    (watch.folder / "bad.tsv").write_text("Subjekt\tChannel\nun colis\tmail\n")
    result = watch.settled()
    assert keys(result) == ["fr|tickets"]
    (problem,) = reported(result)
    assert problem.startswith(
        "bad.tsv:1: there is no column 'Subject' for the topic; did you mean 'Subjekt'?"
    )
    seeds["columns"] = {"topik": "Subject"}
    path.write_text(yaml.safe_dump({"ops": {"seed_topics": {"config": seeds}}}))
    with dg.build_sensor_context(instance=watch.instance) as context:
        skipped = watch._sensor(context, store=StoreResource(postgres={"dsn": watch._dsn}))
    assert isinstance(skipped, dg.SkipReason)
    assert "columns.topik: unknown key; did you mean 'topic'?" in str(skipped.skip_message)


def test_the_job_of_a_partition_indexes_the_documents_of_its_recipe(tmp_path: Path) -> None:
    recipes = tmp_path / "recipes"
    recipes.mkdir()
    recipe = {"knowledge": {"path": str(tmp_path)}, "llm": {"backend": "openai", "model": "m"}}
    (recipes / "grounded.yaml").write_text(yaml.safe_dump(recipe))
    defs = build_definitions(str(recipes))

    def assets(job: str) -> set[str]:
        found = defs.resolve_job_def(job).asset_layer.executable_asset_keys
        return {key.path[-1] for key in found}

    assert assets("generate_partition_grounded") == {"seed_topics", "knowledge_index", "dialogues"}
    assert assets("generate_partition") == {"seed_topics", "dialogues"}
