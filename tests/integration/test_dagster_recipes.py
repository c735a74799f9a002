"""Two recipes in one code location, in one process against a simulated endpoint: nothing is shared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from dlgforge_core.database.database import Database
from dlgforge_core.export.verify import verify_dataset
from dlgforge_core.quality.checks import CHECKS
from dlgforge_core.review.marks import mark_of, put_edit, put_mark
from dlgforge_core.store.results import Scope
from dlgforge_core.store.run_store import RunStore
from dlgforge_dagster.definitions import build_definitions
from tests.support.simulated_endpoint import SimulatedEndpoint, simulated_endpoint


@pytest.fixture
def recipes(tmp_path: Path, sim: SimulatedEndpoint) -> Path:
    """Twins: the same seeds, documents and settings, under two names."""
    (tmp_path / "topics.jsonl").write_text(
        "\n".join(json.dumps({"language": "en", "topic": f"topic {n}"}) for n in range(4))
    )
    (tmp_path / "docs").mkdir()
    for n in range(3):
        (tmp_path / "docs" / f"manual_{n}.md").write_text(f"# Manual {n}\n\nMachine {n} has {n + 2} wheels.")
    folder = tmp_path / "recipes"
    folder.mkdir()
    for name in ("left", "right"):
        recipe = {
            "seeds": {"path": str(tmp_path / "topics.jsonl")},
            "knowledge": {"path": str(tmp_path / "docs")},
            "run": {"total_samples": 6, "target_languages": ["en"], "n_turns": 1, "patience_s": 3.0},
            "saving": {"output_dir": str(tmp_path / name), "formats": ["sharegpt"]},
            "llm": {"backend": "openai", "model": "simulated", "base_url": sim.base_url},
        }
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(recipe))
    return folder


def execute(
    defs: dg.Definitions, job: str, dsn: str, instance: dg.DagsterInstance, **ops: Any
) -> dg.ExecuteInProcessResult:
    config = {"resources": {"store": {"config": {"postgres": {"dsn": dsn}}}}, "ops": ops}
    return defs.resolve_job_def(job).execute_in_process(config, instance=instance)


def ids(folder: Path) -> set[str]:
    lines = (folder / "data" / "sharegpt" / "train.jsonl").read_text().splitlines()
    return {json.loads(line)["id"] for line in lines}


def test_twins_share_nothing(
    sim: SimulatedEndpoint, dsn: str, recipes: Path, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    sim.reset()
    defs = build_definitions(str(recipes))
    assert execute(defs, "generate_dialogues_left", dsn, instance).success
    calls = sim.stats()["calls"]
    assert calls == 6 * 3
    assert RunStore(Database(dsn), dataset="right").run() is None
    assert RunStore(Database(dsn)).run() is None
    assert execute(defs, "generate_dialogues_right", dsn, instance).success
    # The same questions may be asked again: they are of another dataset.
    assert sim.stats()["calls"] == 2 * calls
    left, right = ids(tmp_path / "left"), ids(tmp_path / "right")
    assert len(left) == len(right) == 6
    assert not left & right
    runs = [RunStore(Database(dsn), dataset=name).run() for name in ("left", "right")]
    assert runs[0] is not None
    assert runs[1] is not None
    assert runs[0].fingerprint != runs[1].fingerprint
    assert RunStore(Database(dsn)).seed_batches() == []
    assert set(instance.get_dynamic_partitions("left_seed_batches")) == {"topics"}
    assert instance.get_dynamic_partitions("seed_batches") == []
    materialized = {key.to_user_string() for key in instance.all_asset_keys()}
    assert {"left/dialogues", "right/dialogues", "left/knowledge_index"} <= materialized
    assert "dialogues" not in materialized
    # Running again makes no call; the other's run does not count as the latest.
    assert execute(defs, "generate_dialogues_left", dsn, instance).success
    assert sim.stats()["calls"] == 2 * calls
    assert ids(tmp_path / "left") == left


def test_the_launchpad_may_say_otherwise(
    sim: SimulatedEndpoint, dsn: str, recipes: Path, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    defs = build_definitions(str(recipes))
    more = {"left__dialogues": {"config": {"run": {"total_samples": 8}}}}
    assert execute(defs, "generate_dialogues_left", dsn, instance, **more).success
    assert len(ids(tmp_path / "left")) == 8


def test_documents_must_be_indexed_first(
    sim: SimulatedEndpoint, dsn: str, recipes: Path, instance: dg.DagsterInstance
) -> None:
    defs = build_definitions(str(recipes))
    job = defs.resolve_job_def("generate_dialogues_left")
    store = {"resources": {"store": {"config": {"postgres": {"dsn": dsn}}}}}
    for asset, success in (("seed_topics", True), ("dialogues", False)):
        result = job.execute_in_process(
            store, instance=instance, asset_selection=[dg.AssetKey(["left", asset])], raise_on_error=False
        )
        assert result.success is success
    failure = next(e for e in result.all_events if e.is_step_failure).step_failure_data.error
    assert failure is not None
    assert "materialize `knowledge_index` first" in str(failure)


def test_dialogues_that_open_alike_stay_out(
    sim: SimulatedEndpoint, dsn: str, recipes: Path, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    defs = build_definitions(str(recipes))
    assert execute(defs, "generate_dialogues_left", dsn, instance).success
    everything = ids(tmp_path / "left")
    embedding = {"backend": "endpoint", "model": "simulated", "base_url": sim.base_url}
    alike = {"semantic_dedup": {"threshold": 0.01, "embedding": embedding}}
    result = execute(defs, "generate_dialogues_left", dsn, instance, left__dialogue_dataset={"config": alike})
    metadata = result.asset_materializations_for_node("left__dialogue_dataset")[0].metadata
    kept = ids(tmp_path / "left")
    assert kept < everything
    assert metadata["filtered_out"].value == len(everything) - len(kept)


def test_what_reviewers_did_goes_into_the_dataset_where_it_is_asked_for(
    sim: SimulatedEndpoint, dsn: str, recipes: Path, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    defs = build_definitions(str(recipes))
    made = execute(defs, "generate_dialogues_left", dsn, instance)
    materialized = made.asset_materializations_for_node("left__dialogues")
    assert any(
        "make review" in str(one.metadata["review"].value) for one in materialized if "review" in one.metadata
    )
    liked, disliked, *_ = sorted(ids(tmp_path / "left"))
    with Database(dsn).connection() as connection:
        put_mark(connection, liked, mark_of("Ada", "good", "fine"))
        put_mark(connection, disliked, mark_of("Ada", "bad"))
        put_edit(connection, liked, (0, "assistant"), "Ada", "In other words.", revision=1)
    config = {"filters": {"marks": "good"}, "review": {"edits": True, "marks": True}}
    result = execute(
        defs, "generate_dialogues_left", dsn, instance, left__dialogue_dataset={"config": config}
    )
    metadata = result.asset_materializations_for_node("left__dialogue_dataset")[0].metadata
    assert metadata["filtered_out"].value == 5
    record = json.loads((tmp_path / "left" / "data" / "sharegpt" / "train.jsonl").read_text())
    assert record["id"] == liked
    assert record["conversations"][1]["value"] == "In other words."
    assert record["marks"] == [{"reviewer": "Ada", "verdict": "good", "label": "fine", "comment": ""}]
    verify_dataset(tmp_path / "left")


def test_answers_that_call_tools_pass_the_checks_and_are_exported(
    dsn: str, recipes: Path, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    with simulated_endpoint(tool_calls="once") as sim:
        path = recipes / "left.yaml"
        recipe = yaml.safe_load(path.read_text())
        recipe["llm"]["base_url"] = sim.base_url
        recipe["tools"] = {"enabled": True, "max_rounds": 2}
        recipe["saving"]["formats"] = ["sharegpt", "openai_messages", "parquet"]
        path.write_text(yaml.safe_dump(recipe))
        result = execute(build_definitions(str(recipes)), "generate_dialogues_left", dsn, instance)
    passed = {found.check_name: found.passed for found in result.get_asset_check_evaluations()}
    assert {check.name for check in CHECKS if check.blocking} <= passed.keys()
    assert passed["roles_alternate"]
    assert verify_dataset(tmp_path / "left") == {"sharegpt": 6, "openai_messages": 6, "parquet": 6}
    text = (tmp_path / "left" / "data" / "openai_messages" / "train.jsonl").read_text().splitlines()
    roles = [[message["role"] for message in json.loads(line)["messages"]] for line in text]
    assert roles == [["user", "assistant", "tool", "assistant"]] * 6
    assert "The tool `vector_db_search` was called 6 times." in (tmp_path / "left" / "README.md").read_text()


def test_headers_and_further_parameters_of_a_recipe_and_of_the_launchpad_arrive(
    dsn: str, recipes: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_KEY", "azure-secret-0123456789")
    no_thinking = {"chat_template_kwargs": {"enable_thinking": False}, "stop": None}
    with simulated_endpoint(api_key="azure-secret-0123456789", record_requests=100) as sim:
        path = recipes / "left.yaml"
        recipe = yaml.safe_load(path.read_text())
        recipe["llm"] |= {
            "base_url": f"{sim.base_url}?api-version=2024-10-21",
            "headers_env": {"api-key": "AZURE_KEY"},
            "agents": {"kb_responder": {"extra_body": no_thinking}},
        }
        path.write_text(yaml.safe_dump(recipe))
        job = build_definitions(str(recipes)).resolve_job_def("generate_dialogues_left")
        config = {
            "resources": {
                "store": {"config": {"postgres": {"dsn": dsn}}},
                "left_llm": {"config": {"agents": {"qa_generator": {"extra_body": {"min_p": 0.1}}}}},
            }
        }
        result = job.execute_in_process(config, instance=instance)
        assert result.success
        bodies = [request["body"] for request in sim.requests("/chat/completions")]
    plain = [body for body in bodies if not body.keys() & {"chat_template_kwargs", "min_p"}]
    answers = [body for body in bodies if "chat_template_kwargs" in body]
    questions = [body for body in bodies if body.get("min_p") == 0.1]
    assert [len(plain), len(answers), len(questions)] == [6, 6, 6]
    assert all(body.items() >= no_thinking.items() for body in answers)
    logged = "".join(str(entry) for entry in instance.all_logs(result.run_id))
    assert "azure-secret" not in logged + str(instance.get_run_by_id(result.run_id))


def test_a_recipe_without_topics(
    sim: SimulatedEndpoint, dsn: str, recipes: Path, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    recipe = yaml.safe_load((recipes / "left.yaml").read_text())
    del recipe["seeds"]
    recipe["run"] = {**recipe["run"], "per_document": 2}
    del recipe["run"]["total_samples"]
    for path in recipes.iterdir():
        path.unlink()
    (recipes / "alone.yaml").write_text(yaml.safe_dump(recipe))
    defs = build_definitions(str(recipes))
    assert execute(defs, "generate_dialogues_alone", dsn, instance).success
    assert len(ids(tmp_path / "left")) == 6
    assert set(instance.get_dynamic_partitions("alone_seed_batches")) == {"documents"}
    store = RunStore(Database(dsn), dataset="alone")
    assert store.seed_batches() == []
    run = store.run()
    assert run is not None
    assert store.outcomes(Scope(fingerprint=run.fingerprint)).done == 6
    # One partition of it, with nothing left to make.
    sim.reset()
    job = defs.resolve_job_def("generate_dialogues_alone")
    config = {"resources": {"store": {"config": {"postgres": {"dsn": dsn}}}}}
    assert job.execute_in_process(config, instance=instance, partition_key="en|documents").success
    assert sim.stats()["calls"] == 0
