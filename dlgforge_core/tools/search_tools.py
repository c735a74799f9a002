"""Searches as tools: of the knowledge, and of the web."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from dlgforge_core.knowledge.types import Hit
from dlgforge_core.llm import structured
from dlgforge_core.prompting.quoting import quote_passages
from dlgforge_core.prompting.tool_definitions import MAX_TOP_K
from dlgforge_core.tools.executor import CallContext, ToolOutput
from dlgforge_core.tools.web_search import WebSearch

MAX_QUERY_CHARS = 1000
_NOTHING = "Nothing was found."


class PassageSearch(Protocol):
    """Finds passages, the best first; `dlgforge_core.knowledge.retrieval.Knowledge.search` is one."""

    async def __call__(self, query: str, *, k: int) -> Sequence[Hit]:
        """Return the `k` best passages for a query."""
        ...


def read_search(arguments: Mapping[str, Any], schema: Mapping[str, Any], usual: int) -> dict[str, Any]:
    """Return the arguments of a search as they are carried out: `top_k` is `usual` where it is none.

    Small models write "5", 5.0, or nonsense. Raises ValueError, with a message for the model.
    """
    given = dict(arguments)
    top_k = _whole(given.pop("top_k", None), usual)
    structured.check(given, schema, "the arguments")
    query = " ".join(str(given["query"]).split())[:MAX_QUERY_CHARS]
    if not query:
        raise ValueError("query in the arguments must not be empty")
    return {"query": query, "top_k": top_k}


class VectorDbSearch:
    """Searches the knowledge; the passages that were shown are among what the answer draws on."""

    limited = True

    def __init__(self, search: PassageSearch, result_chars: int) -> None:
        self._search = search
        self._result_chars = result_chars

    async def execute(self, arguments: Mapping[str, Any], context: CallContext) -> ToolOutput:
        """Return the passages, quoted."""
        hits = await self._search(arguments["query"], k=arguments["top_k"])
        quoted, result = _fitting(hits, self._result_chars)
        return ToolOutput(result or _NOTHING, hits=quoted)

    async def aclose(self) -> None:
        """Nothing is held; the knowledge is closed by those who opened it."""


class WebSearchTool:
    """Searches the web."""

    limited = True

    def __init__(self, web: WebSearch, top_k: int, result_chars: int) -> None:
        self._web = web
        self._top_k = top_k
        self._result_chars = result_chars

    async def execute(self, arguments: Mapping[str, Any], context: CallContext) -> ToolOutput:
        """Return titles and snippets, quoted."""
        hits = await self._web.search(arguments["query"], k=self._top_k)
        return ToolOutput(_fitting(hits, self._result_chars)[1] or _NOTHING)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._web.aclose()


def _whole(value: Any, default: int) -> int:
    """`value` as a number of passages."""
    try:
        return max(1, min(MAX_TOP_K, int(float(value))))
    except (TypeError, ValueError, OverflowError):
        return default


def _fitting(hits: Sequence[Hit], chars: int) -> tuple[tuple[Hit, ...], str]:
    """As many of the hits as can be told in `chars` characters, and how they are told."""
    for count in range(len(hits), 0, -1):
        if len(quoted := quote_passages([hit.chunk.text for hit in hits[:count]])) <= chars:
            return tuple(hits[:count]), quoted
    # Cut before it is quoted, so that the quotation is closed.
    for hit in hits[:1]:
        text = hit.chunk.text[:chars]
        while text:
            if len(quoted := quote_passages([text])) <= chars:
                return (hit,), quoted
            text = text[: len(text) * 3 // 4]
    return (), ""
