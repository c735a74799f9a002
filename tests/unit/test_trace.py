"""Prompted traces: how they are asked for, read in whatever form they come, and kept out of answers."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlgforge_core.config import GenerationConfig, LlmConfig, ReasoningConfig, validate
from dlgforge_core.errors import ConfigError
from dlgforge_core.llm.forms import Written
from dlgforge_core.llm.markup import default_markup
from dlgforge_core.planning.fingerprint import content_fingerprint
from dlgforge_core.planning.personas import read_personas
from dlgforge_core.prompting.trace import Trace, TracedAnswer

TRACE = Trace(ReasoningConfig().parts)
NOTES = "Evidence: The moon pulls.\n\nSteps: 1. It pulls.\n2. Water rises.\n\nLimits: No numbers."
READ = TracedAnswer("The moon.", NOTES)
PARTS = {
    "evidence": "The moon pulls.",
    "steps": "1. It pulls.\n2. Water rises.",
    "limits": "No numbers.",
    "answer": "The moon.",
}
TAGS = "\n".join(f"<{name}>\n{text}\n</{name}>" for name, text in PARTS.items())


def read(text: str, *, reasoning: str = "", cut: bool = False, trace: Trace = TRACE) -> TracedAnswer:
    markup = default_markup()
    return trace.form.read(Written(markup.without_thinking(text), text, reasoning, cut, markup))


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(PARTS),
        "```json\n" + json.dumps(PARTS, indent=2) + "\n```",
        json.dumps({**PARTS, "steps": ["1. It pulls.", "2. Water rises."]}),
        TAGS,
        "Sure, here it is:\n" + TAGS + "\nI hope that this helps.",
        TAGS.replace("evidence", "Evidence").replace("<answer>", "< ANSWER >"),
        "\n".join(f"<{name}>{text}" for name, text in PARTS.items()),  # none is closed
        TAGS.removesuffix("</answer>"),
        "<think>Which tags? <answer>?</think>" + TAGS,
        "\n\n".join(f"**{name.capitalize()}:** {text}" for name, text in PARTS.items()),
        "\n".join(f"## {name.capitalize()}\n{text}" for name, text in PARTS.items()),
        "\n".join(f"- {name}: {text}" for name, text in PARTS.items()),
        TAGS + "<|im_end|>",
    ],
)
def test_a_trace_is_read_in_many_forms(text: str) -> None:
    assert read(text) == READ


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("The moon.", "it lacks evidence, steps, limits, answer"),
        ("<evidence>The moon pulls.</evidence>\nThe moon.", "it lacks steps, limits, answer"),
        (TAGS.replace("limits", "caveats"), "it lacks limits"),
        (json.dumps({**PARTS, "answer": TAGS}), "the notes are repeated in the answer"),
        (json.dumps({**PARTS, "answer": "Evidence: a\nSteps: b\nSo: c"}), "the notes are repeated"),
        (json.dumps({**PARTS, "answer": json.dumps(PARTS)}), "the notes are repeated"),
        (json.dumps({**PARTS, "answer": " "}), "the answer is empty"),
        (json.dumps({**PARTS, "answer": None}), "the answer is empty"),
        (json.dumps({"evidence": "", "steps": [], "limits": None, "answer": "Yes."}), "its notes are empty"),
    ],
)
def test_what_cannot_be_distinguished_is_no_answer(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        read(text)


def test_a_text_that_was_cut_is_no_answer() -> None:
    for end in range(1, len(TAGS) - len("</answer>") + 1):
        with pytest.raises(ValueError, match=r"lacks|empty"):
            read(TAGS[:end], cut=True)
    assert read(TAGS + "\nAnd", cut=True) == READ


def test_a_model_that_thinks_by_itself_may_leave_the_notes_out() -> None:
    assert read("The moon.", reasoning="Tides.") == TracedAnswer("The moon.", "")
    assert read(TAGS, reasoning="Tides.") == READ
    for text in (TAGS.replace("limits", "caveats"), "Evidence: a\nSteps: b\nThe moon."):
        with pytest.raises(ValueError, match="lacks"):
            read(text, reasoning="Tides.")
    with pytest.raises(ValueError, match="lacks"):
        read("The moon", reasoning="Tides.", cut=True)


def test_parts_may_be_called_as_thinking_is() -> None:
    parts = [
        {"name": "thought", "content": "what comes to mind"},
        {"name": "Was fehlt", "content": "was fehlt"},
    ]
    trace = Trace(validate(ReasoningConfig, {"parts": parts}, "reasoning").parts)
    text = "<thought>Hm.</thought><was fehlt>Nichts.</was fehlt><answer>Ja.</answer>"
    assert read(text, trace=trace) == TracedAnswer("Ja.", "Thought: Hm.\n\nWas fehlt: Nichts.")
    assert "<Was fehlt>…</Was fehlt>\n<answer>" in trace.words


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.sampled_from([*TAGS.split("\n"), "a", "\n", '{"', "answer: ", "**Steps:**", "`"]), max_size=12
    )
)
def test_no_note_is_left_in_an_answer(pieces: list[str]) -> None:
    for text in ("\n".join(pieces), "".join(pieces)):
        try:
            found = read(text)
        except ValueError:
            continue
        assert found.answer
        assert found.trace
        assert not TRACE.holds(found.answer)


@pytest.mark.parametrize(
    ("parts", "problem"),
    [
        ([], "at least 1"),
        ([{"name": "Answer", "content": "x"}], "'answer' is what the answer is called"),
        ([{"name": "a<b", "content": "x"}], "'a<b' cannot name a part"),
        ([{"name": "a", "content": "x"}, {"name": "A", "content": "y"}], "'a' is there twice"),
        ([{"name": "a", "content": " "}], "at least 1"),
        ([{"name": "a", "contents": "x"}], "did you mean 'content'"),
    ],
)
def test_parts_that_cannot_be_used_are_named(parts: list[dict[str, str]], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        validate(ReasoningConfig, {"parts": parts}, "reasoning")


def test_a_trace_is_content_and_none_leaves_no_trace() -> None:
    def fingerprint(**reasoning: Any) -> str:
        generation = GenerationConfig(reasoning=ReasoningConfig.model_validate(reasoning))
        return content_fingerprint(generation, LlmConfig(), read_personas())

    parts = [part.model_dump() for part in ReasoningConfig().parts]
    assert fingerprint(parts=parts[:1]) == fingerprint()
    prints = [fingerprint(), fingerprint(prompted=True), fingerprint(prompted=True, parts=parts[::-1])]
    assert len(set(prints)) == 3
