"""Endpoints that move: servers that come back at other addresses are followed there."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from dlgforge_core.llm.client import LlmClient
from dlgforge_core.llm.endpoints import Endpoint

REFRESH_S = 3.0

_log = logging.getLogger(__name__)


async def follow_endpoints(client: LlmClient, refresh: Callable[[], Sequence[Endpoint]]) -> None:
    """Move the client's endpoints to where `refresh` finds them, every few seconds until cancelled."""
    while True:
        await asyncio.sleep(REFRESH_S)
        try:
            endpoints = await asyncio.to_thread(refresh)
        except (
            Exception
        ) as error:  # those who hold the servers are busy or gone; calls that fail show the rest
            _log.warning("cannot ask where the endpoints are: %s", error)
            continue
        await client.move_endpoints(endpoints)
