"""Recipes: a dataset in one YAML file, and what the code location makes of it."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dlgforge_core.config import DatasetFilesConfig, Recipe, read_recipes
from dlgforge_core.config.saving import CardConfig
from dlgforge_core.errors import ConfigError
from dlgforge_dagster.assets.dialogue_dataset import _described, build_dialogue_dataset
from dlgforge_dagster.assets.dialogues import build_dialogues
from dlgforge_dagster.assets.judgements import build_judgements
from dlgforge_dagster.assets.seed_topics import build_seed_topics
from dlgforge_dagster.dataset import DatasetSpec
from dlgforge_dagster.definitions import build_definitions

SUPPORT = """
description: Help with the product.
run: {total_samples: 4, target_languages: [en, Gulf Arabic], n_turns: 2}
seeds: {path: topics}
llm:
  backend: openai
  model: big
  routing:
    endpoints: [{base_url: "http://127.0.0.1:9/v1", weight: 2.0}]
"""


# A few lines that stand for billions of items.
BOMB = "a: &a [x]\n" + "".join(f"{b}: &{b} [{f'*{a}, ' * 9}]\n" for a, b in pairwise("abcdefghijkl"))
MERGE_BOMB = "a0: &a0 {k: [1, 2, 3]}\n" + "".join(
    f"a{n}: &a{n} {{<<: *a{n - 1}, x: *a{n - 1}, y: *a{n - 1}}}\n" for n in range(1, 30)
)
MERGED = """\
llm:
  agents:
    kb_responder: &agent {model: big, temperature: 0.1}
    qa_judge:
      <<: *agent
      temperature: 0.0
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "support.yaml").write_text(SUPPORT)
    (tmp_path / "chat.yaml").write_text("run: {total_samples: 8}\n")
    (tmp_path / "notes.txt").write_text("not a recipe")
    return tmp_path


def test_the_name_is_the_files(folder: Path) -> None:
    recipes = read_recipes(folder)
    assert sorted(recipes) == ["chat", "support"]
    assert recipes["support"].run.target_languages == ["en", "Gulf Arabic"]
    assert recipes["chat"].llm.backend == Recipe().llm.backend


def test_no_folder_is_no_recipe(tmp_path: Path) -> None:
    assert read_recipes(tmp_path / "none") == {}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.yaml", "run:\n  total_sample: 4\n", r"a\.yaml:2: run\.total_sample: unknown key; did you mean"),
        ("a.yaml", "seeds: {}\nrun:\n  concurrency: none\n", r"a\.yaml:3: run\.concurrency = 'none'"),
        ("a.yaml", "run: {}\nrun: {}\n", r"a\.yaml:2: run is there twice"),
        ("a.yaml", "- run\n", "no mapping"),
        ("a.yaml", "run: [\n", r"a\.yaml cannot be read"),
        ("a.yaml", "run: {}\n---\nrun: {}\n", r"a\.yaml cannot be read: expected a single document"),
        ("a.yaml", "run: {? [x] : 1}\n", r"a\.yaml cannot be read: (?s:.*)unhashable key"),
        ("a.yaml", "run: " + "[" * 5000 + "]" * 5000, "nested too deeply"),
        ("a.yaml", "run: &r\n  seed: [*r]\n", r"a\.yaml:1: an alias \(\*\) stands in what"),
        ("a.yaml", BOMB, r"a\.yaml:\d+: with its aliases \(\*\) written out it has more than 100,000 parts"),
        ("a.yaml", f"llm: {{extra_body: {{a: &a {'x' * 9_000}, b: [{'*a, ' * 9_000}]}}}}\n", "written out"),
        ("a.yaml", MERGE_BOMB, "written out"),
        ("a.yaml", MERGED + "      top_k: 1\n", r"a\.yaml:7: llm\.agents\.qa_judge\.top_k: unknown key"),
        ("My Data.yaml", "", "cannot name a dataset"),
        ("dialogues.yaml", "", "cannot name a dataset"),
    ],
)
def test_a_bad_recipe_is_named_by_file_and_line(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_recipes(tmp_path)


def test_one_part_may_stand_for_another(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(MERGED)
    agents = read_recipes(tmp_path)["a"].llm.agents
    assert (agents.qa_judge.model, agents.qa_judge.temperature) == ("big", 0.0)
    assert agents.kb_responder.temperature == 0.1


def test_two_files_of_one_name(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("")
    (tmp_path / "a.yml").write_text("")
    with pytest.raises(ConfigError, match="another recipe"):
        read_recipes(tmp_path)


def test_each_recipe_has_assets_jobs_and_sensors_of_its_own(folder: Path) -> None:
    defs = build_definitions(str(folder))
    keys = {key.to_user_string() for key in defs.resolve_asset_graph().get_all_asset_keys()}
    for asset in (
        "seed_topics",
        "knowledge_index",
        "dialogues",
        "judgements",
        "dialogue_dataset",
        "hf_dataset",
    ):
        assert {asset, f"support/{asset}", f"chat/{asset}"} <= keys
    names = {job.name for job in defs.resolve_all_job_defs()}
    assert {"generate_dialogues", "generate_dialogues_support", "generate_partition_chat"} <= names
    assert (
        defs.resolve_sensor_def("new_seed_batches_support").default_status is dg.DefaultSensorStatus.STOPPED
    )


def test_the_launchpad_shows_the_recipes_values(folder: Path) -> None:
    job = build_definitions(str(folder)).resolve_job_def("generate_dialogues_support")
    values = dg.validate_run_config(job)["ops"]["support__dialogues"]["config"]["run"]
    assert values["total_samples"] == 4
    assert values["target_languages"] == ["en", "Gulf Arabic"]


def test_resources_of_recipes_are_apart(folder: Path) -> None:
    resources: Any = build_definitions(str(folder)).resources
    assert resources["support_llm"].settings.model == "big"
    assert resources["support_llm"].settings.routing.endpoints[0].weight == 2.0
    assert resources["llm"].settings.backend == "embedded"


@pytest.mark.parametrize("saving", ["output_dir: out/x", "hf_push: {enabled: true, repo_id: lab/x}"])
def test_two_datasets_do_not_write_to_one_place(tmp_path: Path, saving: str) -> None:
    (tmp_path / "left.yaml").write_text(f"saving: {{{saving}}}\n")
    build_definitions(str(tmp_path))
    (tmp_path / "right.yaml").write_text(f"saving: {{{saving.replace('out/x', './out/../out/x')}}}\n")
    with pytest.raises(ConfigError, match=r"'left' and 'right' have the same saving\..* own"):
        build_definitions(str(tmp_path))


def test_a_recipes_description_is_on_its_assets_and_its_card() -> None:
    recipe = Recipe(description="Tenancy law for beginners.")
    for asset in (build_dialogues, build_dialogue_dataset, build_judgements, build_seed_topics):
        (text,) = asset(DatasetSpec("law", recipe)).descriptions_by_key.values()
        assert text.startswith("Tenancy law for beginners.\n\n")
        (plain,) = asset(DatasetSpec("law", Recipe())).descriptions_by_key.values()
        assert text.endswith(plain)
    described = _described(DatasetFilesConfig(), recipe.description)
    assert described.card.description == recipe.description
    own = DatasetFilesConfig(card=CardConfig(description="Its own."))
    assert _described(own, recipe.description) == own
