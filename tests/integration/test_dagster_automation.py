"""What starts by itself after what, as Dagster's automation sees the assets of the code location."""

# No `from __future__ import annotations` here: Dagster reads the annotations of ops as types.

import dagster as dg

from dlgforge_dagster.definitions import build_definitions
from dlgforge_dagster.partitions import SEED_BATCHES, dialogue_key
from dlgforge_dagster.tags import JUDGED_TAG


def test_the_dataset_follows_dialogues_and_verdicts_but_no_judging_that_did_nothing(
    instance: dg.DagsterInstance, tmp_path: object
) -> None:
    defs = build_definitions(str(tmp_path))
    cursor = None

    def requested() -> bool:
        nonlocal cursor
        selection = dg.AssetSelection.assets("dialogue_dataset")
        result = dg.evaluate_automation_conditions(defs, instance, asset_selection=selection, cursor=cursor)
        cursor = result.cursor
        return result.total_requested > 0

    def made(asset: str, partition: str | None = None, **tags: str) -> None:
        """Make a run of its own that has made the asset."""

        @dg.op
        def log(context: dg.OpExecutionContext) -> None:
            context.log_event(dg.AssetMaterialization(asset, partition=partition))

        @dg.job
        def job() -> None:
            log()

        assert job.execute_in_process(instance=instance, tags=tags).success

    instance.add_dynamic_partitions(SEED_BATCHES, ["alpha"])
    assert not requested()
    made("judgements")
    assert not requested(), "judging in another mode than offline makes nothing new"
    made("dialogues", dialogue_key("en", "alpha"))
    assert requested()
    assert not requested()
    made("judgements", **{JUDGED_TAG: "c199447d31a545d8"})
    assert requested()
    assert not requested()
