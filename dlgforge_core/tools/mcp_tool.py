"""Tools of MCP servers: one server a worker, started when it is first needed and ended with the worker."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import tempfile
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, BinaryIO

import orjson
from pydantic import SecretStr

from dlgforge_core.common.child_environment import NETWORK, PROGRAM, child_environment
from dlgforge_core.common.restarts import RestartBudget
from dlgforge_core.common.secrets import redact, redact_body
from dlgforge_core.config.functions import McpServerConfig
from dlgforge_core.errors import ConfigError
from dlgforge_core.llm.server_errors import excerpt
from dlgforge_core.llm.tool_calls import ToolDefinition
from dlgforge_core.tools.executor import CallContext, ToolError, ToolOutput

if TYPE_CHECKING:
    from mcp import Client

_log = logging.getLogger(__name__)

_RESTARTS = 20
_MAX_PAGES = 50
_MAX_RESULT_BYTES = 512 * 1024
_END_S = 10.0
_TAIL_BYTES = 64 * 1024
"""Of what a program wrote to its standard error, looked at for its last line."""
_MISSING = "tools.mcp_servers needs the package mcp, which is not installed; install dlgforge[mcp]"


class McpServer:
    """A server of the Model Context Protocol, and the connection to it.

    A connection that is lost costs the calls under way; the next call starts the server anew.
    """

    def __init__(self, name: str, config: McpServerConfig, secrets: Mapping[str, SecretStr]) -> None:
        self.name = name
        self._config = config
        variables = (*config.secrets_env.values(), *config.headers_env.values())
        self._secrets = {variable: secrets[variable].get_secret_value() for variable in variables}
        self._budget = RestartBudget(_RESTARTS)
        self._lock = asyncio.Lock()
        self._session: _Session | None = None

    async def call(self, tool: str, arguments: Mapping[str, Any]) -> Any:
        """Return what a tool gives: its text, or structured content. Raises ToolError for its error."""
        from mcp import MCPError

        session = await self._connected()
        try:
            result = await session.client.call_tool(tool, dict(arguments))
        except MCPError as error:
            if session.is_lost(error):
                session.end()
                raise RuntimeError(f"the MCP server {self.name!r} is gone") from None
            raise ToolError(excerpt(redact(str(error.message), self._secrets.values()))) from None
        content = self._content_of(result)
        if result.is_error:
            raise ToolError(content or "the tool failed")
        # A tool that returns text has it in the structured content as well, by a name of the server's choice.
        return content if content else self._structured(result.structured_content)

    async def tools(self) -> dict[str, ToolDefinition]:
        """Return the tools that the server has, by name."""
        client, found, cursor = (await self._connected()).client, dict[str, ToolDefinition](), None
        for _ in range(_MAX_PAGES):
            page = await client.list_tools(cursor=cursor)
            for tool in page.tools:
                found[tool.name] = ToolDefinition(tool.name, tool.description or "", dict(tool.input_schema))
            if (cursor := page.next_cursor) is None:
                break
        return found

    def _content_of(self, result: Any) -> str:
        parts = [getattr(block, "text", None) or f"[{block.type}]" for block in result.content]
        text = "\n".join(parts)
        _check_size(text.encode("utf-8", "replace"))
        return redact(text, self._secrets.values())

    def _structured(self, structured: Any) -> Any:
        body = orjson.dumps(structured)
        _check_size(body)
        return orjson.loads(redact_body(body, self._secrets.values()))

    async def _connected(self) -> _Session:
        async with self._lock:
            session = self._session
            if session is None or session.ended:
                if (pause := self._budget.spend()) is None:
                    raise ToolError(f"the MCP server {self.name!r} has ended too often")
                if session is not None:
                    _log.warning("the MCP server %r is started anew", self.name)
                    await session.wait()
                    await asyncio.sleep(pause)
                session = self._session = _Session(self.name, self._config, self._secrets)
                await session.start()
            return session

    async def aclose(self) -> None:
        """End the server, or the connection to it."""
        async with self._lock:
            if self._session is not None:
                self._session.end()
                await self._session.wait()
                self._session = None


class _Session:
    """One start of a server. Its connection is opened and closed by one task, as the SDK wants it."""

    client: Client

    def __init__(self, name: str, config: McpServerConfig, secrets: Mapping[str, str]) -> None:
        self._name = name
        self._config = config
        self._secrets = secrets
        self._over = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def ended(self) -> bool:
        """Whether it takes no further calls."""
        return self._over.is_set() or (self._task is not None and self._task.done())

    def is_lost(self, error: Any) -> bool:
        """Whether an error means that the connection is gone, and not that a call has failed."""
        from mcp_types import CONNECTION_CLOSED

        return self.ended or error.code == CONNECTION_CLOSED

    async def start(self) -> None:
        """Start it and wait until it answers. Raises ToolError."""
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._run(ready), name=f"mcp-{self._name}")
        try:
            async with asyncio.timeout(self._config.timeout_s):
                await ready
        except TimeoutError:
            self._task.cancel()
            limit = f"{self._config.timeout_s:g} s"
            raise ToolError(f"the MCP server {self._name!r} did not answer within {limit}") from None
        except asyncio.CancelledError:
            self._task.cancel()
            raise

    async def _run(self, ready: asyncio.Future[None]) -> None:
        secrets = tuple(self._secrets.values())
        with tempfile.TemporaryFile("w+b") as errors:
            try:
                async with self._opened(errors) as client:
                    self.client = client
                    ready.set_result(None)
                    await self._over.wait()
            except Exception as error:  # an ExceptionGroup, mostly
                words = _last_line(redact(_tail(errors), secrets)) or redact(repr(error), secrets)
                words = excerpt(words)
                _log.warning("the MCP server %r: %s", self._name, words)
                if not ready.done():
                    ready.set_exception(ToolError(f"the MCP server {self._name!r} cannot be used: {words}"))
            finally:
                self._over.set()

    def _opened(self, errors: Any) -> Any:
        from mcp import Client, StdioServerParameters
        from mcp.client.stdio import stdio_client

        config = self._config
        if config.url:
            return _over_http(config.url, {name: self._secrets[v] for name, v in config.headers_env.items()})
        given = {name: self._secrets[variable] for name, variable in config.secrets_env.items()}
        program, *arguments = config.command
        env = {**child_environment((*PROGRAM, *NETWORK)), **given}
        parameters = StdioServerParameters(command=program, args=arguments, env=env)
        return Client(stdio_client(parameters, errors))

    def end(self) -> None:
        """Have it ended."""
        self._over.set()

    async def wait(self) -> None:
        """Wait until it has ended."""
        if self._task is not None:
            done, _ = await asyncio.wait([self._task], timeout=_END_S)
            if not done:
                self._task.cancel()
                await asyncio.wait([self._task], timeout=_END_S)


@contextlib.asynccontextmanager
async def _over_http(url: str, headers: Mapping[str, str]) -> Any:
    """Connect to a server by streamable HTTP. The SDK follows no redirect to another server."""
    import httpx2
    from mcp import Client
    from mcp.client.streamable_http import streamable_http_client

    timeout = httpx2.Timeout(30.0, read=300.0)
    async with (
        httpx2.AsyncClient(headers=dict(headers), timeout=timeout) as http,
        Client(streamable_http_client(url, http_client=http)) as client,
    ):
        yield client


class McpTool:
    """Calls a tool of an MCP server."""

    limited = True

    def __init__(self, server: McpServer, tool: str) -> None:
        self._server = server
        self._tool = tool

    async def execute(self, arguments: Mapping[str, Any], context: CallContext) -> ToolOutput:
        """Return what the server gives."""
        return ToolOutput(await self._server.call(self._tool, arguments))

    async def aclose(self) -> None:
        """Nothing is held; the toolbox ends the server."""


def check_installed() -> None:
    """Raise ConfigError unless the MCP SDK is there."""
    try:
        import mcp  # noqa: F401
    except ImportError:
        raise ConfigError(_MISSING) from None


def _check_size(result: bytes) -> None:
    if len(result) > _MAX_RESULT_BYTES:
        raise ToolError(f"the result is longer than {_MAX_RESULT_BYTES} bytes")


def _tail(file: BinaryIO) -> str:
    """Return the last lines that a program has written to its standard error; what is cut is left out."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _TAIL_BYTES))
    text = file.read(_TAIL_BYTES).decode("utf-8", "replace")
    return text if size <= _TAIL_BYTES else text.partition("\n")[2]  # half a key is no key to be found


def _last_line(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if line.strip()), "")
