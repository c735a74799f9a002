"""`dialogue_dataset`: the finished dialogues as training data."""

# No `from __future__ import annotations` here: Dagster reads the annotations of assets as types.

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from dlgforge_core.common.secrets import secret_variables
from dlgforge_core.config import (
    AnswersConfig,
    ConversationConfig,
    DatasetFilesConfig,
    SemanticDedupConfig,
    validate,
)
from dlgforge_core.config.asset_names import DIALOGUE_DATASET, DIALOGUES, JUDGEMENTS
from dlgforge_core.database.embedded import dlgforge_home
from dlgforge_core.errors import ConfigError
from dlgforge_core.export.columns import OptionalColumns
from dlgforge_core.export.filters import EmptyDatasetError
from dlgforge_core.export.scrub import secrets_of
from dlgforge_core.export.writer import write_dataset
from dlgforge_core.judging.results import agreement, judged_dialogues, rated_dimensions
from dlgforge_core.judging.store import latest_judging
from dlgforge_core.knowledge.embedding import blocking_embedder
from dlgforge_core.knowledge.endpoints import embedding_endpoint
from dlgforge_core.knowledge.texts import with_texts
from dlgforge_core.prompting.tool_definitions import VECTOR_DB_SEARCH, WEB_SEARCH
from dlgforge_core.quality.semantic import SemanticDedup, check_size
from dlgforge_core.review.reviewed import has_marks, with_edits, with_marks
from dlgforge_core.run_outcomes import Outcomes
from dlgforge_core.store.run_records import RunRecord
from dlgforge_core.tools.declarations import definitions_from
from dlgforge_dagster.automation import keep_fresh
from dlgforge_dagster.config import config_class, plain
from dlgforge_dagster.dataset import DatasetSpec
from dlgforge_dagster.metadata.dataset import dataset_metadata, filters_metadata
from dlgforge_dagster.metadata.dialogues import N_SAMPLES
from dlgforge_dagster.steps import run_and_scope
from dlgforge_dagster.tags import OWNERS
from dlgforge_dagster.versions import code_version

_LATER = (
    "system",
    "opening",
    "filters.goal_met",
    "min_margin",
    "tool_arguments",
    "parallel_calls",
    "filters.marks",
    "review",
    "semantic_dedup.max_dialogues",
    "max_shard_dialogues",
)
"""Keys that came after the first version."""


def build_dialogue_dataset(dataset: DatasetSpec) -> dg.AssetsDefinition:
    """Return the asset that writes a dataset's files."""
    base: Any = config_class(dataset.recipe.saving.files)

    class DialogueDatasetConfig(base):  # type: ignore[misc]
        """Config of `dialogue_dataset`."""

        run_id: str = Field(
            "",
            description="Write this dlgforge run alone. Empty: all that was made with the latest config.",
        )

    @dg.asset(
        name=DIALOGUE_DATASET,
        key_prefix=dataset.key_prefix,
        group_name=dataset.group,
        kinds={"parquet", "jsonl"},
        owners=OWNERS,
        deps=[dataset.key(DIALOGUES), dataset.key(JUDGEMENTS)],
        automation_condition=keep_fresh(judgements=dataset.key(JUDGEMENTS)),
        code_version=code_version(
            3, _described(dataset.recipe.saving.files, dataset.recipe.description), later=_LATER
        ),
        required_resource_keys={"store"},
        description=dataset.description(
            "The finished dialogues as training data: JSONL of several kinds, and Parquet."
        ),
    )
    def dialogue_dataset(
        context: dg.AssetExecutionContext, config: DialogueDatasetConfig
    ) -> dg.MaterializeResult[None]:
        source = f"ops.{dataset.op(DIALOGUE_DATASET)}.config"
        saving = validate(DatasetFilesConfig, plain(config, DatasetFilesConfig), source)
        return _write(dataset, context, saving, config.run_id)

    return dialogue_dataset


