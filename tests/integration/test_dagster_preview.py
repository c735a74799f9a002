"""The job preview_dialogues, and the run that goes on after it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import yaml

from dlgforge_core.database.database import Database
from dlgforge_core.store.run_store import RunStore
from dlgforge_dagster.definitions import build_definitions
from dlgforge_dagster.summary import summary
from tests.support.simulated_endpoint import SimulatedEndpoint


def test_a_preview_is_reported_and_the_run_goes_on_after_it(
    sim: SimulatedEndpoint, dsn: str, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    recipe = {
        "run": {"total_samples": 8, "target_languages": ["en", "fr"], "n_turns": 1, "preview_dialogues": 3},
        "saving": {"output_dir": str(tmp_path / "out"), "formats": ["sharegpt"]},
        "llm": {
            "backend": "openai",
            "model": "simulated",
            "base_url": sim.base_url,
            "prices": {"simulated": {"input": 1.0, "output": 4.0}},
        },
    }
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(recipe))
    defs = build_definitions(str(tmp_path))
    config: dict[str, Any] = {"resources": {"store": {"config": {"postgres": {"dsn": dsn}}}}}
    preview = defs.resolve_job_def("preview_dialogues_mine").execute_in_process(config, instance=instance)
    assert preview.success
    assert sim.stats()["calls"] == 3 * 3, "three dialogues and nothing beyond them"
    summed = summary(instance, "preview_dialogues_mine")["assets"]["mine/dialogues"]
    assert summed["estimated_calls"] == 8 * 3
    assert summed["dialogues_previewed"] == 3
    assert (
        0
        < summed["estimated_cost_usd_low"]
        <= summed["estimated_cost_usd"]
        <= summed["estimated_cost_usd_high"]
    )
    events = instance.all_logs(preview.run_id)
    (line,) = [e.user_message for e in events if e.user_message.startswith("preview of 3 dialogues")]
    assert "## kb_responder, came back" in line
    assert "whole plan" in line
    (seen,) = [
        entry.dagster_event.asset_observation_data.asset_observation
        for entry in events
        if entry.dagster_event is not None and entry.dagster_event.is_asset_observation
        if "estimate" in entry.dagster_event.asset_observation_data.asset_observation.metadata
    ]
    assert "| total | 24 |" in str(seen.metadata["estimate"].value)
    assert "qa_judge, turn 1: what came back" in str(seen.metadata["preview"].value)
    assert instance.get_latest_materialization_event(dg.AssetKey(["mine", "dialogues"])) is None
    whole = defs.resolve_job_def("generate_dialogues_mine").execute_in_process(
        config, instance=instance, asset_selection=[dg.AssetKey(["mine", "dialogues"])]
    )
    assert whole.success
    assert sim.stats()["calls"] == 8 * 3, "no call twice"
    store = RunStore(Database(dsn), dataset="mine")
    record = store.run()
    assert record is not None
    assert record.run_id == summed["dlgforge_run_id"]
    assert record.status == "complete"
    made = summary(instance, "generate_dialogues_mine")["assets"]["mine/dialogues"]
    assert made["cost_usd"] > summed["cost_usd"]
    assert set(made["cost_usd_by_role"]) == {"qa_generator", "kb_responder", "qa_judge"}
