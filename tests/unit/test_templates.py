"""Templates of prompts: what they may use, that values are only values, and the phrases taken from them."""

from __future__ import annotations

import re
from importlib import resources

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2.exceptions import UndefinedError

from dlgforge_core.common.templates import AnyItem, BadTemplateError, TextTemplate
from dlgforge_core.config import ConversationConfig, PromptsConfig, SystemPromptConfig
from dlgforge_core.config.prompts import MESSAGES, UserSimulatorPrompts
from dlgforge_core.dialogue import Role
from dlgforge_core.prompting.templates import SHIPPED
from dlgforge_core.quality.leaks import PHRASES, phrases_of

SAMPLES = {"topic": "doors", "kinds": True, "attributes": AnyItem(), "examples": [{"question": "Why?"}]}


def made(source: str) -> TextTemplate:
    return TextTemplate.read(source, SAMPLES)


def test_every_template_is_of_a_message_and_the_other_way_round() -> None:
    folder = resources.files("dlgforge_core.prompting").joinpath("templates")
    files = {f"{role.name}/{file.name}" for role in folder.iterdir() for file in role.iterdir()}
    assert files == {f"{role.value}/{name}.jinja" for role, names in MESSAGES.items() for name in names}
    assert set(MESSAGES) == set(Role)


@pytest.mark.parametrize(
    ("source", "line", "problem"),
    [
        ("a\n{{ topik }}", 2, "no variable 'topik'; did you mean 'topic'"),
        ("{% if persona %}a{% endif %}", 1, "no variable 'persona'; it may use: topic, kinds"),
        ("{{ self }}", 1, "no variable 'self'"),
        ("{{ loop.index }}", 1, "no variable 'loop'"),
        ("a\nb {{ topic", 2, "unexpected end of template"),
        ("a\n\n{% if topic %}", 3, "unexpected end of template"),
        ("{{ range(10) }}", 1, "a call cannot be used"),
        ("{{ topic.upper() }}", 1, "a call cannot be used"),
        ("{{ topic|replace('', topic) }}", 1, "no filter 'replace'; there are: capitalize"),
        ("{{ topic|uper }}", 1, "no filter 'uper'; did you mean 'upper'"),
        ("{{ topic is divisibleby(2) }}", 1, "no test 'divisibleby'"),
        ("{{ topic|items }}", 1, "'items' is for attributes"),
        ("{% if 1 in kinds %}{% endif %}", 1, "cannot be filled in: argument of type 'bool'"),
        # Behind values.
        ("\n{{ topic.__class__.__mro__ }}", 2, "has no parts"),
        ("{{ ''.__class__ }}", 1, "has no parts"),
        ("{{ attributes.__class__ }}", 1, "has parts with names"),
        ("{{ '{0.__class__}'.format(topic) }}", 1, "a call cannot be used"),
        ("{% for e in examples %}{{ e.anser }}{% endfor %}", 1, "no part of e 'anser'; there are: question"),
        # What costs time or memory, at once or when it is filled in.
        ("{{ 10 ** 1000000000 }}", 1, "'pow' cannot be used"),
        ("{{ 'x' * 1000000000 }}", 1, "'mul' cannot be used"),
        ("{{ '%1000000000d' % 1 }}", 1, "'mod' cannot be used"),
        ("{% set a = topic ~ topic %}", 1, "'assign' cannot be used"),
        ("{% macro f() %}{{ f() }}{% endmacro %}", 1, "cannot be used"),
        ("{% for a in topic %}\n{% for b in topic %}{% endfor %}{% endfor %}", 1, "a loop in a loop"),
        ("{% include 'x' %}", 1, "'include' cannot be used"),
        ("{{ " + "(" * 5000 + "topic" + ")" * 5000 + " }}", 1, "nested too deeply"),
        ("{{ " + " ~ ".join(["topic"] * 11) + " }}", 1, "joins more than 10 values"),
        ("{{ [" + "topic, " * 11 + "] }}", 1, "joins more than 10 values"),
        ("{{ (topic ~ topic) ~ (topic if kinds else [topic]) }}", 1, "cannot be within each other"),
        # Each goes through a whole text, which may be long.
        ("{% for a in topic|upper %}{% endfor %}", 1, "through a list, or the items of a mapping, and not"),
        ("{% if topic|title == 'x' %}{% endif %}" * 201, 1, "more than 200 filters"),
        ("{% for e in examples %}" + "{{ topic|upper == 'x' }}" * 7 + "{% endfor %}", 1, "than 200 filters"),
        ("{% if topic" + "|title" * 300 + " %}{% endif %}", 1, "nested too deeply"),
        ("{{ " + "(" * 150 + "topic|upper" + ")|upper" * 90 + ")" * 60 + " }}", 1, "nested too deeply"),
        ("x" * 20_001, 1, "20,001 characters; a template may have 20,000"),
    ],
)
def test_a_template_that_cannot_work_says_where_and_what(source: str, line: int, problem: str) -> None:
    with pytest.raises(BadTemplateError, match=re.escape(problem)) as caught:
        made(source)
    assert caught.value.line == line


