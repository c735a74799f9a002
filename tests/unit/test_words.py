"""Words of texts in scripts with and without spaces."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from dlgforge_core.common.words import compared_texts, compared_words, count_words, joined, words
from tests.support.dialogues import any_text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I don't know C++, really.", ["I", "don't", "know", "C++", "really"]),
        ("L’eau, c'est 42 %", ["L’eau", "c'est", "42"]),
        ("你好，世界!", ["你", "好", "世", "界"]),
        ("カタカナとABC", ["カ", "タ", "カ", "ナ", "と", "ABC"]),
        ("สวัสดี", ["ส", "วั", "ส", "ดี"]),  # marks stay with their letters
        ("안녕하세요 여러분", ["안녕하세요", "여러분"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("كيف حالُك؟", ["كيف", "حالُك"]),
        ("می‌خواهم", ["می‌خواهم"]),  # a zero-width non-joiner stands inside a word
        ("… !?", []),
        ("", []),
    ],
)
def test_words_of_each_script(text: str, expected: list[str]) -> None:
    assert [word.text for word in words(text)] == expected
    assert count_words(text) == len(expected)


def test_equal_words_are_equal_however_they_are_written() -> None:
    assert list(compared_words("ＳＴＲＡＳＳＥ Ｃafé")) == list(compared_words("straße CAFE\u0301"))


@pytest.mark.parametrize("text", ["how do i", "你好世界", "用 python 写"])
def test_words_are_joined_as_their_script_does(text: str) -> None:
    assert joined(list(words(text))) == text


@given(any_text)
@settings(max_examples=80, deadline=None)
def test_any_text_has_words_that_are_in_it(text: str) -> None:
    found = [word.text for word in words(text)]
    assert all(word in text for word in found)
    assert count_words(text) == len(found) <= len(text)


@settings(deadline=None)
@given(any_text)
def test_texts_of_words_are_those_of_the_words(text: str) -> None:
    assert compared_texts(text) == [word.text for word in compared_words(text)]
    assert count_words(text) == len(list(words(text)))