def _write(
    dataset: DatasetSpec, context: dg.AssetExecutionContext, saving: DatasetFilesConfig, run_id: str
) -> dg.MaterializeResult[None]:
    run_store = dataset.store(context).run_store(dataset.name)
    record, scope = run_and_scope(run_store, run_id, "write")
    saving = _described(saving, dataset.recipe.description)
    default = dlgforge_home(os.environ) / "datasets" / dataset.name / (run_id or record.fingerprint[:16])
    folder = Path(saving.output_dir) if saving.output_dir else default
    with run_store.connection() as connection:
        judges = latest_judging(connection, run_store.dataset, record.fingerprint)
        alpha = agreement(connection, scope, judges).alpha if len(judges) > 1 else None
    outcomes = run_store.outcomes(scope)
    if not outcomes.done:
        raise dg.Failure(_nothing_done(outcomes))
    try:
        check_size(saving.semantic_dedup, outcomes.done)
    except ConfigError as error:
        raise dg.Failure(str(error), allow_retries=False) from None
    dimensions = rated_dimensions(run_store, scope)
    marks = saving.review.marks and has_marks(run_store.database, scope)
    edited: list[int] = []
    try:
        with _dedup(saving.semantic_dedup) as dedup:
            dialogues = judged_dialogues(run_store, scope)
            if saving.passages != "none":
                dialogues = with_texts(run_store.database, run_store.dataset, dialogues)
            if saving.review.edits:
                dialogues = with_edits(run_store.database, dialogues, edited.append)
            if marks or saving.filters.marks != "any":
                dialogues = with_marks(run_store.database, dialogues)
            summary = write_dataset(
                dialogues,
                folder,
                saving=saving,
                dedup=dedup,
                title=dataset.name.replace("_", " ").capitalize() or "Synthetic dialogues",
                drop_reasons=outcomes.drop_reasons,
                tool_definitions={
                    tool.name: tool.to_json()
                    for tool in (VECTOR_DB_SEARCH, WEB_SEARCH, *definitions_from(record.config))
                },
                judges=list(judges.values()),
                alpha=alpha,
                offered=_offered(record),
                columns=OptionalColumns(
                    seed_metadata=run_store.has_seed_metadata(scope),
                    system=bool(_conversation(record).system_prompts or _conversation(record).from_seed),
                    candidates=_has_candidates(record),
                    final_state=_has_state(record),
                    dimensions=dimensions,
                    attributes=sorted(record.config.get("generation", {}).get("attributes", {})),
                    conversation=_conversation(record).columns,
                    marks=marks,
                ),
                secrets=secrets_of(os.environ, _secret_variables(dataset, record)),
            )
    except EmptyDatasetError as error:
        # Another try would read the same dialogues.
        raise dg.Failure(str(error), metadata=filters_metadata(error.refused), allow_retries=False) from None
    context.log.info(f"{summary.n_dialogues} dialogues are in {folder}")
    if not run_id and (former := run_store.former_dialogues(record.fingerprint)):
        context.log.info(f"{former} finished dialogues of former seeds, edited or gone since then, stay out")
    if edited:
        context.log.info(
            f"{sum(edited)} messages of {len(edited)} dialogues are as reviewers have edited them"
        )
    for name, count in summary.refused.items():
        context.log.info(f"{count} dialogues were left out by the filter {name}")
    for line in summary.preferences.lines(written="dpo" in saving.formats):
        context.log.info(line)
    for note in saving.filters.notes(dataset.recipe.judge.reasons, dimensions):  # refuse nothing
        context.log.warning(note)
    samples = judged_dialogues(run_store, scope, limit=N_SAMPLES, mixed=True)
    return dg.MaterializeResult(
        metadata={**dataset_metadata(summary, samples), "fingerprint": record.fingerprint[:16]}
    )


def _conversation(record: RunRecord) -> ConversationConfig:
    """Return what the conversations of a run are like; as usual for what an earlier version made."""
    return ConversationConfig(**record.config.get("generation", {}).get("conversation", {}))


def _has_candidates(record: RunRecord) -> bool:
    """Whether the turns of a run may have several answers."""
    return AnswersConfig(**record.config.get("generation", {}).get("answers", {})).several


def _described(saving: DatasetFilesConfig, description: str) -> DatasetFilesConfig:
    """Return `saving` with a card that says what the recipe says, unless it has a text of its own."""
    if saving.card.description.strip():
        return saving
    return saving.model_copy(update={"card": saving.card.model_copy(update={"description": description})})


def _secret_variables(dataset: DatasetSpec, record: RunRecord) -> set[str]:
    """Return the variables that hold keys by the recipe, or by the run config in its place."""
    return secret_variables(dataset.recipe.model_dump(mode="json")) | secret_variables(record.config)


def _offered(record: RunRecord) -> list[str]:
    """Return the tools that the assistant surely had; whether there was a key for the web is not recorded."""
    tools = record.config.get("generation", {}).get("tools", {})
    grounded = record.config.get("source", {}).get("index_id")
    return [VECTOR_DB_SEARCH.name] if tools.get("enabled") and grounded else []


def _has_state(record: RunRecord) -> bool:
    """Whether tools of the dialogues have a state."""
    tools = record.config.get("generation", {}).get("tools", {})
    return bool(tools.get("functions") and tools.get("state", {}).get("initial"))


def _nothing_done(outcomes: Outcomes) -> str:
    """Why there is nothing to write, and what would help."""
    state = f"none of {outcomes.planned} planned dialogues is finished"
    if outcomes.unaccepted:
        return (
            f"{state} and accepted; "
            f"{outcomes.unaccepted} were not accepted, {outcomes.dropped} were dropped, "
            "as the page of `dialogues` shows: loosen run.accept, or let more attempts be made "
            "(run.max_attempts_per_sample); what was written before stays as it is"
        )
    if not outcomes.dropped:
        return f"{state}: materialize `dialogues` until some are; what was written before stays as it is"
    reasons = ", ".join(f"{reason} {n}" for reason, n in sorted(outcomes.drop_reasons.items()))
    return (
        f"{state}; {outcomes.dropped} were dropped ({reasons}), as the log of `dialogues` shows: mend what "
        "is wrong there and materialize `dialogues` again; what was written before stays as it is"
    )


@contextmanager
def _dedup(config: SemanticDedupConfig) -> Iterator[SemanticDedup | None]:
    """Yield what leaves out dialogues that open alike; None when that is off."""
    if config.threshold is None:
        yield None
        return
    section = "saving.semantic_dedup.embedding"
    with blocking_embedder(config.embedding, embedding_endpoint(config.embedding), section) as embed:
        yield SemanticDedup(embed, config.threshold)
