"""`knowledge_index`: the documents the dialogues are grounded in."""

# No `from __future__ import annotations` here: Dagster reads the annotations of assets as types.

from collections.abc import Sequence
from typing import Any

import dagster as dg

from dlgforge_core.config import KnowledgeConfig, validate
from dlgforge_core.config.asset_names import KNOWLEDGE_INDEX
from dlgforge_core.errors import DlgforgeError
from dlgforge_core.knowledge.coverage import unused_languages
from dlgforge_core.knowledge.current import choose_index
from dlgforge_core.knowledge.index_store import prune_indexes
from dlgforge_core.knowledge.indexing import index_knowledge
from dlgforge_core.knowledge.types import IndexReport
from dlgforge_core.languages import language_name
from dlgforge_dagster.config import config_class, plain
from dlgforge_dagster.dataset import DatasetSpec
from dlgforge_dagster.metadata.inputs import knowledge_index_metadata
from dlgforge_dagster.tags import OWNERS
from dlgforge_dagster.versions import code_version

_KEPT = 3  # indexes, beside those of runs that may be resumed


def build_knowledge_index(dataset: DatasetSpec) -> dg.AssetsDefinition:
    """Return the asset that indexes a dataset's documents."""
    base: Any = config_class(dataset.recipe.knowledge)

    class KnowledgeIndexConfig(base):  # type: ignore[misc]
        """Config of `knowledge_index`."""

    @dg.asset(
        name=KNOWLEDGE_INDEX,
        key_prefix=dataset.key_prefix,
        group_name=dataset.group,
        kinds={"postgres"},
        owners=OWNERS,
        code_version=code_version(1, dataset.recipe.knowledge, later=("links", "encoding", "limits")),
        required_resource_keys={"store"},
        description=dataset.description(
            "The documents that dialogues are grounded in, cut into chunks and indexed. Files that "
            "have not changed are not read again. Without knowledge.path there is no index, and dialogues "
            "are made from the topics alone."
        ),
    )
    def knowledge_index(
        context: dg.AssetExecutionContext, config: KnowledgeIndexConfig
    ) -> dg.MaterializeResult[None]:
        source = f"ops.{dataset.op(KNOWLEDGE_INDEX)}.config"
        knowledge = validate(KnowledgeConfig, plain(config, KnowledgeConfig), source)
        store = dataset.store(context).run_store(dataset.name)
        try:
            report = index_knowledge(store.database, dataset.name, knowledge, context.log.info)
        except DlgforgeError as error:
            raise dg.Failure(str(error)) from error
        choose_index(store.database, dataset.name, report.index_id, knowledge.embedding)
        if report.built:
            prune_indexes(store.database, dataset.name, keep=store.resumable_indexes(), latest=_KEPT)
        for problem in report.problems[:50]:
            context.log.warning(problem)
        notes = [*report.notes, *_unused(report, dataset.recipe.run.target_languages)]
        for note in notes:
            context.log.info(note)
        if not report.index_id:
            context.log.info("knowledge.path is empty: the dialogues are made from the topics alone")
        return dg.MaterializeResult(
            data_version=dg.DataVersion(report.index_id or "none"),
            metadata=knowledge_index_metadata(report, notes),
        )

    return knowledge_index


def _unused(report: IndexReport, languages: Sequence[str]) -> list[str]:
    """Count the documents that the recipe's languages leave: other languages may be asked for."""
    counts = unused_languages(report.by_language, languages)
    return [
        f"{n:,} documents in {language_name(language)} ({language}) are not used: the recipe's target "
        "languages have documents of their own"
        for language, n in counts.items()
    ]
