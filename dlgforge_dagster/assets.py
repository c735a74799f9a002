"""The assets: `seed_topics` -> `dialogues` -> `dialogue_dataset`."""

# No `from __future__ import annotations` here: Dagster reads the annotations of assets as types.

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from dlgforge_core.config import GenerationConfig, LlmConfig, SavingConfig, SeedsConfig, validate
from dlgforge_core.dialogue import Dialogue
from dlgforge_core.errors import DlgforgeError
from dlgforge_core.export.formats import sample_markdown
from dlgforge_core.export.writer import DatasetSummary, write_dataset
from dlgforge_core.generation.local import WorkerSpec, WorkerThread
from dlgforge_core.generation.prepare import PreparedRun, prepare_run
from dlgforge_core.generation.session import Runner, RunReport, Status, generate
from dlgforge_core.planning import CONTENT_VERSION
from dlgforge_core.quality.figures import DialogueFigures
from dlgforge_core.runtime.bootstrap import (
    call_slots,
    check_reach,
    is_bootstrapped,
    overrides,
    starts_servers,
)
from dlgforge_core.runtime.ray_runner import PLACEMENT_TIMEOUT_S, RayRunner
from dlgforge_core.seed_folder import read_seed_batches, seed_place
from dlgforge_core.seeds import SeedBatch
from dlgforge_core.store.advisory import HeldLock, generation_slot, hold_process_lock
from dlgforge_core.store.embedded import dlgforge_home
from dlgforge_core.store.finished import Scope
from dlgforge_core.store.run_store import RunStore
from dlgforge_dagster.automation import keep_fresh
from dlgforge_dagster.config import config_class, plain
from dlgforge_dagster.metadata import (
    N_SAMPLES,
    count_table,
    dataset_metadata,
    dialogues_metadata,
    seed_topics_metadata,
)
from dlgforge_dagster.partitions import (
    MULTIDIMENSIONAL_PREFIX,
    SEED_BATCH,
    SEED_BATCHES,
    dialogue_key,
    dialogue_partitions,
    language_partitions,
    selected,
)
from dlgforge_dagster.resources import LlmResource, RayResource, StoreResource

GROUP = "dlgforge"
OWNERS = ["team:data-generation"]
RUN_ID_TAG = "dlgforge/run_id"
FINGERPRINT_TAG = "dlgforge/fingerprint"

_SeedsBase: Any = config_class(SeedsConfig)
_GenerationBase: Any = config_class(GenerationConfig)
_SavingBase: Any = config_class(SavingConfig)


class SeedTopicsConfig(_SeedsBase):  # type: ignore[misc]
    """Config of `seed_topics`."""


class DialoguesConfig(_GenerationBase):  # type: ignore[misc]
    """Config of `dialogues`."""


class DialogueDatasetConfig(_SavingBase):  # type: ignore[misc]
    """Config of `dialogue_dataset`."""

    run_id: str = Field(
        "", description="Write this dlgforge run alone. Empty: everything made with the latest configuration."
    )


@dg.asset(
    group_name=GROUP,
    kinds={"yaml", "postgres"},
    owners=OWNERS,
)
def seed_topics(
    context: dg.AssetExecutionContext, config: SeedTopicsConfig, store: StoreResource
) -> dg.MaterializeResult[None]:
    """What the dialogues are about: topics read from the seed files, one seed batch a file."""
    seeds = validate(SeedsConfig, plain(config, SeedsConfig), "ops.seed_topics.config")
    # In a run of one partition that file alone: another one that is broken is not this run's matter.
    only = context.run.tags.get(f"{MULTIDIMENSIONAL_PREFIX}{SEED_BATCH}")
    batches = read_seed_batches(seed_place(seeds.path), strict=seeds.strict, only=only)
    problems = [problem for batch in batches for problem in batch.problems]
    for problem in problems[:50]:
        context.log.warning(problem)
    run_store = store.run_store()
    run_store.save_seed_batches(batches)
    context.instance.add_dynamic_partitions(SEED_BATCHES, [batch.name for batch in batches])
    return dg.MaterializeResult(
        data_version=dg.DataVersion(_digest(run_store.seed_batches())), metadata=seed_topics_metadata(batches)
    )


def _digest(batches: Sequence[SeedBatch]) -> str:
    return hashlib.sha256("".join(batch.digest for batch in batches).encode()).hexdigest()[:16]


