"""Looking at endpoints before and between calls: are they there, and do they serve the models."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from dlgforge_core.errors import BackendError
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


# What servers call the context length of a model in their lists: vLLM and SGLang, LM Studio and Mistral,
# Groq, OpenRouter and Together. What llama.cpp has below `meta` is of the training, not of the server.
_CONTEXT_KEYS = (
    *("max_model_len", "loaded_context_length", "max_context_length", "context_window", "context_length"),
    "max_input_tokens",
)


class NoModelsError(BackendError):
    """An endpoint gave no list of its models; `reached` says that it answered, `refused` that for a key."""

    def __init__(self, message: str, *, reached: bool = True, refused: bool = False) -> None:
        super().__init__(message)
        self.reached = reached
        self.refused = refused


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model in an endpoint's list, and its context length as far as the endpoint states one."""

    name: str
    context_tokens: int | None = None


async def served_models(endpoint: Endpoint, timeout_s: float = PROBE_TIMEOUT_S) -> list[ServedModel]:
    """Return the models that an endpoint lists by `GET /models`, within `timeout_s` seconds.

    Raises NoModelsError with cause and remedy, and ConfigError for a key that no header can hold.
    """
    transport = EndpointTransport(endpoint)
    try:
        answer = await transport.get_models(timeout_s)
    except TransportError as error:
        raise NoModelsError(f"{error}; is the server running and the address right?", reached=False) from None
    finally:
        await transport.aclose()
    if answer.status in (401, 403):
        what = "its key was refused" if endpoint.has_key else "it wants a key and none is set"
        raise NoModelsError(
            f"{what}; set the variable named by api_key_env or headers_env ({read_error(answer)!s})",
            refused=True,
        )
    if answer.status != 200:
        reason = str(read_error(answer))
        raise NoModelsError(
            f"GET /models answered {reason}; base_url must be the address up to and including /v1"
        )
    try:
        return [_served(item) for item in orjson.loads(answer.body)["data"]]
    except (ValueError, KeyError, TypeError):
        body = excerpt(answer.body)
        raise NoModelsError(
            f"GET /models gave no list of models, so this is no OpenAI-compatible server: {body}"
        ) from None


def _served(item: Any) -> ServedModel:
    stated = (item.get(key) for key in _CONTEXT_KEYS)
    sizes = (value for value in stated if isinstance(value, int) and value > 0)
    return ServedModel(str(item["id"]), next(sizes, None))


def missing_models(models: Collection[str], served: Sequence[ServedModel]) -> str:
    """Return which of `models` an endpoint does not list, and what it lists; empty when it lists them."""
    names = [model.name for model in served]
    missing = sorted(set(models) - set(names))
    if not missing:
        return ""
    shown = ", ".join(names[:MAX_MODELS_SHOWN]) or "none"
    more = f" and {len(names) - MAX_MODELS_SHOWN} more" if len(names) > MAX_MODELS_SHOWN else ""
    return f"does not serve {', '.join(missing)}; it serves: {shown}{more}"


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
    try:
        return missing_models(models, await served_models(endpoint, timeout_s))
    except NoModelsError as error:
        return str(error)
