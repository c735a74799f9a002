"""`prompts` and `examples`: what the roles are told, in words of one's own."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field, ValidationInfo, field_validator, model_validator

from dlgforge_core.common.hints import hint
from dlgforge_core.common.templates import AnyItem, BadTemplateError, TextTemplate
from dlgforge_core.config.base import ConfigModel, PositiveInt
from dlgforge_core.dialogue import DialoguePlan, Role

if TYPE_CHECKING:
    from dlgforge_core.config.generation import GenerationConfig

MAX_EXAMPLES = 100
_SYSTEM = "system"
_EXAMPLE = {"question": "Why?", "answer": "Because."}
_PART = {"name": "evidence", "content": "what is known"}

VARIABLES: Mapping[str, tuple[Any, str]] = {
    "about": ("text", "what the dimension is a quality of: question, answer, or both"),
    "alone": (True, "whether the user's goal is all that is judged"),
    "answer": ("text", "the assistant's last answer; empty before the first question"),
    "answers": ("text", "the answers to be compared, numbered and quoted"),
    "arguments": ("text", "the arguments of the call, as JSON"),
    "assistant_persona": ("text", "who the assistant was to be; empty unless judge.show_persona"),
    "attributes": (AnyItem(), "the dialogue's attributes by name, as in attributes.tone; empty without any"),
    "behaviour": ("text", "how the simulated tool behaves, see tools.functions; may be empty"),
    "calls": ("text", "the dialogue's tool calls before this one, a line each; empty without"),
    "comment": ("text", "the judge's comment on the answer; may be empty"),
    "count": ("2", "how many answers are compared"),
    "description": ("text", "what is looked at in the dimension; may be empty"),
    "evidence": ("text", "quoted passages; empty without any"),
    "example": (True, "whether the user simulator was asked for an example before"),
    "examples": ([_EXAMPLE], "the exchanges of `examples`, each with question and answer; empty without any"),
    "exchanges": ("text", "what is to be judged, quoted"),
    "follows": (True, "whether this is not the first question"),
    "goal": ("text", "what the user wants to reach, see conversation.goals; empty without"),
    "grounded": (True, "whether there are passages"),
    "has_state": (True, "whether there is a state, see tools.state"),
    "highest": ("text", "the dimension's highest level"),
    "instructions": ("text", "llm.agents.<role>.instructions"),
    "kind": ("text", "what sort of question this turn wants; empty: any"),
    "kinds": (True, "whether questions are of certain sorts"),
    "labels": ("text", "the labels that the verdict gives as reasons"),
    "language": ("text", "the language to write in, by its name"),
    "levels": ("text", "what levels of the dimension mean; empty without any"),
    "lowest": ("text", "the dimension's lowest level"),
    "marker": ("text", "what the user simulator writes to end the conversation, see conversation.ends"),
    "max_score": (10, "the best score"),
    "name": ("text", "the dimension's name, as the judge is to give it"),
    "parts": ([_PART], "the parts of the trace, each with its name and content; see reasoning.parts"),
    "passages": ("text", "quoted passages that were found for the question; empty without any"),
    "persona": ("text", "how the role's persona behaves"),
    "purpose": ("text", "what the simulated tool does, its description"),
    "question": ("text", "the user's question"),
    "reasons": ("text", "the labels that a verdict may give"),
    "result_schema": ("text", "the JSON schema of the simulated tool's result; empty without"),
    "rubric": ("text", "the dimensions of judge.rubric, a line each by `dimension`; empty without any"),
    "state": ("text", "the dialogue's state, as JSON; empty without"),
    "system_prompt": (
        "text",
        "the dialogue's system message, see conversation.system_prompts; empty without",
    ),
    "text": ("text", "the message of the seed that is to be translated"),
    "tool": ("text", "the name of the simulated tool"),
    "topic": ("text", "the topic; empty where the dialogue is led off it by its document"),
    "user_persona": ("text", "who the user was to be; empty unless judge.show_persona"),
    "whole": (True, "whether the whole conversation is judged, and not its last answer"),
}
"""The variables of templates: a sample of each one's values, and what it is.

