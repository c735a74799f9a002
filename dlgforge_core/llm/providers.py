"""Who asks where: the endpoints of all callers together, each one once."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from dlgforge_core.config import LlmConfig, ProviderConfig
from dlgforge_core.dialogue import Role
from dlgforge_core.errors import ConfigError
from dlgforge_core.llm.endpoints import Endpoint, endpoints_from_config

Callers = Mapping[str, ProviderConfig]
"""Who makes calls, by name: roles, and judges that have a provider of their own."""

_SETTINGS = ("weight", "max_in_flight", "timeout_s")


def callers_of(llm: LlmConfig, *roles: Role) -> dict[str, ProviderConfig]:
    """Return these roles as callers."""
    return {role.value: llm.agents.of(role) for role in roles}


def role_of(caller: str) -> str:
    """Return the role of a caller: one of several judges is named after the role's colon."""
    return caller.partition(":")[0]


def uses_backend(callers: Callers) -> bool:
    """Whether anybody's calls go to the endpoints of the whole run."""
    return not all(provider.is_apart for provider in callers.values())


def endpoints_of(
    llm: LlmConfig,
    callers: Callers,
    backend: Callable[[], Sequence[Endpoint]],
    env: Mapping[str, str] = os.environ,
) -> list[Endpoint]:
    """Return the endpoints that these callers ask, each with those that it serves.

    `backend` gives those of the whole run; it is called, last, when somebody uses them. An endpoint that is
    named for several callers with the same credentials is one: what it bears is shared. Raises ConfigError
    when it has other settings there, or nobody takes a caller's calls, and what `backend` raises.
    """
    own = own_endpoints(llm, callers, env)
    shared = frozenset(callers) - own.keys()
    endpoints = [endpoint for endpoint in (backend() if shared else ()) if any(map(endpoint.serves, shared))]
    if own:
        endpoints = [replace(e, callers=frozenset(filter(e.serves, shared))) for e in endpoints]
    for caller, named in own.items():
        for endpoint in named:
            _add(endpoints, replace(endpoint, callers=frozenset((caller,))), callers[caller])
    for caller in callers:
        if not any(endpoint.serves(caller) for endpoint in endpoints):
            raise ConfigError(
                f"no endpoint takes the calls of {caller}: name it in `roles` of one of "
                f"llm.routing.endpoints, or set llm.agents.{role_of(caller)}.base_url"
            )
    return endpoints


def own_endpoints(
    llm: LlmConfig, callers: Callers, env: Mapping[str, str] = os.environ
) -> dict[str, list[Endpoint]]:
    """Return the endpoints of callers that have their own. Raises ConfigError as `endpoints_of` does."""
    return {
        caller: _own(llm, caller, provider, env) for caller, provider in callers.items() if provider.is_apart
    }


def _own(llm: LlmConfig, caller: str, provider: ProviderConfig, env: Mapping[str, str]) -> list[Endpoint]:
    found = endpoints_from_config(llm, env, provider)
    # With a key alone it asks those of the run that take its calls.
    return found if provider.has_address else [e for e in found if e.serves(role_of(caller))]


def _add(endpoints: list[Endpoint], new: Endpoint, provider: ProviderConfig) -> None:
    """Add an endpoint of one caller's, or that caller to the same one of others."""
    named = any(one.name and one.label == new.name for one in provider.endpoints)
    for i, known in enumerate(endpoints):
        if (known.base_url, known.credentials) != (new.base_url, new.credentials):
            continue
        if named and known.name != new.name:
            continue  # it is to be counted apart
        # In its short form it has no settings of its own.
        unlike = [key for key in _SETTINGS if getattr(known, key) != getattr(new, key)]
        if provider.endpoints and unlike:
            listed = ", ".join(f"{key} {getattr(known, key):g} and {getattr(new, key):g}" for key in unlike)
            raise ConfigError(
                f"{new.base_url} is named for {_callers(known)} and for {_callers(new)} with other settings "
                f"({listed}): set them alike, or give it a `name` of its own to have it counted apart"
            )
        endpoints[i] = replace(known, callers=known.callers | new.callers)
        return
    if any(known.name == new.name for known in endpoints):
        if named:
            raise ConfigError(
                f"two different endpoints have the name {new.name!r}, one of them for {_callers(new)}: give "
                "each a `name` of its own"
            )
        new = replace(new, name=f"{new.name} ({_callers(new)})")
    endpoints.append(new)


def _callers(endpoint: Endpoint) -> str:
    return ", ".join(sorted(endpoint.callers))
