"""How the dialogues are partitioned: by language, and by seed batch (one seed file).

`seed_topics` has no partitions: Dagster cannot run a partitioned asset that depends on another partitioned
one without a key, and a run without a key, as in CI, means all.
"""

import os

import dagster as dg

from dlgforge_core.config import RunConfig

SEED_BATCHES = "seed_batches"
LANGUAGE, SEED_BATCH = "language", "seed_batch"
MULTIDIMENSIONAL_PREFIX = "dagster/partition/"  # of the tags with which Dagster names a run's partition


def configured_languages() -> list[str]:
    """The languages that are partitions: DLGFORGE_LANGUAGES ("en,fr"), else the default ones."""
    given = [name.strip() for name in os.environ.get("DLGFORGE_LANGUAGES", "").split(",")]
    return list(dict.fromkeys(name for name in given if name)) or list(RunConfig().target_languages)


seed_batch_partitions = dg.DynamicPartitionsDefinition(name=SEED_BATCHES)
language_partitions = dg.StaticPartitionsDefinition(configured_languages())
dialogue_partitions = dg.MultiPartitionsDefinition(
    {LANGUAGE: language_partitions, SEED_BATCH: seed_batch_partitions}
)


def dialogue_key(language: str, batch: str) -> dg.MultiPartitionKey:
    """The partition of the dialogues of one language and seed batch."""
    return dg.MultiPartitionKey({LANGUAGE: language, SEED_BATCH: batch})


def selected(context: dg.AssetExecutionContext) -> tuple[list[str], list[str]] | None:
    """Languages and seed batches of the partitions this run is for; None when it is for all.

    Fails when they are not every batch in every language: such a selection needs runs of its own.
    """
    if not context.has_partition_key and not context.has_partition_key_range:
        return None
    keys = [dialogue_partitions.get_partition_key_from_str(key) for key in context.partition_keys]
    pairs = {(key.keys_by_dimension[LANGUAGE], key.keys_by_dimension[SEED_BATCH]) for key in keys}
    languages, batches = sorted({pair[0] for pair in pairs}), sorted({pair[1] for pair in pairs})
    if len(pairs) != len(languages) * len(batches):
        raise dg.Failure(
            "the selected partitions are not every seed batch in every language; launch them as separate runs"
        )
    return languages, batches