A variable that does not apply is empty or false.
"""

_EVERYWHERE = ("language", "attributes")
MESSAGES: Mapping[Role, Mapping[str, tuple[str, ...]]] = {
    Role.USER_SIMULATOR: {
        _SYSTEM: (
            *("topic", "persona", "kinds", "instructions", "system_prompt", "examples", "goal"),
            *_EVERYWHERE,
        ),
        "examples": ("examples", "topic", *_EVERYWHERE),
        "example": ("topic", "kinds", *_EVERYWHERE),
        "question": ("answer", "evidence", "topic", "kind", "example", "follows", "goal", *_EVERYWHERE),
        "translation": ("topic", "persona", "instructions", *_EVERYWHERE),
        "translate": ("text", *_EVERYWHERE),
        "asked_before": _EVERYWHERE,
        "names_material": _EVERYWHERE,
        "ending": ("goal", "topic", *_EVERYWHERE),
        "end_marker": ("marker", *_EVERYWHERE),
    },
    Role.ASSISTANT: {
        _SYSTEM: ("persona", "grounded", "instructions", "system_prompt", "topic", "examples", *_EVERYWHERE),
        "examples": ("examples", *_EVERYWHERE),
        "question": ("passages", "question", *_EVERYWHERE),
        "trace": ("parts", *_EVERYWHERE),
        "opening": ("topic", "persona", "system_prompt", *_EVERYWHERE),
        "revision": ("comment", "labels", "question", *_EVERYWHERE),
        "translation": ("topic", "persona", "instructions", *_EVERYWHERE),
        "translate": ("text", *_EVERYWHERE),
    },
    Role.JUDGE: {
        _SYSTEM: (
            *("topic", "whole", "reasons", "max_score", "evidence", "instructions", "system_prompt"),
            *("rubric", "user_persona", "assistant_persona", *_EVERYWHERE),
        ),
        "dimension": ("name", "about", "lowest", "highest", "description", "levels", *_EVERYWHERE),
        "exchanges": ("evidence", "exchanges", "whole", "alone", *_EVERYWHERE),
        "goal": ("goal", "alone", "topic", "instructions", *_EVERYWHERE),
        "answers": ("evidence", "question", "answers", "count", *_EVERYWHERE),
    },
    Role.TOOL_SIMULATOR: {
        _SYSTEM: (
            *("tool", "purpose", "behaviour", "has_state", "result_schema", "topic", "instructions"),
            *_EVERYWHERE,
        ),
        "call": ("tool", "arguments", "state", "calls", *_EVERYWHERE),
    },
}
"""The messages of each role's prompt that have a template, and the variables of each."""

SYSTEM_PROMPT_VARIABLES = ("topic", "persona", *_EVERYWHERE)

REQUIRED: Mapping[tuple[Role, str], tuple[str, ...]] = {
    (Role.USER_SIMULATOR, "question"): ("answer",),
    (Role.USER_SIMULATOR, "examples"): ("examples",),
    (Role.USER_SIMULATOR, "end_marker"): ("marker",),
    (Role.ASSISTANT, "examples"): ("examples",),
    (Role.ASSISTANT, "question"): ("question",),
    (Role.ASSISTANT, "trace"): ("parts",),
    (Role.ASSISTANT, "revision"): ("comment",),
    (Role.USER_SIMULATOR, "translate"): ("text",),
    (Role.ASSISTANT, "translate"): ("text",),
    (Role.JUDGE, "dimension"): ("name",),
    (Role.JUDGE, "exchanges"): ("exchanges",),
    (Role.JUDGE, "goal"): ("goal",),
    (Role.JUDGE, "answers"): ("question", "answers"),
    (Role.TOOL_SIMULATOR, "call"): ("arguments",),
}
"""Variables without which a message says nothing of what was said."""

FOR_DOCUMENTS: Mapping[tuple[Role, str], str] = {
    (Role.USER_SIMULATOR, "question"): "evidence",
    (Role.ASSISTANT, "question"): "passages",
}
"""The variable by which a message holds passages of documents, where there are any."""


@lru_cache(maxsize=256)
def read_message(role: Role, message: str, source: str) -> TextTemplate:
    """Return the template of a role's message. Raises BadTemplateError."""
    required = REQUIRED.get((role, message), ())
    return TextTemplate.read(source, samples_of(MESSAGES[role][message]), required=required)


