"""Web services as tools: one address, no redirects, answers within limits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import orjson
from pydantic import SecretStr

from dlgforge_core.common.bodies import BodyError, decode, read_body, read_json
from dlgforge_core.common.http_client import http_client
from dlgforge_core.common.secrets import redact, redact_body
from dlgforge_core.config.functions import PLACEHOLDER, HttpToolConfig
from dlgforge_core.llm.server_errors import excerpt
from dlgforge_core.tool_events import ToolProblem
from dlgforge_core.tools.executor import CallContext, ToolError, ToolOutput

if TYPE_CHECKING:
    import httpx

MAX_BODY_BYTES = 512 * 1024
_MAX_VALUES = 50_000
_SAYS_WHICH = {"additionalProperties", "patternProperties", "unevaluatedProperties", "$ref"}
_SAYS_WHICH |= {"allOf", "anyOf", "oneOf"}
"""Keywords by which a schema may have arguments beside its properties, or none."""
_WITHOUT_BODY = ("GET", "DELETE")


class HttpTool:
    """Calls a web service. Secrets are in headers alone, and taken out of whatever comes back."""

    limited = True

    def __init__(
        self, config: HttpToolConfig, parameters: Mapping[str, Any], secrets: Mapping[str, SecretStr]
    ) -> None:
        self._config = config
        self._parameters = parameters
        self._headers = {name: secrets[variable] for name, variable in config.headers_env.items()}
        self._client: httpx.AsyncClient | None = None

    async def execute(self, arguments: Mapping[str, Any], context: CallContext) -> ToolOutput:
        """Return the answer's JSON, or its text. Raises ToolError for a status that is no success."""
        import httpx

        self._check_declared(arguments)
        hidden = [value.get_secret_value() for value in self._headers.values()]
        try:
            status, body = await self._send(arguments)
        except (httpx.HTTPError, httpx.InvalidURL, BodyError) as error:
            # Not chained: the error carries the request, and with it the headers.
            raise RuntimeError(redact(f"{type(error).__name__} {error}", hidden)) from None
        body = redact_body(body, hidden)
        if not 200 <= status < 300:
            raise ToolError(f"status {status}: {excerpt(body)}" if body.strip() else f"status {status}")
        try:
            return ToolOutput(read_json(body, max_values=_MAX_VALUES) if body.strip() else None)
        except BodyError:
            return ToolOutput(decode(body))

    def _check_declared(self, arguments: Mapping[str, Any]) -> None:
        """Raise ToolError for an argument that nothing declares: it would be the model's own."""
        if _SAYS_WHICH & self._parameters.keys():
            return  # checked by the schema
        if unknown := sorted(arguments.keys() - self._parameters.get("properties", {}).keys()):
            problem = f"invalid arguments: {unknown[0]!r} is no parameter"
            raise ToolError(problem, ToolProblem.INVALID_ARGUMENTS)

    async def _send(self, arguments: Mapping[str, Any]) -> tuple[int, bytes]:
        import httpx

        config, rest = self._config, dict(arguments)
        url = _filled(config.url, arguments)
        for name in config.in_path:
            rest.pop(name, None)
        bare = config.method in _WITHOUT_BODY
        query = {name: rest.pop(name) for name in list(rest) if bare or name in config.query}
        content = None if bare else orjson.dumps(rest)
        if self._client is None:
            self._client = http_client(url)  # the toolbox limits each call as a whole
        headers = {name: value.get_secret_value() for name, value in self._headers.items()}
        headers |= {"Accept": "application/json", "Accept-Encoding": "identity"}
        if content is not None:
            headers["Content-Type"] = "application/json"
        parameters = httpx.QueryParams(
            [pair for name, value in query.items() for pair in _pairs(name, value)]
        )
        address = httpx.URL(url)
        if parameters:
            address = address.copy_merge_params(parameters)
        async with self._client.stream(config.method, address, content=content, headers=headers) as response:
            if urlsplit(str(response.url)).netloc != address.netloc.decode():
                raise BodyError("the answer is another server's")
            return response.status_code, await read_body(response, MAX_BODY_BYTES)

    async def aclose(self) -> None:
        """Close all connections."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None


def _filled(url: str, arguments: Mapping[str, Any]) -> str:
    """Return an address with arguments in its path. Raises ToolError for what would lead elsewhere."""
    filled = PLACEHOLDER.sub(lambda found: quote(_written(arguments[found[1]]), safe=""), url)
    before, after = urlsplit(url).path.split("/"), urlsplit(filled).path.split("/")
    for template, segment in zip(before, after, strict=True):
        if template != segment and segment in ("", ".", ".."):
            raise ToolError(f"{segment!r} cannot be a part of an address")
    return filled


def _pairs(name: str, value: Any) -> list[tuple[str, str]]:
    return [(name, _written(item)) for item in (value if isinstance(value, list) else [value])]


def _written(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()
