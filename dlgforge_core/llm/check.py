"""Looking at endpoints before and between calls: are they there, and do they serve the models."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence

import orjson

from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.llm.server_errors import excerpt, read_error
from dlgforge_core.llm.transport import EndpointTransport, TransportError

PROBE_TIMEOUT_S = 10.0
MAX_MODELS_SHOWN = 10


async def probe(transport: EndpointTransport) -> str:
    """Why an endpoint cannot be tried with a call yet, or an empty string.

    A server without `GET /models` is fit to be tried; only the call itself can tell.
    """
    try:
        answer = await transport.get_models(min(PROBE_TIMEOUT_S, transport.endpoint.timeout_s))
    except TransportError as error:
        return str(error)
    if answer.status in (401, 403):
        return f"the key was refused ({read_error(answer)!s})"
    if answer.status >= 500:
        return str(read_error(answer))
    return ""


async def check_endpoints(
    endpoints: Sequence[Endpoint], models: Collection[str], timeout_s: float = 10.0
) -> list[str]:
    """Return what is wrong with the endpoints, a line for each bad one; empty when all serve all `models`.

    Asks every endpoint for `GET /models`, all at once, for at most `timeout_s` seconds each.
    Raises ConfigError for a key that no header can hold.
    """
    problems = await asyncio.gather(*(_problem(e, models, timeout_s) for e in endpoints))
    return [
        f"{e.name} ({e.base_url}): {problem}"
        for e, problem in zip(endpoints, problems, strict=True)
        if problem
    ]


async def _problem(endpoint: Endpoint, models: Collection[str], timeout_s: float) -> str:
    transport = EndpointTransport(endpoint)
    try:
        answer = await transport.get_models(timeout_s)
    except TransportError as error:
        return f"{error}; is the server running and the address right?"
    finally:
        await transport.aclose()
    if answer.status in (401, 403):
        what = "its key was refused" if endpoint.has_key else "it wants a key and none is set"
        return f"{what}; set the variable named by api_key_env or headers_env ({read_error(answer)!s})"
    if answer.status != 200:
        reason = str(read_error(answer))
        return f"GET /models answered {reason}; base_url must be the address up to and including /v1"
    try:
        served = [str(item["id"]) for item in orjson.loads(answer.body)["data"]]
    except (ValueError, KeyError, TypeError):
        body = excerpt(answer.body)
        return f"GET /models gave no list of models, so this is no OpenAI-compatible server: {body}"
    missing = sorted(set(models) - set(served))
    if not missing:
        return ""
    shown = ", ".join(served[:MAX_MODELS_SHOWN]) or "none"
    more = f" and {len(served) - MAX_MODELS_SHOWN} more" if len(served) > MAX_MODELS_SHOWN else ""
    return f"does not serve {', '.join(missing)}; it serves: {shown}{more}"
