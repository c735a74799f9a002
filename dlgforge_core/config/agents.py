"""`llm.agents`: the model, the sampling and the provider of each role."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Field, create_model

from dlgforge_core.config.base import ConfigModel, PositiveInt, Probability
from dlgforge_core.config.endpoints import ProviderConfig
from dlgforge_core.dialogue import Role

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


Temperature = Annotated[float, Field(ge=0.0, le=2.0)]


class SamplingConfig(ConfigModel):
    """One role's model, and what it is asked with."""

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


class AgentConfig(ProviderConfig, SamplingConfig):
    """One role's model, sampling and provider."""


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


class ToolSimulatorConfig(AgentConfig):
    """The model that plays simulated tools: repeatable, with room for long results."""

    temperature: Temperature | None = Field(0.0, description="Sampling temperature. Null: not sent.")
    max_tokens: PositiveInt | None = Field(1024, description="Most tokens of one result. Null: not sent.")


class _AgentsWithDefaults(ConfigModel):
    """The roles, by their names in the seed."""

    qa_generator: UserSimulatorConfig = Field(
        default_factory=UserSimulatorConfig, description="The user simulator."
    )
    kb_responder: AssistantConfig = Field(default_factory=AssistantConfig, description="The assistant.")
    qa_judge: JudgeAgentConfig = Field(default_factory=JudgeAgentConfig, description="The judge.")
    tool_simulator: ToolSimulatorConfig = Field(
        default_factory=ToolSimulatorConfig, description="The model that plays simulated tools."
    )

    def of(self, role: Role) -> AgentConfig:
        """Return the settings of one role."""
        agent: AgentConfig = getattr(self, role.value)
        return agent


if TYPE_CHECKING:
    AgentsConfig = _AgentsWithDefaults
else:
    # A role without defaults of its own has those of AgentConfig.
    AgentsConfig = create_model(
        "AgentsConfig",
        __base__=_AgentsWithDefaults,
        __doc__=_AgentsWithDefaults.__doc__,
        __module__=__name__,
        **{
            role.value: (
                AgentConfig,
                Field(default_factory=AgentConfig, description=f"The role {role.value}."),
            )
            for role in Role
            if role.value not in _AgentsWithDefaults.model_fields
        },
    )
