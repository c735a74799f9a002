"""`seed_topics`: what the dialogues are about."""

# No `from __future__ import annotations` here: Dagster reads the annotations of assets as types.

import hashlib
from collections.abc import Sequence
from typing import Any

import dagster as dg

from dlgforge_core.config import SeedsConfig, validate
from dlgforge_core.config.asset_names import SEED_FILES, SEED_TOPICS
from dlgforge_core.errors import SeedError
from dlgforge_core.planning.document_plan import DOCUMENTS_BATCH
from dlgforge_core.planning.seed_folder import read_seed_batches, seed_location
from dlgforge_core.planning.seed_languages import unused_topics
from dlgforge_core.planning.seeds import SeedBatch
from dlgforge_core.store.run_store import RunStore
from dlgforge_dagster.config import config_class, plain
from dlgforge_dagster.dataset import DatasetSpec
from dlgforge_dagster.metadata.inputs import seed_topics_metadata
from dlgforge_dagster.partitions import seed_batch_of
from dlgforge_dagster.tags import OWNERS
from dlgforge_dagster.versions import code_version


def build_seed_files(dataset: DatasetSpec) -> dg.AssetSpec:
    """Return the seed files themselves, a partition each: `seed_topics` tells of every file that it has read.

    `seed_topics` cannot have partitions: Dagster runs no partitioned asset behind another one without a key.
    """
    return dg.AssetSpec(
        dataset.key(SEED_FILES),
        partitions_def=dataset.partitions.seed_batches,
        group_name=dataset.group,
        kinds={"yaml"},
        owners=OWNERS,
        description=dataset.description(
            "The seed files, one seed batch each. They are yours; what is seen here was read last."
        ),
    )


def build_seed_topics(dataset: DatasetSpec) -> dg.AssetsDefinition:
    """Return the asset that reads a dataset's seed files."""
    base: Any = config_class(dataset.recipe.seeds)

    class SeedTopicsConfig(base):  # type: ignore[misc]
        """Config of `seed_topics`."""

    @dg.asset(
        name=SEED_TOPICS,
        key_prefix=dataset.key_prefix,
        group_name=dataset.group,
        kinds={"yaml", "postgres"},
        owners=OWNERS,
        deps=[dataset.key(SEED_FILES)],
        code_version=code_version(1, dataset.recipe.seeds, later=("columns", "language")),
        required_resource_keys={"store"},
        description=dataset.description(
            "What the dialogues are about: topics read from the seed files, one seed batch a file."
        ),
    )
    def seed_topics(
        context: dg.AssetExecutionContext, config: SeedTopicsConfig
    ) -> dg.MaterializeResult[None]:
        seeds = validate(SeedsConfig, plain(config, SeedsConfig), f"ops.{dataset.op(SEED_TOPICS)}.config")
        # First of all: it shows that this run lives, and a folder far away takes its time.
        run_store = dataset.store(context).run_store(dataset.name)
        if not dataset.recipe.has_topics:
            return _no_seeds(dataset, context, run_store)
        # In a run of one partition that file alone: another one that is broken is not this run's matter.
        only = seed_batch_of(context.run.tags)
        location = seeds.path if dataset.name else seed_location(seeds.path)
        try:
            found = read_seed_batches(location, strict=seeds.strict, only=only, config=seeds)
        except SeedError as error:
            raise dg.Failure(str(error)) from None
        batches = found.batches
        run = dataset.recipe.run
        for problem in (*found.problems[:50], *unused_topics(batches, run)):
            context.log.warning(problem)
        run_store.save_seed_batches(batches, all_there_are=only is None)
        context.instance.add_dynamic_partitions(dataset.partitions.batches, [batch.name for batch in batches])
        for batch in batches:
            context.log_event(_read(dataset, batch))
        for name, problem in found.unusable.items():
            context.log_event(seed_problem(dataset, name, problem))
        return dg.MaterializeResult(
            data_version=dg.DataVersion(_digest(run_store.seed_batches())),
            metadata=seed_topics_metadata(found),
        )

    return seed_topics


def _no_seeds(
    dataset: DatasetSpec, context: dg.AssetExecutionContext, run_store: RunStore
) -> dg.MaterializeResult[None]:
    """Read nothing: the documents stand for one seed batch, which `dialogues` keeps."""
    context.log.info("topics are off: the dialogues are made from the documents alone, no seeds are read")
    run_store.forget_seed_batches([batch.name for batch in run_store.seed_batches()])
    context.instance.add_dynamic_partitions(dataset.partitions.batches, [DOCUMENTS_BATCH])
    return dg.MaterializeResult(data_version=dg.DataVersion("none"), metadata={"topics": 0})


def _read(dataset: DatasetSpec, batch: SeedBatch) -> dg.AssetMaterialization:
    """Return that a seed file was read, with its content's digest as data version."""
    return dg.AssetMaterialization(
        dataset.key(SEED_FILES),
        partition=batch.name,
        metadata={
            "topics": len(batch.topics),
            "languages": list(batch.languages),
            "skipped_entries": len(batch.problems),
        },
        tags={"dagster/data_version": hashlib.sha256(batch.digest.encode()).hexdigest()[:16]},
    )


def seed_problem(dataset: DatasetSpec, file: str, problem: str) -> dg.AssetObservation:
    """Return what is wrong with a seed file, for the page of `seed_files`."""
    return dg.AssetObservation(
        dataset.key(SEED_FILES),
        description=f"nothing is made of {file}",
        metadata={"file": file, "problem": problem},
    )


def _digest(batches: Sequence[SeedBatch]) -> str:
    return hashlib.sha256("".join(batch.digest for batch in batches).encode()).hexdigest()[:16]
