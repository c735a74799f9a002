"""`dialogues`: the main asset. Plan, generate, report."""

# No `from __future__ import annotations` here: Dagster reads the annotations of assets as types.

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import dagster as dg

from dlgforge_core.config import GenerationConfig, LlmConfig, tool_secrets, validate, web_search_key
from dlgforge_core.config.asset_names import DIALOGUES, KNOWLEDGE_INDEX, SEED_TOPICS
from dlgforge_core.generation.prepare import PreparedRun, callers_of_run, prepare_run
from dlgforge_core.generation.run import RunReport, generate, shortfall_text
from dlgforge_core.generation.worker_thread import WorkerSpec, knowledge_access
from dlgforge_core.knowledge.current import CurrentIndex, current_index
from dlgforge_core.planning.document_plan import DOCUMENTS_BATCH
from dlgforge_core.planning.seed_languages import seeds_for
from dlgforge_core.planning.seeds import SeedBatch
from dlgforge_core.runtime.distributed.bootstrap import call_slots
from dlgforge_core.runtime.distributed.runners import needs_of_run, start_runner
from dlgforge_core.scheduling.background import Runner
from dlgforge_core.store.preview import RecordedCall
from dlgforge_core.store.results import Part
from dlgforge_core.store.run_store import RunStore
from dlgforge_dagster.assets.preview import MakeRunner, in_this_process, make_preview, show
from dlgforge_dagster.config import config_class, plain
from dlgforge_dagster.dataset import DatasetSpec
from dlgforge_dagster.metadata.dialogues import coverage_metadata, dialogues_metadata
from dlgforge_dagster.partitions import dialogue_key, is_mislabelled, seed_batch_of
from dlgforge_dagster.progress import progress_report
from dlgforge_dagster.resources import LlmResource, RayResource, StoreResource
from dlgforge_dagster.steps import as_failure, endpoint_slot
from dlgforge_dagster.tags import FINGERPRINT_TAG, NOTHING_TAG, OWNERS, PREVIEW_TAG, RUN_ID_TAG
from dlgforge_dagster.versions import Provenance, dialogues_version, digest, recorded_versions


def build_dialogues(dataset: DatasetSpec) -> dg.AssetsDefinition:
    """Yield the asset that makes a dataset's dialogues."""
    base: Any = config_class(dataset.recipe.generation)

    class DialoguesConfig(base):  # type: ignore[misc]
        """Config of `dialogues`."""

    @dg.asset(
        name=DIALOGUES,
        key_prefix=dataset.key_prefix,
        group_name=dataset.group,
        kinds={"ray", "postgres"},
        owners=OWNERS,
        deps=[dataset.key(SEED_TOPICS), dataset.key(KNOWLEDGE_INDEX)],
        partitions_def=dataset.partitions.dialogues,
        # One fleet serves a whole backfill.
        backfill_policy=dg.BackfillPolicy.single_run(),
        code_version=dialogues_version(dataset.recipe),
        required_resource_keys=dataset.resource_keys,
        # Of partitions that a budget has left unfinished nothing is yielded: they are still missing.
        output_required=False,
        description=dataset.description(
            "Multi-turn dialogues between a user simulator and an assistant, each judged, kept in "
            "Postgres. Run it again to resume: what was committed is never made twice."
        ),
    )
    def dialogues(
        context: dg.AssetExecutionContext, config: DialoguesConfig
    ) -> Iterator[dg.MaterializeResult[None]]:
        source = f"ops.{dataset.op(DIALOGUES)}.config"
        with as_failure(context, dataset.llm(context), dataset.ray(context)):
            generation = validate(GenerationConfig, plain(config, GenerationConfig), source)
            results = list(_dialogues(dataset, context, generation))
        yield from results

    return dialogues


def _dialogues(
    dataset: DatasetSpec, context: dg.AssetExecutionContext, generation: GenerationConfig
) -> Iterator[dg.MaterializeResult[None]]:
    ray, store, llm = dataset.ray(context), dataset.store(context), dataset.llm(context)
    settings = llm.settings
    run_store = store.run_store(dataset.name)
    batches = run_store.seed_batches() if generation.has_topics else []
    if not batches and generation.has_topics:
        missing = "there are no seed topics yet: materialize `seed_topics` first, or select it too"
        raise dg.Failure(missing, allow_retries=False)
    index = current_index(run_store.database, dataset.name)
    if index is None and dataset.recipe.knowledge.path:
        missing = "the documents are not indexed yet: materialize `knowledge_index` first"
        raise dg.Failure(missing, allow_retries=False)
    run = _prepare(dataset, context, run_store, generation, settings, batches, index)
    if run is None:
        context.instance.add_run_tags(context.run.run_id, {NOTHING_TAG: "true"})
        yield dg.MaterializeResult(metadata={"dialogues_planned": 0, "complete": True})
        return
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
    made_from = Provenance.of(context, [dataset.key(SEED_TOPICS), dataset.key(KNOWLEDGE_INDEX)])
    previews = PREVIEW_TAG in context.run.tags
    if previews:
        run = in_this_process(run)
    make_runner = _runners(context, run, run_store, ray, store, llm, index)
    with endpoint_slot(context, run_store, generation.run.max_concurrent_runs):
        if previews:
            make_preview(context, run, run_store, make_runner, call_slots(generation, ray.settings))
            return
        report = _generate(context, run, run_store, make_runner)
    if report.stop_reason is not None:
        context.log.warning(f"stopped before the plan was complete: {report.stop_reason}")
    if run.generation.run.accept.active and report.progress.shortfall:
        context.log.warning(shortfall_text(report.progress, run_store.shortfall(run.run_id)))
    replicas = llm.replica_metrics()
    for replica in replicas:
        context.log.info(replica.line())
    metadata = {
        **dialogues_metadata(run_store, run, report, replicas),
        **coverage_metadata(run_store, run),
    }
    versions = _versions(run, run_store.parts(run.run_id), batches, made_from)
    whole = dataset.partitions.selected(context) is None
    unfinished = not whole and not report.progress.complete
    if whole or unfinished or is_mislabelled(context.run.tags):
        _report_partitions(dataset, context, versions, made_from)
    if unfinished:
        context.log.warning("not materialized: run the same again with a larger budget, or none, to finish")
        context.log_event(dg.AssetObservation(context.asset_key, metadata=metadata))
        return
    version = digest([*versions.values()]) if whole or len(versions) != 1 else next(iter(versions.values()))
    yield dg.MaterializeResult(data_version=dg.DataVersion(version), metadata=metadata)


