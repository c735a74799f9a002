"""The assets `dialogue_dataset` and `hf_dataset`, from the store to a stand-in of the hub."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
import pytest

from dlgforge_core.config import FiltersConfig, Recipe, SavingConfig
from dlgforge_core.export.verify import verify_dataset
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.store.run_store import RunStore
from dlgforge_dagster.assets.dialogue_dataset import build_dialogue_dataset
from dlgforge_dagster.assets.hf_dataset import build_hf_dataset
from dlgforge_dagster.dataset import DatasetSpec
from dlgforge_dagster.definitions import defs
from dlgforge_dagster.resources import StoreResource
from tests.support.datasets import load
from tests.support.hub import Hub, hub_server
from tests.support.judging import generated
from tests.support.runs import planned, spec, work
from tests.support.simulated_endpoint import simulated_endpoint

TOTAL = 20
REPO = "lab/talks"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    # Xet needs a storage service of its own; without it the client speaks LFS.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with hub_server() as server:
        yield server


@pytest.fixture
def filled(store: RunStore) -> RunStore:
    with simulated_endpoint() as sim:
        generated(store, sim, TOTAL)
    return store


def materialize(
    store: RunStore,
    instance: dg.DagsterInstance,
    *assets: str,
    dataset: dict[str, Any] | None = None,
    push: dict[str, Any] | None = None,
    spec: DatasetSpec | None = None,
) -> dg.ExecuteInProcessResult:
    spec = spec or DatasetSpec()
    return dg.materialize(
        [build_dialogue_dataset(spec), build_hf_dataset(spec)],
        selection=list(assets) or None,
        resources={"store": StoreResource(postgres={"dsn": store.database.dsn})},
        run_config={
            "ops": {
                name: {"config": config}
                for name, config in (("dialogue_dataset", dataset), ("hf_dataset", push))
                if config is not None
            }
        },
        instance=instance,
        raise_on_error=False,
    )


def metadata(result: dg.ExecuteInProcessResult, asset: str) -> dict[str, Any]:
    (event,) = (
        event for event in result.get_asset_materialization_events() if event.asset_key == dg.AssetKey(asset)
    )
    return {key: value.value for key, value in event.materialization.metadata.items()}


def failure(result: dg.ExecuteInProcessResult) -> str:
    assert not result.success
    return str([event for event in result.all_events if event.is_step_failure])


def test_the_dataset_goes_to_the_hub_and_loads_from_there(
    filled: RunStore, instance: dg.DagsterInstance, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAB_TOKEN", hub.token)
    dataset = {"output_dir": str(tmp_path / "out"), "splits": {"train": 0.8, "validation": 0.2}}
    push = {"enabled": True, "repo_id": REPO, "endpoint": hub.url, "token_env": "LAB_TOKEN"}
    result = materialize(filled, instance, dataset=dataset, push=push)
    assert result.success
    shown = metadata(result, "hf_dataset")
    assert (shown["repo_id"], shown["revision"], shown["changed"]) == (REPO, "main", True)
    assert shown["url"] == f"{hub.url}/datasets/{REPO}"
    assert shown["commit"] == hub.head(REPO).id
    hub.write_to(tmp_path / "pulled", REPO)
    assert verify_dataset(tmp_path / "pulled")["parquet"] == TOTAL
    splits = load(tmp_path / "pulled", "openai_messages", tmp_path / "cache")
    reported = {
        row.data["split"]: row.data["dialogues"]
        for row in metadata(result, "dialogue_dataset")["splits"].records
    }
    assert splits == reported
    assert sum(splits.values()) == TOTAL
    again = metadata(materialize(filled, instance, "hf_dataset", push=push), "hf_dataset")
    assert (again["changed"], again["commit"]) == (False, shown["commit"])
    for run in instance.get_runs():
        assert hub.token not in str(run.run_config)
        assert hub.token not in "".join(str(entry) for entry in instance.all_logs(run.run_id))


def test_turned_off_it_is_skipped_and_says_how_to_turn_it_on(
    filled: RunStore, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    result = materialize(filled, instance, dataset={"output_dir": str(tmp_path / "out")})
    assert result.success
    assert [e.asset_key and e.asset_key.path for e in result.get_asset_materialization_events()] == [
        ["dialogue_dataset"]
    ]
    (observation,) = result.get_asset_observation_events()
    note = str(observation.asset_observation_data.asset_observation.metadata["note"].value)
    assert "set ops.hf_dataset.config.enabled to true" in note
    assert "saving.hf_push" in note
    assert "HF_TOKEN" in note


def test_what_is_wrong_fails_the_step_with_the_reason(
    filled: RunStore, instance: dg.DagsterInstance, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push = {"enabled": True, "repo_id": REPO, "endpoint": hub.url}
    assert "materialize `dialogue_dataset` first" in failure(
        materialize(filled, instance, "hf_dataset", push=push)
    )
    assert materialize(
        filled, instance, "dialogue_dataset", dataset={"output_dir": str(tmp_path / "out")}
    ).success
    assert "set the environment variable HF_TOKEN" in failure(
        materialize(filled, instance, "hf_dataset", push=push)
    )
    monkeypatch.setenv("HF_TOKEN", "hf_wrongwrongwrongwrong")
    reported = failure(materialize(filled, instance, "hf_dataset", push=push))
    assert "(401): the token in HF_TOKEN is not valid there" in reported
    assert "hf_wrong" not in reported
    reported = failure(materialize(filled, instance, "hf_dataset", push={"enabled": True}))
    assert "repo_id is empty" in reported
    assert hub.repos == {}


def test_a_recipes_saving_is_the_default_and_filters_are_counted(
    filled: RunStore, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    with psycopg.connect(filled.database.dsn) as connection:
        judgement = '{"score": 3, "reasons": ["incorrect"], "comment": ""}'
        connection.execute(
            "UPDATE dlgforge.turns SET judgement = %s WHERE dialogue_id IN "
            "(SELECT dialogue_id FROM dlgforge.dialogues ORDER BY dialogue_id LIMIT 5)",
            [judgement],
        )
    saving = SavingConfig(
        output_dir=str(tmp_path / "out"),
        formats=["sharegpt_judged"],
        output_columns={"conversations": "talk"},
        filters=FiltersConfig(min_score=5.0),
    )
    spec = DatasetSpec("", Recipe(saving=saving))
    shown = metadata(materialize(filled, instance, "dialogue_dataset", spec=spec), "dialogue_dataset")
    assert (shown["filtered_out"], shown["dagster/row_count"]) == (5, TOTAL - 5)
    assert [row.data for row in shown["filters"].records] == [{"filter": "min_score", "dialogues": 5}]
    assert verify_dataset(tmp_path / "out") == {"sharegpt_judged": TOTAL - 5}


def test_filters_that_refuse_everything_fail_and_the_old_dataset_stays(
    filled: RunStore, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    dataset: dict[str, Any] = {"output_dir": str(tmp_path / "out"), "filters": {"keep_unjudged": True}}
    assert materialize(filled, instance, "dialogue_dataset", dataset=dataset).success
    dataset["filters"] = {"keep_unjudged": False}
    reported = failure(materialize(filled, instance, "dialogue_dataset", dataset=dataset))
    assert f"{TOTAL} were read" in reported
    assert f"{TOTAL} by unjudged" in reported
    assert verify_dataset(tmp_path / "out")["parquet"] == TOTAL


def test_nothing_to_write_is_reported_with_the_reason(
    store: RunStore, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    dataset = {"output_dir": str(tmp_path / "out")}
    run = planned(store, 3)
    reported = failure(materialize(store, instance, "dialogue_dataset", dataset=dataset))
    assert "none of 3 planned dialogues is finished: materialize `dialogues`" in reported
    with simulated_endpoint(faults={"refusal": 1.0}) as sim:
        work(spec(store, run, Endpoint("simulated", sim.base_url)))
    dropped = store.progress(run.run_id).drop_reasons
    reported = failure(materialize(store, instance, "dialogue_dataset", dataset=dataset))
    (reason,) = dropped
    assert f"3 were dropped ({reason} 3)" in reported
    assert not (tmp_path / "out").exists()


def test_the_job_ends_with_the_push() -> None:
    job = defs.resolve_job_def("generate_dialogues")
    assert "hf_dataset" in {node.name for node in job.nodes}
