"""Types of knowledge: documents, cut into chunks, found as hits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Scores = npt.NDArray[np.float32]
"""How well each chunk of an index fits, in their order; higher is better."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A passage of a document. `chunk_id` is a digest of all the rest; `ordinal` counts from 0.

    `start` is where the text starts in the document's text, in characters; `language` is an ISO 639-1
    code, or empty when it cannot be told.
    """

    chunk_id: str
    document: str
    ordinal: int
    text: str
    language: str
    start: int = 0


@dataclass(frozen=True, slots=True)
class Document:
    """A document of an index. `name`: its path in the knowledge folder; "<path>#<id>" for a JSONL line."""

    name: str
    title: str
    language: str
    n_chunks: int


@dataclass(frozen=True, slots=True)
class Hit:
    """A chunk that was found. Scores compare within one search only; higher is better."""

    chunk: Chunk
    score: float


@dataclass(frozen=True, slots=True)
class IndexReport:
    """What indexing did. `index_id` is empty when there is no knowledge.

    Files: `n_read` were read now, `n_unchanged` not, `n_removed` left the index, `n_broken` have problems,
    `n_unknown` are of no format that is read. `n_copies` documents hold the text of another one, and are left
    out. `notes` say which: not wrong, but good to know.
    `built` says whether the index had to be made, `n_embedded` how many texts were embedded for it.
    `bytes` is the size of the index as it is kept.
    """

    index_id: str = ""
    n_documents: int = 0
    n_chunks: int = 0
    n_files: int = 0
    n_read: int = 0
    n_unchanged: int = 0
    n_removed: int = 0
    n_broken: int = 0
    n_unknown: int = 0
    n_copies: int = 0
    n_embedded: int = 0
    built: bool = False
    bytes: int = 0
    seconds: float = 0.0
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    by_language: Mapping[str, int] = field(default_factory=dict)
    """Documents by language; "" stands for those whose language cannot be told."""
