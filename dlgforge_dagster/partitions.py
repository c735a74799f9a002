"""How dialogues are partitioned: by language, and by seed batch (one seed file).

`seed_topics` has no partitions: Dagster cannot run a partitioned asset that depends on another partitioned
one without a key, and a run without a key, as in CI, means all.
"""

from dataclasses import dataclass
from functools import cached_property

import dagster as dg

SEED_BATCHES = "seed_batches"  # the default dataset's dynamic partitions
LANGUAGE, SEED_BATCH = "language", "seed_batch"
MULTIDIMENSIONAL_PREFIX = "dagster/partition/"  # of the tags with which Dagster names a run's partition


def dialogue_key(language: str, batch: str) -> dg.MultiPartitionKey:
    """The partition of the dialogues of one language and seed batch."""
    return dg.MultiPartitionKey({LANGUAGE: language, SEED_BATCH: batch})


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
        keys = [self.dialogues.get_partition_key_from_str(key) for key in context.partition_keys]
        pairs = {(key.keys_by_dimension[LANGUAGE], key.keys_by_dimension[SEED_BATCH]) for key in keys}
        languages, batches = sorted({pair[0] for pair in pairs}), sorted({pair[1] for pair in pairs})
        if len(pairs) != len(languages) * len(batches):
            raise dg.Failure(
                "the selected partitions are not every seed batch in every language; "
                "launch them as separate runs"
            )
        return languages, batches
