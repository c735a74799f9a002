"""`knowledge` and `retrieval`: the documents the dialogues are grounded in, and how passages are found."""

from __future__ import annotations

from typing import Annotated, Literal, Self

import webencodings  # type: ignore[import-untyped]
from pydantic import Field, field_validator, model_validator

from dlgforge_core.config.base import (
    BareOff,
    ConfigModel,
    NonNegativeInt,
    OptionalVariableName,
    PositiveInt,
    Seconds,
)
from dlgforge_core.config.endpoints import check_base_url

SHIPPED_KNOWLEDGE = "shipped"

EmbeddingBackend = Literal["off", "endpoint", "sentence_transformers"]
DocumentLinks = Literal["anywhere", "inside"]
RetrievalMode = Literal["lexical", "dense", "hybrid"]


class EmbeddingConfig(ConfigModel):
    """What makes vectors of chunks and queries, for dense and hybrid retrieval."""

    backend: Annotated[EmbeddingBackend, BareOff] = Field(
        "off",
        description="`endpoint`: a server's /v1/embeddings; `sentence_transformers`: a model in this process "
        "(needs the extra dlgforge[dense]); `off`: lexical retrieval only.",
    )
    model: str = Field("", description="Embedding model: its name at the endpoint, or its name or folder.")
    base_url: str = Field("", description="Address of the endpoint up to and including /v1.")
    api_key_env: OptionalVariableName = Field(
        "", description="Environment variable that holds the endpoint's key, if any."
    )
    batch_size: PositiveInt = Field(32, description="Texts embedded in one call.")
    timeout_s: Seconds = Field(60.0, description="Time-out of one call.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.backend != "off" and not self.model:
            raise ValueError(f"model is empty; backend {self.backend!r} needs the name of an embedding model")
        if self.backend == "endpoint":
            if not self.base_url:
                raise ValueError("base_url is empty; backend 'endpoint' needs its address, up to /v1")
            check_base_url(self.base_url)
        return self


class DocumentLimitsConfig(ConfigModel):
    """What reading a document may take; one that takes more is reported and left out."""

    seconds: Seconds = Field(5.0, description="Seconds of a processor.")
    memory_mib: Annotated[int, Field(ge=64)] = Field(256, description="Memory of the process that reads it.")
    file_mib: PositiveInt = Field(
        256, description="Size of a file of one document; a .jsonl file may have any size."
    )
    text_chars: Annotated[int, Field(ge=1, le=500_000_000)] = Field(
        16_000_000, description="Characters of its text."
    )


class KnowledgeConfig(ConfigModel):
    """Which documents the dialogues are grounded in, and how they are cut into chunks."""

    path: str = Field(
        "",
        description="A folder or file of .txt, .md, .pdf, .html or .jsonl documents, local or any address "
        "that fsspec knows. `shipped`: the documents that come with dlgforge. Empty: no knowledge.",
    )
    text_key: Annotated[str, Field(min_length=1)] = Field(
        "text", description="Key of a document's text in a line of a .jsonl file."
    )
    links: DocumentLinks = Field(
        "anywhere",
        description="Symbolic links that are followed in a local folder: `anywhere`: all, as the volumes of "
        "Kubernetes and the snapshots of hubs need it; `inside`: those that stay in the folder, for one that "
        "others fill.",
    )
    encoding: str = Field(
        "",
        description="Encoding of text files and pages that state none and are not UTF-8: windows-1252, "
        "shift_jis or another label of the web. Empty: such files are reported and left out.",
    )
    limits: DocumentLimitsConfig = Field(
        default_factory=DocumentLimitsConfig,
        description="What reading a document may take; one that takes more is reported and left out.",
    )
    languages: list[str] = Field(
        [],
        description="Languages the documents are in, by code or name: none but these are told apart, which "
        "is surer and quicker. With one of them all documents are taken to be in it. Empty: any.",
    )
    chunk_chars: PositiveInt = Field(800, description="Most characters of a chunk.")
    chunk_overlap_chars: NonNegativeInt = Field(
        100, description="Characters, at most, that a chunk repeats from the end of the one before."
    )
    embedding: EmbeddingConfig = Field(
        default_factory=EmbeddingConfig, description="Vectors of the chunks, for dense and hybrid retrieval."
    )

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, label: str) -> str:
        if label and webencodings.lookup(label) is None:
            raise ValueError(f"encoding = {label!r} is no encoding of the web; windows-1252 is one")
        return label

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.chunk_overlap_chars >= self.chunk_chars:
            raise ValueError(
                f"chunk_overlap_chars = {self.chunk_overlap_chars} is not less than chunk_chars = "
                f"{self.chunk_chars}; use {self.chunk_chars // 2} or less"
            )
        return self


class RerankConfig(ConfigModel):
    """A reranking model that puts the best passages found in a better order."""

    backend: Annotated[Literal["off", "endpoint"], BareOff] = Field(
        "off", description="`endpoint`: a server's /v1/rerank, as vLLM, Jina and Cohere have it."
    )
    base_url: str = Field("", description="Address of the endpoint up to and including /v1.")
    model: str = Field("", description="Name of the reranking model at the endpoint.")
    api_key_env: OptionalVariableName = Field(
        "", description="Environment variable that holds the endpoint's key, if any."
    )
    candidates: PositiveInt = Field(20, description="Passages found first, of which the best top_k are kept.")
    timeout_s: Seconds = Field(10.0, description="Time-out of one call; the order before it is kept then.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.backend == "endpoint":
            if not self.base_url:
                raise ValueError("base_url is empty; backend 'endpoint' needs its address, up to /v1")
            check_base_url(self.base_url)
        return self


class RetrievalConfig(ConfigModel):
    """How passages are found in the knowledge index."""

    mode: RetrievalMode = Field(
        "lexical",
        description="`lexical`: by words (BM25), needs no model; `dense`: by embeddings; `hybrid`: both, "
        "by reciprocal rank fusion. The last two need knowledge.embedding.",
    )
    top_k: PositiveInt = Field(3, description="Passages given to the assistant for a question.")
    rerank: RerankConfig = Field(default_factory=RerankConfig, description="An optional reranking model.")
