"""Planning of a run, from seed topics or from the documents of an index."""

from __future__ import annotations

from collections.abc import Sequence

from dlgforge_core.config import GenerationConfig, LlmConfig
from dlgforge_core.knowledge.index_store import document_digests
from dlgforge_core.planning.document_plan import Lists, SourceDocument
from dlgforge_core.planning.fingerprint import ContentSource
from dlgforge_core.planning.personas import personas_of
from dlgforge_core.planning.plan import Planning, plan_run
from dlgforge_core.planning.plan_documents import DocumentSet, plan_documents
from dlgforge_core.planning.seeds import SeedBatch
from dlgforge_core.store.document_lists import begun_documents, current_documents
from dlgforge_core.store.run_store import RunStore


def planning_of(
    store: RunStore,
    generation: GenerationConfig,
    llm: LlmConfig,
    batches: Sequence[SeedBatch],
    languages: Sequence[str] | None,
    batch_names: Sequence[str] | None,
    index_id: str,
) -> Planning:
    """Return the plan of a run; one without topics continues what was planned of the same documents.

    Raises ConfigError, SeedError and StoreError.
    """
    source = ContentSource(store.dataset, index_id)
    personas = personas_of(generation.personas)
    selected = {"languages": languages, "batch_names": batch_names}
    if generation.has_topics:
        return plan_run(generation, llm, personas, batches, source=source, **selected)
    return plan_documents(generation, llm, personas, _documents(store, index_id), source=source, **selected)


def _documents(store: RunStore, index_id: str) -> DocumentSet:
    if not index_id:
        return DocumentSet()

    def begun(fingerprint: str, digest: str) -> Lists:
        with store.connection() as connection:
            return begun_documents(connection, fingerprint, digest)

    with store.connection() as connection:
        current = current_documents(connection, store.dataset)
    documents = [
        SourceDocument(document.name, digest, document.language, document.n_chunks)
        for document, digest in document_digests(store.database, store.dataset, index_id)
    ]
    return DocumentSet(documents, current, begun)
