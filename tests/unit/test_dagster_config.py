"""Dagster's config classes carry the core's fields and defaults, and hand them back unchanged."""

from __future__ import annotations

from typing import Any

import dagster as dg
import pytest

from dlgforge_core.config import GenerationConfig, LlmConfig, RayConfig, StoreConfig, validate
from dlgforge_dagster.config import config_class, plain
from dlgforge_dagster.definitions import defs


@pytest.mark.parametrize("model", [GenerationConfig, LlmConfig, RayConfig, StoreConfig])
def test_defaults_survive_the_way_there_and_back(model: Any) -> None:
    made = config_class(model)()
    assert validate(model, plain(made, model), "c") == model()


def test_values_reach_the_core_through_a_run() -> None:
    seen: list[GenerationConfig] = []
    config: Any = config_class(GenerationConfig)

    def body(context: dg.OpExecutionContext, config: Any) -> None:
        seen.append(validate(GenerationConfig, plain(config, GenerationConfig), "c"))

    body.__annotations__ = {"context": dg.OpExecutionContext, "config": config}
    job = dg.GraphDefinition("g", node_defs=[dg.op(name="o")(body)]).to_job()
    run = {"run": {"n_turns": 3, "distributed": {"spawn": {"workers": False}}}, "judge": {"reasons": ["a"]}}
    assert job.execute_in_process(run_config={"ops": {"o": {"config": run}}}).success
    assert seen[0].run.n_turns == 3
    assert seen[0].run.distributed.spawn.workers is False
    assert seen[0].run.distributed.spawn.coordinator is True
    assert seen[0].judge.reasons == ["a"]
    assert seen[0].run.max_turns == 6


def test_an_unknown_key_in_a_run_config_is_refused() -> None:
    job = defs.resolve_job_def("generate_dialogues")
    with pytest.raises(dg.DagsterInvalidConfigError, match="max_turn"):
        dg.validate_run_config(job, {"ops": {"dialogues": {"config": {"run": {"max_turn": 3}}}}})


def test_every_field_is_described() -> None:
    def undescribed(model: Any, path: str) -> list[str]:
        missing = []
        for name, field in model.model_fields.items():
            where = f"{path}.{name}"
            if not field.description:
                missing.append(where)
            if isinstance(field.annotation, type) and hasattr(field.annotation, "model_fields"):
                missing += undescribed(field.annotation, where)
        return missing

    for model in (GenerationConfig, LlmConfig, RayConfig, StoreConfig):
        assert undescribed(model, model.__name__) == []
