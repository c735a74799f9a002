"""What Dagster calls fresh, stale and missing, in one process against a simulated endpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest

from dlgforge_core.config import Recipe
from dlgforge_dagster.dataset import DatasetSpec
from dlgforge_dagster.definitions import defs
from dlgforge_dagster.partitions import SEED_BATCHES, dialogue_key
from dlgforge_dagster.summary import summary
from dlgforge_dagster.versions import dialogues_version
from tests.support.simulated_endpoint import SimulatedEndpoint

DIALOGUES = dg.AssetKey("dialogues")
KEYS = [dialogue_key(language, batch) for batch in ("alpha", "beta") for language in ("en", "fr")]


@pytest.fixture
def seeds(tmp_path: Path) -> Path:
    folder = tmp_path / "seeds"
    folder.mkdir()
    for name in ("alpha", "beta"):
        write_seeds(folder, name, 2)
    return folder


def write_seeds(folder: Path, name: str, n: int) -> None:
    lines = [
        json.dumps({"language": language, "topic": f"{name} {i} in {language}"})
        for language in ("en", "fr")
        for i in range(n)
    ]
    (folder / f"{name}.jsonl").write_text("\n".join(lines))


class Site:
    """The default dataset on seeds of its own."""

    def __init__(self, sim: SimulatedEndpoint, dsn: str, seeds: Path, instance: dg.DagsterInstance) -> None:
        self.sim, self.dsn, self.seeds, self.instance = sim, dsn, seeds, instance

    def run(
        self, *assets: str, key: dg.MultiPartitionKey | None = None, **run: Any
    ) -> dg.ExecuteInProcessResult:
        run = {"total_samples": 4, "target_languages": ["en", "fr"], "n_turns": 1, "concurrency": 1, **run}
        job = defs.resolve_job_def("generate_dialogues").get_subset(
            asset_selection={dg.AssetKey(name) for name in assets}, asset_check_selection=set()
        )
        ops = {
            "seed_topics": {"config": {"path": str(self.seeds)}},
            "dialogues": {"config": {"run": run}},
        }
        config = {
            "ops": {name: ops[name] for name in assets if name in ops},
            "resources": {
                "store": {"config": {"postgres": {"dsn": self.dsn}}},
                "llm": {"config": {"backend": "openai", "model": "m", "base_url": self.sim.base_url}},
            },
        }
        result = job.execute_in_process(config, instance=self.instance, partition_key=key)
        assert result.success
        return result

    def statuses(self) -> dict[str, StaleStatus]:
        loading = LoadingContextForTest(self.instance)
        resolver = CachingStaleStatusResolver(self.instance, defs.resolve_asset_graph(), loading)
        return {str(key): resolver.get_status(DIALOGUES, key) for key in KEYS}

    def materialized(self) -> set[str]:
        return set(self.instance.get_materialized_partitions(DIALOGUES))


@pytest.fixture
def site(sim: SimulatedEndpoint, dsn: str, seeds: Path, instance: dg.DagsterInstance) -> Site:
    return Site(sim, dsn, seeds, instance)


def reported(result: dg.ExecuteInProcessResult) -> list[str]:
    """Return the partitions of `dialogues` that a run has told of."""
    events = result.get_asset_materialization_events()
    made = [event.materialization for event in events if event.asset_key == DIALOGUES]
    return sorted(one.partition for one in made if one.partition is not None)


def test_partitions_of_a_whole_run_are_fresh_until_something_changes(site: Site, seeds: Path) -> None:
    everything = ("seed_topics", "knowledge_index", "dialogues")
    assert reported(site.run(*everything)) == sorted(map(str, KEYS))
    fresh = dict.fromkeys(map(str, KEYS), StaleStatus.FRESH)
    assert site.statuses() == fresh
    site.run("seed_topics")
    assert site.statuses() == fresh, "reading the same again changes nothing"
    assert reported(site.run(*everything)) == [], "a run that changes nothing writes nothing down"
    write_seeds(seeds, "beta", 3)
    site.run("seed_topics")
    assert set(site.statuses().values()) == {StaleStatus.STALE}
    site.run(*everything)
    assert site.statuses() == fresh


def test_a_partition_that_a_budget_left_unfinished_is_still_missing(
    site: Site, instance: dg.DagsterInstance
) -> None:
    instance.add_dynamic_partitions(SEED_BATCHES, ["alpha", "beta"])
    key = dialogue_key("en", "alpha")
    site.run("seed_topics", "dialogues", key=key, total_samples=40, max_dialogues=2)
    assert site.materialized() == set()
    data = summary(instance, "generate_dialogues")
    assert (data["status"], data["complete"]) == ("SUCCESS", False)
    assert "run.max_dialogues" in data["assets"]["dialogues"]["stop_reason"]
    site.run("dialogues", key=key, total_samples=40)
    assert site.materialized() == {"en|alpha"}
    site.run("dialogues", total_samples=40, max_dialogues=1)
    assert site.materialized() == {"en|alpha"}, "nor does a run of all tell of those it left unfinished"


def test_a_recipe_that_was_edited_is_new_code() -> None:
    usual = Recipe()
    edits: list[dict[str, Any]] = [
        {"run": {"n_turns": 3}},
        {"run": {"total_samples": 13}},
        {"personas": {"path": "others.yaml"}},
        {"llm": {"model": "another"}},
        {"knowledge": {"path": "shipped"}},
    ]
    versions = {dialogues_version(Recipe.model_validate(edit)) for edit in edits}
    assert len(versions | {dialogues_version(usual)}) == len(edits) + 1
    faster = Recipe.model_validate({"run": {"concurrency": 3}, "description": "faster"})
    assert dialogues_version(faster) == dialogues_version(usual)


def test_every_asset_has_a_code_version() -> None:
    graph = defs.resolve_asset_graph()
    versions = {key.to_user_string(): graph.get(key).code_version for key in graph.materializable_asset_keys}
    assert len(versions) >= 6
    assert all(versions.values()), versions
    assert DatasetSpec().key("dialogues").to_user_string() in versions
