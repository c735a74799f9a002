"""Servers beside the models before a run: embeddings, reranking, and the key of the web search."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping

from dlgforge_core.config import EmbeddingConfig, Recipe, web_search_key
from dlgforge_core.errors import DlgforgeError
from dlgforge_core.knowledge.embedding import open_embedder
from dlgforge_core.knowledge.endpoints import embedding_endpoint, rerank_endpoint
from dlgforge_core.knowledge.retrieval import Reranker
from dlgforge_core.knowledge.types import Chunk, Hit
from dlgforge_core.preflight.report import Row, failed, ok, warning

Reporter = Callable[[Row], None]
_WEB_SEARCH = "tools.web_search"
_QUERY = "When is bread done?"
_PASSAGES = (
    "The library opens at nine on weekdays and at ten on Saturdays.",
    "Bread is done when it sounds hollow if you knock on its bottom crust.",
)


def searches_by_embeddings(recipe: Recipe) -> bool:
    """Whether a run embeds what it looks for in the documents."""
    return bool(recipe.knowledge.path) and recipe.retrieval.mode != "lexical"


async def check_knowledge(recipe: Recipe, env: Mapping[str, str], report: Reporter) -> None:
    """Report on what a recipe's retrieval, tools and filters call, each by one small call."""
    if searches_by_embeddings(recipe):
        await _embedding("knowledge.embedding", recipe.knowledge.embedding, env, report)
    if recipe.saving.semantic_dedup.threshold is not None:
        section = "saving.semantic_dedup.embedding"
        await _embedding(section, recipe.saving.semantic_dedup.embedding, env, report)
    if recipe.knowledge.path and recipe.retrieval.rerank.backend != "off":
        await _reranker(recipe, env, report)
    with _reported(_WEB_SEARCH, report):
        if web_search_key(recipe.tools, env) is not None:
            report(ok(_WEB_SEARCH, "key", "is set; no search is made, for each one costs"))


async def _embedding(section: str, config: EmbeddingConfig, env: Mapping[str, str], report: Reporter) -> None:
    with _reported(section, report):
        started = time.monotonic()
        endpoint = embedding_endpoint(config, env)
        embedder = open_embedder(config.backend, config.model, endpoint, attempts=1, section=section)
        try:
            vectors = await embedder.embed([_QUERY, *_PASSAGES])
        finally:
            await embedder.aclose()
        took = f"vectors of {vectors.shape[1]} numbers in {time.monotonic() - started:.1f} s"
        near, far = (vectors[0] @ vectors[2], vectors[0] @ vectors[1])
        if near > far:
            report(ok(section, "embeddings", f"{config.model}: {took}"))
        else:
            finding = (
                f"{config.model}: {took}, but a question is no nearer to its answer than to another text"
            )
            report(warning(section, "embeddings", finding, f"see that {section}.model is an embedding model"))


async def _reranker(recipe: Recipe, env: Mapping[str, str], report: Reporter) -> None:
    section, config = "retrieval.rerank", recipe.retrieval.rerank
    with _reported(section, report):
        started = time.monotonic()
        endpoint = rerank_endpoint(config, env)
        assert endpoint is not None
        reranker = Reranker(endpoint, config)
        hits = [Hit(Chunk(str(i), "", i, text, "en"), 0.0) for i, text in enumerate(_PASSAGES)]
        try:
            ordered = await reranker.order(_QUERY, hits)
        finally:
            await reranker.aclose()
        took = f"{config.model or 'its model'} in {time.monotonic() - started:.1f} s"
        if ordered[0].chunk.text == _PASSAGES[1]:
            report(ok(section, "reranking", took))
        else:
            finding = f"{took}, but a question's answer comes behind another text"
            report(warning(section, "reranking", finding, f"see that {section}.model is a reranking model"))


@contextlib.contextmanager
def _reported(section: str, report: Reporter) -> Iterator[None]:
    try:
        yield
    except DlgforgeError as error:
        if section == _WEB_SEARCH:
            remedy = f"correct the keys of {section}"
        else:
            keys = "model, base_url and api_key_env"
            remedy = f"see that the server is up, and that {keys} of {section} are right"
        report(failed(section, "usable", str(error), remedy))
