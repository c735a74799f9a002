"""The assets: `seed_topics` -> `dialogues` -> `dialogue_dataset`."""

# No `from __future__ import annotations` here: Dagster reads the annotations of assets as types.

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from dlgforge_core.config import GenerationConfig, SavingConfig, SeedsConfig, validate
from dlgforge_core.dialogue import Dialogue, SeedTopic
from dlgforge_core.errors import DlgforgeError
from dlgforge_core.export.formats import sample_markdown
from dlgforge_core.export.writer import DatasetSummary, write_dataset
from dlgforge_core.generation.local import WorkerSpec, WorkerThread
from dlgforge_core.generation.prepare import PreparedRun, prepare_run
from dlgforge_core.generation.session import Runner, RunReport, Status, generate
from dlgforge_core.quality.figures import DialogueFigures
from dlgforge_core.runtime.bootstrap import (
    call_slots,
    check_reach,
    is_bootstrapped,
    overrides,
    starts_servers,
)
from dlgforge_core.runtime.ray_runner import PLACEMENT_TIMEOUT_S, RayRunner
from dlgforge_core.seeds import read_seeds
from dlgforge_core.store.embedded import dlgforge_home
from dlgforge_core.store.finished import Scope
from dlgforge_core.store.run_store import RunStore
from dlgforge_dagster.config import config_class, plain
from dlgforge_dagster.metadata import N_SAMPLES, count_table, dataset_metadata, dialogues_metadata
from dlgforge_dagster.resources import LlmResource, RayResource, StoreResource

GROUP = "dlgforge"
RUN_ID_TAG = "dlgforge/run_id"

_SeedsBase: Any = config_class(SeedsConfig)
_GenerationBase: Any = config_class(GenerationConfig)
_SavingBase: Any = config_class(SavingConfig)


class SeedTopicsConfig(_SeedsBase):  # type: ignore[misc]
    """Config of `seed_topics`."""


class DialoguesConfig(_GenerationBase):  # type: ignore[misc]
    """Config of `dialogues`."""


class DialogueDatasetConfig(_SavingBase):  # type: ignore[misc]
    """Config of `dialogue_dataset`."""

    run_id: str = Field("", description="The run to write. Empty: the one worked on last.")


@dg.asset(group_name=GROUP, kinds={"yaml", "postgres"})
def seed_topics(
    context: dg.AssetExecutionContext, config: SeedTopicsConfig, store: StoreResource
) -> dg.MaterializeResult[None]:
    """What the dialogues are about: topics read from the seed files, one seed batch a file."""
    seeds = validate(SeedsConfig, plain(config, SeedsConfig), "ops.seed_topics.config")
    batches = read_seeds(seeds.path, strict=seeds.strict)
    problems = [problem for batch in batches for problem in batch.problems]
    for problem in problems[:50]:
        context.log.warning(problem)
    store.run_store().save_seed_batches(batches)
    topics = [topic for batch in batches for topic in batch.topics]
    languages = Counter(topic.language for topic in topics)
    digest = hashlib.sha256("".join(batch.digest for batch in batches).encode()).hexdigest()
    return dg.MaterializeResult(
        data_version=dg.DataVersion(digest[:16]),
        metadata={
            "topics": len(topics),
            "seed_batches": [batch.name for batch in batches],
            "languages": count_table("language", "topics", languages),
            "skipped_lines": len(problems),
            "examples": dg.MetadataValue.md(_examples(topics)),
        },
    )


def _examples(topics: Sequence[SeedTopic], n: int = 8) -> str:
    spread = topics[:: max(1, len(topics) // n)]
    return "\n".join(f"- *{t.language}* **{t.topic}**: {t.question or ''}" for t in spread)


@dg.asset(group_name=GROUP, kinds={"ray", "postgres"}, deps=[seed_topics])
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
    run = prepare_run(run_store, generation, settings, batches)
    for note in run.notes:
        context.log.info(note)
    before = run_store.progress(run.run_id)
    context.log.info(
        f"run {run.run_id}: {before.planned} dialogues planned, {before.done} done before, "
        f"{before.pending} to do"
    )
    context.instance.add_run_tags(context.run_id, {RUN_ID_TAG: run.run_id})
    report = _generate(context, run, run_store, ray, store, llm)
    if report.stop_reason is not None:
        context.log.warning(f"stopped before the plan was complete: {report.stop_reason}")
    replicas = llm.replica_metrics()
    for replica in replicas:
        context.log.info(replica.line())
    return dg.MaterializeResult(metadata=dialogues_metadata(run_store, run, report, replicas))


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
        )

    try:
        return generate(run_store, run.run_id, make_runner, on_status)
    except DlgforgeError as error:
        raise dg.Failure(str(error), metadata={"dlgforge_run_id": run.run_id}) from error


@dg.asset(group_name=GROUP, kinds={"parquet", "jsonl"}, deps=[dialogues])
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
    scope = Scope(run_id=record.run_id)
    default = dlgforge_home(os.environ) / "datasets" / record.run_id
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
            "dlgforge_run_id": record.run_id,
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
