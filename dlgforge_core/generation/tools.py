"""The tools the assistant may call."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import logging
from collections.abc import Sequence
from typing import Any, Protocol, Self

from pydantic import SecretStr

from dlgforge_core.config.tools import ToolsConfig
from dlgforge_core.dialogue import ToolEvent
from dlgforge_core.errors import RunStoppedError, StoreError
from dlgforge_core.generation.web_search import WebSearch, WebSearchError
from dlgforge_core.knowledge.types import Hit
from dlgforge_core.llm import structured
from dlgforge_core.llm.tool_calls import (
    ToolCall,
    ToolDefinition,
)
from dlgforge_core.prompting.quoting import quote_passages
from dlgforge_core.prompting.tool_definitions import MAX_TOP_K, VECTOR_DB_SEARCH, WEB_SEARCH

_log = logging.getLogger(__name__)

MAX_QUERY_CHARS = 1000
MAX_NAME_CHARS = 64


class PassageSearch(Protocol):
    """Finds passages, the best first; `dlgforge_core.knowledge.retrieval.Knowledge.search` is one."""

    async def __call__(self, query: str, *, k: int) -> Sequence[Hit]:
        """Return the `k` best passages for a query."""
        ...


class Toolbox:
    """The tools that are enabled and have what they need; none when `config.enabled` is false.

    `search` finds passages for vector_db_search; `top_k` is how many when the model does not say. Belongs to
    one event loop; may be shared by all dialogues.
    """

    def __init__(
        self,
        config: ToolsConfig,
        search: PassageSearch | None = None,
        web_search_key: SecretStr | None = None,
        *,
        top_k: int = 3,
    ) -> None:
        self._config = config
        self._search = search
        self._top_k = top_k
        self._web: WebSearch | None = None
        if config.enabled and config.web_search and web_search_key is not None:
            self._web = WebSearch(config.web_search_url, web_search_key, config.timeout_s)

    @property
    def definitions(self) -> tuple[ToolDefinition, ...]:
        """What is offered to the model."""
        found = (VECTOR_DB_SEARCH,) if self._config.enabled and self._search is not None else ()
        return (*found, WEB_SEARCH) if self._web is not None else found

    def searching(self, search: PassageSearch | None) -> Self:
        """Return the same tools with another search: one that knows the dialogue's language, for example."""
        other = copy.copy(self)
        other._search = search
        return other

    async def execute(self, call: ToolCall) -> tuple[ToolEvent, tuple[Hit, ...]]:
        """Do what the model asks for; the hits are passages of the knowledge, as far as they were told.

        What goes wrong is told in the event's `error`, in words the model can use. Raises RunStoppedError and
        StoreError when nothing can go on.
        """
        event = ToolEvent(call.name[:MAX_NAME_CHARS], call.arguments, call_id=call.id)
        try:
            query, top_k = self._read(call)
        except ValueError as error:
            return dataclasses.replace(event, error=str(error)), ()
        try:
            async with asyncio.timeout(self._config.timeout_s):
                if call.name == WEB_SEARCH.name:
                    assert self._web is not None
                    hits = await self._web.search(query, k=self._top_k)
                else:
                    assert self._search is not None
                    hits = list(await self._search(query, k=top_k))
        except (RunStoppedError, StoreError):
            raise
        except TimeoutError:
            missing = f"{event.name} gave no result within {self._config.timeout_s:g} s"
            _log.warning("tool %s", missing)
            return dataclasses.replace(event, error=missing), ()
        except Exception as error:
            # Whatever a tool does, the dialogue goes on; what went wrong inside is not the model's to know.
            detail = str(error) if isinstance(error, WebSearchError) else repr(error)
            _log.warning("tool %s failed: %s", event.name, detail)
            return dataclasses.replace(event, error=f"{event.name} failed; answer without it"), ()
        quoted, result = _fitting(hits, self._config.result_chars)
        event = dataclasses.replace(event, result=result or "Nothing was found.")
        return event, quoted if call.name == VECTOR_DB_SEARCH.name else ()

    def _read(self, call: ToolCall) -> tuple[str, int]:
        """Return the query and how many passages to find. Raises ValueError, with a message for the model."""
        known = {tool.name: tool for tool in self.definitions}
        tool = known.get(call.name)
        if tool is None:
            raise ValueError(
                f"there is no tool {call.name[:MAX_NAME_CHARS]!r}; the tools are: {', '.join(known)}"
            )
        if call.problem:
            raise ValueError(call.problem)
        arguments = dict(call.arguments)
        top_k = _whole(arguments.pop("top_k", None), self._top_k)
        structured.check(arguments, tool.parameters, "the arguments")
        query = " ".join(str(arguments["query"]).split())[:MAX_QUERY_CHARS]
        if not query:
            raise ValueError("query in the arguments must not be empty")
        return query, top_k

    async def aclose(self) -> None:
        """Close all connections."""
        if self._web is not None:
            await self._web.aclose()


def _whole(value: Any, default: int) -> int:
    """`value` as a number of passages; small models write "5", 5.0, or nonsense."""
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
