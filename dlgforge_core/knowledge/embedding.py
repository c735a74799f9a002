"""Embeddings: texts as vectors of length 1, by an endpoint's /v1/embeddings or sentence-transformers."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from dlgforge_core.config import EmbeddingBackend, EmbeddingConfig
from dlgforge_core.errors import BackendError, ConfigError
from dlgforge_core.knowledge.endpoints import ATTEMPTS, JsonClient
from dlgforge_core.llm.endpoints import Endpoint

Vectors = npt.NDArray[np.float32]

MAX_DIMENSIONS = 16_384
"""Of one vector, as far as the size of an answer goes."""
MAX_VALUES = 3_000_000
CHARS_PER_NUMBER = 24


class Embedder(Protocol):
    """What makes vectors of texts."""

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """One row of length 1 for each text. Raises BackendError."""

    async def aclose(self) -> None:
        """Let go of what it holds."""


class EndpointEmbedder:
    """The embeddings of an OpenAI-compatible server."""

    def __init__(self, endpoint: Endpoint, model: str, *, attempts: int = ATTEMPTS) -> None:
        self._client = JsonClient(endpoint, attempts=attempts)
        self._model = model

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """See `Embedder`."""
        if not texts:
            return np.zeros((0, 0), np.float32)
        values = min(MAX_VALUES, len(texts) * MAX_DIMENSIONS + 1000)
        answer = await self._client.post(
            "/embeddings",
            {"model": self._model, "input": list(texts)},
            max_bytes=CHARS_PER_NUMBER * values,
            max_values=values,
        )
        try:
            rows = sorted(answer["data"], key=lambda item: item["index"])
            vectors = np.asarray([item["embedding"] for item in rows], np.float32)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise self._broken(f"is no list of embeddings ({type(error).__name__}: {error})") from None
        if vectors.ndim != 2 or len(vectors) != len(texts) or vectors.shape[1] == 0:
            raise self._broken(f"has embeddings of shape {vectors.shape} for {len(texts)} texts")
        if not np.isfinite(vectors).all():
            raise self._broken("holds numbers that are not finite")
        return normalised(vectors)

    async def aclose(self) -> None:
        """See `Embedder`."""
        await self._client.aclose()

    def _broken(self, what: str) -> BackendError:
        return BackendError(f"the answer of {self._client.endpoint.base_url}/embeddings {what}")


class LocalEmbedder:
    """A sentence-transformers model in this process, set in `section`; its work runs in a thread."""

    def __init__(self, model: str, section: str) -> None:
        try:
            library = importlib.import_module("sentence_transformers")
        except ImportError:
            raise ConfigError(
                f"{section}.backend = sentence_transformers needs a package that is not installed: "
                "pip install 'dlgforge[dense]'"
            ) from None
        try:
            self._model: Any = library.SentenceTransformer(model)
        except (OSError, ValueError) as error:
            raise ConfigError(f"the embedding model {model!r} cannot be loaded: {error}") from None

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """See `Embedder`."""
        vectors = await asyncio.to_thread(
            self._model.encode, list(texts), convert_to_numpy=True, show_progress_bar=False
        )
        return normalised(np.asarray(vectors, np.float32))

    async def aclose(self) -> None:
        """See `Embedder`."""


def open_embedder(
    backend: EmbeddingBackend,
    model: str,
    endpoint: Endpoint | None,
    *,
    attempts: int = ATTEMPTS,
    section: str = "knowledge.embedding",
) -> Embedder:
    """Return what makes vectors by this backend, which `section` of the configuration names.

    Raises ConfigError when it cannot be used.
    """
    if backend == "sentence_transformers":
        return LocalEmbedder(model, section)
    if endpoint is None:
        raise ConfigError(
            f"the embeddings of {model!r} are made by an endpoint, but none was given: set {section}.base_url"
        )
    return EndpointEmbedder(endpoint, model, attempts=attempts)


@contextmanager
def blocking_embedder(
    config: EmbeddingConfig, endpoint: Endpoint | None, section: str
) -> Iterator[Callable[[Sequence[str]], Vectors]]:
    """Yield a function that embeds texts for callers without an event loop, as this `section` says.

    Raises ConfigError; the function BackendError.
    """
    with asyncio.Runner() as runner:
        embedder = open_embedder(config.backend, config.model, endpoint, section=section)

        def embed(texts: Sequence[str]) -> Vectors:
            batches = [texts[at : at + config.batch_size] for at in range(0, len(texts), config.batch_size)]
            return np.concatenate([runner.run(embedder.embed(batch)) for batch in batches])

        try:
            yield embed
        finally:
            runner.run(embedder.aclose())


def normalised(vectors: Vectors) -> Vectors:
    """Return the rows, each at length 1; a row of zeros stays as it is."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1), np.float32)
