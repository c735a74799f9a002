"""The example recipe of accepted dialogues, with its assets: what they hold, and what the page shows."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import dagster as dg
import yaml

from dlgforge_dagster.definitions import build_definitions
from tests.support.simulated_endpoint import simulated_endpoint

EXAMPLE = Path(__file__).parents[2] / "examples" / "recipes" / "accepted.yaml"


def records(metadata: Any) -> list[dict[str, Any]]:
    return [dict(record.data) for record in metadata.records]


def test_the_example_gives_exactly_what_it_asks_for_and_the_page_says_why_not_others(
    dsn: str, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    recipe = yaml.safe_load(EXAMPLE.read_text("utf-8"))
    asked = recipe["run"]
    with simulated_endpoint(faults={"refusal": 0.02}) as sim:
        recipe["llm"]["base_url"] = sim.base_url
        recipe["saving"] = {"output_dir": str(tmp_path / "out"), "formats": ["sharegpt_judged"]}
        (tmp_path / "accepted.yaml").write_text(yaml.safe_dump(recipe))
        job = build_definitions(str(tmp_path)).resolve_job_def("generate_dialogues_accepted")
        config = {"resources": {"store": {"config": {"postgres": {"dsn": dsn}}}}}
        result = job.execute_in_process(config, instance=instance)
    assert result.success
    materialized = result.asset_materializations_for_node("accepted__dialogues")
    (made,) = [one for one in materialized if one.partition is None]
    figures: dict[str, Any] = {name: value.value for name, value in made.metadata.items()}
    assert figures["dialogues_planned"] == figures["dialogues_accepted"] == figures["dialogues_done"] == 12
    assert figures["complete"] is True
    parts = records(figures["accepted_by_part"])
    assert [(part["language"], part["planned"], part["accepted"]) for part in parts] == [
        ("en", 6, 6),
        ("es", 6, 6),
    ]
    assert sum(part["made"] for part in parts) == figures["dialogues_made"] > 12
    reasons = {record["reason"] for record in records(figures["not_accepted_by_reason"])}
    assert "min_score" in reasons
    assert reasons <= {
        "min_score",
        "dropped: refused",
        *(f"forbidden_labels: {label}" for label in asked["accept"]["forbidden_labels"]),
    }
    assert "shortfall" not in figures
    path = tmp_path / "out" / "data" / "sharegpt_judged" / "train.jsonl"
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert Counter(row["language"] for row in rows) == {"en": 6, "es": 6}
    assert all(row["score"] >= asked["accept"]["min_score"] for row in rows)
    passed = {found.check_name: found.passed for found in result.get_asset_check_evaluations()}
    assert passed["drop_rate"]
