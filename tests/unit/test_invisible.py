"""Characters that nobody sees, in seed topics: no topic alone, no second topic, kept where they matter."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlgforge_core.common.invisible import is_visible, skeleton, tidy
from dlgforge_core.planning.seeds import SeedBatch, parse_seed_batch, topic_id


def batch(*lines: Mapping[str, object]) -> SeedBatch:
    good: Mapping[str, object] = {"language": "en", "topic": "something else"}
    return parse_seed_batch("a.jsonl", "\n".join(map(json.dumps, (good, *lines))).encode())


@pytest.mark.parametrize(
    "topic",
    [
        "\u200b",
        "\u200b \u200d",
        "\u3164",
        "\u2800\u2800",
        "\u00ad",
        "\u202e\u202c",
        "\ufe0f",
        "\u0301",
        "\u115f",
    ],
)
def test_topics_of_invisible_characters_are_refused(topic: str) -> None:
    for key in ("topic", "question"):
        (problem,) = batch({"language": "en", "topic": "x", key: topic}).problems
        assert problem.startswith(f"a.jsonl:2: {key} = '\\")
        assert "no character that can be seen" in problem
    found = parse_seed_batch("a.yaml", f'en:\n  "{topic}":\n  bread:\n'.encode())
    assert len(found.topics) == 1
    assert found.problems[0].startswith("a.yaml:2: en: topic = ")


@pytest.mark.parametrize(
    "other",
    [
        "br\u200bead",
        "bread\u2060",
        "\ufeffbread",
        "br\u00adead",
        "\u200ebread\u200f",
        "\u202abread\u202c",
        "\u2066bread\u2069",
        "bread\ufe0f",
        "br\u200dead",
        "bre\u200cad",
        "bread\U000e0041",
        "\u00a0bread\u3000",
        "\u180ebread",
    ],
)
def test_what_looks_the_same_is_the_same_topic(other: str) -> None:
    found = batch({"language": "en", "topic": "bread"}, {"language": "en", "topic": other})
    assert [topic.topic for topic in found.topics] == ["something else", "bread"]
    (problem,) = found.problems
    assert "line 2 is the same topic" in problem
    (alone,) = batch({"language": "en", "topic": other}).topics[1:]
    assert (alone.topic, alone.id) == ("bread", topic_id("en", "bread", None))


@pytest.mark.parametrize(
    "text",
    [
        "می‌خواهم",  # Persian, a zero-width non-joiner
        "क्‍ष",  # Devanagari, half form
        "ന്‍",  # Malayalam, at the end of a word
        "ශ්‍රී ලංකා",  # Sinhala
        "👨‍👩‍👧 and 🏳️‍🌈",
        "👩🏽‍🚀",
        "❤️",
        "1️⃣",
        "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",  # England's flag
        "葛\U000e0100城",  # an ideographic variant, in a name
        "naïve café",
        "中文",
    ],
)
def test_what_has_a_meaning_stays(text: str) -> None:
    assert tidy(text) == text
    (topic,) = batch({"language": "fa", "topic": text}).topics[1:]
    assert topic.topic == text
    assert topic.id == topic_id("fa", text, None)


def test_questions_stay_as_they_are_and_count_once() -> None:
    lines = [{"language": "he", "topic": "x", "question": q} for q in ("שלום\u200f!", "שלום!", "שלום\u200b!")]
    found = batch(*lines)
    assert [topic.question for topic in found.topics[1:]] == ["שלום\u200f!"]
    assert len(found.problems) == 2


def test_entries_with_ids_of_their_own_are_theirs() -> None:
    found = batch(*({"language": "en", "topic": "bread", "id": name} for name in ("a", "b")))
    assert [topic.id for topic in found.topics[1:]] == ["a", "b"]


@given(st.text(max_size=40))
@settings(max_examples=100)
def test_tidying_is_done_once_and_leaves_what_is_seen(text: str) -> None:
    assert tidy(tidy(text)) == tidy(text)
    assert is_visible(tidy(text)) == is_visible(text)
    assert skeleton(tidy(text)) == skeleton(text)


@given(st.text(st.characters(categories=["Lu", "Ll", "Lo", "Nd", "Po", "So"]), min_size=1, max_size=40))
@settings(max_examples=100)
def test_clean_text_stays_as_it_is(text: str) -> None:
    clean = "".join(char for char in text if is_visible(char))
    assert tidy(clean) == clean
