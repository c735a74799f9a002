"""Index terms in the shipped languages and in those without spaces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlgforge_core.knowledge.terms import query_terms, terms


@pytest.mark.parametrize(
    ("language", "one", "other"),
    [
        ("en", "deposits", "deposit"),
        ("en", "Baking", "bakes"),
        ("fr", "l'isolation", "isoler"),
        ("fr", "L’école", "écoles"),
        ("fr", "ÉTUDIANTS", "étudiant"),
        ("es", "tuberías", "tubería"),
        ("es", "ahorrar", "ahorrando"),
        ("ar", "والإيجار", "إيجار"),
        ("ar", "الايجار", "الإيجار"),
        ("ar", "مُدَرِّس", "مدرس"),
        ("ar", "كتابة", "كتابه"),
        ("ar", "السيارات", "سيارة"),
        ("ar", "مدرســـة", "مدرسة"),
        ("ar", "٢٠٢٤", "2024"),
        ("de", "Straße", "STRASSE"),
        ("ru", "ёлка", "елка"),
        ("", "ﬁne", "fine"),
        ("zh", "Ｐｙｔｈｏｎ", "python"),
    ],
)
def test_forms_of_a_word_are_one_term(language: str, one: str, other: str) -> None:
    assert terms(one, language) == terms(other, language) != []


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("en", "What do I do if they don't?"),
        ("fr", "Qu'est-ce que c'est, et pourquoi l'a-t-il ?"),
        ("ar", "ما هذا؟ وهل هو من ذلك أم لا؟"),
        ("es", "¿Qué es esto y por qué no está?"),
    ],
)
def test_stop_words_are_left_out(language: str, text: str) -> None:
    assert [term for term in terms(text, language) if len(term) > 2] == []


def test_scripts_without_spaces_give_pairs() -> None:
    assert terms("我们去公园。", "zh") == ["我们", "们去", "去公", "公园"]
    assert set(terms("公园", "zh")) <= set(terms("我们去公园。", "zh"))
    assert terms("東京タワーとPython 3", "ja") == ["東京", "京タ", "タワ", "ワー", "ーと", "python", "3"]
    assert set(terms("สวัสดี", "th")) < set(terms("กล่าวสวัสดีครับ", "th"))
    assert set(terms("서울", "ko")) < set(terms("서울에서", "ko"))
    assert terms("水", "zh") == ["水"]


def test_marks_that_carry_sounds_stay_in_words() -> None:
    assert terms("किताबें", "hi") == terms("किताब", "hi")
    assert len(terms("हिन्दी", "hi")) == 1


def test_programming_languages_are_words() -> None:
    assert terms("C, C++ and C#.", "") == ["c", "c++", "and", "c#"]


def test_a_query_without_accents_finds_the_word_with_them() -> None:
    assert set(query_terms("proteccion", ["es"])) & set(terms("protección", "es"))
    assert set(query_terms("regler", ["fr"])) & set(terms("réglé", "fr"))


def test_a_query_of_unknown_language_has_the_terms_of_each() -> None:
    found = query_terms("landlords propriétaires", ["en", "fr"])
    assert set(terms("landlords", "en")) | set(terms("propriétaires", "fr")) <= set(found)
    assert len(found) == len(set(found))


@given(st.text(max_size=200), st.sampled_from(["", "en", "fr", "ar", "es", "zh", "xx"]))
def test_any_text_gives_short_terms_without_spaces(text: str, language: str) -> None:
    for term in terms(text, language):
        assert 0 < len(term) <= 40
        assert not any(c.isspace() for c in term)
