"""Prompts of the user simulator and the assistant. Each grows at its end only, for servers' prefix caches.

The system message is fixed for a dialogue; each turn appends what was said. What changes from turn to
turn (a request for another question, say) is appended, never inserted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dlgforge_core.config import ExampleConfig
from dlgforge_core.dialogue import DialoguePlan, Role, Turn
from dlgforge_core.llm.forms import Form
from dlgforge_core.llm.tool_calls import Message
from dlgforge_core.prompting.earlier_calls import earlier_calls
from dlgforge_core.prompting.ending import END_MARKER, ending_form
from dlgforge_core.prompting.parts import beginning, everywhere, inline, shown
from dlgforge_core.prompting.quoting import neutralise
from dlgforge_core.prompting.templates import SHIPPED, Templates
from dlgforge_core.verdicts import Judgement

ASKED_BEFORE = "asked_before"
NAMES_MATERIAL = "names_material"
"""Why a question cannot be taken: the messages with which the user simulator is told."""


def user_simulator(
    plan: DialoguePlan,
    turns: Sequence[Turn],
    *,
    kinds: Sequence[str] = (),
    evidence: str = "",
    on_topic: bool = True,
    instructions: str = "",
    examples: Sequence[ExampleConfig] = (),
    templates: Templates = SHIPPED,
    opening: str = "",
) -> list[Message]:
    """Return the prompt for a question. Roles are turned round: what the assistant said comes as `user`.

    The seed's question stands as if it had been asked before, which shows even a small model what is wanted.
    `kinds` say what sort of question each turn wants, this one's last; none: any. `evidence` is a quoted
    passage that the question should come from; with `on_topic` false it says nothing of the seed topic, which
    is then not spoken of. It is of this turn only and in the last message: earlier turns are told without
    theirs, so prompts stay short, and only the last exchange is new to the server. `examples` are few-shot
    examples; `opening` is what the assistant said before the first question.
    """
    role, common, topic = Role.USER_SIMULATOR, everywhere(plan), inline(plan.topic.topic) if on_topic else ""
    few, goal = shown(examples), inline(plan.goal)
    system = templates.render(
        role,
        "system",
        topic=topic,
        persona=inline(plan.user_persona.description),
        kinds=bool(kinds),
        instructions=instructions,
        system_prompt=plan.system_prompt,
        examples=few,
        goal=goal,
        **common,
    )
    more = templates.render(role, "examples", examples=few, topic=topic, **common) if few else ""
    messages = beginning(system, more)
    # An example in another language or variety, or about something else, would be followed.
    example = bool(plan.topic.question) and on_topic and plan.topic.language == plan.language
    if example:
        request = templates.render(role, "example", topic=topic, kinds=bool(kinds), **common)
        messages.append({"role": "user", "content": request})
        messages.append({"role": "assistant", "content": neutralise(plan.topic.question or "")})
    answer = opening
    for number, kind in enumerate(kinds or [""] * (len(turns) + 1)):
        request = templates.render(
            role,
            "question",
            answer=answer,
            evidence=evidence if number == len(turns) else "",
            topic=topic,
            kind=kind,
            example=example and not number,
            follows=bool(number),
            goal=goal,
            **common,
        )
        messages.append({"role": "user", "content": request})
        if number < len(turns):
            messages.append({"role": "assistant", "content": _neutral(plan, turns[number].user)})
            answer = _neutral(plan, turns[number].assistant)
    return messages


def or_end(
    plan: DialoguePlan,
    messages: Sequence[Message],
    *,
    on_topic: bool = True,
    templates: Templates = SHIPPED,
) -> tuple[list[Message], Form[str]]:
    """Return a prompt for a question with which the user may end the conversation, and the answer's form."""
    role, common = Role.USER_SIMULATOR, everywhere(plan)
    topic = inline(plan.topic.topic) if on_topic else ""
    request = templates.render(role, "ending", goal=inline(plan.goal), topic=topic, **common)
    words = templates.render(role, "end_marker", marker=END_MARKER, **common)
    *before, last = messages
    return [*before, {**last, "content": f"{last['content']}\n{request}"}], ending_form(words)


def another_question(
    plan: DialoguePlan,
    messages: Sequence[Message],
    refused: str,
    why: str,
    templates: Templates = SHIPPED,
) -> list[Message]:
    """Return the same prompt, with the refused question and the request for another one.

    `why` is ASKED_BEFORE or NAMES_MATERIAL.
    """
    return [
        *messages,
        {"role": "assistant", "content": refused},
        {"role": "user", "content": templates.render(Role.USER_SIMULATOR, why, **everywhere(plan))},
    ]


def translation(
    plan: DialoguePlan,
    role: Role,
    before: Sequence[tuple[str, str]],
    text: str,
    *,
    instructions: str = "",
    templates: Templates = SHIPPED,
) -> list[Message]:
    """Return the prompt for a translation of what one side of a seed's conversation says.

    `before` are its earlier messages and their translations, so that words are translated alike.
    """
    common, user = everywhere(plan), role is Role.USER_SIMULATOR
    persona = plan.user_persona if user else plan.assistant_persona
    system = templates.render(
        role,
        "translation",
        topic=inline(plan.topic.topic),
        persona=inline(persona.description),
        instructions=instructions,
        **common,
    )
    messages = beginning(system)
    for source, translated in before:
        asked = templates.render(role, "translate", text=neutralise(source), **common)
        messages.append({"role": "user", "content": asked})
        messages.append({"role": "assistant", "content": translated})
    asked = templates.render(role, "translate", text=neutralise(text), **common)
    messages.append({"role": "user", "content": asked})
    return messages


