"""The normal form in which questions are compared."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlgforge_core.common.questions import normal_form, question_key


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("How do I bake bread?", "  how do i BAKE\tbread "),
        ("Où est l'eau ?", "OÙ EST L’EAU?"),
        ("Straße", "STRASSE"),
        ("ﬁne", "fine"),
        ("e\u0301te", "éte"),
        ("ما هو؟", "ما هو?"),
        ("１２３", "123"),
        ("a - b", "a b"),
    ],
)
def test_same_question(one: str, other: str) -> None:
    assert normal_form(one) == normal_form(other)
    assert question_key(one) == question_key(other)


@pytest.mark.parametrize(
    ("one", "other"), [("C++?", "C?"), ("Is 1 < 2", "Is 1 > 2"), ("ano", "año"), ("?", "!"), ("a", "b")]
)
def test_other_question(one: str, other: str) -> None:
    assert question_key(one) != question_key(other)


@given(st.text())
def test_the_normal_form_is_its_own_normal_form(text: str) -> None:
    once = normal_form(text)
    assert normal_form(once) == once


@given(st.text(alphabet=st.characters(whitelist_categories=("L", "N")), min_size=1))
def test_case_and_padding_do_not_matter(text: str) -> None:
    assert question_key(f"  {text}?? ") == question_key(text)
    assert question_key(text.casefold()) == question_key(text)


@given(st.text(alphabet=st.characters(), max_size=50))
def test_any_text_has_a_key(text: str) -> None:
    assert len(question_key(text)) == 16
