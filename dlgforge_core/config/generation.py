"""What decides what is generated, apart from the seeds and the models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

from pydantic import Field, model_validator

from dlgforge_core.common.templates import BadTemplateError, TextTemplate
from dlgforge_core.config.answers import AnswersConfig
from dlgforge_core.config.attributes import Attributes, check_drawable
from dlgforge_core.config.base import ConfigModel, KeyedError
from dlgforge_core.config.conversation import ConversationConfig
from dlgforge_core.config.coverage import CoverageConfig
from dlgforge_core.config.expectations import check_expectation, texts_in
from dlgforge_core.config.inputs import PersonasConfig, TopicsConfig
from dlgforge_core.config.judging import JudgeConfig
from dlgforge_core.config.knowledge import RetrievalConfig
from dlgforge_core.config.prompts import (
    ExamplesConfig,
    PromptsConfig,
    check_attributes,
    read_message,
    read_system_prompt,
)
from dlgforge_core.config.reasoning import ReasoningConfig
from dlgforge_core.config.run import RunConfig
from dlgforge_core.config.tools import ToolsConfig
from dlgforge_core.dialogue import Role


class GenerationConfig(ConfigModel):
    """Everything the `dialogues` asset is configured with, apart from its resources."""

    run: RunConfig = Field(default_factory=RunConfig, description="What to make.")
    topics: TopicsConfig = Field(
        default_factory=TopicsConfig, description="Whether dialogues are about the topics of the seeds."
    )
    personas: PersonasConfig = Field(default_factory=PersonasConfig, description="Who talks.")
    judge: JudgeConfig = Field(default_factory=JudgeConfig, description="How dialogues are judged.")
    coverage: CoverageConfig = Field(default_factory=CoverageConfig, description="How repeats are kept out.")
    tools: ToolsConfig = Field(default_factory=ToolsConfig, description="What the assistant may call.")
    retrieval: RetrievalConfig = Field(
        default_factory=RetrievalConfig, description="How passages are found, where there is knowledge."
    )
    prompts: PromptsConfig = Field(default_factory=PromptsConfig, description="What the roles are told.")
    examples: ExamplesConfig = Field(
        default_factory=ExamplesConfig, description="Exchanges as they should be, for the roles to see."
    )
    conversation: ConversationConfig = Field(
        default_factory=ConversationConfig, description="What conversations are like."
    )
    reasoning: ReasoningConfig = Field(
        default_factory=ReasoningConfig, description="What the assistant notes down before it answers."
    )
    answers: AnswersConfig = Field(
        default_factory=AnswersConfig, description="Several answers to a question, and revised ones."
    )
    attributes: Attributes = Field(
        {}, description="What varies from dialogue to dialogue, by name: {tone: {values: [calm, angry]}}."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        goals = self.conversation.goals
        self.run.accept.check(self.judge, has_goals=bool(goals), judges_goals=self.conversation.judges_goals)
        most = self.run.n_turns or self.run.max_turns
        if self.conversation.ends == "user" and most <= self.run.min_turns:
            key = "n_turns" if self.run.n_turns else "max_turns"
            raise KeyedError(
                ("conversation", "ends"),
                f"the user may end a dialogue after run.min_turns = {self.run.min_turns} turns, but none has "
                f"more than run.{key} = {most}; set min_turns to less, or {key} to more",
            )
        self.answers.check(self.judge)
        return self

    @model_validator(mode="after")
    def _the_judge_knows_its_rubric(self) -> Self:
        system = self.prompts.qa_judge.system
        if not (self.judge.rubric and self.judge.show_rubric and system is not None):
            return self
        if "rubric" not in read_message(Role.JUDGE, "system", system).used:
            raise KeyedError(
                ("prompts", Role.JUDGE.value, "system"),
                "judge.rubric is set, and the template does not use {{ rubric }}, so that the judge would "
                "not be told what to rate; put it in, or set judge.show_rubric: false if the template speaks "
                "of the dimensions itself",
            )
        return self

    @model_validator(mode="after")
    def _topics_or_documents(self) -> Self:
        if self.topics.enabled and self.run.counts_documents:
            raise KeyedError(
                ("run", self.run.count_key),
                "such dialogues are made from documents alone, and topics.enabled is true; leave that out, "
                "or set run.total_samples",
            )
        return self

    @model_validator(mode="after")
    def _what_is_expected_can_be_seen(self) -> Self:
        for number, goal in enumerate(self.conversation.goals):
            if goal.expect.active:
                check_expectation(goal.expect, self.tools, ("conversation", "goals", number, "expect"))
        return self

    @model_validator(mode="after")
    def _seeds_to_begin_with(self) -> Self:
        if self.conversation.from_seed and not self.has_topics:
            raise KeyedError(
                ("conversation", "from_seed"),
                "there are no seeds where dialogues are made from documents alone; leave one of the two out",
            )
        course = self.conversation
        if course.from_seed and (course.opens != "user" or course.ends != "planned"):
            key = "opens" if course.opens != "user" else "ends"
            raise KeyedError(
                ("conversation", key),
                f"the seed's conversation says who begins and how it goes on: conversation.from_seed = "
                f"{course.from_seed}; leave one of the two out",
            )
        return self

    @property
    def has_topics(self) -> bool:
        """Whether dialogues are about topics of the seeds, and not made from documents alone."""
        return not self.run.counts_documents if self.topics.enabled is None else self.topics.enabled

    @model_validator(mode="after")
    def _attributes_are_drawn(self) -> Self:
        check_drawable(self.attributes)
        for keys, template in self.own_templates():
            try:
                check_attributes(template, self.attributes)
            except BadTemplateError as error:
                raise ValueError(f"{keys}: {error}") from None
        return self

    @property
    def roles(self) -> list[Role]:
        """The roles that take part when dialogues are made."""
        return [role for role in Role if self.prompts.section(role).takes_part(self)]

    def own_templates(self) -> Iterator[tuple[str, TextTemplate]]:
        """Yield the templates that the configuration has of its own, with their keys."""
        for role in Role:
            for message, text in self.prompts.of(role).items():
                yield f"prompts.{role.value}.{message}", read_message(role, message, text)
        for key in ("system_prompts", "goals"):
            for number, one in enumerate(getattr(self.conversation, key)):
                yield f"conversation.{key}.{number}.text", read_system_prompt(one.text)
        for number, goal in enumerate(self.conversation.goals):
            for text in texts_in(goal.expect.plain):
                yield f"conversation.goals.{number}.expect", read_system_prompt(text)
        for number, initial in enumerate(self.tools.state.initial):
            for text in texts_in(initial.value):
                yield f"tools.state.initial.{number}.value", read_system_prompt(text)