@lru_cache(maxsize=256)
def read_system_prompt(source: str) -> TextTemplate:
    """Return the template of a system message. Raises BadTemplateError."""
    return TextTemplate.read(source, samples_of(SYSTEM_PROMPT_VARIABLES))


def samples_of(names: tuple[str, ...]) -> dict[str, Any]:
    """Return a sample of each variable's values."""
    return {name: VARIABLES[name][0] for name in names}


def _message(role: Role, message: str, what: str) -> Any:
    return Field(None, description=f"{what} Variables: {', '.join(MESSAGES[role][message])}.")


class RolePrompts(ConfigModel):
    """Own templates of one role's messages; what is left out is the shipped one."""

    role: ClassVar[Role]

    @classmethod
    def takes_part(cls, generation: GenerationConfig) -> bool:
        """Whether such a configuration has the role; without it the role leaves no trace in fingerprints."""
        return True

    @field_validator("*", mode="after")
    @classmethod
    def _readable(cls, source: str | None, info: ValidationInfo) -> str | None:
        message = str(info.field_name)
        if source is not None:
            check_message(cls.role, message, source)
        return source

    @property
    def own(self) -> dict[str, str]:
        """The templates that are set, by message."""
        return {name: text for name in type(self).model_fields if (text := getattr(self, name)) is not None}


def check_message(role: Role, message: str, source: str) -> TextTemplate:
    """Return the template of a message. Raises ValueError, BadTemplateError among them."""
    if not source.strip() and message != _SYSTEM:
        raise ValueError("the template is empty; leave it out for the shipped one")
    return read_message(role, message, source)


_USER, _ASSISTANT, _JUDGE = Role.USER_SIMULATOR, Role.ASSISTANT, Role.JUDGE
_SIMULATOR = Role.TOOL_SIMULATOR


class UserSimulatorPrompts(RolePrompts):
    """Own templates of the user simulator's messages."""

    role = _USER
    system: str | None = _message(_USER, "system", "Who it plays and how it writes. Empty: no such message.")
    examples: str | None = _message(_USER, "examples", "The examples, at the end of the system message.")
    example: str | None = _message(
        _USER, "example", "The request that the seed topic's question stands as an answer to."
    )
    question: str | None = _message(
        _USER, "question", "The assistant's answer, and the request for a question."
    )
    translation: str | None = _message(
        _USER, "translation", "How the user's messages of a seed's conversation are translated."
    )
    translate: str | None = _message(_USER, "translate", "The message to be translated.")
    asked_before: str | None = _message(_USER, "asked_before", "Said of a question that was asked before.")
    names_material: str | None = _message(
        _USER, "names_material", "Said of a question that speaks of the passage it is made from."
    )
    ending: str | None = _message(
        _USER, "ending", "When the user ends the conversation instead of asking; see conversation.ends."
    )
    end_marker: str | None = _message(
        _USER, "end_marker", "How it says so where an endpoint does not hold it to a JSON schema."
    )


class AssistantPrompts(RolePrompts):
    """Own templates of the assistant's messages."""

    role = _ASSISTANT
    system: str | None = _message(
        _ASSISTANT, "system", "Who it is and how it answers. Empty: no such message."
    )
    examples: str | None = _message(_ASSISTANT, "examples", "The examples, at the end of the system message.")
    question: str | None = _message(_ASSISTANT, "question", "The question, with passages.")
    trace: str | None = _message(
        _ASSISTANT, "trace", "The request for a trace, at the end of the question; see reasoning.prompted."
    )
    opening: str | None = _message(
        _ASSISTANT, "opening", "The request to open the conversation; see conversation.opens."
    )
    revision: str | None = _message(
        _ASSISTANT, "revision", "The request to improve an answer, see answers.revise."
    )
    translation: str | None = _message(
        _ASSISTANT, "translation", "How the assistant's messages of a seed's conversation are translated."
    )
    translate: str | None = _message(_ASSISTANT, "translate", "The message to be translated.")


