"""Partitions of dialogues: by language, and by seed batch (one seed file).

`seed_topics` has no partitions: Dagster cannot run a partitioned asset that depends on another partitioned
one without a key, and a run without a key, as in CI, means all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import dagster as dg

SEED_BATCHES = "seed_batches"  # the default dataset's dynamic partitions
LANGUAGE, SEED_BATCH = "language", "seed_batch"
# Tags with which Dagster names a run's partition, or the range of them.
PARTITION = "dagster/partition"
MULTIDIMENSIONAL_PREFIX = "dagster/partition/"
RANGE_START, RANGE_END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"


def dialogue_key(language: str, batch: str) -> dg.MultiPartitionKey:
    """Return the partition of the dialogues of one language and seed batch."""
    return dg.MultiPartitionKey({LANGUAGE: language, SEED_BATCH: batch})


def seed_batch_of(tags: Mapping[str, str]) -> str | None:
    """Return the one seed batch that a run is for; None for a run of all, or of a range."""
    return None if RANGE_START in tags else tags.get(f"{MULTIDIMENSIONAL_PREFIX}{SEED_BATCH}")


def is_mislabelled(tags: Mapping[str, str]) -> bool:
    """Whether Dagster takes a run of a range for one of a single partition.

    In the backfill of a job, each run of a range also has the dimensions of the first range's first key as
    tags, and these win (https://github.com/dagster-io/dagster/issues/28861). Backfills of assets do well.
    """
    return RANGE_START in tags and f"{MULTIDIMENSIONAL_PREFIX}{SEED_BATCH}" in tags


@dataclass(frozen=True)
class DialoguePartitions:
    """The partitions of one dataset's dialogues; `batches` names the dynamic ones in the Dagster instance."""

    batches: str
    languages: tuple[str, ...]

    @cached_property
    def seed_batches(self) -> dg.DynamicPartitionsDefinition:
        """One for each seed batch, added as files are read."""
        return dg.DynamicPartitionsDefinition(name=self.batches)

    @cached_property
    def dialogues(self) -> dg.MultiPartitionsDefinition:
        """Language by seed batch."""
        languages = dg.StaticPartitionsDefinition(list(self.languages))
        return dg.MultiPartitionsDefinition({LANGUAGE: languages, SEED_BATCH: self.seed_batches})

    def selected(self, context: dg.AssetExecutionContext) -> tuple[list[str], list[str]] | None:
        """Languages and seed batches of the partitions this run is for; None when it is for all.

        Fails when they are not every batch in every language: such a selection needs runs of its own.
        """
        if not context.has_partition_key and not context.has_partition_key_range:
            return None
        names = self._in_range(context) if is_mislabelled(context.run.tags) else context.partition_keys
        keys = [self.dialogues.get_partition_key_from_str(key) for key in names]
        pairs = {(key.keys_by_dimension[LANGUAGE], key.keys_by_dimension[SEED_BATCH]) for key in keys}
        languages, batches = sorted({pair[0] for pair in pairs}), sorted({pair[1] for pair in pairs})
        if len(pairs) != len(languages) * len(batches):
            raise dg.Failure(
                "the selected partitions are not every seed batch in every language; "
                "launch them as separate runs"
            )
        return languages, batches

    def _in_range(self, context: dg.AssetExecutionContext) -> Sequence[str]:
        """Return the partitions of the range that the run's tags name."""
        wanted = dg.PartitionKeyRange(context.run.tags[RANGE_START], context.run.tags[RANGE_END])
        return self.dialogues.get_partition_keys_in_range(wanted, dynamic_partitions_store=context.instance)
