"""From configuration to a registered run: plan, write the plan down, and say what a worker needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from dlgforge_core.config import (
    EFFORT_KEYS,
    PROVIDER_KEYS,
    QUESTION_KINDS,
    AgentsConfig,
    GenerationConfig,
    LlmConfig,
    MarkupConfig,
    ProviderConfig,
    tool_secrets,
    validate,
)
from dlgforge_core.config.backends import backend_of
from dlgforge_core.config.base import KeyedError
from dlgforge_core.dialogue import DropReason, Role
from dlgforge_core.errors import ConfigError
from dlgforge_core.generation.planned import planning_of
from dlgforge_core.generation.setup import DEPEND_ON_SETUP, setup_of
from dlgforge_core.llm.providers import callers_of
from dlgforge_core.llm.tool_calls import ToolDefinition
from dlgforge_core.planning.fingerprint import NO_SOURCE, ContentSource
from dlgforge_core.planning.seeds import SeedBatch
from dlgforge_core.store.run_store import RunStore
from dlgforge_core.tools.declarations import declared, definitions_from


@dataclass(frozen=True, slots=True)
class PreparedRun:
    """A run whose plan is in the store."""

    run_id: str
    fingerprint: str
    generation: GenerationConfig
    agents: AgentsConfig
    models: Mapping[Role, str]
    notes: tuple[str, ...]
    source: ContentSource = NO_SOURCE
    retried: int = 0
    """Dialogues that were dropped before and are tried again: they may well fail once more."""
    setup: str = ""
    """What answers the calls, see `setup_of`."""
    tools: tuple[ToolDefinition, ...] = ()
    """The configuration's functions as the model is offered them."""


def prepare_run(
    store: RunStore,
    generation: GenerationConfig,
    llm: LlmConfig,
    batches: Sequence[SeedBatch],
    *,
    languages: Sequence[str] | None = None,
    batch_names: Sequence[str] | None = None,
    index_id: str = "",
) -> PreparedRun:
    """Plan the dialogues of the selected languages and batches (all by default) and register the run.

    They belong to the store's dataset, and draw on the knowledge index `index_id` unless it is "".

    With `run.resume_run_id` the earlier run is taken up as it was planned. Dialogues that were dropped
    because an endpoint failed are to be tried again, and those that lack verdicts to be judged.
    With `run.accept` samples that were given up after fewer attempts than are allowed today get another one.
    Raises ConfigError.
    """
    if generation.run.resume_run_id:
        run = _resume(store, generation, llm, generation.run.resume_run_id)
    else:
        run = _plan(store, generation, llm, batches, languages, batch_names, index_id)
    notes = list(run.notes)
    setup = setup_of(llm)
    reasons = {DropReason.ENDPOINT_ERROR, *map(DropReason, generation.run.retry_dropped)}
    retried = store.retry_dropped(run.run_id, reasons, changed=DEPEND_ON_SETUP, setup=setup)
    notes += [f"{n} dialogues that were dropped as {reason} are tried again" for reason, n in retried.items()]
    if run.generation.run.accept.active and (
        opened := store.open_spares(run.run_id, run.generation.run.max_attempts_per_sample)
    ):
        notes.append(f"{opened} samples that were given up are tried again")
    if again := store.judge_again(run.run_id):
        notes.append(f"{again} dialogues that lack verdicts are judged again")
    return replace(run, notes=tuple(notes), retried=sum(retried.values()), setup=setup)


