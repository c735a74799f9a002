"""`tools.functions` and what they need: what each tool is, and who carries out its calls."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from dlgforge_core.common.hosts import is_loopback
from dlgforge_core.common.json_schema import check_schema
from dlgforge_core.config.base import ConfigModel, Probability, Seconds, VariableName
from dlgforge_core.config.endpoints import HeadersEnv, check_base_url

MAX_FUNCTIONS = 128
"""What OpenAI takes at most."""
MAX_MODULE_CHARS = 200_000
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")
_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
"""An argument in the path of an address."""
EXECUTORS = ("python", "http", "mcp", "table", "simulated")
"""Who can carry out the calls of a tool."""


def _schema(value: dict[str, Any]) -> dict[str, Any]:
    check_schema(value)
    return value


def _schema_of_object(value: dict[str, Any]) -> dict[str, Any]:
    if value and value.get("type", "object") != "object":
        raise ValueError("arguments are an object; set type: object, with the arguments in properties")
    return _schema(value)


Schema = Annotated[dict[str, Any], AfterValidator(_schema)]


class HttpToolConfig(ConfigModel):
    """A call of a web service at one address."""

    url: str = Field(
        "",
        description="Address, https unless it is on this machine; {names} of arguments in its path stand for "
        "their values. Empty: no web service.",
    )
    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"] = Field("GET", description="Method.")
    query: list[str] = Field(
        [],
        description="Arguments that go into the query. The others that are not in the path do so with GET "
        "and DELETE, and are the fields of a JSON body otherwise.",
    )
    headers_env: HeadersEnv = Field(
        {}, description="Headers: by name the environment variable that holds the value."
    )
    plain_http: bool = Field(False, description="Allow http, without encryption, to another machine.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.url:
            return self
        bare = PLACEHOLDER.sub("x", self.url)
        check_base_url(bare, "url")
        parts = urlsplit(self.url)
        if "{" in parts.netloc or "{" in parts.query:
            raise ValueError("url has a {name} outside its path; arguments may stand in the path alone")
        if parts.scheme != "https" and not is_loopback(urlsplit(bare).hostname or "") and not self.plain_http:
            raise ValueError("url leads to another machine without encryption; use https, or set plain_http")
        return self

    @property
    def in_path(self) -> list[str]:
        """The arguments that stand in the path."""
        return PLACEHOLDER.findall(self.url)


class TableRowConfig(ConfigModel):
    """An answer that is given beforehand."""

    arguments: dict[str, Any] = Field(
        {}, description="Arguments that a call must have to be answered so, among others. Empty: any call."
    )
    result: Any = Field(None, description="What it gives: text, or any JSON.")
    error: str = Field("", description="The error it gives instead.")


def _name(value: str) -> str:
    if value and not _NAME.fullmatch(value):
        raise ValueError(f"{value!r} cannot name a tool; use letters, digits, _ and -, at most 64")
    return value


def _python(value: str) -> str:
    if value and not _FUNCTION.fullmatch(value):
        raise ValueError(f"{value!r} is no Python function; it looks like package.module:function")
    return value


class FunctionConfig(ConfigModel):
    """A tool that the assistant may call. One of python, http, mcp, table and simulated says by whom."""

    name: Annotated[str, AfterValidator(_name)] = Field(
        "", description="Name that the model calls it by. Empty: that of the Python function."
    )
    description: str = Field(
        "", description="What it does, for the model. Empty: as the Python function or the MCP server says."
    )
    parameters: Annotated[dict[str, Any], AfterValidator(_schema_of_object)] = Field(
        {},
        description="JSON schema of its arguments, an object. Empty: as the Python function's signature or "
        "the MCP server says; else it has none.",
    )
    result: Schema = Field(
        {}, description="JSON schema of its result. A result that does not follow it is an error."
    )
    python: Annotated[str, AfterValidator(_python)] = Field(
        "",
        description="Python function, package.module:function, where the module is one of tools.modules or "
        "installed. It gets the arguments by name and, as `state`, the state that it may change.",
    )
    http: HttpToolConfig = Field(default_factory=HttpToolConfig, description="A web service.")
    mcp: str = Field(
        "",
        description="Name of the MCP server, see tools.mcp_servers, that has such a tool; server:tool, where "
        "the tool has another name there, one with dots for example.",
    )
    table: list[TableRowConfig] = Field(
        [], description="Answers given beforehand, of which a call gets the first that fits it."
    )
    simulated: bool = Field(
        False,
        description="A model plays it, in the role tool_simulator: it gives a result by the schema and "
        "changes the state, if there is one.",
    )
    instructions: str = Field("", description="How a simulated tool behaves, for the model that plays it.")
    timeout_s: Seconds | None = Field(None, description="Time-out of a call. Unset: tools.timeout_s.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        given = self.executors
        if len(given) != 1:
            found = f"{' and '.join(given)} are set" if given else "none is set"
            raise ValueError(f"one of {', '.join(EXECUTORS)} says who carries out its calls; {found}")
        if not self.called:
            raise ValueError("it has no name; set name")
        _name(self.called)
        if missing := set(self.http.in_path) - set(self.parameters.get("required", ())):
            raise ValueError(f"http.url has {{{min(missing)}}}; name it in parameters.required")
        if self.simulated and not self.description:
            raise ValueError("nobody can play a tool that has no description; set description")
        if self.instructions and not self.simulated:
            raise ValueError(
                "instructions are for a model that plays a tool; set simulated, or leave them out"
            )
        return self

    @property
    def executors(self) -> list[str]:
        """Who is to carry out its calls: one of EXECUTORS, unless it cannot be used."""
        return [name for name in EXECUTORS if (self.http.url if name == "http" else getattr(self, name))]

    @property
    def executor(self) -> str:
        """Who carries out its calls."""
        return self.executors[0]

    @property
    def called(self) -> str:
        """The name that the model calls it by."""
        return self.name or self.python.rpartition(":")[2] or self.mcp.partition(":")[2]

    @property
    def mcp_server(self) -> str:
        """The name of the MCP server; empty for other functions."""
        return self.mcp.partition(":")[0]

    @property
    def mcp_tool(self) -> str:
        """The name that the tool has on the MCP server."""
        return self.mcp.partition(":")[2] or self.called


class McpServerConfig(ConfigModel):
    """A server of the Model Context Protocol: a program that each worker starts, or an address."""

    command: list[str] = Field([], description="Program and its arguments, which speaks MCP by stdio.")
    url: str = Field("", description="Address of a server that speaks streamable HTTP.")
    secrets_env: dict[str, VariableName] = Field(
        {},
        description="What the program is given in its environment beside the usual: by variable the "
        "environment variable here that holds the value.",
    )
    headers_env: HeadersEnv = Field(
        {}, description="Headers for the address: by name the environment variable that holds the value."
    )
    timeout_s: Seconds = Field(30.0, description="Time-out of starting it, or connecting to it.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if bool(self.command) == bool(self.url):
            raise ValueError("set one of command and url")
        if self.url:
            check_base_url(self.url, "url")
        if self.headers_env and not self.url:
            raise ValueError("headers_env is for an address; use secrets_env with command")
        if self.secrets_env and not self.command:
            raise ValueError("secrets_env is for a program; use headers_env with url")
        return self


class InitialStateConfig(ConfigModel):
    """A state that dialogues begin with."""

    value: dict[str, Any] = Field(
        description="A JSON object. Texts in it may be templates: {{ attributes.name }}, {{ topic }}."
    )
    weight: Annotated[float, Field(gt=0.0, le=1e6, allow_inf_nan=False)] = Field(
        1.0, description="How often it is drawn, against the others."
    )


class ToolStateConfig(ConfigModel):
    """A JSON object that the tools of a dialogue read and change."""

    json_schema: Schema = Field(
        {}, description="JSON schema that it always follows; a change that would break it is not made."
    )
    initial: Annotated[list[InitialStateConfig], Field(max_length=1000)] = Field(
        [], description="What it is at first; the plan draws one for each dialogue. Empty: no state."
    )


class PerDialogueConfig(ConfigModel):
    """Which of the functions a dialogue has."""

    drawn: Annotated[int, Field(ge=0)] | None = Field(
        None,
        description="How many the plan draws for each dialogue beside `always`, all of them equally often: "
        "those that are no use to it are distractors. Unset: each dialogue has all.",
    )
    always: list[str] = Field([], description="Functions that every dialogue has, by name.")


class FaultsConfig(ConfigModel):
    """Faults that calls of functions meet, so that recovering from them is in the data."""

    timeout: Probability = Field(0.0, description="Share of calls that get no result in time.")
    error: Probability = Field(0.0, description="Share of calls that fail.")
    empty: Probability = Field(0.0, description="Share of calls that get an empty result.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.timeout + self.error + self.empty > 1.0:
            raise ValueError("timeout, error and empty are shares of all calls, and more than 1 together")
        return self