def assistant(
    plan: DialoguePlan,
    turns: Sequence[Turn],
    question: str,
    *,
    grounded: bool = False,
    passages: str = "",
    on_topic: bool = True,
    instructions: str = "",
    examples: Sequence[ExampleConfig] = (),
    trace: Sequence[Mapping[str, str]] = (),
    form: str = "",
    templates: Templates = SHIPPED,
    opening: str = "",
) -> list[Message]:
    """Return the conversation as the assistant sees it, ending with the question to answer.

    A `grounded` one is told what passages are, and gets those that were found before the question, for this
    turn only; see `user_simulator`. Functions that were called in earlier turns are told with what they gave,
    so that ids and such are known. The question stays last: small models answer what they read last. After
    it comes the request for a `trace` of these parts, where there are any, and what is said of its `form`. An
    `opening` stands after the request for it, so that the user's messages and its own alternate.
    """
    messages = _assistant_system(
        plan,
        grounded=grounded,
        on_topic=on_topic,
        instructions=instructions,
        examples=examples,
        templates=templates,
    )
    if opening:
        messages.append(_opening_request(plan, on_topic, templates))
        messages.append({"role": "assistant", "content": opening})
    for turn in turns:
        messages.append({"role": "user", "content": _neutral(plan, turn.user)})
        messages += earlier_calls(turn)
        messages.append({"role": "assistant", "content": _neutral(plan, turn.assistant)})
    role, common = Role.ASSISTANT, everywhere(plan)
    asked = templates.render(role, "question", passages=passages, question=_neutral(plan, question), **common)
    messages.append({"role": "user", "content": _with_trace(plan, asked, trace, form, templates)})
    return messages


def assistant_opening(
    plan: DialoguePlan,
    *,
    grounded: bool = False,
    on_topic: bool = True,
    instructions: str = "",
    examples: Sequence[ExampleConfig] = (),
    templates: Templates = SHIPPED,
) -> list[Message]:
    """Return the prompt for what the assistant opens the conversation with; `assistant` begins with it."""
    messages = _assistant_system(
        plan,
        grounded=grounded,
        on_topic=on_topic,
        instructions=instructions,
        examples=examples,
        templates=templates,
    )
    return [*messages, _opening_request(plan, on_topic, templates)]


def _opening_request(plan: DialoguePlan, on_topic: bool, templates: Templates) -> Message:
    request = templates.render(
        Role.ASSISTANT,
        "opening",
        topic=inline(plan.topic.topic) if on_topic else "",
        persona=inline(plan.assistant_persona.description),
        system_prompt=plan.system_prompt,
        **everywhere(plan),
    )
    return {"role": "user", "content": request}


def _assistant_system(
    plan: DialoguePlan,
    *,
    grounded: bool,
    on_topic: bool,
    instructions: str,
    examples: Sequence[ExampleConfig],
    templates: Templates,
) -> list[Message]:
    role, common, few = Role.ASSISTANT, everywhere(plan), shown(examples)
    system = templates.render(
        role,
        "system",
        persona=inline(plan.assistant_persona.description),
        grounded=grounded,
        instructions=instructions,
        system_prompt=plan.system_prompt,
        topic=inline(plan.topic.topic) if on_topic else "",
        examples=few,
        **common,
    )
    more = templates.render(role, "examples", examples=few, **common) if few else ""
    return beginning(system, more)


def revision(
    plan: DialoguePlan,
    messages: Sequence[Message],
    question: str,
    answer: str,
    judgement: Judgement,
    *,
    trace: Sequence[Mapping[str, str]] = (),
    form: str = "",
    templates: Templates = SHIPPED,
) -> list[Message]:
    """Return the prompt of an answer, with that answer and the request for a better one; see `assistant`."""
    request = templates.render(
        Role.ASSISTANT,
        "revision",
        comment=inline(judgement.comment),
        labels=", ".join(judgement.reasons),
        question=_neutral(plan, question),
        **everywhere(plan),
    )
    asked = _with_trace(plan, request, trace, form, templates)
    return [*messages, {"role": "assistant", "content": answer}, {"role": "user", "content": asked}]


def _with_trace(
    plan: DialoguePlan, request: str, trace: Sequence[Mapping[str, str]], form: str, templates: Templates
) -> str:
    parts = [request]
    if trace:
        parts.append(templates.render(Role.ASSISTANT, "trace", parts=trace, **everywhere(plan)))
    return "\n\n".join(filter(None, (*parts, form)))


def _neutral(plan: DialoguePlan, text: str) -> str:
    """Return what was said: of what a seed gives, whoever wrote it, without control tokens."""
    return neutralise(text) if plan.from_seed is not None else text
