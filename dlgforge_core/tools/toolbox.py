"""The toolbox: the tools that a worker's dialogues may call, and how a call is carried out."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import orjson
from pydantic import SecretStr

from dlgforge_core.common.json_schema import problem_of
from dlgforge_core.config.functions import FunctionConfig
from dlgforge_core.config.tools import ToolsConfig
from dlgforge_core.dialogue import DialoguePlan
from dlgforge_core.errors import RunStoppedError, StoreError
from dlgforge_core.knowledge.types import Hit
from dlgforge_core.llm.call_errors import CallError
from dlgforge_core.llm.tool_calls import ToolCall, ToolDefinition
from dlgforge_core.prompting.quoting import neutralise
from dlgforge_core.prompting.templates import SHIPPED, Templates
from dlgforge_core.prompting.tool_definitions import VECTOR_DB_SEARCH, WEB_SEARCH
from dlgforge_core.tool_events import ToolEvent, ToolProblem
from dlgforge_core.tools.executor import NO_CONTEXT, CallContext, Executor, ToolError, ToolOutput
from dlgforge_core.tools.faults import Fault, empty_result, fault_of
from dlgforge_core.tools.http_tool import HttpTool
from dlgforge_core.tools.mcp_tool import McpServer, McpTool
from dlgforge_core.tools.modules import load_function
from dlgforge_core.tools.python_tool import PythonTool
from dlgforge_core.tools.search_tools import PassageSearch, VectorDbSearch, WebSearchTool, read_search
from dlgforge_core.tools.simulated_tool import SimulatedTool
from dlgforge_core.tools.table_tool import TableTool
from dlgforge_core.tools.web_search import WebSearch, WebSearchError

_log = logging.getLogger(__name__)

MAX_NAME_CHARS = 64
_CUT = "\n[cut off: it is longer]"


class Toolbox:
    """The tools that are enabled and have what they need; none when `config.enabled` is false.

    `search` finds passages for vector_db_search; `top_k` is how many when the model does not say. `declared`
    are the definitions of the configuration's functions. Belongs to one event loop; shared by all dialogues.
    """

    def __init__(
        self,
        config: ToolsConfig,
        search: PassageSearch | None = None,
        web_search_key: SecretStr | None = None,
        *,
        top_k: int = 3,
        declared: Sequence[ToolDefinition] = (),
        secrets: Mapping[str, SecretStr] | None = None,
        templates: Templates = SHIPPED,
        simulator_instructions: str = "",
    ) -> None:
        self._config = config
        self._top_k = top_k
        self._searches: dict[str, Executor] = {}
        self._functions = {one.called: one for one in config.functions}
        self._declared = {one.name: one for one in declared} if config.enabled else {}
        self._offered: Mapping[str, ToolDefinition] = self._declared
        self._executors = _Executors(config, secrets or {}, templates, simulator_instructions)
        if config.enabled and config.web_search and web_search_key is not None:
            web = WebSearch(config.web_search_url, web_search_key, config.timeout_s)
            self._searches[WEB_SEARCH.name] = WebSearchTool(web, top_k, config.result_chars)
        self._set_search(search)

    def _set_search(self, search: PassageSearch | None) -> None:
        others = {name: one for name, one in self._searches.items() if name != VECTOR_DB_SEARCH.name}
        if self._config.enabled and search is not None:
            others = {VECTOR_DB_SEARCH.name: VectorDbSearch(search, self._config.result_chars), **others}
        self._searches = others

    @property
    def definitions(self) -> tuple[ToolDefinition, ...]:
        """What is offered to the model."""
        searches = (one for one in (VECTOR_DB_SEARCH, WEB_SEARCH) if one.name in self._searches)
        return (*searches, *self._offered.values())

    def searching(self, search: PassageSearch | None) -> Self:
        """Return the same tools with another search: one that knows the dialogue's language, for example."""
        other = copy.copy(self)
        other._set_search(search)
        return other

    def of(self, plan: DialoguePlan) -> Self:
        """Return the tools that a dialogue has."""
        if plan.tools is None or len(plan.tools) == len(self._declared):
            return self
        other = copy.copy(self)
        other._offered = {name: one for name, one in self._declared.items() if name in plan.tools}
        return other

    def is_search(self, name: str) -> bool:
        """Whether a tool is one that can be called again, and beside others, without anybody noticing."""
        return name not in self._offered

    async def execute(
        self, call: ToolCall, context: CallContext = NO_CONTEXT
    ) -> tuple[ToolEvent, tuple[Hit, ...]]:
        """Do what the model asks for; the hits are passages of the knowledge, as far as they were told.

        What goes wrong is told in the event's `error`, in words the model can use. Raises RunStoppedError and
        StoreError when nothing can go on, and CallError when the model that plays the tool cannot be used.
        """
        event = ToolEvent(call.name[:MAX_NAME_CHARS], call.arguments, call_id=call.id)
        try:
            output = await self._output(call, context)
            text = output.result if call.name in self._searches else self._as_text(output.result)
        except ToolError as error:
            problem = ToolError(neutralise(str(error))[: self._config.result_chars], error.problem)
            return dataclasses.replace(event, error=str(problem), problem=problem.problem), ()
        made = dataclasses.replace(event, result=text, problem=output.problem, changes=output.changes)
        return made, output.hits

    async def _output(self, call: ToolCall, context: CallContext) -> ToolOutput:
        name = call.name[:MAX_NAME_CHARS]
        arguments = self._arguments(call)
        function = self._functions.get(call.name)
        if function is not None and (fault := fault_of(self._config.faults, context.key)) is not None:
            return self._faulty(fault, function)
        executor = self._searches[name] if function is None else self._executors.of(function)
        seconds = self._limit(function) if executor.limited else None
        try:
            async with asyncio.timeout(seconds):
                output = await executor.execute(arguments, context)
        except (RunStoppedError, StoreError, CallError, ToolError):
            raise
        except TimeoutError:
            _log.warning("tool %s gave no result within %s s", name, seconds)
            raise self._late(name, function, ToolProblem.TIMEOUT) from None
        except Exception as error:
            # Whatever a tool does, the dialogue goes on; what went wrong inside is not the model's to know.
            detail = str(error) if isinstance(error, WebSearchError) else repr(error)
            _log.warning("tool %s failed: %s", name, detail)
            raise _failed(name) from None
        if function is not None and (problem := problem_of(output.result, function.result)):
            _log.warning("tool %s: its result does not follow its schema: %s", name, problem)
            raise _failed(name)
        return output

    def _arguments(self, call: ToolCall) -> Mapping[str, Any]:
        """Return the arguments as they are carried out. Raises ToolError, with a message for the model."""
        known = {tool.name: tool for tool in self.definitions}
        tool, name = known.get(call.name), call.name[:MAX_NAME_CHARS]
        if tool is None:
            raise ToolError(
                f"there is no tool {name!r}; the tools are: {', '.join(known)}", ToolProblem.UNKNOWN_TOOL
            )
        problem = call.problem
        if not problem and call.name in self._searches:
            try:
                return read_search(call.arguments, tool.parameters, self._top_k)
            except ValueError as error:
                problem = str(error)
        elif not problem and (wrong := problem_of(call.arguments, tool.parameters)):
            problem = f"invalid arguments for {name}: {wrong}"
        if problem:
            raise ToolError(problem, ToolProblem.INVALID_ARGUMENTS)
        return call.arguments

    def _limit(self, function: FunctionConfig | None) -> float:
        return (function.timeout_s if function is not None else None) or self._config.timeout_s

    def _late(self, name: str, function: FunctionConfig | None, problem: ToolProblem) -> ToolError:
        return ToolError(f"{name} gave no result within {self._limit(function):g} s", problem)

    def _faulty(self, fault: Fault, function: FunctionConfig) -> ToolOutput:
        """Return, or raise, what comes of a call that meets a fault."""
        name = function.called
        if fault is Fault.TIMEOUT:
            raise self._late(name, function, ToolProblem.FAULT)
        if fault is Fault.ERROR:
            raise ToolError(f"{name} failed: internal error", ToolProblem.FAULT)
        return ToolOutput(empty_result(function.result), problem=ToolProblem.FAULT)

    def _as_text(self, result: Any) -> str:
        """Return a result as the model is told it: data, in no more than `result_chars` characters."""
        try:
            text = result if isinstance(result, str) else orjson.dumps(result).decode()
        except TypeError:
            _log.warning("a tool gave a result that JSON has no form for: %s", type(result).__name__)
            raise ToolError("the result cannot be shown") from None
        text, most = neutralise(text), self._config.result_chars
        return text if len(text) <= most else f"{text[: most - len(_CUT)]}{_CUT}"

    async def aclose(self) -> None:
        """Close all connections, and end all servers."""
        for executor in self._searches.values():
            await executor.aclose()
        await self._executors.aclose()


