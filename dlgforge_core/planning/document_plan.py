"""Documents in place of topics: which document, or chunk of one, each dialogue of a plan is made from.

- With `run.total_samples` documents go round in cycles, as topics do.
- With `run.per_document` and `run.per_chunk` they are listed, each as often as it is asked for. A list grows
  at its end only: a document that comes later, or a greater number, continues the plan that there is. Where
  that cannot be, because a document has changed or is gone, another plan is begun, under another digest.

A document is for dialogues in its own language (of a dialect in the base language), and for those in target
languages that have no document; one in a language that is no target, or cannot be told, is for all. Of the
languages that it is for, each of its dialogues is in the one that has fewest so far: so they come out even.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Protocol

from dlgforge_core.config import RunConfig
from dlgforge_core.languages import base_code
from dlgforge_core.planning.draws import hex_digest, in_cycle
from dlgforge_core.sources import PlannedDocument, SeedTopic

DOCUMENTS_BATCH = "documents"
"""What stands for a seed batch where dialogues are made from documents alone."""


@dataclass(frozen=True, slots=True)
class SourceDocument:
    """A document that dialogues can be made from. `digest` is that of its text, as it was cut into chunks."""

    name: str
    digest: str
    language: str
    n_chunks: int


class DocumentDraws(Protocol):
    """The documents of one language's dialogues, by ordinal."""

    def of(self, ordinal: int) -> PlannedDocument:
        """Return the document of a dialogue."""


@dataclass(frozen=True, slots=True)
class DocumentCycle:
    """Documents that go round: each once before any comes again."""

    documents: tuple[SourceDocument, ...]
    key: bytes

    def of(self, ordinal: int) -> PlannedDocument:
        """Return the document of a dialogue."""
        size = len(self.documents)
        document = self.documents[in_cycle(self.key, size, ordinal)]
        return PlannedDocument(document.name, document.digest, nth=ordinal // size)


@dataclass(frozen=True, slots=True)
class DocumentList:
    """Documents one after the other."""

    documents: Sequence[PlannedDocument]

    def of(self, ordinal: int) -> PlannedDocument:
        """Return the document of a dialogue."""
        return self.documents[ordinal]


Lists = Mapping[str, Sequence[PlannedDocument]]
"""Documents of the dialogues of each language, in the order of a plan."""


def topic_of_document(document: PlannedDocument, language: str) -> SeedTopic:
    """Return what stands for a seed topic: no subject, and the same id for all dialogues of a document."""
    identity = hex_digest(["document", document.name], 8)
    return SeedTopic(identity, language, "", batch=DOCUMENTS_BATCH)


def documents_in(documents: Sequence[SourceDocument], language: str) -> tuple[SourceDocument, ...]:
    """Return the documents in a language and those of unknown language; all where none is in it."""
    base = base_code(language)
    if all(document.language != base for document in documents):
        return tuple(documents)
    return tuple(document for document in documents if document.language in (base, ""))


def list_digest(documents: Sequence[SourceDocument], number: int) -> str:
    """Return the digest of the plan that a list of these documents begins; of several of them, by number."""
    names = sorted((document.name, document.digest) for document in documents)
    parts = [part for pair in names for part in pair]
    return hex_digest([DOCUMENTS_BATCH, number, *parts], 32)


def continued(documents: Sequence[SourceDocument], run: RunConfig, begun: Lists) -> Lists | None:
    """Return the lists that continue those that were begun; None when no list can.

    An ordinal that has a document keeps it. Fewer dialogues are the beginning of a list, where what is not
    wanted any more is its end.
    """
    wanted = _wanted(documents, run)
    languages = run.target_languages
    lists: dict[str, list[PlannedDocument]] = {}
    for language in languages:
        before = begun.get(language, ())
        lists[language] = list(takewhile(wanted.__contains__, before))
        if any(one in wanted for one in before[len(lists[language]) :]):
            return None
    there = {one for planned in lists.values() for one in planned}
    missing = [one for one in wanted if one not in there]
    cut = {language for language in languages if len(lists[language]) < len(begun.get(language, ()))}
    for one, language in _languages_of(missing, documents, languages, lists):
        if language in cut:
            return None
        lists[language].append(one)
    return lists


def _wanted(documents: Sequence[SourceDocument], run: RunConfig) -> dict[PlannedDocument, None]:
    """Return what is to be there, in order: all documents once, then all of them again."""
    ordered = sorted(documents, key=lambda document: document.name)
    chunks = [range(one.n_chunks) if run.per_chunk is not None else (None,) for one in ordered]
    return dict.fromkeys(
        PlannedDocument(document.name, document.digest, nth, chunk)
        for nth in range(run.per_chunk or run.per_document or 0)
        for document, numbers in zip(ordered, chunks, strict=True)
        for chunk in numbers
    )


def _languages_of(
    missing: Sequence[PlannedDocument],
    documents: Sequence[SourceDocument],
    languages: Sequence[str],
    lists: Lists,
) -> Iterator[tuple[PlannedDocument, str]]:
    """Yield each with its language: of those it may have the one with the fewest so far."""
    may_have = _choices({document.language for document in documents}, languages)
    choices = {document.name: may_have[document.language] for document in documents}
    counts = Counter({language: len(planned) for language, planned in lists.items()})
    of_source = Counter(
        (one.name, one.chunk, language) for language, planned in lists.items() for one in planned
    )
    for one in missing:
        language = min(
            choices[one.name], key=lambda each: (counts[each], of_source[one.name, one.chunk, each])
        )
        counts[language] += 1
        of_source[one.name, one.chunk, language] += 1
        yield one, language


def _choices(written: Collection[str], languages: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the target languages that documents are for, by the language they are written in."""
    bases = {language: base_code(language) for language in languages}
    choices = {}
    for base in written:
        fit = tuple(one for one in languages if bases[one] == base or bases[one] not in written)
        choices[base] = fit if base in bases.values() else tuple(languages)
    return choices
