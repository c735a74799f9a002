"""The summary of a run, as CI reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import dagster as dg
import pytest
import yaml

from dlgforge_dagster.definitions import defs
from dlgforge_dagster.partitions import RANGE_END, RANGE_START, SEED_BATCHES
from dlgforge_dagster.summary import junit, main, summary
from tests.end_to_end.job import ROOT
from tests.support.simulated_endpoint import SimulatedEndpoint, simulated_endpoint

JOB = "generate_dialogues"


def run_config(dsn: str, sim: SimulatedEndpoint, folder: Path, **run: Any) -> dict[str, Any]:
    run = {"total_samples": 2, "target_languages": ["en"], "n_turns": 1, **run}
    return {
        "ops": {
            "dialogues": {"config": {"run": run}},
            "dialogue_dataset": {"config": {"output_dir": str(folder)}},
        },
        "resources": {
            "store": {"config": {"postgres": {"dsn": dsn}}},
            "llm": {"config": {"backend": "openai", "model": "m", "base_url": sim.base_url}},
        },
    }


@pytest.mark.parametrize("refused", [0.0, 1.0])
def test_a_run_is_summed_up_with_its_checks(dsn: str, tmp_path: Path, refused: float) -> None:
    job = defs.resolve_job_def("generate_dialogues")
    with simulated_endpoint(faults={"refusal": refused}) as sim, dg.instance_for_test() as instance:
        config = run_config(dsn, sim, tmp_path / "out")
        job.execute_in_process(config, instance=instance, raise_on_error=False)
        data = summary(instance, "generate_dialogues")
        with pytest.raises(LookupError, match="never run"):
            summary(instance, "another_job")
    junit(data).write(tmp_path / "junit.xml", encoding="utf-8", xml_declaration=True)
    suite = ElementTree.parse(tmp_path / "junit.xml").getroot()
    cases = {case.get("name"): case for case in suite}
    drop_rate = next(check for check in data["checks"] if check["check"] == "drop_rate")
    assert data["tags"]["dlgforge/run_id"]
    assert data["assets"]["dialogues"]["dialogues_planned"] == 2
    if refused:
        assert data["status"] == "FAILURE"
        assert drop_rate["figures"]["dropped_refused"] == 2
        assert cases["drop_rate"].find("failure") is not None
        assert int(suite.get("failures", "0")) >= 1
    else:
        assert data["status"] == "SUCCESS"
        assert drop_rate["passed"]
        assert data["assets"]["dialogue_dataset"]["dagster/row_count"] == 2
        assert suite.get("failures") == "0"


def test_an_older_success_is_not_taken_for_a_run_that_was_refused(
    dsn: str,
    tmp_path: Path,
    sim: SimulatedEndpoint,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    good = run_config(dsn, sim, tmp_path / "out")
    job = defs.resolve_job_def(JOB)
    assert job.execute_in_process(good, instance=instance, tags={"dlgforge/ci": "1"}).success
    refused = run_config(dsn, sim, tmp_path / "out", total_sample=2)
    with pytest.raises(dg.DagsterInvalidConfigError):
        job.execute_in_process(refused, instance=instance, tags={"dlgforge/ci": "2"})

    path = tmp_path / "junit.xml"

    def read(*arguments: str) -> tuple[int, ElementTree.Element]:
        monkeypatch.setattr("sys.argv", ["summary", "--junit", str(path), *arguments])
        return main(), ElementTree.parse(path).getroot()

    code, suite = read("--tag", "dlgforge/ci=1")
    assert (code, suite.get("failures")) == (0, "0")
    code, suite = read("--tag", "dlgforge/ci=2")
    assert (code, suite.get("failures")) == (1, "1")
    assert "its config was invalid" in capsys.readouterr().err


def test_a_run_that_was_lost_fails(instance: dg.DagsterInstance) -> None:
    lost = dg.DagsterRun(JOB, status=dg.DagsterRunStatus.STARTED)
    instance.add_run(lost)
    data = summary(instance, JOB)
    suite = junit(data).getroot()
    assert suite is not None
    assert suite.get("failures") == "1"
    failure = suite.find("testcase/failure")
    assert failure is not None
    assert "STARTED" in failure.get("message", "")


def test_a_plan_that_a_budget_has_stopped_is_reported(
    dsn: str, tmp_path: Path, sim: SimulatedEndpoint, instance: dg.DagsterInstance
) -> None:
    config = run_config(dsn, sim, tmp_path / "out", total_samples=20, max_dialogues=2, concurrency=1)
    assert defs.resolve_job_def(JOB).execute_in_process(config, instance=instance).success
    data = summary(instance, JOB)
    assert data["complete"] is False
    assert data["assets"]["dialogues"]["complete"] is False
    suite = junit(data).getroot()
    assert suite is not None
    skipped = [case for case in suite if case.get("name") == "plan is complete"]
    assert [case.get("classname") for case in skipped] == ["dlgforge.plan.dialogues"]
    reported = skipped[0].find("skipped")
    assert reported is not None
    assert "run.max_dialogues" in reported.get("message", "")
    assert suite.get("failures") == "0"


def test_a_range_of_partitions_that_is_done_in_part_is_not_complete(
    dsn: str, tmp_path: Path, sim: SimulatedEndpoint, instance: dg.DagsterInstance
) -> None:
    seeds = tmp_path / "seeds"
    seeds.mkdir()
    topics = [{"language": language, "topic": f"roses in {language}"} for language in ("en", "fr")]
    (seeds / "plants.jsonl").write_text("\n".join(map(json.dumps, topics)))
    run = {"total_samples": 4, "target_languages": ["en", "fr"], "max_dialogues": 3, "concurrency": 1}
    config = run_config(dsn, sim, tmp_path / "out", **run)
    config["ops"] = {
        "dialogues": config["ops"]["dialogues"],
        "seed_topics": {"config": {"path": str(seeds)}},
    }
    instance.add_dynamic_partitions(SEED_BATCHES, ["plants"])
    tags = {RANGE_START: "en|plants", RANGE_END: "fr|plants"}
    job = defs.resolve_job_def("generate_partition")
    assert job.execute_in_process(config, instance=instance, tags=tags).success
    assert len(instance.get_materialized_partitions(dg.AssetKey("dialogues"))) == 1
    data = summary(instance, "generate_partition")
    assert data["complete"] is False
    assert data["assets"]["dialogues"]["dialogues_done"] == 3


def test_the_example_workflow_runs_what_is_shipped() -> None:
    workflow = yaml.safe_load((ROOT / "examples" / "ci" / "github-actions.yaml").read_text())
    commands = "\n".join(step.get("run", "") for step in workflow["jobs"]["dialogues"]["steps"])
    assert "-c examples/demo.yaml" in commands
    assert (ROOT / "examples" / "demo.yaml").exists()
    assert (ROOT / "requirements.lock").exists()
    assert "generate_dialogues" in commands
    # What is summed up is what was launched.
    tag = "${{ github.run_id }}-${{ github.run_attempt }}"
    assert f'--tags \'{{"dlgforge/ci": "{tag}"}}\'' in commands
    assert f"--tag dlgforge/ci={tag}" in commands