class JudgePrompts(RolePrompts):
    """Own templates of the judge's messages."""

    role = _JUDGE

    @classmethod
    def takes_part(cls, generation: GenerationConfig) -> bool:
        """Whether dialogues are judged while they are made."""
        return generation.judge.mode == "online"

    system: str | None = _message(_JUDGE, "system", "How it judges.")
    dimension: str | None = _message(_JUDGE, "dimension", "A dimension of judge.rubric, in a line.")
    exchanges: str | None = _message(_JUDGE, "exchanges", "What it judges.")
    goal: str | None = _message(_JUDGE, "goal", "Whether the user's goal was met; see conversation.goals.")
    answers: str | None = _message(
        _JUDGE, "answers", "The answers it compares, see answers.candidates, and how to reply."
    )


class ToolSimulatorPrompts(RolePrompts):
    """Own templates of the tool simulator's messages."""

    role = _SIMULATOR

    @classmethod
    def takes_part(cls, generation: GenerationConfig) -> bool:
        """Whether a model plays one of the tools."""
        return any(function.simulated for function in generation.tools.functions)

    system: str | None = _message(_SIMULATOR, "system", "What the tool is, and what it is to give.")
    call: str | None = _message(_SIMULATOR, "call", "The call, with the state and the calls before it.")


class PromptsConfig(ConfigModel):
    """Own templates of the roles' messages: Jinja2 texts or, in a recipe, {file: a file beside it}."""

    qa_generator: UserSimulatorPrompts = Field(
        default_factory=UserSimulatorPrompts, description="Messages of the user simulator."
    )
    kb_responder: AssistantPrompts = Field(
        default_factory=AssistantPrompts, description="Messages of the assistant."
    )
    qa_judge: JudgePrompts = Field(default_factory=JudgePrompts, description="Messages of the judge.")
    tool_simulator: ToolSimulatorPrompts = Field(
        default_factory=ToolSimulatorPrompts, description="Messages of the model that plays simulated tools."
    )

    def section(self, role: Role) -> RolePrompts:
        """Return what the configuration says of one role."""
        prompts: RolePrompts = getattr(self, role.value)
        return prompts

    def of(self, role: Role) -> dict[str, str]:
        """Return the role's own templates, by message."""
        return self.section(role).own


def check_attributes(template: TextTemplate, known: Collection[str]) -> None:
    """Raise BadTemplateError when a template uses an attribute that the plan does not draw."""
    for name, line in template.parts_of("attributes").items():
        if name not in known:
            there = hint(name, known, "there are") if known else "the configuration has no attributes"
            raise BadTemplateError(f"there is no attribute {name!r}; {there}", line)


ExampleText = Annotated[str, Field(min_length=1, max_length=8000)]


class ExampleConfig(ConfigModel):
    """An exchange as it should be."""

    question: ExampleText = Field(description="What the user asks.")
    answer: ExampleText = Field(description="What the assistant answers.")
    language: str = Field("", description="The target language whose dialogues may have it. Empty: all.")


class ExamplesConfig(ConfigModel):
    """Few-shot examples: exchanges that the user simulator and the assistant are shown."""

    exchanges: Annotated[list[ExampleConfig], Field(max_length=MAX_EXAMPLES)] = Field(
        [], description="The examples."
    )
    per_dialogue: PositiveInt | None = Field(
        None,
        description="How many of them the plan draws for each dialogue. Unset: every dialogue has all, in "
        "their order.",
    )
    shown_to: list[str] = Field(
        [_USER.value, _ASSISTANT.value], description="The roles that see them: qa_generator, kb_responder."
    )

    @model_validator(mode="after")
    def _check(self) -> ExamplesConfig:
        known = (_USER.value, _ASSISTANT.value)
        if unknown := [role for role in self.shown_to if role not in known]:
            raise ValueError(f"shown_to names {unknown[0]!r}; choose from {', '.join(known)}")
        if self.exchanges and not self.shown_to:
            raise ValueError("shown_to is empty, so nobody would see them; name a role, or leave them out")
        return self

    def in_language(self, language: str) -> list[int]:
        """Return which of the exchanges dialogues in a language may have."""
        return [i for i, one in enumerate(self.exchanges) if one.language in ("", language)]

    def of(self, plan: DialoguePlan, role: Role) -> list[ExampleConfig]:
        """Return the examples that a role is shown in a dialogue."""
        if not self.exchanges or role.value not in self.shown_to:
            return []
        numbers = self.in_language(plan.language) if plan.examples is None else plan.examples
        return [self.exchanges[i] for i in numbers]
