"""HTTP clients for what is called seldom: embeddings, reranking, web search, web services as tools.

httpx is imported where it is used: it takes 6 MB, and most workers need none of these.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from dlgforge_core.common.proxies import proxy_for
from dlgforge_core.common.tls import client_context

if TYPE_CHECKING:
    import httpx


def http_client(
    url: str, *, timeout_s: float | None = None, headers: Mapping[str, str] | None = None
) -> httpx.AsyncClient:
    """Return a client for one server, which follows no redirects.

    Raises ConfigError when the environment names a proxy or certificates that cannot be used.
    """
    import httpx

    return httpx.AsyncClient(
        headers=headers,
        timeout=timeout_s,
        trust_env=False,  # it has rules of its own for proxies and certificates
        proxy=proxy_for(url),
        verify=client_context() if httpx.URL(url).scheme == "https" else False,
    )
