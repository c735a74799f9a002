"""What the environment names for the code location: a run config file, and a folder of recipes."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from dlgforge_core.errors import ConfigError
from dlgforge_dagster.dataset import DatasetSpec
from dlgforge_dagster.definitions import build_definitions
from dlgforge_dagster.jobs import build_jobs
from dlgforge_dagster.resources import StoreResource
from dlgforge_dagster.run_config import RUN_CONFIG_ENV, default_recipe, read_run_config
from dlgforge_dagster.sensors import build_new_seed_batches


def write(path: Path, config: Any) -> dict[str, str]:
    path.write_text(yaml.safe_dump(config))
    return {RUN_CONFIG_ENV: str(path)}


def test_runs_that_are_started_without_the_file_do_as_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAB_FOLDER", "/data/out")
    config = {
        "ops": {
            "dialogues": {"config": {"run": {"total_samples": 4, "target_languages": ["en"]}}},
            "judgements": {"config": {"mode": "offline", "run_id": ""}},
            "dialogue_dataset": {
                "config": {"output_dir": {"env": "LAB_FOLDER"}, "formats": ["sharegpt"], "run_id": ""}
            },
            "hf_dataset": {"config": {"enabled": True, "repo_id": "lab/dialogues"}},
        },
        "resources": {"llm": {"config": {"backend": "openai", "model": "m"}}},
    }
    env = write(tmp_path / "run.yaml", config)
    recipe = default_recipe(read_run_config(env))
    assert (recipe.saving.output_dir, recipe.saving.formats) == ("/data/out", ["sharegpt"])
    assert (recipe.judge.mode, recipe.run.total_samples, recipe.llm.model) == ("offline", 4, "m")
    assert recipe.saving.hf_push.repo_id == "lab/dialogues"
    monkeypatch.setenv(RUN_CONFIG_ENV, env[RUN_CONFIG_ENV])
    defs = build_definitions(str(tmp_path / "none"))
    graph = defs.resolve_asset_graph()
    assert graph.get(dg.AssetKey("judgements")).automation_condition is not None
    assert len(DatasetSpec("", recipe).partitions.languages) > 1, "no partition is lost"
    dataset = defs.resolve_job_def("generate_dialogues").run_config_schema
    fields = dataset.config_type.fields  # type: ignore[attr-defined]  # of a Shape; Dagster types the base
    assert "/data/out" in str(fields["ops"].default_value)


def test_the_file_may_leave_the_model_to_the_environment(tmp_path: Path) -> None:
    config = {"resources": {"llm": {"config": {"backend": "openai"}}}}
    env = write(tmp_path / "run.yaml", config) | {"LLM_MODEL": "m"}
    assert default_recipe(read_run_config(env), env).llm.model == "m"
    with pytest.raises(ConfigError, match="model"):
        default_recipe(read_run_config(env), {})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        ("ops: [a", "is no YAML"),
        ("- a\n", "must be a mapping"),
        (
            "ops: {dialogues: {config: null}}",
            "ops.dialogues.config must be a mapping, as run config is; it is empty",
        ),
    ],
)
def test_a_file_that_is_none_skips_ticks_with_the_reason(
    content: str | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dsn: str
) -> None:
    path = tmp_path / "run.yaml"
    if content is not None:
        path.write_text(content)
    monkeypatch.setenv(RUN_CONFIG_ENV, str(path))
    monkeypatch.setenv("DLGFORGE_SEED_FOLDER", str(tmp_path))
    with pytest.raises(ConfigError, match=message):
        read_run_config()
    sensor = build_new_seed_batches(DatasetSpec(), build_jobs(DatasetSpec()))
    resources = {"store": StoreResource(postgres={"dsn": dsn})}
    with dg.build_sensor_context(dg.DagsterInstance.ephemeral(), resources=resources) as context:
        result = sensor(context)
    assert isinstance(result, dg.SkipReason)
    assert message in (result.skip_message or "")
    build_definitions(str(tmp_path / "none"))  # with the usual defaults


def test_loading_warns_of_nothing(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", dg.BetaWarning)
        build_definitions(str(tmp_path / "none"))


def test_a_folder_of_recipes_that_is_not_there_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DLGFORGE_RECIPES", str(tmp_path / "nope"))
    command = [sys.executable, "-c", "import dlgforge_dagster.definitions"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "DLGFORGE_RECIPES names" in done.stderr
