"""The summary of a run, as CI reads it."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import dagster as dg
import pytest
import yaml

from dlgforge_dagster.definitions import defs
from dlgforge_dagster.summary import junit, summary
from tests.end_to_end.job import ROOT
from tests.support.simulated_endpoint import simulated_endpoint


@pytest.mark.parametrize("refused", [0.0, 1.0])
def test_a_run_is_summed_up_with_its_checks(dsn: str, tmp_path: Path, refused: float) -> None:
    job = defs.resolve_job_def("generate_dialogues")
    with simulated_endpoint(faults={"refusal": refused}) as sim, dg.instance_for_test() as instance:
        run = {"total_samples": 2, "target_languages": ["en"], "n_turns": 1}
        config = {
            "ops": {
                "dialogues": {"config": {"run": run}},
                "dialogue_dataset": {"config": {"output_dir": str(tmp_path / "out")}},
            },
            "resources": {
                "store": {"config": {"postgres": {"dsn": dsn}}},
                "llm": {"config": {"backend": "openai", "model": "m", "base_url": sim.base_url}},
            },
        }
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


def test_the_example_workflow_runs_what_is_shipped() -> None:
    workflow = yaml.safe_load((ROOT / "examples" / "ci" / "github-actions.yaml").read_text())
    commands = "\n".join(step.get("run", "") for step in workflow["jobs"]["dialogues"]["steps"])
    assert "-c examples/demo.yaml" in commands
    assert (ROOT / "examples" / "demo.yaml").exists()
    assert (ROOT / "requirements.lock").exists()
    assert "generate_dialogues" in commands
