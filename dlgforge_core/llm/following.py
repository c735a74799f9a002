"""Endpoints that move: servers that come back at other addresses are followed there."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence

from dlgforge_core.llm.client import LlmClient
from dlgforge_core.llm.endpoints import Endpoint

REFRESH_S = 3.0

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def followed_endpoints(client: LlmClient, refresh: Callable[[], Sequence[Endpoint]] | None) -> Iterator[None]:
    """Follow the client's endpoints on the running loop while the block runs, where there is a `refresh`."""
    if refresh is None:
        yield
        return
    following = asyncio.create_task(follow_endpoints(client, refresh))
    try:
        yield
    finally:
        following.cancel()


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