def _plan(
    store: RunStore,
    generation: GenerationConfig,
    llm: LlmConfig,
    batches: Sequence[SeedBatch],
    languages: Sequence[str] | None,
    batch_names: Sequence[str] | None,
    index_id: str,
) -> PreparedRun:
    generation = with_question_kinds(generation, llm)
    try:
        generation.answers.check_models(llm)
    except KeyedError as error:
        raise ConfigError(f"{'.'.join(map(str, error.key))}: {error}") from None
    source = ContentSource(store.dataset, index_id)
    planning = planning_of(store, generation, llm, batches, languages, batch_names, index_id)
    if planning.documents is not None:
        store.save_seed_batches([planning.documents], all_there_are=True)
    # The judge's, too, when it is to judge what is finished.
    roles = [role for role in Role if role in (*generation.roles, Role.JUDGE)]
    models = {role: llm.model_of(role) for role in roles}
    if nameless := [role.value for role in generation.roles if not models[role]]:
        raise ConfigError(
            f"no model is named for {nameless[0]}; set llm.agents.{nameless[0]}.model, or llm.model"
        )
    tools = declared(generation.tools, tool_secrets(generation.tools)) if generation.tools.functions else ()
    goes_on = generation.run.counts_documents  # what is made of the same document is not made anew
    notes = (*planning.notes, *(() if goes_on else _former_knowledge(store, index_id)))
    run_id = store.register_run(
        planning.fingerprint,
        planning.plans,
        {
            "generation": generation.model_dump(mode="json"),
            "agents": {
                role.value: llm.agents.of(role).model_dump(mode="json", exclude=set(PROVIDER_KEYS))
                for role in roles
            },
            "models": {role.value: model for role, model in models.items()},
            "source": asdict(source),
            **({"tools": [tool.to_json() for tool in tools]} if tools else {}),
            **({"markup": llm.markup.model_dump(mode="json")} if llm.markup != MarkupConfig() else {}),
        },
    )
    return PreparedRun(
        run_id, planning.fingerprint, generation, llm.agents, models, notes, source, tools=tools
    )


def _former_knowledge(store: RunStore, index_id: str) -> Iterator[str]:
    """Says so when the documents have changed: the dialogues are made anew, which may cost a lot."""
    latest = store.run(None) if index_id else None
    former = ContentSource(**latest.config.get("source", {})).index_id if latest is not None else ""
    if latest is not None and former not in ("", index_id) and (done := store.progress(latest.run_id).done):
        yield (
            f"the documents or how they are cut have changed since run {latest.run_id}: its {done} finished "
            "dialogues drew on the former index; they stay in the database, but the dataset is made anew"
        )


def callers_of_run(generation: GenerationConfig, llm: LlmConfig) -> dict[str, ProviderConfig]:
    """Return whose calls a run makes, and where these go."""
    return callers_of(llm, *generation.roles)


def models_of_run(run: PreparedRun) -> dict[str, list[str]]:
    """Return the models that a run asks for, by role."""
    models = {role.value: [model] for role, model in run.models.items() if role in run.generation.roles}
    if run.generation.answers.models:
        models[Role.ASSISTANT.value] = list(dict.fromkeys(run.generation.answers.models))
    return models


def with_question_kinds(generation: GenerationConfig, llm: LlmConfig) -> GenerationConfig:
    """With the sorts of questions that an unset `run.question_kinds` stands for."""
    if generation.run.question_kinds is not None:
        return generation
    follows = llm.agents.qa_generator.has_address or backend_of(llm.backend).follows_question_kinds(llm)
    kinds = list(QUESTION_KINDS) if follows else []
    return generation.model_copy(update={"run": generation.run.model_copy(update={"question_kinds": kinds})})


def _resume(store: RunStore, generation: GenerationConfig, llm: LlmConfig, run_id: str) -> PreparedRun:
    record = store.run(run_id)
    if record is None:
        known = ", ".join(store.run_ids()) or "none"
        raise ConfigError(f"run.resume_run_id = {run_id!r}: there is no such run; the latest are: {known}")
    recorded: dict[str, Any] = dict(record.config["generation"])
    today = generation.run.model_dump(mode="json")
    # How hard to work is as configured today; what to make, as on the day it was planned.
    recorded["run"] = {**recorded["run"], **{key: today[key] for key in EFFORT_KEYS}}
    agents = {
        role: {**agent, **llm.agents.of(Role(role)).model_dump(mode="json", include=set(PROVIDER_KEYS))}
        for role, agent in record.config["agents"].items()
    }
    source = f"the configuration of run {run_id}"
    return PreparedRun(
        run_id=record.run_id,
        fingerprint=record.fingerprint,
        generation=validate(GenerationConfig, recorded, source),
        agents=validate(AgentsConfig, agents, source),
        models={Role(role): model for role, model in record.config["models"].items()},
        source=ContentSource(**record.config.get("source", {})),
        notes=(f"resuming run {run_id} with the configuration it was planned with",),
        tools=definitions_from(record.config),
    )
