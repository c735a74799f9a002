"""`dialogue_dataset`: the finished dialogues as training data."""

# No `from __future__ import annotations` here: Dagster reads the annotations of assets as types.

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from dlgforge_core.config import SavingConfig, validate
from dlgforge_core.dialogue import Dialogue
from dlgforge_core.export.formats import sample_markdown
from dlgforge_core.export.writer import DatasetSummary, write_dataset
from dlgforge_core.quality.figures import DialogueFigures
from dlgforge_core.store.embedded import dlgforge_home
from dlgforge_core.store.finished import Scope
from dlgforge_dagster.automation import keep_fresh
from dlgforge_dagster.config import config_class, plain
from dlgforge_dagster.dataset import DatasetSpec
from dlgforge_dagster.metadata import N_SAMPLES, count_table, dataset_metadata
from dlgforge_dagster.tags import OWNERS


def build_dialogue_dataset(dataset: DatasetSpec) -> dg.AssetsDefinition:
    """The asset that writes a dataset's files."""
    base: Any = config_class(dataset.recipe.saving)

    class DialogueDatasetConfig(base):  # type: ignore[misc]
        """Config of `dialogue_dataset`."""

        run_id: str = Field(
            "",
            description="Write this dlgforge run alone. Empty: all that was made with the latest config.",
        )

    @dg.asset(
        name="dialogue_dataset",
        key_prefix=dataset.key_prefix,
        group_name=dataset.group,
        kinds={"parquet", "jsonl"},
        owners=OWNERS,
        deps=[dataset.key("dialogues")],
        automation_condition=keep_fresh(),
        code_version="1",
        required_resource_keys={"store"},
        description="The finished dialogues as training data: JSONL of several kinds, and Parquet.",
    )
    def dialogue_dataset(
        context: dg.AssetExecutionContext, config: DialogueDatasetConfig
    ) -> dg.MaterializeResult[None]:
        saving = validate(
            SavingConfig, plain(config, SavingConfig), f"ops.{dataset.op('dialogue_dataset')}.config"
        )
        return _write(dataset, context, saving, config.run_id)

    return dialogue_dataset


def _write(
    dataset: DatasetSpec, context: dg.AssetExecutionContext, saving: SavingConfig, run_id: str
) -> dg.MaterializeResult[None]:
    run_store = dataset.store(context).run_store(dataset.name)
    record = run_store.run(run_id or None)
    if record is None:
        known = ", ".join(run_store.run_ids()) or "none yet: materialize `dialogues` first"
        raise dg.Failure(f"there is no run {run_id!r} to write; runs: {known}")
    scope = Scope(run_id=record.run_id) if run_id else Scope(fingerprint=record.fingerprint)
    default = dlgforge_home(os.environ) / "datasets" / dataset.name / (run_id or record.fingerprint[:16])
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
