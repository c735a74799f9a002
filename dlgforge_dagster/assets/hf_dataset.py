"""`hf_dataset`: the dataset on a Hugging Face hub."""

# No `from __future__ import annotations` here: Dagster reads the annotations of assets as types.

from collections.abc import Iterator
from typing import Any

import dagster as dg

from dlgforge_core.config import HfPushConfig, validate
from dlgforge_core.config.asset_names import DIALOGUE_DATASET, HF_DATASET
from dlgforge_core.errors import DlgforgeError
from dlgforge_core.export.hub import PushedDataset, hub_token, push_dataset
from dlgforge_dagster.automation import keep_fresh
from dlgforge_dagster.config import config_class, plain
from dlgforge_dagster.dataset import DatasetSpec
from dlgforge_dagster.tags import OWNERS
from dlgforge_dagster.versions import code_version


def build_hf_dataset(dataset: DatasetSpec) -> dg.AssetsDefinition:
    """Yield the asset that pushes a dataset's folder to a hub; off by default."""
    base: Any = config_class(dataset.recipe.saving.hf_push)

    class HfDatasetConfig(base):  # type: ignore[misc]
        """Config of `hf_dataset`."""

    @dg.asset(
        name=HF_DATASET,
        key_prefix=dataset.key_prefix,
        group_name=dataset.group,
        kinds={"huggingface"},
        owners=OWNERS,
        deps=[dataset.key(DIALOGUE_DATASET)],
        automation_condition=keep_fresh() if dataset.recipe.saving.hf_push.enabled else None,
        code_version=code_version(1, dataset.recipe.saving.hf_push, later=("timeout_s",)),
        required_resource_keys={"store"},
        # With the push turned off the step yields nothing, and Dagster calls the asset skipped.
        output_required=False,
        description=dataset.description(
            "The dataset in a repository of a Hugging Face hub, one commit for each change. Off by "
            "default: set `enabled` and `repo_id`; the token is read from the environment."
        ),
    )
    def hf_dataset(
        context: dg.AssetExecutionContext, config: HfDatasetConfig
    ) -> Iterator[dg.MaterializeResult[None]]:
        source = f"ops.{dataset.op(HF_DATASET)}.config"
        push = validate(HfPushConfig, plain(config, HfPushConfig), source)
        if not push.enabled:
            note = (
                f"nothing is pushed: set {source}.enabled to true and {source}.repo_id to a dataset "
                f"repository (in a recipe: saving.hf_push), and the variable {push.token_env} to a token"
            )
            context.log.info(note)
            context.log_event(dg.AssetObservation(context.asset_key, metadata={"note": note}))
            return
        dataset.store(context).run_store()  # nothing is read from it, but it shows that this run lives
        pushed = _push(dataset, context, push)
        context.log.info(
            f"{pushed.url} is at {pushed.commit}" + ("" if pushed.changed else ", as before: nothing changed")
        )
        yield dg.MaterializeResult(
            data_version=dg.DataVersion(pushed.commit),
            metadata={
                "url": dg.MetadataValue.url(pushed.url),
                "commit_url": dg.MetadataValue.url(pushed.commit_url),
                "repo_id": pushed.repo_id,
                "revision": pushed.revision,
                "commit": pushed.commit,
                "files": pushed.n_files,
                "changed": pushed.changed,
            },
        )

    return hf_dataset


def _push(dataset: DatasetSpec, context: dg.AssetExecutionContext, push: HfPushConfig) -> PushedDataset:
    folder = dataset.latest_folder(context.instance)
    if folder is None:
        raise dg.Failure("no dataset was written yet: materialize `dialogue_dataset` first, or select it too")
    try:
        return push_dataset(folder, push, hub_token(push))
    except DlgforgeError as error:
        raise dg.Failure(str(error), metadata={"folder": dg.MetadataValue.path(folder)}) from None
