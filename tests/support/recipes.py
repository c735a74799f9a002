"""Example recipes, planned and worked on in this process, with a model of its own for each role."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dlgforge_core.config import LlmConfig, Recipe, read_recipe
from dlgforge_core.dialogue import Dialogue, Role
from dlgforge_core.errors import ConfigError
from dlgforge_core.generation.prepare import PreparedRun, prepare_run
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.planning.seed_folder import read_seed_batches
from dlgforge_core.planning.seeds import SeedBatch
from dlgforge_core.store.run_store import RunStore
from tests.support.runs import spec, work
from tests.support.simulated_endpoint import simulated_endpoint

ROOT = Path(__file__).parents[2]
MODELS = {role.value: f"model-of-{role.value}" for role in Role}
"""By which the requests of a role are told from others."""


@dataclass(frozen=True)
class ExampleRun:
    """A recipe's run that has ended, its dialogues, and the bodies of the requests that it made."""

    recipe: Recipe
    run: PreparedRun
    dialogues: list[Dialogue]
    requests: list[dict[str, Any]]
    llm: LlmConfig
    batches: Sequence[SeedBatch]

    def asked(self, role: Role) -> list[list[dict[str, Any]]]:
        """Return the messages of each request to a role."""
        return [request["messages"] for request in self.requests if request["model"] == MODELS[role]]

    def prepare_again(self, store: RunStore) -> PreparedRun:
        """Prepare the same configuration once more."""
        return prepare_run(store, self.recipe.generation, self.llm, self.batches)


def run_example(
    store: RunStore, name: str, changes: Mapping[str, Any] | None = None, **options: Any
) -> ExampleRun:
    """Run `examples/recipes/NAME`.

    `changes` replace sections of it; `options` are those of the simulated endpoint.
    """
    recipe = read_recipe(ROOT / "examples/recipes" / name)
    return run_recipe(store, recipe.model_copy(update=changes), **options)


def run_recipe(store: RunStore, recipe: Recipe, **options: Any) -> ExampleRun:
    """Run a recipe from the project's folder, where the paths of examples lead."""
    agents = {role: {"model": model} for role, model in MODELS.items()}
    llm = LlmConfig.model_validate(
        {**recipe.llm.model_dump(include={"backend", "base_url"}), "agents": agents}
    )
    with chdir(ROOT):
        batches = read_seed_batches(recipe.seeds.path).batches
    store.save_seed_batches(batches)
    run = prepare_run(store, recipe.generation, llm, batches)
    role_models = {model: role for role, model in MODELS.items()}
    options = {"record_requests": 3000, "role_models": role_models, **options}
    with simulated_endpoint(models=list(role_models), **options) as sim:
        work(spec(store, run, Endpoint("simulated", sim.base_url)))
        requests = [request["body"] for request in sim.stats()["requests"]]
    return ExampleRun(recipe, run, list(store.dialogues(run.run_id)), requests, llm, batches)


def recipe_problem(path: Path, text: str) -> str:
    """Return why a recipe of this text is refused, written to `path`."""
    path.write_text(text)
    with pytest.raises(ConfigError) as refused:
        read_recipe(path)
    return str(refused.value)
