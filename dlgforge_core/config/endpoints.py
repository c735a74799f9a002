"""Endpoints: where calls go, and with which credentials."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Self
from urllib.parse import parse_qsl, urlsplit

from pydantic import AfterValidator, Field, model_validator

from dlgforge_core.config.base import ConfigModel, OptionalVariableName, PositiveInt, Seconds, VariableName
from dlgforge_core.config.prices import Prices
from dlgforge_core.dialogue import Role

CALL_TIMEOUT_S = 120.0

# RFC 9110's form of a header's name.
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_OWN_HEADERS = frozenset(
    {
        *("host", "connection", "content-type", "content-length", "transfer-encoding"),
        *("accept", "accept-encoding", "cookie"),
    }
)


def _headers_env(value: dict[str, str]) -> dict[str, str]:
    names = [name.lower() for name in value]
    for name in value:
        if not _HEADER.fullmatch(name):
            raise ValueError("one of its keys is no name of an HTTP header, like OpenAI-Organization")
        if name.lower() in _OWN_HEADERS:
            raise ValueError(f"{name} is a header that dlgforge sets itself; leave it out")
        if names.count(name.lower()) > 1:
            raise ValueError(f"{name} is there twice: headers are told apart without regard to capitals")
    return value


HeadersEnv = Annotated[dict[str, VariableName], AfterValidator(_headers_env)]


class EndpointConfig(ConfigModel):
    """One OpenAI-compatible server."""

    base_url: str = Field(description="Address up to and including /v1.")
    name: str = Field("", description="Name in logs and figures. Empty: host and port of base_url.")
    weight: Annotated[float, Field(gt=0.0)] = Field(
        1.0, description="Share of the calls relative to the others."
    )
    max_in_flight: PositiveInt = Field(256, description="Most calls under way at once.")
    timeout_s: Seconds | None = Field(None, description="Time-out of one call. Unset: llm.timeout_s.")
    api_key_env: OptionalVariableName = Field(
        "", description="Environment variable that holds the key. Empty: llm.api_key_env."
    )
    headers_env: HeadersEnv = Field(
        {},
        description="Further HTTP headers: by name the environment variable that holds the value, secret or "
        "not. Empty: llm.headers_env.",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_base_url(self.base_url)
        _check_one_authorization(self.api_key_env, self.headers_env)
        return self

    @property
    def label(self) -> str:
        """`name`, or host and port."""
        return self.name or urlsplit(self.base_url).netloc

    @property
    def callers(self) -> frozenset[str]:
        """Whose calls it takes; empty for everybody's."""
        return frozenset()


def _role_names(names: list[str]) -> list[str]:
    for name in names:
        if name not in tuple(Role):
            raise ValueError(f"{name!r} is none of the roles: {', '.join(Role)}")
    return names


class RoutingEndpointConfig(EndpointConfig):
    """One of the servers of the whole run."""

    roles: Annotated[list[str], AfterValidator(_role_names)] = Field(
        [],
        description="Roles whose calls it takes: qa_generator, kb_responder, qa_judge, tool_simulator. "
        "Empty: those of every role that has no endpoints of its own.",
    )

    @property
    def callers(self) -> frozenset[str]:
        """Whose calls it takes; empty for everybody's."""
        return frozenset(self.roles)


class ProviderConfig(ConfigModel):
    """Where the calls of one role or judge go, where that is not where those of the whole run go."""

    base_url: str = Field(
        "",
        description="Address of an endpoint of its own, up to and including /v1. Empty: the endpoints of the "
        "whole run.",
    )
    endpoints: list[EndpointConfig] = Field(
        [],
        description="Endpoints of its own, in place of base_url, with the keys of llm.routing.endpoints but "
        "roles.",
    )
    api_key_env: OptionalVariableName = Field(
        "",
        description="Environment variable that holds its key, which then takes the place of the run's key "
        "and headers. Empty: llm.api_key_env.",
    )
    headers_env: HeadersEnv = Field(
        {},
        description="Further HTTP headers of its endpoints without their own, in place of llm.headers_env.",
    )
    timeout_s: Seconds | None = Field(
        None, description="Time-out of one of its calls, whatever the endpoint. Unset: the endpoint's."
    )
    max_attempts: PositiveInt | None = Field(
        None, description="Tries of one of its calls. Unset: llm.routing.max_attempts."
    )
    prices: Prices = Field({}, description="Prices of its models, by name, before those of llm.prices.")

    @model_validator(mode="after")
    def _check_provider(self) -> Self:
        if self.base_url:
            check_base_url(self.base_url)
        if self.base_url and self.endpoints:
            raise ValueError("base_url and endpoints are both set; keep one of them")
        check_labels(self.endpoints, "endpoints")
        _check_one_authorization(self.api_key_env, self.headers_env)
        return self

    @property
    def has_address(self) -> bool:
        """Whether it names endpoints of its own."""
        return bool(self.base_url or self.endpoints)

    @property
    def has_credentials(self) -> bool:
        """Whether it names a key or headers of its own."""
        return bool(self.api_key_env or self.headers_env)

    @property
    def is_apart(self) -> bool:
        """Whether its calls go elsewhere than those of the whole run, or with other credentials."""
        return self.has_address or self.has_credentials


PROVIDER_KEYS = frozenset(ProviderConfig.model_fields)
"""Where and how a role is asked: they decide nothing of what is generated."""


def check_labels(endpoints: Sequence[EndpointConfig], key: str) -> None:
    """Raise ValueError when two endpoints of a list would have the same name in figures."""
    labels = [endpoint.label for endpoint in endpoints]
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise ValueError(f"{key} holds {', '.join(twice)} twice; give each a `name` of its own")


def _check_one_authorization(api_key_env: str, headers_env: dict[str, str]) -> None:
    if api_key_env and any(name.lower() == "authorization" for name in headers_env):
        raise ValueError(
            "api_key_env and headers_env.Authorization would both set the header Authorization; keep one"
        )


_SECRET_PARAMETER = re.compile(
    r"key$|token|secret|passw|pwd|credential|^auth|^(x-amz-)?sig(nature)?$|^code$", re.IGNORECASE
)


def check_port(url: str, name: str) -> None:
    """Raise ValueError unless the port of an address, if any, is one."""
    try:
        port = urlsplit(url).port
    except ValueError:
        port = 0
    if port == 0:
        raise ValueError(f"the port in {name} is none; a port is a number from 1 to 65535")


def check_base_url(url: str, name: str = "base_url") -> None:
    """Raise ValueError, never repeating a secret, unless `url` is an http(s) address that holds none."""
    if not re.fullmatch(r"https?://[^\s/?#]+([/?]\S*)?", url):
        # What stands before an @, or in a query, may be a secret.
        what = name if re.search("[@?]", url) else f"{name} = {url!r}"
        raise ValueError(f"{what} is not an address; it looks like 'http://host:8000/v1'")
    parts = urlsplit(url)
    check_port(url, name)
    if "@" in parts.netloc:
        raise ValueError(f"{name} holds a password; put the key into an environment variable (api_key_env)")
    for parameter, _ in parse_qsl(parts.query, keep_blank_values=True):
        if _SECRET_PARAMETER.search(parameter):
            raise ValueError(
                f"{name} holds a secret, in its parameter {parameter!r}: addresses are shown and logged; put "
                "it into an environment variable (api_key_env, or headers_env for a header of another name)"
            )
