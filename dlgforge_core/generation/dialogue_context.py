"""What the dialogues of a worker share."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from dlgforge_core.config import AgentConfig, AgentsConfig, AnswersConfig, ExamplesConfig, JudgeConfig
from dlgforge_core.conversation.acceptance import Acceptance
from dlgforge_core.conversation.script import Script
from dlgforge_core.conversation.state import State
from dlgforge_core.dialogue import DialoguePlan, Role
from dlgforge_core.generation.assistants import Assistants
from dlgforge_core.generation.dialogue_store import DialogueStore
from dlgforge_core.generation.grounding import Grounding
from dlgforge_core.llm.client import LlmClient, Message
from dlgforge_core.prompting.goal_verdicts import with_goal_schema
from dlgforge_core.prompting.templates import SHIPPED, Templates
from dlgforge_core.prompting.trace import Trace
from dlgforge_core.prompting.verdict_prompts import verdict_schema
from dlgforge_core.scheduling.call_seed import call_seed
from dlgforge_core.scheduling.call_slots import CallSlots
from dlgforge_core.tools.toolbox import Toolbox

T = TypeVar("T")


@dataclass(frozen=True)
class DialogueContext:
    """What all dialogues of a worker share. `models` names the model of each role."""

    script: Script
    store: DialogueStore
    client: LlmClient
    slots: CallSlots
    seed: int
    agents: AgentsConfig
    models: Mapping[Role, str]
    judge: JudgeConfig
    toolbox: Toolbox
    question_kinds: Sequence[str] = ()
    grounding: Grounding | None = None
    keep_reasoning: bool = False
    acceptance: Acceptance | None = None
    templates: Templates = SHIPPED
    examples: ExamplesConfig = field(default_factory=ExamplesConfig)
    trace: Trace | None = None
    answers: AnswersConfig = field(default_factory=AnswersConfig)

    @functools.cached_property
    def assistants(self) -> Assistants:
        """Who gives each of several answers."""
        return Assistants.of(self.answers, self.agents.kb_responder, self.models[Role.ASSISTANT])

    @functools.cached_property
    def verdict_schema(self) -> dict[str, Any]:
        """What the judge's answers must look like."""
        return verdict_schema(self.judge)

    @functools.cached_property
    def verdict_schema_with_goal(self) -> dict[str, Any]:
        """As `verdict_schema`, with whether the user's goal was met."""
        return with_goal_schema(self.verdict_schema)

    async def call(
        self,
        complete: Callable[..., Awaitable[T]],
        plan: DialoguePlan,
        state: State,
        role: Role,
        messages: Sequence[Message],
        *more: object,
        seed: int,
        agent: AgentConfig | None = None,
        model: str = "",
        **options: object,
    ) -> T:
        """Make a role's call for a dialogue once a slot is free; `complete` is a method of the client.

        `agent` and `model` are others than the role's own. Raises what `complete` does, CallError for one.
        """
        async with self.slots.slot(self.script.remaining(state), role.value):
            return await complete(
                role,
                agent or self.agents.of(role),
                model or self.models[role],
                messages,
                *more,
                affinity=plan.dialogue_id,
                seed=seed,
                **options,
            )

    def call_seed(self, dialogue_id: str, role: Role, index: int, attempt: int) -> int:
        """Return the sampling seed of a call, the same in every run of the plan."""
        return call_seed(self.seed, dialogue_id, index, role, attempt)
