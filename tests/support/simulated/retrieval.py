"""The simulated endpoint's embeddings, reranking and web search: all by words in common."""

from __future__ import annotations

import base64
import functools
import math
import re
import struct
from collections import Counter
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

import orjson

from tests.support.simulated import content
from tests.support.simulated.errors import RequestError
from tests.support.simulated.options import Options
from tests.support.simulated.stats import Stats

_WORD = re.compile(r"\w+")
MAX_SEARCH_RESULTS = 10


@functools.lru_cache(maxsize=65_536)
def _place(word: str) -> int:
    return int.from_bytes(blake2b(word.encode(), digest_size=8).digest(), "little")


def embed(text: str, dimensions: int) -> list[float]:
    """Return a vector of length 1: the words of `text`, each hashed to one dimension and a sign.

    The same on every machine; texts with words in common are near, a text without words is (1, 0, ...).
    """
    vector = [0.0] * dimensions
    for word, count in Counter(_WORD.findall(text.lower())).items():
        bits = _place(word)
        vector[(bits >> 1) % dimensions] += (1 + math.log(count)) * (1 if bits & 1 else -1)
    norm = math.sqrt(sum(x * x for x in vector))
    if not norm:
        return [1.0] + [0.0] * (dimensions - 1)
    return [x / norm for x in vector]


def relevance(query: str, document: str) -> float:
    """Return the share of the query's different words that the document holds, from 0 to 1."""
    wanted = set(_WORD.findall(query.lower()))
    return len(wanted & set(_WORD.findall(document.lower()))) / len(wanted) if wanted else 0.0


def embeddings(options: Options, stats: Stats, request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the answer to `POST /v1/embeddings`. Raises RequestError."""
    texts = request.get("input")
    texts = [texts] if isinstance(texts, str) else texts
    if not isinstance(texts, list) or not texts or not all(isinstance(t, str) for t in texts):
        raise RequestError(400, "'input' must be a string or a list of strings.", None, "input")
    if options.embedding_batch is not None and len(texts) > options.embedding_batch:
        what = f"'input' holds {len(texts)} texts; at most {options.embedding_batch} are taken at once."
        raise RequestError(400, what, None, "input")
    dimensions = request.get("dimensions") or options.embedding_dimensions
    if not isinstance(dimensions, int) or not 1 <= dimensions <= 4096:
        raise RequestError(400, "'dimensions' must be from 1 to 4096.", None, "dimensions")
    packed = request.get("encoding_format") == "base64"
    data = []
    for index, text in enumerate(texts):
        vector: Any = embed(text, dimensions)
        if packed:
            vector = base64.b64encode(struct.pack(f"<{dimensions}f", *vector)).decode()
        data.append({"object": "embedding", "index": index, "embedding": vector})
    stats.embedded += len(texts)
    tokens = sum(len(text.split()) for text in texts)
    return {
        "object": "list",
        "model": request.get("model"),
        "data": data,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def rerank(options: Options, stats: Stats, request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the answer to `POST /v1/rerank`, in the shape of Jina, Cohere and vLLM. Raises RequestError."""
    query, documents = request.get("query"), request.get("documents")
    if not isinstance(query, str):
        raise RequestError(400, "'query' must be a string.", None, "query")
    if not isinstance(documents, list) or not documents:
        raise RequestError(400, "'documents' must be a list of texts.", None, "documents")
    texts = [d if isinstance(d, str) else str(d.get("text", "")) for d in documents]
    stats.reranked += len(texts)
    scored = sorted(((relevance(query, text), -i) for i, text in enumerate(texts)), reverse=True)
    results = [
        {"index": -i, "relevance_score": score, "document": {"text": texts[-i]}}
        for score, i in scored[: request.get("top_n") or len(texts)]
    ]
    if request.get("return_documents") is False:
        results = [{k: v for k, v in result.items() if k != "document"} for result in results]
    tokens = sum(len(text.split()) for text in texts)
    return {
        "id": "rerank-0",
        "model": request.get("model"),
        "usage": {"total_tokens": tokens},
        "results": results,
    }


def search(options: Options, stats: Stats, request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the answer to `POST /search`, in the shape of Serper. Raises RequestError."""
    query = request.get("q")
    if not isinstance(query, str) or not query:
        raise RequestError(400, "Missing query parameter", None, "q")
    stats.searches += 1
    key = content.body_key(query.encode(), options.seed)
    organic = [
        {
            "title": f"{query[:80]}: result {n + 1}",
            "link": f"https://example.com/{content.mix(key, n):016x}",
            "snippet": options.search_snippet or content.answer(content.mix(key, n), 15),
            "position": n + 1,
        }
        for n in range(min(MAX_SEARCH_RESULTS, request.get("num") or MAX_SEARCH_RESULTS))
    ]
    return {"searchParameters": {"q": query, "type": "search"}, "organic": organic, "credits": 1}


ROUTES = {
    b"/v1/embeddings": embeddings,
    b"/v1/rerank": rerank,
    b"/rerank": rerank,
    b"/v2/rerank": rerank,
    b"/search": search,
}


def answer(path: bytes, options: Options, stats: Stats, body: bytes, authorized: bool) -> bytes:
    """Return the body of the answer to a POST on one of ROUTES. Raises RequestError."""
    try:
        request = orjson.loads(body)
    except ValueError:
        raise RequestError(400, "The body must be JSON.", None) from None
    if not isinstance(request, dict):
        raise RequestError(400, "The body must be a JSON object.", None)
    if options.record_requests:
        stats.requests.append({"path": path.decode(), "authorization": authorized, "body": request})
    model = request.get("model")
    if path != b"/search" and options.models and model not in options.models:
        raise RequestError(404, f"The model `{model}` does not exist.", "model_not_found")
    return orjson.dumps(ROUTES[path](options, stats, request))