def _prepare(
    dataset: DatasetSpec,
    context: dg.AssetExecutionContext,
    run_store: RunStore,
    generation: GenerationConfig,
    settings: LlmConfig,
    batches: Sequence[SeedBatch],
    index: CurrentIndex | None,
) -> PreparedRun | None:
    """Return the run of the selected partitions, all without a selection.

    None when they have no topics at all.

    Partitions outlive their files: a selection of several leaves out those whose file is gone.
    """
    index_id = index.index_id if index is not None else ""
    chosen = dataset.partitions.selected(context)
    if chosen is None:
        return prepare_run(run_store, generation, settings, batches, index_id=index_id)
    languages, names = chosen
    known = {batch.name for batch in batches} if generation.has_topics else {DOCUMENTS_BATCH}
    if gone := [name for name in names if name not in known]:
        problem = f"{', '.join(gone)}: there is no seed file for it any more, or none that can be read"
        if seed_batch_of(context.run.tags):  # asked for by itself, unlike the others of a backfill
            raise dg.Failure(f"{problem}; put the file back, or delete the partition", allow_retries=False)
        context.log.warning(f"{problem}: nothing to make there")
        names = [name for name in names if name in known]
    if not names:
        return None
    there = {
        language
        for language in languages
        if not generation.has_topics
        or any(seeds_for(batch, language, generation) for batch in batches if batch.name in names)
    }
    if without := [language for language in languages if language not in there]:
        context.log.info(f"{', '.join(names)} has no topics in {', '.join(without)}: nothing to make there")
    if not there:
        return None
    return prepare_run(
        run_store,
        generation,
        settings,
        batches,
        languages=[language for language in languages if language in there],
        batch_names=names,
        index_id=index_id,
    )


def _versions(
    run: PreparedRun, parts: Sequence[Part], batches: Sequence[SeedBatch], made_from: Provenance
) -> dict[Part, str]:
    """Return the data version of each partition of a run: the same until there is more, or other, in it."""
    digests = {batch.name: batch.digest for batch in batches}
    return {
        part: digest([run.fingerprint, made_from.version, digests.get(part.batch), part.planned, part.done])
        for part in parts
    }


def _report_partitions(
    dataset: DatasetSpec,
    context: dg.AssetExecutionContext,
    versions: Mapping[Part, str],
    made_from: Provenance,
) -> None:
    """Say of each partition that was finished that it is there, where Dagster itself does not.

    Of those alone that Dagster knows otherwise: an unchanged run writes down nothing.
    """
    recorded = recorded_versions(context.instance, context.asset_key)
    for part, version in versions.items():
        key = dialogue_key(part.language, part.batch)
        if (
            part.language not in dataset.partitions.languages
            or part.unfinished
            or recorded.get(key) == version
        ):
            continue
        figures = {"dialogues_planned": part.planned, "dialogues_done": part.done}
        context.log_event(
            dg.AssetMaterialization(
                context.asset_key, metadata=figures, partition=key, tags=made_from.tags(version)
            )
        )


def _generate(
    context: dg.AssetExecutionContext, run: PreparedRun, run_store: RunStore, make_runner: MakeRunner
) -> RunReport:
    with as_failure(context, dlgforge_run_id=run.run_id), progress_report(context) as report:
        return generate(run_store, run.run_id, make_runner, functools.partial(show, report))


def _runners(
    context: dg.AssetExecutionContext,
    run: PreparedRun,
    run_store: RunStore,
    ray: RayResource,
    store: StoreResource,
    llm: LlmResource,
    index: CurrentIndex | None,
) -> MakeRunner:
    """Return what starts a runner with all that it needs.

    Raises ConfigError where a key is missing, before anything starts.
    """
    settings, callers = llm.settings, callers_of_run(run.generation, llm.settings)
    spec = WorkerSpec(
        run=run,
        database=run_store.database,
        endpoints=(),
        routing=settings.routing,
        knowledge=knowledge_access(run, index),
        web_search_key=web_search_key(run.generation.tools),
        tool_secrets=tool_secrets(run.generation.tools),
        markup=settings.markup,
    )

    def make_runner(
        among: tuple[str, ...] = (), on_call: Callable[[RecordedCall], None] | None = None
    ) -> Runner:
        progress = context.log.info
        return start_runner(
            dataclasses.replace(spec, among=among, on_call=on_call),
            needs_of_run(spec, settings),
            ray.session(progress),
            ray.settings,
            settings,
            dsn=run_store.database.dsn,
            dsn_source=store.resolve().source.value,
            endpoints=lambda slots: llm.endpoints(callers, slots, progress, ray),
            fleet=lambda: llm.fleet,
            progress=progress,
        )

    return make_runner