@dg.asset(
    group_name=GROUP,
    kinds={"ray", "postgres"},
    owners=OWNERS,
    deps=[seed_topics],
    partitions_def=dialogue_partitions,
    # One fleet serves a whole backfill.
    backfill_policy=dg.BackfillPolicy.single_run(),
    code_version=str(CONTENT_VERSION),
)
def dialogues(
    context: dg.AssetExecutionContext,
    config: DialoguesConfig,
    ray: RayResource,
    store: StoreResource,
    llm: LlmResource,
) -> dg.MaterializeResult[None]:
    """Multi-turn dialogues between a user simulator and an assistant, each judged, kept in Postgres.

    Run it again to resume: what was committed is never made twice.
    """
    generation = validate(GenerationConfig, plain(config, GenerationConfig), "ops.dialogues.config")
    settings = llm.settings
    run_store = store.run_store()
    batches = run_store.seed_batches()
    if not batches:
        raise dg.Failure("there are no seed topics yet: materialize `seed_topics` first, or select it too")
    run = _prepare(context, run_store, generation, settings, batches)
    if run is None:
        return dg.MaterializeResult(metadata={"dialogues_planned": 0, "complete": True})
    held = hold_process_lock(run_store.dsn, run_store.config, context.run.run_id)
    if held is not None:  # None: a retry of the step in the same process holds it already
        _locks.append(held)
    for note in run.notes:
        context.log.info(note)
    before = run_store.progress(run.run_id)
    context.log.info(
        f"run {run.run_id}: {before.planned} dialogues planned, {before.done} done before, "
        f"{before.pending} to do"
    )
    context.instance.add_run_tags(
        context.run.run_id, {RUN_ID_TAG: run.run_id, FINGERPRINT_TAG: run.fingerprint[:16]}
    )
    slots = generation.run.max_concurrent_runs

    def on_wait() -> None:
        context.log.info(f"waiting: {slots} other run(s) use the endpoints (run.max_concurrent_runs)")

    with generation_slot(run_store.dsn, run_store.config, slots, on_wait):
        report = _generate(context, run, run_store, ray, store, llm)
    if report.stop_reason is not None:
        context.log.warning(f"stopped before the plan was complete: {report.stop_reason}")
    replicas = llm.replica_metrics()
    for replica in replicas:
        context.log.info(replica.line())
    if selected(context) is None:
        _tell_partitions(context, run_store, run.run_id)
    return dg.MaterializeResult(
        data_version=dg.DataVersion(f"{run.run_id}-{report.progress.done}"),
        metadata=dialogues_metadata(run_store, run, report, replicas),
    )


# Held to the end of the process, not of the step: see `stale_runs`.
_locks: list[HeldLock] = []


def _prepare(
    context: dg.AssetExecutionContext,
    run_store: RunStore,
    generation: GenerationConfig,
    settings: LlmConfig,
    batches: Sequence[SeedBatch],
) -> PreparedRun | None:
    """The run of the selected partitions, all without a selection; None when they have no topics at all."""
    chosen = selected(context)
    if chosen is None:
        return prepare_run(run_store, generation, settings, batches)
    languages, names = chosen
    topics = {language for batch in batches if batch.name in names for language in batch.languages}
    if without := [language for language in languages if language not in topics]:
        context.log.info(f"{', '.join(names)} has no topics in {', '.join(without)}: nothing to make there")
    languages = [language for language in languages if language in topics]
    if not languages:
        return None
    return prepare_run(run_store, generation, settings, batches, languages=languages, batch_names=names)


def _tell_partitions(context: dg.AssetExecutionContext, run_store: RunStore, run_id: str) -> None:
    """A run for all partitions has no key: say of each that was finished that it is there."""
    for part in run_store.parts(run_id):
        if part.language in language_partitions.get_partition_keys() and not part.unfinished:
            key = dialogue_key(part.language, part.batch)
            figures = {"dialogues_planned": part.planned, "dialogues_done": part.done}
            context.log_event(dg.AssetMaterialization(context.asset_key, metadata=figures, partition=key))


