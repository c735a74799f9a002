"""`conversation`: what conversations are like, who begins them and who ends them."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from dlgforge_core.config.base import ConfigModel, KeyedError
from dlgforge_core.config.expectations import ExpectConfig, texts_in
from dlgforge_core.config.prompts import SYSTEM_PROMPT_VARIABLES, read_system_prompt

ENDED_BY, GOAL, GOAL_MET, GOAL_REASON = "ended_by", "goal", "goal_met", "goal_reason"
"""The columns that datasets have for who ended a dialogue, and for goals."""
TURN_ORIGINS = "turn_origins"
"""The column that they have for which turns are their seeds'."""


class _DrawnTextConfig(ConfigModel):
    """A template, for a share of the dialogues."""

    text: str
    weight: Annotated[float, Field(gt=0.0, le=1e6, allow_inf_nan=False)] = Field(
        1.0, description="How often it is drawn, against the others."
    )
    languages: list[str] = Field(
        [], description="The target languages whose dialogues may have it. Empty: all."
    )

    @field_validator("text")
    @classmethod
    def _readable(cls, source: str) -> str:
        read_system_prompt(source)
        return source


class SystemPromptConfig(_DrawnTextConfig):
    """A system message of the assistant, for a share of the dialogues."""

    text: str = Field(
        description="Its template; in a recipe, {file: a file beside it} will do. Empty: such a dialogue has "
        f"none. Variables: {', '.join(SYSTEM_PROMPT_VARIABLES)}."
    )


class GoalConfig(_DrawnTextConfig):
    """A goal of the user, for a share of the dialogues."""

    text: str = Field(
        description="Its template; in a recipe, {file: a file beside it} will do. Empty: such a dialogue has "
        f"none. Variables: {', '.join(SYSTEM_PROMPT_VARIABLES)}; persona is the user's."
    )
    expect: ExpectConfig = Field(
        default_factory=ExpectConfig,
        description="What must have happened for it to be met, seen from calls of tools and their state; no "
        "prompt holds it. Unset: the judge says whether it was met.",
    )

    @model_validator(mode="after")
    def _templates(self) -> Self:
        for text in texts_in(self.expect.plain):
            read_system_prompt(text)
        if self.expect.active and not self.text.strip():
            raise KeyedError(
                ("text",),
                "it is empty, and expect is not; say what the user wants, or leave expect out",
            )
        return self


class ConversationConfig(ConfigModel):
    """What conversations are like."""

    system_prompts: Annotated[list[SystemPromptConfig], Field(max_length=100)] = Field(
        [],
        description="System messages, of which the plan draws one for each dialogue. The assistant is told "
        "it, the judge is shown it, and it is exported.",
    )
    from_seed: Literal["continue", "answer", "translate"] | None = Field(
        None,
        description="What is made of seeds that hold a conversation. `continue`: it begins the dialogue, and "
        "as many new turns follow as the plan draws; `answer`: its questions as they stand, answered anew; "
        "`translate`: all of it in the dialogue's language, from seeds in others. Unset: nothing.",
    )
    opens: Literal["user", "assistant"] = Field(
        "user",
        description="Who speaks first. assistant: it opens with a greeting, by prompts.kb_responder.opening, "
        "which is exported as its first message.",
    )
    ends: Literal["planned", "user"] = Field(
        "planned",
        description="What ends a dialogue. planned: its number of turns; user: the user simulator may end it "
        "after run.min_turns, also where run.n_turns is set, and the planned number of turns is the most.",
    )
    goals: Annotated[list[GoalConfig], Field(max_length=100)] = Field(
        [],
        description="What users want to reach, of which the plan draws one for each dialogue. The user "
        "simulator is told it, the assistant is not, and whether it was met is seen by what it expects, or "
        "the judge says so.",
    )

    @property
    def judges_goals(self) -> bool:
        """Whether there are goals of which the judge says whether they were met."""
        return any(not goal.expect.active for goal in self.goals if goal.text.strip())

    @property
    def columns(self) -> list[str]:
        """The columns that datasets have for it."""
        return [
            *([ENDED_BY] if self.ends == "user" else []),
            *((GOAL, GOAL_MET, GOAL_REASON) if self.goals else ()),
            *([TURN_ORIGINS] if self.from_seed else []),
        ]
