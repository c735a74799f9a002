"""Plans of dialogues that are made from documents alone, without topics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import count

from dlgforge_core.config import GenerationConfig, LlmConfig, RunConfig
from dlgforge_core.errors import ConfigError
from dlgforge_core.planning.document_plan import (
    DOCUMENTS_BATCH,
    DocumentCycle,
    DocumentDraws,
    DocumentList,
    Lists,
    SourceDocument,
    continued,
    documents_in,
    list_digest,
)
from dlgforge_core.planning.draws import hex_digest
from dlgforge_core.planning.fingerprint import NO_SOURCE, ContentSource, content_fingerprint
from dlgforge_core.planning.personas import Personas
from dlgforge_core.planning.plan import (
    Planning,
    attributes_of,
    plan_of,
    select_batches,
    select_languages,
    shares_of,
    unknown_languages,
)
from dlgforge_core.planning.seeds import SeedBatch


@dataclass(frozen=True, slots=True)
class DocumentSet:
    """The documents of an index, and the plans that were begun with earlier ones.

    `begun` returns what was planned under a fingerprint and a digest, `current` is the digest of the plan
    that the dataset is of; "" without one.
    """

    documents: Sequence[SourceDocument] = ()
    current: str = ""
    begun: Callable[[str, str], Lists] = field(default=lambda fingerprint, digest: {})


def plan_documents(
    generation: GenerationConfig,
    llm: LlmConfig,
    personas: Personas,
    found: DocumentSet,
    *,
    languages: Sequence[str] | None = None,
    batch_names: Sequence[str] | None = None,
    source: ContentSource = NO_SOURCE,
) -> Planning:
    """Plan a run without topics; `languages` and `batch_names` select partitions, as in `plan_run`.

    Raises ConfigError for an unknown selection, and where there are no documents either.
    """
    run = generation.run
    if not found.documents:
        raise ConfigError(
            "there is nothing to make dialogues from: topics.enabled = false (or run.per_document or "
            "run.per_chunk is set), and there is no document in the knowledge index; set knowledge.path, or "
            "have topics"
        )
    wanted = select_languages(run, languages)
    fingerprint = content_fingerprint(generation, llm, personas, source)
    if run.counts_documents:
        digest, lists = _lists(found, run, fingerprint)
        shares = {language: len(documents) for language, documents in lists.items()}
        draws: dict[str, DocumentDraws] = {name: DocumentList(lists[name]) for name in lists}
    else:
        digest, shares = list_digest(found.documents, 0), shares_of(run)
        draws = {language: _cycle(found.documents, run, language) for language in run.target_languages}
    batch = SeedBatch(DOCUMENTS_BATCH, digest, ())
    select_batches([batch], batch_names)
    attributes = attributes_of(generation, batch.name, [one for one in run.target_languages if shares[one]])
    plans = tuple(
        replace(
            plan_of(generation, fingerprint, personas, batch, language, shares[language]),
            documents=draws[language],
            attributes=attributes,
        )
        for language in wanted
        if shares[language]
    )
    notes = [
        f"run.{run.count_key} leaves no dialogue for {language!r}"
        for language in wanted
        if not shares[language]
    ]
    return Planning(plans, fingerprint, (*notes, *unknown_languages(wanted)), batch)


def _lists(found: DocumentSet, run: RunConfig, fingerprint: str) -> tuple[str, Lists]:
    """Return what each language's dialogues are made from, and the digest of the plan that it continues."""
    begun = found.begun(fingerprint, found.current) if found.current else {}
    lists, digest = continued(found.documents, run, begun) if begun else None, found.current
    numbers = count()
    while lists is None:  # a list that nobody has begun can always be
        digest = list_digest(found.documents, next(numbers))
        lists = continued(found.documents, run, found.begun(fingerprint, digest))
    return digest, lists


def _cycle(documents: Sequence[SourceDocument], run: RunConfig, language: str) -> DocumentCycle:
    key = bytes.fromhex(hex_digest([run.seed, "document", DOCUMENTS_BATCH, language], 16))
    return DocumentCycle(documents_in(documents, language), key)