def _generate(
    context: dg.AssetExecutionContext,
    run: PreparedRun,
    run_store: RunStore,
    ray: RayResource,
    store: StoreResource,
    llm: LlmResource,
) -> RunReport:
    def on_status(status: Status) -> None:
        context.log.info(str(status))
        context.log_event(
            dg.AssetObservation(
                context.asset_key,
                metadata={
                    "done": status.progress.done,
                    "planned": status.progress.planned,
                    "dropped": status.progress.dropped,
                    "calls_per_s": round(status.calls_per_s, 2),
                    "tokens_per_s": round(status.tokens_per_s, 1),
                },
            )
        )

    def make_runner() -> Runner:
        progress = context.log.info
        session = ray.session(progress)
        distributed = run.generation.run.distributed.enabled and not is_bootstrapped()
        slots = call_slots(run.generation, ray.settings)
        spawn = run.generation.run.distributed.spawn
        if not starts_servers(llm.settings):
            llm.endpoints(slots, progress, ray)  # what is wrong with them is known before Ray starts
        if distributed:
            session.connect()
            check_reach(session, run_store.dsn, store.resolve().source.value, llm.settings, spawn)
        endpoints = llm.endpoints(slots, progress, ray)
        for endpoint in endpoints:
            progress(f"endpoint {endpoint.name}: {endpoint.base_url}")
        spec = WorkerSpec(
            run=run,
            dsn=run_store.dsn,
            postgres=store.settings,
            endpoints=tuple(endpoints),
            routing=llm.settings.routing,
        )
        if not distributed:
            return WorkerThread(spec, llm.fleet.endpoints if llm.fleet is not None else None)
        return RayRunner(
            spec,
            ray.settings,
            spawn,
            environment=overrides(llm.settings, endpoints),
            fleet=llm.fleet,
            progress=progress,
            placement_timeout_s=PLACEMENT_TIMEOUT_S if session.owned else None,
            alive=lambda: session.alive,
        )

    try:
        return generate(run_store, run.run_id, make_runner, on_status)
    except DlgforgeError as error:
        raise dg.Failure(str(error), metadata={"dlgforge_run_id": run.run_id}) from error


@dg.asset(
    group_name=GROUP,
    kinds={"parquet", "jsonl"},
    owners=OWNERS,
    deps=[dialogues],
    automation_condition=keep_fresh(),
    code_version="1",
)
def dialogue_dataset(
    context: dg.AssetExecutionContext, config: DialogueDatasetConfig, store: StoreResource
) -> dg.MaterializeResult[None]:
    """The finished dialogues as training data: ShareGPT JSONL, OpenAI-messages JSONL and Parquet."""
    saving = validate(SavingConfig, plain(config, SavingConfig), "ops.dialogue_dataset.config")
    run_store = store.run_store()
    record = run_store.run(config.run_id or None)
    if record is None:
        known = ", ".join(run_store.run_ids()) or "none yet: materialize `dialogues` first"
        raise dg.Failure(f"there is no run {config.run_id!r} to write; runs: {known}")
    scope = Scope(run_id=record.run_id) if config.run_id else Scope(fingerprint=record.fingerprint)
    default = dlgforge_home(os.environ) / "datasets" / (config.run_id or record.fingerprint[:16])
    folder = Path(saving.output_dir) if saving.output_dir else default
    figures = DialogueFigures()
    summary = write_dataset(_counted(run_store.dialogues(scope), figures), folder, saving.formats)
    context.log.info(f"{summary.n_dialogues} dialogues are in {folder}")
    return dg.MaterializeResult(
        metadata={
            **dataset_metadata(figures),
            "samples": dg.MetadataValue.md(sample_markdown(run_store.samples(scope, N_SAMPLES))),
            "languages": count_table("language", "dialogues", summary.by_language),
            "folder": dg.MetadataValue.path(folder.absolute()),
            "files": _file_table(summary),
            "fingerprint": record.fingerprint[:16],
        }
    )


def _counted(dialogues: Iterator[Dialogue], figures: DialogueFigures) -> Iterator[Dialogue]:
    """`dialogues` as they are, counted into `figures` on their way."""
    for dialogue in dialogues:
        figures.add(dialogue)
        yield dialogue


def _file_table(summary: DatasetSummary) -> dg.TableMetadataValue:
    return dg.MetadataValue.table(
        records=[
            dg.TableRecord({"format": name, "file": path.name, "bytes": summary.bytes_by_format[name]})
            for name, path in summary.paths.items()
        ]
    )
