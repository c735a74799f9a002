"""Searching dialogues: texts and queries fold alike, whatever script they are in."""

from __future__ import annotations

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dlgforge_core.review.filters import Filters
from dlgforge_core.review.listing import page_of
from dlgforge_core.review.search_text import MAX_BYTES, Term, folded, searchable, terms_of
from dlgforge_core.store.run_store import RunStore
from tests.support.review import conversation, put_dialogues

TEXTS = {
    "french": "L’Été, j’élève des BREBIS à Saint-Étienne.",
    "german": "Die Straße über die GROẞE Brücke",
    "arabic": "الرُّزُّ المَطبُوخُ مع ســـمن",
    "chinese": "我想知道怎么做米饭，谢谢。",
    "japanese": "ごはんの炊き方を教えてください",
    "thai": "วิธีหุงข้าวให้นุ่ม",
    "hindi": "चावल कैसे पकाएं",
    "korean": "밥을 맛있게 짓는 방법",
    "code": "call foo_bar(x) in utils/io.py, e.g. user@example.org or https://example.org/a?b=c",
}


def test_terms_are_words_phrases_beginnings_and_what_is_not_wanted() -> None:
    assert terms_of('Rice "soft  Boil" -Burnt retriev* 米饭 -"two words" *') == [
        Term("rice"),
        Term("soft boil"),
        Term("burnt", without=True),
        Term("retriev", prefix=True),
        Term("米 饭"),
        Term("two words", without=True),
    ]


@pytest.fixture
def listed(store: RunStore) -> dict[str, str]:
    ids = put_dialogues(store, [conversation(n, text, "Yes.") for n, text in enumerate(TEXTS.values())])
    return dict(zip(ids, TEXTS, strict=True))


def test_texts_of_many_scripts_are_found_by_what_people_type(store: RunStore, listed: dict[str, str]) -> None:
    queries = {
        "ete": "french",
        "ÉLÈVE brebis": "french",
        "saint-etienne": "french",
        '"a saint"': "french",
        "strasse": "german",
        "große": "german",
        "الرز سمن": "arabic",
        "المطب*": "arabic",
        "米饭": "chinese",
        "怎么做": "chinese",
        "炊き方": "japanese",
        "ข้าว": "thai",
        "पकाएं": "hindi",
        "맛있게": "korean",
        "foo_bar": "code",
        "utils/io.py": "code",
        "user@example.org": "code",
        "https://example.org/a": "code",
    }
    with store.connection() as connection:
        for query, name in queries.items():
            found = [listed[one.dialogue_id] for one in page_of(connection, Filters(q=query)).dialogues]
            assert found == [name], query
        for query in ("饭米", '"brebis eleve"', "example -foo", "élève -brebis", "reis"):
            assert page_of(connection, Filters(q=query)).total == 0, query
        assert page_of(connection, Filters(q="-example")).total == len(TEXTS) - 1


def test_a_long_text_is_searched_as_far_as_postgres_takes_it(store: RunStore) -> None:
    long = "beginning " + " ".join(f"w{n:x}" for n in range(80_000)) + " end"
    put_dialogues(store, [conversation(0, "Why?", long)])
    with store.connection() as connection:
        assert page_of(connection, Filters(q="beginning")).total == 1
        assert page_of(connection, Filters(q="end")).total == 0


@given(st.text(max_size=200))
@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
def test_folding_is_done_once_and_for_all(text: str) -> None:
    assert folded(folded(text)) == folded(text)
    assert len(searchable(text * 3).encode()) <= MAX_BYTES


def test_any_query_is_taken(server_dsn: str) -> None:
    with psycopg.connect(server_dsn, autocommit=True) as connection:

        @given(st.text(st.sampled_from("ab' \\\"*:&|!()<->-é米٠\x00\u200d\u0301_،"), max_size=12))
        @settings(max_examples=100, deadline=None)
        def ask(query: str) -> None:
            search = Filters(q=query).search()
            for sql in (search.exact, search.words) if search else ():
                if sql:
                    connection.execute(f"SELECT {sql}".encode(), search.parameters if search else {})

        ask()