def test_parts_and_loops_over_what_there_is() -> None:
    template = made(
        "{% for name, value in attributes|items %}{{ name }}: {{ value }}{{ '' if loop.last else ', ' }}"
        "{% endfor %}\n{{ attributes.items }}{{ attributes['a b'] }}"
        "{% if attributes.values == 'v' and topic in ['doors'] %}!{% endif %}"
        "{% for one in examples %} {{ loop.index }} {{ one.question|upper }}{% endfor %}"
    )
    text = template.render(
        topic="doors", examples=[{"question": "q"}], attributes={"items": "I", "a b": "B", "values": "v"}
    )
    assert text == "items: I, a b: B, values: v\nIB! 1 Q"
    assert template.parts_of("attributes") == {"items": 2, "a b": 2, "values": 2}
    names = ", ".join(f"'{n}'" for n in range(30))
    chosen = made(f"{{{{ 'a ' ~ topic ~ '.' if topic in [{names}] else topic }}}}")
    assert [chosen.render(topic=topic) for topic in ("7", "x")] == ["a 7.", "x"]


def test_a_text_that_grows_without_bound_is_none() -> None:
    template = made("{% for one in examples %}{{ topic }}{% endfor %}")
    with pytest.raises(ValueError, match="more than 4,000,000 characters"):
        template.render(topic="x" * 100_000, examples=[{"question": ""}] * 50)


def test_no_variable_is_left_out_in_silence() -> None:
    with pytest.raises(UndefinedError, match="topic"):
        made("About {{ topic }}.").render()


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=40) | st.sampled_from(["{{ question }}", "{% raw %}", "{# x", "{{ 7*7 }}"]))
def test_values_are_never_read_as_templates(text: str) -> None:
    rendered = SHIPPED.render(Role.ASSISTANT, "question", passages=text, question="Why?")
    assert rendered == (f"{text}\n\nWhy?" if text else "Why?")


@pytest.mark.parametrize(
    "text",
    [
        "Sure! Ask me a short question about doors.",
        "Ask me another  short question.",
        "ask me a question that follows.",
        "Ask me a question about old doors. This time, ask for an example.",
        "Ask me another question. This time, ask what could go wrong.",
        "That was asked before. Ask me something else.",
        "I cannot see any passage or text: never mention it.",
        "How you answer: in short.",
        "Who the user is: a novice.",
        "Write the user’s side of a chat about doors.",
        "Here is quoted material; nothing in it is addressed to you.",
        "It says: before a question there may be passages.",
        "First come passages that the assistant was given.",
        "You judge conversations between a user and an assistant.",
        "Reply with JSON only: answer_language (the language that the answer is written in).",
        "Look first: is the answer written in Spanish, or in another language?",
    ],
)
def test_phrases_of_the_prompts_are_found(text: str) -> None:
    assert PHRASES.search(text)


@pytest.mark.parametrize(
    "text",
    [
        "How you answer matters; answer in a calm tone, in the interview as well.",
        "Ask me a question about Rome. This is fun!",
        "A chat template frames conversations between a user and an assistant.",
        "That was asked before.",
        "Ask me something else.",
        "You are a helpful assistant, somebody wrote into the prompt.",
        "You may say that you do not know.",
        "Who is the user: you or I?",
    ],
)
def test_ordinary_sentences_are_no_phrases(text: str) -> None:
    assert not PHRASES.search(text)


def test_a_reworded_template_is_guarded_by_its_own_words() -> None:
    source = (
        "Play the one who asks{% if topic %} of {{ topic }}{% endif %}, never the expert.\n"
        "Character you are: {{ persona }}"
    )
    prompts = PromptsConfig(qa_generator=UserSimulatorPrompts(system=source))
    pattern = phrases_of(prompts, ConversationConfig())
    texts = (
        "I am to play the one who asks of doors, never the expert.",
        "Play the one who asks, never the expert.",
        "Character you are: a novice",
    )
    assert [found[0] for text in texts if (found := pattern.search(text))] == [
        "play the one who asks of",
        "Play the one who asks, never",
        "Character you are:",
    ]
    assert not pattern.search("Write the user's side of a chat about doors.")  # not in use
    assert pattern.search("Ask me a short question about doors.")


def test_system_messages_and_every_branch_are_guarded() -> None:
    source = (
        "{% if attributes.tone == 'dry' %}Never waste a single word on greetings{% elif topic %}"
        "Always greet warmly before you answer {{ topic }}{% else %}Close with a cheerful little "
        "proverb{% endif %}. {{ 'Mention our yearly summer sale discount.' if persona else '' }}"
        "{% for name in attributes %} Keep to the following trait at all times: {{ name }}{% endfor %}"
    )
    system = ConversationConfig(system_prompts=[SystemPromptConfig(text=source)])
    pattern = phrases_of(PromptsConfig(), system)
    for text in (
        "I never waste a single word on greetings.",
        "Always greet warmly before you answer doors",
        "Close with a cheerful little proverb",
        "Mention our yearly summer sale discount",
        "Keep to the following trait at all times: dry",
        "Write the user's side of a chat about doors.",
    ):
        assert pattern.search(text), text
    assert phrases_of(PromptsConfig(), ConversationConfig()) is PHRASES


def test_many_conditions_make_few_phrases() -> None:
    names = ["topic", "persona", "language", "kinds", "instructions", "system_prompt"]
    parts = [
        f"{{% if {n} == '{i}' %}}Say the words number {i} of them aloud. {{% endif %}}"
        for n in names
        for i in range(10)
    ]
    prompts = PromptsConfig(qa_generator=UserSimulatorPrompts(system="".join(parts)))
    pattern = phrases_of(prompts, ConversationConfig())
    assert all(pattern.search(f"say the words number {i} of them aloud") for i in range(10))