def _failed(name: str) -> ToolError:
    return ToolError(f"{name} failed; answer without it")


class _Executors:
    """The executors of a configuration's functions, made when they are first called."""

    def __init__(
        self,
        config: ToolsConfig,
        secrets: Mapping[str, SecretStr],
        templates: Templates,
        simulator_instructions: str,
    ) -> None:
        self._config = config
        self._secrets = secrets
        self._templates = templates
        self._simulator_instructions = simulator_instructions
        self._made: dict[str, Executor] = {}
        self._servers: dict[str, McpServer] = {}

    def of(self, function: FunctionConfig) -> Executor:
        """Return who carries out a function's calls."""
        if (executor := self._made.get(function.called)) is None:
            executor = self._made[function.called] = _KINDS[function.executor](self, function)
        return executor

    def python(self, function: FunctionConfig) -> Executor:
        """Return a Python function's."""
        loaded = load_function(function.python, self._config.modules)
        return PythonTool(loaded, self._config.state.json_schema)

    def http(self, function: FunctionConfig) -> Executor:
        """Return a web service's."""
        return HttpTool(function.http, function.parameters, self._secrets)

    def mcp(self, function: FunctionConfig) -> Executor:
        """Return that of a tool on an MCP server."""
        name = function.mcp_server
        if (server := self._servers.get(name)) is None:
            config = self._config.mcp_servers[name]
            server = self._servers[name] = McpServer(name, config, self._secrets)
        return McpTool(server, function.mcp_tool)

    def table(self, function: FunctionConfig) -> Executor:
        """Return that of given answers."""
        return TableTool(function.table)

    def simulated(self, function: FunctionConfig) -> Executor:
        """Return that of a tool that a model plays."""
        schema = self._config.state.json_schema
        return SimulatedTool(function, schema, self._templates, self._simulator_instructions)

    async def aclose(self) -> None:
        """Close what they hold, and end the servers."""
        async with contextlib.AsyncExitStack() as stack:
            for server in self._servers.values():
                stack.push_async_callback(server.aclose)
            for executor in self._made.values():
                stack.push_async_callback(executor.aclose)


_KINDS: Mapping[str, Callable[[_Executors, FunctionConfig], Executor]] = {
    "python": _Executors.python,
    "http": _Executors.http,
    "mcp": _Executors.mcp,
    "table": _Executors.table,
    "simulated": _Executors.simulated,
}
