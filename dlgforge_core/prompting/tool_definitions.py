"""Definitions of the search tools, as the model is offered them."""

from __future__ import annotations

from dlgforge_core.llm.tool_calls import ToolDefinition

MAX_TOP_K = 10

_QUERY = {"type": "string", "description": "What to look for, in a few words or as a question."}
VECTOR_DB_SEARCH = ToolDefinition(
    "vector_db_search",
    "Searches the knowledge base and returns the passages that fit best.",
    {
        "type": "object",
        "properties": {
            "query": _QUERY,
            "top_k": {
                "type": "integer",
                "minimum": 1,
                "maximum": MAX_TOP_K,
                "description": "How many passages.",
            },
        },
        "required": ["query"],
    },
)
WEB_SEARCH = ToolDefinition(
    "web_search",
    "Searches the web and returns titles and snippets of the pages that fit best.",
    {"type": "object", "properties": {"query": _QUERY}, "required": ["query"]},
)
