"""Dagster's config classes carry the core's fields and defaults, and hand them back unchanged."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

import dagster as dg
import pytest
import yaml
from pydantic import BaseModel

from dlgforge_core.config import (
    DatasetFilesConfig,
    GenerationConfig,
    KnowledgeConfig,
    LlmConfig,
    RayConfig,
    StoreConfig,
    validate,
)
from dlgforge_core.errors import ConfigError
from dlgforge_dagster.config import config_class, plain
from dlgforge_dagster.definitions import defs
from dlgforge_dagster.resources.llm import LlmResource
from dlgforge_dagster.resources.store import StoreResource
from dlgforge_dagster.versions import code_version
from scripts.config_reference import PLACES


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
    run["conversation"] = {"from_seed": "answer"}
    assert job.execute_in_process(run_config={"ops": {"o": {"config": run}}}).success
    assert seen[0].run.n_turns == 3
    assert seen[0].run.distributed.spawn.workers is False
    assert seen[0].run.distributed.spawn.coordinator is True
    assert seen[0].judge.reasons == ["a"]
    assert seen[0].conversation.from_seed == "answer"
    assert seen[0].run.max_turns == 6


@pytest.mark.parametrize("model", [GenerationConfig, KnowledgeConfig, DatasetFilesConfig])
def test_defaults_as_the_launchpad_writes_them_are_the_defaults(model: Any) -> None:
    """It quotes no word that YAML 1.2 takes for one, and Dagster reads YAML 1.1, where `off` is false."""
    written = yaml.safe_dump(plain(config_class(model)(), model)).replace("'off'", "off")
    assert ": off" in written
    config = yaml.safe_load(written)
    op = dg.op(name="o", config_schema=config_class(model).to_config_schema())(lambda _: None)
    job = dg.GraphDefinition("g", node_defs=[op]).to_job()
    assert dg.validate_run_config(job, {"ops": {"o": {"config": config}}})
    assert validate(model, config, "c") == model()


def test_a_mode_may_be_off_without_quotes() -> None:
    assert validate(GenerationConfig, yaml.safe_load("judge: {mode: off}"), "c").judge.mode == "off"
    with pytest.raises(ConfigError, match=r"judge\.mode = True: .* 'offline' or 'off'"):
        validate(GenerationConfig, yaml.safe_load("judge: {mode: on}"), "c")


LLM = {
    "backend": "openai",
    "model": "m",
    "timeout_s": 900.0,
    "headers_env": {"api-key": "AZURE_KEY"},
    "agents": {
        "kb_responder": {"extra_body": {"a": {"b": [1, None, {"c": False}]}, "min_p": 0.1, "d": None}}
    },
    "routing": {"endpoints": [{"base_url": "http://h/v1?api-version=1", "headers_env": {"x-org": "ORG"}}]},
}


@pytest.mark.parametrize("place", ["run config", "recipe"])
def test_request_options_reach_the_core_from_the_run_config_and_from_a_recipe(place: str) -> None:
    seen: list[LlmConfig] = []

    @dg.op(required_resource_keys={"llm"})
    def look(context) -> None:  # type: ignore[no-untyped-def]
        seen.append(context.resources.llm.settings)

    # As `definitions` makes it of a recipe.
    recipe = config_class(validate(LlmConfig, LLM, "recipe"), LlmResource)()
    resource = recipe if place == "recipe" else LlmResource()
    job = dg.GraphDefinition("g", node_defs=[look]).to_job(resource_defs={"llm": resource})
    config = {"resources": {"llm": {"config": LLM}}} if place == "run config" else {}
    assert job.execute_in_process(run_config=config).success
    assert seen == [validate(LlmConfig, LLM, "c")]
    assert seen[0].agents.kb_responder.extra_body == LLM["agents"]["kb_responder"]["extra_body"]  # type: ignore[index]
    if place == "recipe":  # what the launchpad says leaves the rest of the recipe as it is
        more = {"agents": {"qa_generator": {"extra_body": {"min_p": 0.1}}}}
        assert job.execute_in_process(run_config={"resources": {"llm": {"config": more}}}).success
        both = {**LLM, "agents": {**LLM["agents"], **more["agents"]}}  # type: ignore[dict-item]
        assert seen[1:] == [validate(LlmConfig, both, "c")]


@pytest.mark.parametrize(
    ("dsn", "warned"),
    [
        ("postgresql://u:hunter2@h/d", True),
        ("host=h user=u password=hunter2", True),
        ({"env": "SOME_DSN"}, False),
        ("postgresql://u@h/d", False),
    ],
)
def test_a_password_in_the_run_config_is_warned_of(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, dsn: Any, warned: bool
) -> None:
    monkeypatch.setenv("SOME_DSN", "postgresql://u:hunter2@h/d")

    @dg.op(required_resource_keys={"store"})
    def look(context) -> str:  # type: ignore[no-untyped-def]
        return str(context.resources.store.resolve().dsn)

    job = dg.GraphDefinition("g", node_defs=[look]).to_job(resource_defs={"store": StoreResource()})
    config = {"resources": {"store": {"config": {"postgres": {"dsn": dsn}}}}}
    result = job.execute_in_process(run_config=config, instance=instance)
    assert ("hunter2" in result.output_for_node("look")) == (dsn != "postgresql://u@h/d")
    messages = [entry.message for entry in instance.all_logs(result.run_id)]
    text = [message for message in messages if "in the run config holds a password" in message]
    assert len(text) == warned
    assert "hunter2" not in "".join(messages)


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
            for inner in models(field.annotation):
                missing += undescribed(inner, where)
        return missing

    def models(annotation: Any) -> Iterator[type[BaseModel]]:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield annotation
        for part in get_args(annotation):
            yield from models(part)

    for place in PLACES:
        assert undescribed(place.model, place.model.__name__) == []


def test_keys_that_came_later_leave_code_versions_as_they_were() -> None:
    def version(config: KnowledgeConfig) -> str:
        return code_version(1, config, later=("links", "encoding", "limits"))

    assert version(KnowledgeConfig()) == "1-72db0f723ea9"
    assert version(KnowledgeConfig(encoding="latin1")) != version(KnowledgeConfig())


def test_a_rubric_reaches_the_core_from_the_run_config_and_from_a_recipe() -> None:
    rubric = [{"name": "depth", "about": "both", "levels": {"1": "poor"}, "weight": 2.0}]
    wanted = validate(GenerationConfig, {"judge": {"rubric": rubric}}, "recipe")
    seen: list[GenerationConfig] = []
    for config in (config_class(GenerationConfig), config_class(wanted)):

        def look(config: Any) -> None:
            seen.append(validate(GenerationConfig, plain(config, GenerationConfig), "c"))

        look.__annotations__["config"] = config
        job = dg.GraphDefinition("g", node_defs=[dg.op(look)]).to_job()
        given = {} if seen else {"ops": {"look": {"config": {"judge": {"rubric": rubric}}}}}
        assert job.execute_in_process(run_config=given).success
    assert seen == [wanted, wanted]
    filters = validate(DatasetFilesConfig, {"filters": {"min_dimensions": {"depth": 3.0}}}, "saving")
    made = config_class(filters)()
    assert validate(DatasetFilesConfig, plain(made, DatasetFilesConfig), "c") == filters
